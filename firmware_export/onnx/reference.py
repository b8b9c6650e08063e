"""The reference evaluation of a network in numpy, layer after layer, that int8 models are compared with.

It shares nothing with onnxruntime but the equations of ``models/network/csnn.py``: convolutions are sums in float64
over all frames at once, and neurons compute in float32 in the stated order. Where a network's sums are exact
(``check_exact``), every engine must give each of its spikes to the bit.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.engine import names
from detector.engine.graph import Float32, Layer, Neurons, Readout
from detector.messages import Spikes
from firmware_export.onnx.parity import ParityError, Traces
from firmware_export.onnx.read import Network

MANTISSA_BITS: Final = 24
"""Bits of a float32's significand, the implicit one included."""


def evaluate(network: Network, spikes: Spikes) -> Traces:
    """Return the scores and each layer's spikes for spikes (frames, planes, n_mfcc), from a reset on."""
    x: Float32 = np.asarray(spikes.astype(np.float64) @ network.to_bands, np.float32)
    traces: Traces = {}
    for name, layer in network.named_layers():
        x = _fire(layer.neurons, network.manifest.network.threshold, _currents(layer, x))
        traces[name] = x.reshape(len(x), -1)
    return traces | {names.SCORES: _scores(network.readout, traces[names.DENSE])}


def window_sums(layer: Layer, weight: NDArray[Any], x: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sums (frames, out channels, out width) of inputs (frames, in channels, in width), without bias.

    ``weight`` has the shape of the layer's own and may be its integers. Sums are computed in float64, exactly for
    integers up to 2**53.
    """
    bands, sides = weight.shape[3], (layer.padding, layer.padding)
    padded = np.pad(x.astype(np.float64), ((layer.past, 0), (0, 0), sides))
    starts = range(0, layer.past + 1, layer.dilation)
    frames = np.stack([padded[at : at + len(x)] for at in starts], axis=2)
    windows = np.lib.stride_tricks.sliding_window_view(frames, bands, axis=3)[:, :, :, :: layer.stride]
    sums: NDArray[np.float64] = np.einsum("tcfwb,ocfb->tow", windows, weight.astype(np.float64), optimize=True)
    return sums


def check_exact(network: Network) -> None:
    """Raise ParityError, naming the layer, where float32 might have to round a synaptic sum.

    The largest sum of an output's terms is counted in units of the largest power of two that divides them all.
    ``models.network.csnn.finished`` ensures exact sums for float weights; this checks weights that were rounded since.
    """
    bands = network.to_bands.astype(np.float64).T
    largest, unit = float(np.abs(bands).sum(axis=1).max()), float(_units(bands).min())
    sums = [(name, layer.weight, layer.bias) for name, layer in network.named_layers()]
    for name, weight, bias in [*sums, (names.READOUT, network.readout.weight, network.readout.bias)]:
        rows = weight.reshape(len(weight), -1).astype(np.float64)
        largest_sums, units = np.abs(rows).sum(axis=1) * largest, _units(rows) * unit
        if bias is not None:
            largest_sums, units = largest_sums + np.abs(bias), np.minimum(units, _units(bias[:, None]))
        if (largest_sums > units * 2.0**MANTISSA_BITS).any():
            raise ParityError(
                f"{name}: its sums can exceed the {MANTISSA_BITS} bits of float32; export the float model again"
            )
        largest, unit = 1.0, 1.0  # all other layers read spikes


def _units(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return, for each row of values (n, k), the largest power of two that divides all of them, (n,)."""
    fraction, exponent = np.frexp(values.astype(np.float64))
    whole = np.ldexp(fraction, MANTISSA_BITS).astype(np.int64)
    lowest = np.ldexp((whole & -whole).astype(np.float64), exponent - MANTISSA_BITS)
    return np.asarray(np.where(values == 0, np.inf, lowest).min(axis=1))


def _currents(layer: Layer, x: Float32) -> Float32:
    sums = window_sums(layer, layer.weight, x)
    return np.asarray(sums if layer.bias is None else sums + layer.bias[:, None], np.float32)


def _fire(neurons: Neurons, threshold: float, currents: Float32) -> Float32:
    """Return the spikes, 0 or 1, for currents (frames, channels, width), in the same shape."""
    beta, offset = neurons.beta[:, None], None if neurons.offset is None else neurons.offset[:, None]
    mem, synapse, theta = np.zeros_like(currents[0]), np.zeros_like(currents[0]), np.float32(threshold)
    spikes = np.empty_like(currents)
    for t, current in enumerate(currents):
        value = current
        if neurons.alpha is not None:
            synapse = neurons.alpha[:, None] * synapse + current
            value = synapse if offset is None else synapse + offset
        u = beta * mem + value
        spikes[t] = u > theta
        mem = u - theta * spikes[t]
    return spikes


def _scores(readout: Readout, spikes: Float32) -> Float32:
    """Return scores (frames, classes) for the dense layer's spikes (frames, neurons)."""
    currents = np.asarray(spikes.astype(np.float64) @ readout.weight.T + readout.bias, np.float32)
    mem = np.zeros_like(currents[0])
    for t, current in enumerate(currents):
        mem = readout.beta * mem + current
        currents[t] = mem
    return np.asarray(1 / (1 + np.exp(-currents.astype(np.float64))), np.float32)
