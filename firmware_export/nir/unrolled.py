"""A model's network as one chain of dense layers, for simulators without delays and without sums of several nodes.

A layer that reads the frames t, t - d, t - 2d... of the layer below reads as many copies of it, each of which is d
frames behind. Followed to the input, this is a network over a window of the last frames: the encoder's spikes of the
frames t - n + 1 ... t, each followed by two flags. The flag ``on`` is 1 in every frame that there
was, ``first`` in the first one; before the stream all are 0. Each copy passes the flags on by two more neurons, so that
a bias reaches a copy when its stream begins, not before. A copy therefore does what the layer itself did some frames
ago, and the youngest what the layer does now.

All nodes have one axis, which is that of the values (planes, n_mfcc or channels, width; then the flags) and within
each value that of the frames or copies, the oldest first. Matrices hold zeros where a convolution does not reach; a
file stores them compressed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import nir
import numpy as np
from numpy.typing import NDArray

from detector.engine import names
from detector.engine.graph import Float32, Layer, Readout
from detector.errors import ConfigError
from firmware_export.nir.graph import affine_node, frame_seconds
from firmware_export.onnx.read import Network

Float64 = NDArray[np.float64]
FLAGS: Final = 2
"""``on`` and ``first``, at the end of each frame of the window and of each copy of a layer."""
RELAY: Final = 1.5
"""Weight by which a flag makes its neuron spike; above the threshold, below two of them."""
_LARGEST_BYTES: Final = 1 << 29


@dataclass(frozen=True, slots=True)
class ChainLayer:
    """A layer with its copies."""

    name: str
    weight: Float32
    """(outputs, inputs), with the bias in front of the synapse as weights of the flags."""
    alpha: Float32 | None
    """Decay of the synapses, 0 for flags; None without synapses."""
    beta: Float32
    """Decay of the membranes, 0 for flags."""
    offset: Float32 | None
    """Added behind the synapse; None without one."""
    ages: tuple[int, ...]
    """How many frames each copy is behind."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The whole network."""

    frames: int
    """Of the window."""
    frame_size: int
    """The number of values of a frame, flags included."""
    layers: tuple[ChainLayer, ...]
    readout: Readout
    """Its weights have columns for the flags, which hold the bias."""


def unroll(network: Network) -> Chain:
    """Return a network as a chain; raises ConfigError where its matrices would be too large."""
    layers = list(network.named_layers())
    ages = _ages([layer for _, layer in layers])
    sizes = [network.manifest.features.n_mfcc * 2 * len(network.manifest.encoder.thresholds) + FLAGS]
    sizes += [len(layer.weight) * layer.out_width + FLAGS for _, layer in layers]
    values = sum(
        a * len(ins) * b * len(outs) for (a, b), (ins, outs) in zip(pairwise(sizes), pairwise(ages), strict=True)
    )
    if values * np.dtype(np.float32).itemsize > _LARGEST_BYTES:
        raise ConfigError(
            f"unrolled over the {len(ages[0])} frames that it reads, the network has {values >> 20} million weights; "
            "export it without --for, or --for nirtorch"
        )
    chain = [
        _layer(name, layer, network.to_bands if i == 0 else None, ages[i], ages[i + 1])
        for i, (name, layer) in enumerate(layers)
    ]
    return Chain(len(ages[0]), sizes[0], tuple(chain), _readout(network.readout))


def _ages(layers: list[Layer]) -> list[tuple[int, ...]]:
    """Return the ages of the frames of the window and of each layer's copies, the oldest first."""
    found: list[tuple[int, ...]] = [(0,)]
    for i, layer in reversed(list(enumerate(layers))):
        read = {age + past for age in found[0] for past in range(0, layer.past + 1, layer.dilation)}
        # The window has all frames, so that it can be kept by appending one and dropping one.
        found.insert(0, tuple(range(max(read), -1, -1)) if i == 0 else tuple(sorted(read, reverse=True)))
    return found


def _layer(
    name: str, layer: Layer, to_bands: Float32 | None, in_ages: tuple[int, ...], out_ages: tuple[int, ...]
) -> ChainLayer:
    taps = _taps(layer, to_bands)
    outputs, inputs = taps.shape[1] + FLAGS, taps.shape[2] + FLAGS
    weight = np.zeros((outputs, len(out_ages), inputs, len(in_ages)), np.float32)
    on = inputs - FLAGS
    for copy, age in enumerate(out_ages):
        for tap, matrix in enumerate(taps):
            weight[:-FLAGS, copy, :on, in_ages.index(age + layer.past - tap * layer.dilation)] = matrix
        now = weight[:, copy, :, in_ages.index(age)]
        if layer.bias is not None:
            now[:-FLAGS, on] = _per_neuron(layer.bias, layer)
        now[-FLAGS:, on:] = RELAY * np.eye(FLAGS)
    neurons = layer.neurons
    spread = [
        None if v is None else np.repeat(np.append(_per_neuron(v, layer), np.zeros(FLAGS, np.float32)), len(out_ages))
        for v in (neurons.alpha, neurons.beta, neurons.offset)
    ]
    assert spread[1] is not None  # noqa: S101 - for mypy
    flat = weight.reshape(outputs * len(out_ages), -1)
    return ChainLayer(name, flat, spread[0], spread[1], spread[2], out_ages)


