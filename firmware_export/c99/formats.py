"""The number formats of the C detector, and a model's arrays in each of them.

The Fourier transform in floating point is of n_fft / 2 complex points for n_fft real samples, in passes of radix 4:
each pass makes one transform of every four (J. W. Cooley and J. W. Tukey, "An algorithm for the machine calculation of
complex Fourier series", Math. Comp. 19, 1965), and the last one makes one of two where the number of points needs it.
Its twiddle factors are laid out in the order in which the passes read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.engine.graph import Layer
from detector.features import (
    bit_reversal,
    dct_matrix,
    mel_spans,
    pass_twiddles,
    split_twiddles,
    window_coefficients,
)
from firmware_export.c99.fixed_point import (
    BAND_BITS,
    CEPSTRUM_BITS,
    LOG_BITS,
    MEL_BITS,
    SCORE_BITS,
    SIGMOID_STEP_BITS,
    SIGMOID_STEPS,
    FixedPoint,
    fixed_point,
)
from firmware_export.onnx.read import Network

Array = NDArray[Any]
Float64 = NDArray[np.float64]

MIN_N_FFT: Final = 16
"""Smallest transform: a first pass and one more."""
_FRACTION_BITS: Final = {
    "BAND_BITS": BAND_BITS,
    "CEPSTRUM_BITS": CEPSTRUM_BITS,
    "SCORE_BITS": SCORE_BITS,
    "SIGMOID_STEP_BITS": SIGMOID_STEP_BITS,
    "SIGMOID_STEPS": SIGMOID_STEPS,
}


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """The numbers that the C detector computes with."""

    int8: bool
    """int8 weights and integers throughout the network; else single precision."""
    fixed_front_end: bool
    """Integers in the MFCC; only with ``int8``."""

    @property
    def name(self) -> str:
        """The name in file headers and reports."""
        if not self.int8:
            return "float"
        return "int8" if self.fixed_front_end else "int8, MFCC in float"

    @property
    def slug(self) -> str:
        """The name as a part of names in C."""
        if not self.int8:
            return "float"
        return "int8" if self.fixed_front_end else "int8_float_mfcc"


FLOAT: Final = NumberFormat(int8=False, fixed_front_end=False)
INT8: Final = NumberFormat(int8=True, fixed_front_end=True)
INT8_FLOAT_FRONT_END: Final = NumberFormat(int8=True, fixed_front_end=False)


@dataclass(frozen=True, slots=True)
class LayerArrays:
    """A layer's arrays, (out channels,) each except the weights; None where the layer has no such parameter."""

    weight: Array
    """(out channels, in channels, frames, bands)."""
    shift: Array | None
    bias: Array | None
    alpha: Array | None
    offset: Array | None
    beta: Array


@dataclass(frozen=True, slots=True)
class ModelArrays:
    """All constants of a model in one number format: arrays of float32, or of integers."""

    number_format: NumberFormat
    constants: dict[str, float | int]
    """Scalars by their name in C without the prefix; float64 for those of the front end's own precision."""
    front_end: dict[str, Array]
    encoder: dict[str, Array]
    to_bands: Array
    layers: tuple[LayerArrays, ...]
    readout: dict[str, Array]
    thresholds: tuple[tuple[float | int, float | int], ...]


def model_arrays(network: Network, number_format: NumberFormat) -> ModelArrays:
    """Return a network's constants in a number format; raises ManifestError for a value that does not fit."""
    if not number_format.int8:
        return _single(network)
    model = fixed_point(network)
    front_end = _fixed_front_end(model) if number_format.fixed_front_end else _single_front_end(network)
    constants: dict[str, float | int] = {**_FRACTION_BITS, "LEVEL_BITS": model.level_bits}
    constants |= _fixed_constants(model) if number_format.fixed_front_end else _single_constants(network)
    constants["KEEP"] = model.encoder.keep
    r = model.readout
    readout: dict[str, Array] = {
        "weight": r.weight.values,
        "shift": r.shift,
        "bias": r.bias,
        "beta": r.beta,
        "sigmoid": r.sigmoid,
    }
    encoder = {"thresholds": model.encoder.thresholds, "rest": model.encoder.rest}
    layers = tuple(LayerArrays(t.weight.values, t.shift, t.bias, t.alpha, t.offset, t.beta) for t in model.layers)
    return ModelArrays(number_format, constants, front_end, encoder, model.to_bands, layers, readout, model.thresholds)


def _single(network: Network) -> ModelArrays:
    m, r = network.manifest, network.readout
    encoder = {
        "thresholds": _float32(np.array(m.encoder.thresholds)),
        "rest": _float32(m.encoder.rest or [0.0] * m.features.n_mfcc),
    }
    return ModelArrays(
        number_format=FLOAT,
        constants=_single_constants(network) | {"KEEP": 1 - m.encoder.leak},
        front_end=_single_front_end(network),
        encoder=encoder,
        to_bands=network.to_bands,
        layers=tuple(map(_single_layer, network.layers)),
        readout={"weight": r.weight, "bias": r.bias, "beta": r.beta.ravel()},
        thresholds=tuple((c.decoder.on_threshold, c.decoder.off_threshold) for c in m.classes),
    )


def _single_layer(layer: Layer) -> LayerArrays:
    n = layer.neurons
    offset = None if n.alpha is None else n.offset if n.offset is not None else np.zeros_like(n.alpha)
    return LayerArrays(layer.weight, None, layer.bias, n.alpha, offset, n.beta)


def _single_constants(network: Network) -> dict[str, float | int]:
    f = network.manifest.features
    return {"PREEMPHASIS": np.float64(f.preemphasis), "LOG_FLOOR": np.float64(f.log_floor)}


def _single_front_end(network: Network) -> dict[str, Array]:
    f = network.manifest.features
    first, count, weights = mel_spans(f)
    return {
        "window": window_coefficients(f),
        "bit_reversal": bit_reversal(f.n_fft),
        "pass_twiddles": pass_twiddles(f.n_fft),
        "split_twiddles": split_twiddles(f.n_fft),
        "mel_first": first,
        "mel_count": count,
        "mel_weights": weights / f.n_fft,
        "dct": dct_matrix(f),
    }


def _fixed_constants(model: FixedPoint) -> dict[str, float | int]:
    t = model.front_end
    return {
        "PREEMPHASIS": t.preemphasis,
        "MEL_BITS": MEL_BITS,
        "LOG_BITS": LOG_BITS,
        "LN_2": t.ln_2,
        "LOG_UNIT": t.log_unit,
        "LOG_OF_NOTHING": t.log_of_nothing,
        "DCT_BITS": t.dct_bits,
    }


def _fixed_front_end(model: FixedPoint) -> dict[str, Array]:
    t = model.front_end
    return {
        "window": t.window,
        "twiddles": t.twiddles,
        "mel_first": t.mel_first,
        "mel_count": t.mel_count,
        "mel_weights": t.mel_weights,
        "logs": t.logs,
        "silence": t.silence,
        "dct": t.dct,
    }


def _float32(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)
