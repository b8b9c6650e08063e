"""The integers of a model's fixed-point form: every table and weight, with where its point stands.

What is printed into C and what ``fixed_reference`` reckons with are these same arrays. A *point* of n
bits means units of 2**-n.

The integers of the MFCC in fixed point. A *point* of n bits means units of 2**-n.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.errors import ManifestError
from detector.features import dct_matrix, mel_filterbank, window_coefficients
from detector.manifest import EncoderParams, MfccParams
from firmware_export.onnx.int8 import Int8Weights, to_int8
from firmware_export.onnx.read import Layer, Network

Int64 = NDArray[np.int64]

AMPLITUDE_BITS: Final = 29
SAMPLE_BITS: Final = 15
TURN_BITS: Final = 30
"""Point of the window, too."""
MEL_BITS: Final = 15
LOG_BITS: Final = 24
LOG_STEPS: Final = 256
CEPSTRUM_BITS: Final = 16


@dataclass(frozen=True, slots=True)
class FrontEndTables:
    """The integers of the MFCC."""

    preemphasis: int
    window: Int64
    turns: Int64
    """(n_fft // 2, 2): cosine and sine of -2 pi k / n_fft."""
    mel_first: Int64
    mel_count: Int64
    mel_weights: Int64
    logs: Int64
    """ln(1 + i / LOG_STEPS), (LOG_STEPS + 1,)."""
    ln_2: int
    log_unit: int
    """Logarithm of what an energy of 1 stands for, before a frame's growth is taken off."""
    log_of_nothing: int
    """The least logarithm there is: that of the floor, or of what stands for zero."""
    dct: Int64
    """(n_mels, n_mfcc)."""
    dct_bits: int
    silence: Int64
    """Cepstra of a frame of zeros, (n_mfcc,)."""


def front_end_tables(p: MfccParams) -> FrontEndTables:
    """Return the integers of a front end; raises ManifestError, naming the key, for what does not fit."""
    if abs(p.preemphasis) > 1:
        raise ManifestError(f"features.preemphasis is {p.preemphasis}; in fixed point it must lie in [-1, 1]")
    dct_bits = TURN_BITS - max(0, math.ceil(math.log2(np.abs(dct_matrix(p)).max())))
    dct = to_points(dct_matrix(p), dct_bits)
    nothing = to_point(math.log(p.log_floor or np.finfo(np.float64).eps), LOG_BITS)
    first, count, weights = mel_spans(p)
    half = p.n_fft // 2
    unit = math.log(half**2 / p.n_fft) - 2 * AMPLITUDE_BITS * math.log(2)
    return FrontEndTables(
        preemphasis=to_point(p.preemphasis, AMPLITUDE_BITS - SAMPLE_BITS),
        window=to_points(_window(p), TURN_BITS),
        turns=to_points(turns(p), TURN_BITS),
        mel_first=first,
        mel_count=count,
        mel_weights=to_points(weights, MEL_BITS),
        logs=to_points(np.log1p(np.arange(LOG_STEPS + 1) / LOG_STEPS), LOG_BITS),
        ln_2=to_point(math.log(2), LOG_BITS),
        log_unit=to_point(unit, LOG_BITS),
        log_of_nothing=nothing,
        dct=dct,
        dct_bits=dct_bits,
        silence=_silence(p, nothing, dct, dct_bits),
    )


def mel_spans(params: MfccParams) -> tuple[Int64, Int64, NDArray[np.float64]]:
    """Return each filter's first bin, its number of bins, and all their weights in a row."""
    bank = mel_filterbank(params)
    support = [np.flatnonzero(row) for row in bank]
    first = np.array([s[0] if s.size else 0 for s in support])
    count = np.array([s[-1] - s[0] + 1 if s.size else 0 for s in support])
    rows = [row[a : a + n] for row, a, n in zip(bank, first, count, strict=True)]
    return first, count, np.concatenate(rows) if count.sum() else np.zeros(1)


def turns(params: MfccParams) -> NDArray[np.float64]:
    """Return cosine and sine of -2 pi k / n_fft, (n_fft // 2, 2)."""
    angles = -2 * np.pi * np.arange(params.n_fft // 2) / params.n_fft
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rounded(values: Int64, bits: int) -> Int64:
    """Return whole numbers divided by 2**bits, halves up: what the C does by a sum and a shift."""
    return np.asarray((values + (1 << (bits - 1))) >> bits, np.int64)


def to_points(values: Any, bits: int) -> Int64:
    """Return numbers in units of 2**-bits, rounded."""
    return np.asarray(np.round(np.ldexp(np.asarray(values, np.float64), bits)), np.int64)


def to_point(value: float, bits: int) -> int:
    """Return one number in units of 2**-bits, rounded."""
    return int(to_points(value, bits))


def _silence(p: MfccParams, nothing: int, dct: Int64, dct_bits: int) -> Int64:
    cepstra = rounded(nothing * dct.sum(axis=0), LOG_BITS + dct_bits - CEPSTRUM_BITS)
    if p.append_energy:
        cepstra[0] = rounded(np.array(nothing), LOG_BITS - CEPSTRUM_BITS)
    return cepstra


def _window(p: MfccParams) -> NDArray[np.float64]:
    window = window_coefficients(p)
    if np.abs(window).max() > 1:
        raise ManifestError("features.window leaves [-1, 1]; in fixed point it must not")
    return window


BAND_BITS: Final = 7
"""The bands matrix lies on this grid (``models.network.csnn.BAND_BITS``): its integers are exact."""
MOST_LEVEL_BITS: Final = 22
"""Point of synapses and membranes at most; a model's own is as fine as its largest current allows."""
FACTOR_BITS: Final = 30
SCORE_BITS: Final = 15
SIGMOID_STEP_BITS: Final = 4
SIGMOID_STEPS: Final = 256
"""Steps of 2**-SIGMOID_STEP_BITS: to 16, from where on a score is 1 to the last bit."""
_WORD: Final = 31
"""Bits of an int32 without its sign."""
LEVEL_WORD: Final = 29
"""Bits of a level without its sign: the sum of two is a word still."""


@dataclass(frozen=True, slots=True)
class EncoderTables:
    """The integers of the delta encoder; thresholds (levels, n_mfcc), rest (n_mfcc,), at the cepstra's point."""

    thresholds: Int64
    rest: Int64
    keep: int


@dataclass(frozen=True, slots=True)
class LayerTables:
    """The integers of a layer; each but the weights one per output channel."""

    weight: Int8Weights
    shift: Int64
    """To the left, from sums on the map's own grid to levels."""
    bias: Int64
    alpha: Int64 | None
    offset: Int64 | None
    """Behind the synapse, where there is one."""
    beta: Int64


@dataclass(frozen=True, slots=True)
class ReadoutTables:
    """The integers of the read-out."""

    weight: Int8Weights
    shift: Int64
    bias: Int64
    beta: Int64
    sigmoid: Int64
    """(SIGMOID_STEPS + 1,), of arguments from 0."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """A whole model in integers."""

    network: Network
    level_bits: int
    """Point of synapses and membranes."""
    front_end: FrontEndTables
    encoder: EncoderTables
    to_bands: Int64
    layers: tuple[LayerTables, ...]
    readout: ReadoutTables
    thresholds: tuple[tuple[int, int], ...]
    """On and off, for each class, at the scores' point."""


def fixed_point(network: Network) -> FixedPoint:
    """Return the integers of a network.

    Raises ManifestError, naming what, where a number does not fit.
    """
    m = network.manifest
    to_bands = _exactly(network.to_bands, BAND_BITS, "to_bands")
    largest_band = int(np.abs(to_bands).sum(axis=0).max())
    _fits("a band", largest_band, 15)
    inputs = [_Input(largest_band, BAND_BITS), *[_Input(1, 0)] * (len(network.layers) - 1)]
    level_bits = _level_bits(network, inputs)
    layers = tuple(
        _layer(f"layer {i}", layer, given, level_bits)
        for i, (layer, given) in enumerate(zip(network.layers, inputs, strict=True), 1)
    )
    decoders = [c.decoder for c in m.classes]
    thresholds = tuple((to_point(d.on_threshold, SCORE_BITS), to_point(d.off_threshold, SCORE_BITS)) for d in decoders)
    return FixedPoint(
        network,
        level_bits,
        front_end_tables(m.features),
        _encoder(m.encoder),
        to_bands,
        layers,
        _readout(network, level_bits),
        thresholds,
    )


@dataclass(frozen=True, slots=True)
class _Input:
    """What a layer reads: whole numbers up to ``largest`` in units of 2**-point."""

    largest: int
    point: int


def _level_bits(network: Network, inputs: list[_Input]) -> int:
    """Return the finest point at which no current of the network leaves a level's word."""
    currents = [
        _currents(to_int8(layer.weight), given, layer.bias).max()
        for layer, given in zip(network.layers, inputs, strict=True)
    ]
    # A grid that this point does not allow rounds other weights: a little room for them.
    return min(MOST_LEVEL_BITS, LEVEL_WORD - math.ceil(math.log2(1.05 * max(currents))))


def _encoder(p: EncoderParams) -> EncoderTables:
    thresholds = to_points(np.array(p.thresholds, np.float32), CEPSTRUM_BITS)
    if (thresholds < 1).any():
        raise ManifestError(f"encoder.thresholds: below 2**-{CEPSTRUM_BITS} there is nothing in fixed point")
    rest = to_points(np.array(p.rest or [0.0] * thresholds.shape[1], np.float32), CEPSTRUM_BITS)
    _fits("encoder.thresholds", int(thresholds.max()), _WORD - 2)
    _fits("encoder.rest", int(np.abs(rest).max()), _WORD - 2)
    return EncoderTables(thresholds, rest, to_point(float(np.float32(1 - p.leak)), FACTOR_BITS))


def _layer(name: str, layer: Layer, given: _Input, level_bits: int) -> LayerTables:
    weight, n = to_int8(layer.weight, level_bits - given.point), layer.neurons
    zeros = np.zeros(len(layer.weight))
    bias = zeros if layer.bias is None else layer.bias
    alpha = offset = None
    if n.alpha is not None:
        alpha, offset = to_points(n.alpha, FACTOR_BITS), to_points(zeros if n.offset is None else n.offset, level_bits)
    return LayerTables(
        weight=weight,
        shift=_shift(name, weight, given, bias, level_bits),
        bias=to_points(bias, level_bits),
        alpha=alpha,
        offset=offset,
        beta=to_points(n.beta, FACTOR_BITS),
    )


def _readout(network: Network, level_bits: int) -> ReadoutTables:
    r = network.readout
    weight = to_int8(r.weight, level_bits)
    steps = np.arange(SIGMOID_STEPS + 1) / 2**SIGMOID_STEP_BITS
    return ReadoutTables(
        weight=weight,
        shift=_shift("read-out", weight, _Input(1, 0), r.bias, level_bits),
        bias=to_points(r.bias, level_bits),
        beta=to_points(r.beta.ravel(), FACTOR_BITS),
        sigmoid=to_points(1 / (1 + np.exp(-steps)), SCORE_BITS),
    )


def _shift(name: str, weight: Int8Weights, given: _Input, bias: NDArray[Any], level_bits: int) -> Int64:
    """Return the shifts from sums to levels, once it is sure that no sum and no current leaves its word."""
    sums = np.ldexp(_currents(weight, given, None), (weight.exponents + given.point).astype(np.int32))
    _fits(f"{name}: a sum of weights", int(sums.max()), _WORD)
    _fits(f"{name}: a current", math.ceil(_currents(weight, given, bias).max() * 2**level_bits), LEVEL_WORD)
    shift = level_bits - weight.exponents - given.point
    if not ((shift >= 0) & (shift < _WORD)).all():
        raise ManifestError(f"{name}: weights too large for one fixed point; export it with --float")
    return shift


def _currents(weight: Int8Weights, given: _Input, bias: NDArray[Any] | None) -> NDArray[np.float64]:
    """Return the largest current that each output channel can get."""
    sums = np.abs(weight.values.astype(np.float64)).reshape(len(weight.values), -1).sum(axis=1) * given.largest
    largest = np.ldexp(sums, -(weight.exponents + given.point).astype(np.int32))
    return np.asarray(largest if bias is None else largest + np.abs(bias), np.float64)


def _exactly(values: NDArray[Any], bits: int, name: str) -> Int64:
    points = to_points(values, bits)
    if not np.array_equal(np.ldexp(points.astype(np.float64), -bits), values):
        raise ManifestError(f"{name} does not lie on the grid of 2**-{bits}; export the model again")
    return points


def _fits(what: str, largest: int, bits: int) -> None:
    if largest >= 1 << bits:
        raise ManifestError(f"{what} can reach {largest}, more than {bits} bits; export the model with --float")
