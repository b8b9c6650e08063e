"""The numeric forms of the C detector, and a model's numbers in each: one list of tables, two ways to print it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.features import dct_matrix, window_coefficients
from firmware_export import fixed_front_end
from firmware_export import fixed_point as fixed
from firmware_export.fixed_front_end import mel_spans
from firmware_export.fixed_point import FixedPoint, fixed_point
from firmware_export.model_reading import Layer, Network
from firmware_export.transform_tables import pass_turns, reversed_numbers, split_turns

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
