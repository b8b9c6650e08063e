"""A network of plain arrays evaluated in numpy, layer after layer: the oracle for files that other engines run.

It shares nothing with them but the equations of ``models/network/csnn.py``: convolutions are sums in
float64 over all frames at once, and neurons go through float32 in the stated order. Where a network's
sums are exact (``check_exact``) each of its spikes must come out of any engine, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detector.messages import Spikes
from firmware_export.onnx.export import ParityError
from firmware_export.onnx.read import Float32, Layer, Network, Neurons, Readout

Traces: TypeAlias = dict[str, Float32]
"""Scores and each layer's spikes by name, (frames, values)."""
_MANTISSA: Final = 24
"""Bits of a float32."""


def evaluate(network: Network, spikes: Spikes) -> Traces:
    """Return what spikes (frames, planes, n_mfcc) cause from the state after a reset, frame by frame."""
    x: Float32 = np.asarray(spikes.astype(np.float64) @ network.to_bands, np.float32)
    traces: Traces = {}
    for name, layer in named_layers(network):
        x = _fire(layer.neurons, network.manifest.network.threshold, _currents(layer, x))
        traces[name] = x.reshape(len(x), -1)
    return traces | {"scores": _scores(network.readout, traces["dense"])}


def named_layers(network: Network) -> Iterator[tuple[str, Layer]]:
    """Yield the spiking layers with their names in the graph."""
    for i, layer in enumerate(network.layers, 1):
        yield ("dense" if i == len(network.layers) else f"conv{i}"), layer


def window_sums(layer: Layer, weight: NDArray[Any], x: NDArray[Any]) -> NDArray[np.float64]:
    """Return the sums (frames, out channels, out width) of inputs (frames, in channels, in width), without bias.

    ``weight`` has the shape of the layer's own and may be another form of it. Sums are made in
    float64: exact for whole numbers up to 2**53.
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

    What an output's terms can come to together is counted in the largest power of two that divides
    them all. (``models.network.csnn.finished`` sees to it for its own weights; other weights, other sums.)
    """
    bands = network.to_bands.astype(np.float64).T
    largest, unit = np.abs(bands).sum(axis=1).max(), _units(bands).min()
    sums = [(name, layer.weight, layer.bias) for name, layer in named_layers(network)]
    for name, weight, bias in [*sums, ("readout", network.readout.weight, network.readout.bias)]:
        rows = weight.reshape(len(weight), -1).astype(np.float64)
        most, units = np.abs(rows).sum(axis=1) * largest, _units(rows) * unit
        if bias is not None:
            most, units = most + np.abs(bias), np.minimum(units, _units(bias[:, None]))
        if (most > units * 2.0**_MANTISSA).any():
            raise ParityError(f"{name}: sums of its weights can leave the {_MANTISSA} bits of float32")
        largest, unit = 1.0, 1.0  # all other layers read spikes


def _units(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return of each row of values (n, k) the largest power of two that divides all of it, (n,)."""
    fraction, exponent = np.frexp(values.astype(np.float64))
    whole = np.ldexp(fraction, _MANTISSA).astype(np.int64)
    lowest = np.ldexp((whole & -whole).astype(np.float64), exponent - _MANTISSA)
    return np.asarray(np.where(values == 0, np.inf, lowest).min(axis=1))


def _currents(layer: Layer, x: Float32) -> Float32:
    sums = window_sums(layer, layer.weight, x)
    return np.asarray(sums if layer.bias is None else sums + layer.bias[:, None], np.float32)


def _fire(neurons: Neurons, threshold: float, currents: Float32) -> Float32:
    """Return the spikes, 0 or 1, that currents (frames, channels, width) cause, of the same shape."""
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
    """Return scores (frames, classes) of the dense layer's spikes (frames, neurons)."""
    currents = np.asarray(spikes.astype(np.float64) @ readout.weight.T + readout.bias, np.float32)
    mem = np.zeros_like(currents[0])
    for t, current in enumerate(currents):
        mem = readout.beta * mem + current
        currents[t] = mem
    return np.asarray(1 / (1 + np.exp(-currents.astype(np.float64))), np.float32)
