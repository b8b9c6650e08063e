"""A model in fixed point: the integers of its front end, encoder and network.

A value with n fraction bits is an integer in units of 2**-n. These arrays are printed into C and computed with by
``fixed_reference``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.engine import names
from detector.engine.graph import Layer
from detector.errors import ManifestError
from detector.features import dct_matrix, mel_spans, window_coefficients
from detector.manifest import EncoderParams, MfccParams
from firmware_export.onnx.int8 import Int8Weights, to_int8
from firmware_export.onnx.read import Network

Int64 = NDArray[np.int64]

SAMPLE_BITS: Final = 15
"""Fraction bits of the input samples."""
AMPLITUDE_BITS: Final = 29
"""Fraction bits of pre-emphasised samples and of the Fourier transform."""
TWIDDLE_BITS: Final = 30
"""Fraction bits of the twiddle factors and of the window."""
MEL_BITS: Final = 15
"""Fraction bits of the mel filters' weights."""
LOG_BITS: Final = 24
"""Fraction bits of logarithms."""
LOG_STEPS: Final = 256
"""Steps of the table of logarithms between two powers of two."""
CEPSTRUM_BITS: Final = 16
"""Fraction bits of cepstra, and of the encoder's thresholds."""
BAND_BITS: Final = 7
"""Fraction bits of the bands matrix, which lies on this grid exactly (``models.network.csnn.BAND_BITS``)."""
MAX_LEVEL_BITS: Final = 22
"""Most fraction bits of synapses and membranes; a model has as many as its largest current allows."""
FACTOR_BITS: Final = 30
"""Fraction bits of decays."""
SCORE_BITS: Final = 15
"""Fraction bits of scores."""
SIGMOID_STEP_BITS: Final = 4
SIGMOID_STEPS: Final = 256
"""Steps of 2**-SIGMOID_STEP_BITS of the sigmoid's table: up to 16, above which every score rounds to 1."""
LEVEL_WIDTH: Final = 29
"""Bits of a synapse or membrane without its sign: the sum of two fits an int32."""
_INT32_BITS: Final = 31
"""Bits of an int32 without its sign."""


@dataclass(frozen=True, slots=True)
class FrontEndTables:
    """The integers of the MFCC; fraction bits are those of the constants above unless stated."""

    preemphasis: int
    """AMPLITUDE_BITS - SAMPLE_BITS fraction bits."""
    window: Int64
    """(frame_length,)."""
    twiddles: Int64
    """(n_fft // 2, 2): cosine and sine of -2 pi k / n_fft."""
    mel_first: Int64
    """First bin of each filter, (n_mels,)."""
    mel_count: Int64
    """Number of bins of each filter, (n_mels,)."""
    mel_weights: Int64
    logs: Int64
    """ln(1 + i / LOG_STEPS), (LOG_STEPS + 1,)."""
    ln_2: int
    log_unit: int
    """Logarithm of an energy of 1, before the frame's scaling is subtracted."""
    log_of_nothing: int
    """The smallest logarithm: of ``log_floor``, or of the machine epsilon that replaces zero."""
    dct: Int64
    """(n_mels, n_mfcc)."""
    dct_bits: int
    """Fraction bits of ``dct``."""
    silence: Int64
    """Cepstra of a frame of zeros, (n_mfcc,)."""


@dataclass(frozen=True, slots=True)
class EncoderTables:
    """The integers of the delta encoder."""

    thresholds: Int64
    """(levels, n_mfcc), with CEPSTRUM_BITS fraction bits."""
    rest: Int64
    """(n_mfcc,), with CEPSTRUM_BITS fraction bits."""
    keep: int
    """1 - leak, with FACTOR_BITS fraction bits."""


@dataclass(frozen=True, slots=True)
class LayerTables:
    """The integers of a layer; (out channels,) each, except the weights."""

    weight: Int8Weights
    shift: Int64
    """Left shift from sums on the channel's own grid to the fraction bits of levels."""
    bias: Int64
    alpha: Int64 | None
    offset: Int64 | None
    """Added after the synapse; None without one."""
    beta: Int64