def _taps(layer: Layer, to_bands: Float32 | None) -> Float32:
    """Return the convolution over each frame as a matrix, (frames, outputs * out_width, inputs * in_width).

    The first layer's includes the bands. Both are multiples of powers of two of which no sum rounds, and so is their
    product.
    """
    outputs, inputs, frames, length = layer.weight.shape
    dense = np.zeros((frames, outputs, layer.out_width, inputs, layer.in_width))
    for at in range(layer.out_width):
        for k in range(length):
            band = at * layer.stride + k - layer.padding
            if 0 <= band < layer.in_width:
                dense[:, :, at, :, band] += layer.weight[:, :, :, k].transpose(2, 0, 1)
    if to_bands is not None:
        dense = dense @ to_bands.T.astype(np.float64)
    return dense.reshape(frames, outputs * layer.out_width, -1).astype(np.float32)


def _per_neuron(values: Float32, layer: Layer) -> Float32:
    return np.repeat(values, layer.out_width)


def _readout(readout: Readout) -> Readout:
    on = np.stack([readout.bias, np.zeros_like(readout.bias)], axis=1)
    return Readout(np.concatenate([readout.weight, on], axis=1), np.zeros_like(readout.bias), readout.beta.ravel())


def with_offset_in_weights(layer: ChainLayer) -> Float32:
    """Return a layer's weights with the offset behind the synapse put in front of it, by the flags.

    A constant input o * (1 - alpha), and o * alpha more in the first frame, is o behind the synapse in every frame;
    apart from rounding, which decides where a neuron stays at its threshold.
    """
    if layer.offset is None or layer.alpha is None:
        return layer.weight
    weight, copies = layer.weight.copy(), len(layer.ages)
    neurons = len(weight) // copies - FLAGS
    # Where the flags' own neurons are fed, the flags of the same age are.
    flags = [[int(np.flatnonzero(weight[(neurons + f) * copies + c])[0]) for f in range(FLAGS)] for c in range(copies)]
    alpha, offset = layer.alpha.astype(np.float64), layer.offset.astype(np.float64)
    for copy, (on, first) in enumerate(flags):
        rows = slice(copy, neurons * copies, copies)
        weight[rows, on] += (offset * (1 - alpha))[rows].astype(np.float32)
        weight[rows, first] += (offset * alpha)[rows].astype(np.float32)
    return weight


class ChainWriter:
    """Adds nodes to a graph, each after the one before."""

    def __init__(self, network: Network, chain: Chain) -> None:
        """Begin with the input: a window of frames."""
        self._nodes: dict[str, Any] = {"input": nir.Input(np.array([chain.frames * chain.frame_size]))}
        m = network.manifest
        self.dt_s = frame_seconds(m)
        self._metadata = {
            "model": f"{m.name} {m.version}",
            "model_sha256": network.sha256,
            "licence": m.licence,
            "labels": ",".join(m.labels),
            "dt_s": self.dt_s,
            "frames": chain.frames,
            "scores": "1 / (1 + exp(-potential of the read-out))",
        }

    def add(self, name: str, node: Any) -> None:
        """Add a node with one axis."""
        self._nodes[name] = node

    def weights(self, name: str, weight: Float32) -> None:
        """Add a layer's ``Affine``, without a bias."""
        self.add(f"{name}_weights", affine_node(weight, None))

    def graph(self, **metadata: str) -> Any:
        """Return the ``nir.NIRGraph``, with its output."""
        last = next(reversed(self._nodes.values()))
        nodes = {**self._nodes, "output": nir.Output(last.output_type)}
        return nir.NIRGraph(nodes, list(pairwise(nodes)), metadata={**self._metadata, **metadata})


def build_chain(
    network: Network, add_layer: Callable[[ChainWriter, ChainLayer], None], last: Callable[..., Any]
) -> Any:
    """Return the ``nir.NIRGraph`` of a chain from what adds a layer, and from what gives the node of the read-out.

    ``last`` is given the read-out's decays (classes,) and the step in seconds.
    """
    chain = unroll(network)
    writer = ChainWriter(network, chain)
    for layer in chain.layers:
        add_layer(writer, layer)
    writer.weights(names.READOUT, chain.readout.weight)
    writer.add(names.READOUT, last(chain.readout.beta, writer.dt_s))
    return writer.graph()


def windows(spikes: Float32, frames: int) -> Iterator[Float32]:
    """Yield the window of each frame of spikes (frames, planes, n_mfcc) as one axis, from a reset on."""
    past = np.zeros((frames, spikes[0].size + FLAGS), np.float32)
    for i, frame in enumerate(spikes):
        past = np.roll(past, -1, axis=0)
        past[-1] = np.append(frame.ravel(), [1, i == 0])
        yield past.T.ravel()
