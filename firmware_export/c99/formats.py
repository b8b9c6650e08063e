"""The numeric forms of the C detector, and a model's numbers in each: one list of tables, two ways to print it.

Tables of the floating-point Fourier transform in C, laid out in the order in which its passes read them.

The transform of n_fft real samples is one of n_fft / 2 complex points, of radix 4: each pass makes one transform
of every four (J. W. Cooley and J. W. Tukey, "An algorithm for the machine calculation of complex Fourier
series", Math. Comp. 19, 1965), and the last one makes one of two where the number of points asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.features import dct_matrix, window_coefficients
from firmware_export.c99 import fixed_point as fixed
from firmware_export.c99 import fixed_point as fixed_front_end
from firmware_export.c99.fixed_point import FixedPoint, fixed_point, mel_spans
from firmware_export.onnx.read import Layer, Network

Float64 = NDArray[np.float64]
LEAST_POINTS: Final = 16
"""Of n_fft: what a first pass and one more take."""


def reversed_numbers(n_fft: int) -> NDArray[np.int64]:
    """Return 0 .. n_fft / 8 - 1 with their bits in the opposite order: where each first butterfly begins to read."""
    points = n_fft // 8
    bits = points.bit_length() - 1
    return np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(points)])


def pass_turns(n_fft: int) -> Float64:
    """Return the factors of all passes but the first, whose factors are 1, one after the other.

    A pass that makes a transform of four of ``span`` points has exp(-2 pi i q k / (4 span)) for q = 1, 2, 3, one
    of two exp(-2 pi i k / (2 span)); k = 0 .. span - 1, real parts before imaginary ones.
    """
    half, span, rows = n_fft // 2, 4, [np.empty(0)]
    while span < half:
        radix = 4 if 4 * span <= half else 2
        for q in range(1, radix):
            rows += _turns(q * np.arange(span) / (radix * span))
        span *= radix
    return np.concatenate(rows)


def split_turns(n_fft: int) -> Float64:
    """Return exp(-2 pi i k / n_fft) for k = 0 .. n_fft / 4 - 1, (2, n_fft / 4): real parts, then imaginary ones."""
    return np.stack(_turns(np.arange(n_fft // 4) / n_fft))


def _turns(parts: Float64) -> list[Float64]:
    """Return real and imaginary parts of so many turns clockwise."""
    return [np.cos(2 * np.pi * parts), -np.sin(2 * np.pi * parts)]


Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Form:
    """How the C detector reckons."""

    int8: bool
    """Weights of 8 bits and integers throughout the network; else single precision."""
    fixed_front_end: bool
    """Integers in the MFCC; only with ``int8``."""

    @property
    def name(self) -> str:
        """As file headers and reports say it."""
        if not self.int8:
            return "float"
        return "int8" if self.fixed_front_end else "int8, MFCC in float"


FLOAT: Final = Form(int8=False, fixed_front_end=False)
INT8: Final = Form(int8=True, fixed_front_end=True)
INT8_FLOAT_FRONT_END: Final = Form(int8=True, fixed_front_end=False)


@dataclass(frozen=True, slots=True)
class LayerNumbers:
    """A layer's tables, one value per output channel but for the weights; None where there is nothing."""

    weight: Array
    """(out channels, in channels, frames, bands)."""
    shift: Array | None
    bias: Array | None
    alpha: Array | None
    offset: Array | None
    beta: Array


@dataclass(frozen=True, slots=True)
class Numbers:
    """Everything of a model that is a number, in one form: arrays of float32, or of integers."""

    form: Form
    constants: dict[str, float | int]
    """Scalars by the name they have in C, without the prefix."""
    front_end: dict[str, Array]
    encoder: dict[str, Array]
    to_bands: Array
    layers: tuple[LayerNumbers, ...]
    readout: dict[str, Array]
    thresholds: tuple[tuple[float | int, float | int], ...]


def numbers(network: Network, form: Form) -> Numbers:
    """Return a network's numbers in a form; raises ManifestError for what has no place in it."""
    if not form.int8:
        return _single(network)
    model = fixed_point(network)
    front_end = _fixed_front_end(model) if form.fixed_front_end else _single_front_end(network)
    constants: dict[str, float | int] = {**_POINTS, "LEVEL_BITS": model.level_bits}
    constants |= _fixed_constants(model) if form.fixed_front_end else _single_constants(network)
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
    layers = tuple(LayerNumbers(t.weight.values, t.shift, t.bias, t.alpha, t.offset, t.beta) for t in model.layers)
    return Numbers(form, constants, front_end, encoder, model.to_bands, layers, readout, model.thresholds)


_POINTS: Final = {
    "BAND_BITS": fixed.BAND_BITS,
    "CEPSTRUM_BITS": fixed_front_end.CEPSTRUM_BITS,
    "SCORE_BITS": fixed.SCORE_BITS,
    "SIGMOID_STEP_BITS": fixed.SIGMOID_STEP_BITS,
    "SIGMOID_STEPS": fixed.SIGMOID_STEPS,
}


def _single(network: Network) -> Numbers:
    m, r = network.manifest, network.readout
    encoder = {
        "thresholds": _float32(np.array(m.encoder.thresholds)),
        "rest": _float32(m.encoder.rest or [0.0] * m.features.n_mfcc),
    }
    return Numbers(
        form=FLOAT,
        constants=_single_constants(network) | {"KEEP": 1 - m.encoder.leak},
        front_end=_single_front_end(network),
        encoder=encoder,
        to_bands=network.to_bands,
        layers=tuple(map(_single_layer, network.layers)),
        readout={"weight": r.weight, "bias": r.bias, "beta": r.beta.ravel()},
        thresholds=tuple((c.decoder.on_threshold, c.decoder.off_threshold) for c in m.classes),
    )


def _single_layer(layer: Layer) -> LayerNumbers:
    n = layer.neurons
    offset = None if n.alpha is None else n.offset if n.offset is not None else np.zeros_like(n.alpha)
    return LayerNumbers(layer.weight, None, layer.bias, n.alpha, offset, n.beta)


def _single_constants(network: Network) -> dict[str, float | int]:
    f = network.manifest.features
    return {"PREEMPHASIS": np.float64(f.preemphasis), "LOG_FLOOR": np.float64(f.log_floor)}


def _single_front_end(network: Network) -> dict[str, Array]:
    f = network.manifest.features
    first, count, weights = mel_spans(f)
    return {
        "window": window_coefficients(f),
        "reversed": reversed_numbers(f.n_fft),
        "pass_turns": pass_turns(f.n_fft),
        "split_turns": split_turns(f.n_fft),
        "mel_first": first,
        "mel_count": count,
        "mel_weights": weights / f.n_fft,
        "dct": dct_matrix(f),
    }


def _fixed_constants(model: FixedPoint) -> dict[str, float | int]:
    t = model.front_end
    return {
        "PREEMPHASIS": t.preemphasis,
        "MEL_BITS": fixed_front_end.MEL_BITS,
        "LOG_BITS": fixed_front_end.LOG_BITS,
        "LN_2": t.ln_2,
        "LOG_UNIT": t.log_unit,
        "LOG_OF_NOTHING": t.log_of_nothing,
        "DCT_BITS": t.dct_bits,
    }


def _fixed_front_end(model: FixedPoint) -> dict[str, Array]:
    t = model.front_end
    return {
        "window": t.window,
        "turns": t.turns,
        "mel_first": t.mel_first,
        "mel_count": t.mel_count,
        "mel_weights": t.mel_weights,
        "logs": t.logs,
        "silence": t.silence,
        "dct": t.dct,
    }


def _float32(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)