@dataclass(frozen=True, slots=True)
class ReadoutTables:
    """The integers of the read-out; (classes,) each, except the weights and the sigmoid."""

    weight: Int8Weights
    shift: Int64
    bias: Int64
    beta: Int64
    sigmoid: Int64
    """The sigmoid of 0, 2**-SIGMOID_STEP_BITS, ...; (SIGMOID_STEPS + 1,)."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """A model in integers."""

    network: Network
    level_bits: int
    """Fraction bits of synapses and membranes."""
    front_end: FrontEndTables
    encoder: EncoderTables
    to_bands: Int64
    """(n_mfcc, n_mels)."""
    layers: tuple[LayerTables, ...]
    readout: ReadoutTables
    thresholds: tuple[tuple[int, int], ...]
    """On and off threshold of each class, with SCORE_BITS fraction bits."""


def fixed_point(network: Network) -> FixedPoint:
    """Return the integers of a network.

    Raises ManifestError, naming the layer or key, where a value does not fit.
    """
    m = network.manifest
    to_bands = _exactly(network.to_bands, BAND_BITS, names.TO_BANDS)
    largest_band = int(np.abs(to_bands).sum(axis=0).max())
    _fits("a band", largest_band, 15)
    inputs = [_Input(largest_band, BAND_BITS), *[_Input(1, 0)] * (len(network.layers) - 1)]
    level_bits = _level_bits(network, inputs)
    layers = tuple(
        _layer(name, layer, layer_input, level_bits)
        for (name, layer), layer_input in zip(network.named_layers(), inputs, strict=True)
    )
    decoders = [c.decoder for c in m.classes]
    thresholds = tuple(
        (to_fixed_int(d.on_threshold, SCORE_BITS), to_fixed_int(d.off_threshold, SCORE_BITS)) for d in decoders
    )
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


def front_end_tables(p: MfccParams) -> FrontEndTables:
    """Return the integers of a front end; raises ManifestError, naming the key, for a value that does not fit."""
    if abs(p.preemphasis) > 1:
        raise ManifestError(
            f"features.preemphasis is {p.preemphasis}; fixed point needs it in [-1, 1], export it with --float"
        )
    dct_bits = TWIDDLE_BITS - max(0, math.ceil(math.log2(np.abs(dct_matrix(p)).max())))
    dct = to_fixed(dct_matrix(p), dct_bits)
    log_minimum = to_fixed_int(math.log(p.log_floor or np.finfo(np.float64).eps), LOG_BITS)
    first, count, weights = mel_spans(p)
    half = p.n_fft // 2
    unit = math.log(half**2 / p.n_fft) - 2 * AMPLITUDE_BITS * math.log(2)
    return FrontEndTables(
        preemphasis=to_fixed_int(p.preemphasis, AMPLITUDE_BITS - SAMPLE_BITS),
        window=to_fixed(_window(p), TWIDDLE_BITS),
        twiddles=to_fixed(twiddles(p), TWIDDLE_BITS),
        mel_first=first,
        mel_count=count,
        mel_weights=to_fixed(weights, MEL_BITS),
        logs=to_fixed(np.log1p(np.arange(LOG_STEPS + 1) / LOG_STEPS), LOG_BITS),
        ln_2=to_fixed_int(math.log(2), LOG_BITS),
        log_unit=to_fixed_int(unit, LOG_BITS),
        log_of_nothing=log_minimum,
        dct=dct,
        dct_bits=dct_bits,
        silence=_silence(p, log_minimum, dct, dct_bits),
    )


def twiddles(params: MfccParams) -> NDArray[np.float64]:
    """Return the twiddle factors of the fixed-point transform: cosine and sine of -2 pi k / n_fft, (n_fft // 2, 2)."""
    angles = -2 * np.pi * np.arange(params.n_fft // 2) / params.n_fft
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rounding_shift(values: Int64, bits: int) -> Int64:
    """Return integers divided by 2**bits and rounded half up, as the C does by an addition and a shift."""
    return np.asarray((values + (1 << (bits - 1))) >> bits, np.int64)


def to_fixed(values: Any, bits: int) -> Int64:
    """Return numbers as integers with so many fraction bits, rounded half to even."""
    return np.asarray(np.round(np.ldexp(np.asarray(values, np.float64), bits)), np.int64)


def to_fixed_int(value: float, bits: int) -> int:
    """Return one number as an integer with so many fraction bits, rounded half to even."""
    return int(to_fixed(value, bits))


@dataclass(frozen=True, slots=True)
class _Input:
    """The values that a layer reads: integers up to ``largest`` in magnitude, with so many fraction bits."""

    largest: int
    fraction_bits: int


def _level_bits(network: Network, inputs: list[_Input]) -> int:
    """Return the most fraction bits with which no current of the network exceeds LEVEL_WIDTH bits."""
    currents = [
        _currents(to_int8(layer.weight), layer_input, layer.bias).max()
        for layer, layer_input in zip(network.layers, inputs, strict=True)
    ]
    # Where fewer bits coarsen a channel's grid, its weights round up once more: 5 % covers that.
    return min(MAX_LEVEL_BITS, LEVEL_WIDTH - math.ceil(math.log2(1.05 * max(currents))))


def _encoder(p: EncoderParams) -> EncoderTables:
    thresholds = to_fixed(np.array(p.thresholds, np.float32), CEPSTRUM_BITS)
    if (thresholds < 1).any():
        raise ManifestError(
            f"encoder.thresholds: fixed point needs at least 2**-{CEPSTRUM_BITS}; export it with --float"
        )
    rest = to_fixed(np.array(p.rest or [0.0] * thresholds.shape[1], np.float32), CEPSTRUM_BITS)
    _fits("encoder.thresholds", int(thresholds.max()), _INT32_BITS - 2)
    _fits("encoder.rest", int(np.abs(rest).max()), _INT32_BITS - 2)
    return EncoderTables(thresholds, rest, to_fixed_int(float(np.float32(1 - p.leak)), FACTOR_BITS))


def _layer(name: str, layer: Layer, layer_input: _Input, level_bits: int) -> LayerTables:
    weight, n = to_int8(layer.weight, level_bits - layer_input.fraction_bits), layer.neurons
    zeros = np.zeros(len(layer.weight))
    bias = zeros if layer.bias is None else layer.bias
    alpha = offset = None
    if n.alpha is not None:
        alpha, offset = to_fixed(n.alpha, FACTOR_BITS), to_fixed(zeros if n.offset is None else n.offset, level_bits)
    return LayerTables(
        weight=weight,
        shift=_shift(name, weight, layer_input, bias, level_bits),
        bias=to_fixed(bias, level_bits),
        alpha=alpha,
        offset=offset,
        beta=to_fixed(n.beta, FACTOR_BITS),
    )


def _readout(network: Network, level_bits: int) -> ReadoutTables:
    r = network.readout
    weight = to_int8(r.weight, level_bits)
    steps = np.arange(SIGMOID_STEPS + 1) / 2**SIGMOID_STEP_BITS
    return ReadoutTables(
        weight=weight,
        shift=_shift(names.READOUT, weight, _Input(1, 0), r.bias, level_bits),
        bias=to_fixed(r.bias, level_bits),
        beta=to_fixed(r.beta.ravel(), FACTOR_BITS),
        sigmoid=to_fixed(1 / (1 + np.exp(-steps)), SCORE_BITS),
    )


def _shift(name: str, weight: Int8Weights, layer_input: _Input, bias: NDArray[Any], level_bits: int) -> Int64:
    """Return the shifts from sums to levels; raises ManifestError where a sum or a current can overflow."""
    sums = np.ldexp(
        _currents(weight, layer_input, None), (weight.exponents + layer_input.fraction_bits).astype(np.int32)
    )
    _fits(f"{name}: a sum of weights", int(sums.max()), _INT32_BITS)
    _fits(f"{name}: a current", math.ceil(_currents(weight, layer_input, bias).max() * 2**level_bits), LEVEL_WIDTH)
    shift = level_bits - weight.exponents - layer_input.fraction_bits
    if not ((shift >= 0) & (shift < _INT32_BITS)).all():
        raise ManifestError(f"{name}: its weights are too large for fixed point; export it with --float")
    return shift


def _currents(weight: Int8Weights, layer_input: _Input, bias: NDArray[Any] | None) -> NDArray[np.float64]:
    """Return the largest current that each output channel can receive, (out channels,)."""
    sums = np.abs(weight.values.astype(np.float64)).reshape(len(weight.values), -1).sum(axis=1) * layer_input.largest
    largest = np.ldexp(sums, -(weight.exponents + layer_input.fraction_bits).astype(np.int32))
    return np.asarray(largest if bias is None else largest + np.abs(bias), np.float64)


def _exactly(values: NDArray[Any], bits: int, name: str) -> Int64:
    values_fixed = to_fixed(values, bits)
    if not np.array_equal(np.ldexp(values_fixed.astype(np.float64), -bits), values):
        raise ManifestError(f"{name} does not lie on the grid of 2**-{bits}; export the model again")
    return values_fixed


def _fits(what: str, largest: int, bits: int) -> None:
    if largest >= 1 << bits:
        raise ManifestError(f"{what} can reach {largest}, more than {bits} bits; export it with --float")


def _silence(p: MfccParams, log_minimum: int, dct: Int64, dct_bits: int) -> Int64:
    cepstra = rounding_shift(log_minimum * dct.sum(axis=0), LOG_BITS + dct_bits - CEPSTRUM_BITS)
    if p.append_energy:
        cepstra[0] = rounding_shift(np.array(log_minimum), LOG_BITS - CEPSTRUM_BITS)
    return cepstra


def _window(p: MfccParams) -> NDArray[np.float64]:
    window = window_coefficients(p)
    if np.abs(window).max() > 1:
        raise ManifestError("features.window leaves [-1, 1], which fixed point does not allow; export it with --float")
    return window
