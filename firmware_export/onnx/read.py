"""The network of a model file as plain arrays: what the int8, C99 and NIR exports start from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from detector.errors import ManifestError
from detector.manifest import Manifest
from detector.network import load_model
from firmware_export.onnx import names
from firmware_export.onnx.names import LayerNames

Float32 = NDArray[np.float32]
_KNOWN_OPERATIONS: Final = frozenset(
    ("MatMul", "Concat", "Slice", "Conv", "Gemm", "Reshape", "Mul", "Add", "Greater", "Cast", "Sub", "Sigmoid")
)


@dataclass(frozen=True, slots=True)
class Neurons:
    """The constants that turn a layer's sums into spikes; (channels,) each."""

    beta: Float32
    """Decay of the membrane per frame."""
    alpha: Float32 | None
    """Decay of the synapse per frame; None without a synapse."""
    offset: Float32 | None
    """Added to the output of the synapse; None without one."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A spiking convolution; a dense layer is a convolution over the whole width with one output position."""

    weight: Float32
    """(out channels, in channels, frames, bands)."""
    bias: Float32 | None
    """(out channels,), added to the sum; None without one."""
    neurons: Neurons
    dilation: int
    stride: int
    padding: int
    in_width: int
    out_width: int

    @property
    def frames(self) -> int:
        """The number of frames that the kernel reads."""
        return int(self.weight.shape[2])

    @property
    def past(self) -> int:
        """The age of the oldest frame that the kernel reads, in frames."""
        return (self.frames - 1) * self.dilation


@dataclass(frozen=True, slots=True)
class Readout:
    """The leaky, non-spiking output: mem = beta * mem + W spikes + bias, score = sigmoid(mem)."""

    weight: Float32
    """(classes, neurons)."""
    bias: Float32
    beta: Float32


@dataclass(frozen=True, slots=True)
class Network:
    """A streaming network, as read from a model file."""

    manifest: Manifest
    sha256: str
    to_bands: Float32
    """(n_mfcc, n_mels): maps cepstral spikes to mel bands."""
    layers: tuple[Layer, ...]
    """The convolutions, then the dense layer."""
    readout: Readout

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """Yield the spiking layers with their names in the graph."""
        yield from zip(names.spiking_layers(len(self.layers) - 1), self.layers, strict=True)


def read_network(path: Path) -> Network:
    """Return the network of a model file; weights stored as int8 are returned as the floats that they represent.

    Raises ManifestError where the file is not a model of this project or its graph cannot be read back: an unknown
    operation, a missing weight, no convolution.
    """
    model = load_model(path)
    graph = onnx.load(path).graph
    unknown = sorted({node.op_type for node in graph.node} - _KNOWN_OPERATIONS)
    if unknown:
        raise ManifestError(f"{path}: operation {unknown[0]} cannot be exported; make the model with snn-export onnx")
    return _Reader(path, model.manifest, model.sha256, graph).read()


class _Reader:
    def __init__(self, path: Path, manifest: Manifest, sha256: str, graph: Any) -> None:
        self._path, self._manifest, self._sha256 = path, manifest, sha256
        self._weights = _constants(graph)
        self._nodes = {node.output[0]: node for node in graph.node}

    def read(self) -> Network:
        layers: list[Layer] = []
        width = self._manifest.features.n_mels
        while (layer := LayerNames(names.conv(len(layers) + 1))).current in self._nodes:
            layers.append(self._convolution(layer, width))
            width = layers[-1].out_width
        if not layers:
            raise ManifestError(f"{self._path}: no convolution in this network; export it with snn-export onnx only")
        layers.append(self._dense(layers[-1]))
        out = LayerNames(names.READOUT)
        readout = Readout(self._weight(out.weight), self._weight(out.bias), self._weight(out.beta))
        return Network(self._manifest, self._sha256, self._weight(names.TO_BANDS), tuple(layers), readout)

    def _convolution(self, layer: LayerNames, in_width: int) -> Layer:
        found = {a.name: list(a.ints) for a in self._nodes[layer.current].attribute}
        weight, neurons = self._weight(layer.weight), self._neurons(layer)
        padding, stride = found["pads"][1], found["strides"][1]
        return Layer(
            weight=weight,
            bias=self._bias(layer),
            neurons=neurons,
            dilation=found.get("dilations", [1, 1])[0],
            stride=stride,
            padding=padding,
            in_width=in_width,
            out_width=(in_width + 2 * padding - weight.shape[3]) // stride + 1,
        )

    def _dense(self, before: Layer) -> Layer:
        channels, width = before.weight.shape[0], before.out_width
        layer = LayerNames(names.DENSE)
        weight = self._weight(layer.weight).reshape(-1, channels, 1, width)
        return Layer(weight, self._bias(layer), self._neurons(layer), 1, 1, 0, width, 1)

    def _neurons(self, layer: LayerNames) -> Neurons:
        offset = self._weights.get(layer.bias)
        has_offset = offset is not None and offset.ndim > 1
        return Neurons(
            beta=self._per_channel(layer.beta),
            alpha=self._per_channel(layer.alpha) if layer.alpha in self._weights else None,
            offset=self._per_channel(layer.bias) if has_offset else None,
        )

    def _bias(self, layer: LayerNames) -> Float32 | None:
        """Return the bias in a layer's sum; a bias per neuron is added after the synapse instead."""
        bias = self._weights.get(layer.bias)
        return None if bias is None or bias.ndim > 1 else bias

    def _per_channel(self, name: str) -> Float32:
        """Return one value per channel, (channels,), of a constant with one per neuron, (1, channels, ...)."""
        values = self._weight(name)
        flat = values.reshape(values.shape[1] if values.ndim > 1 else values.size, -1)
        if (flat != flat[:, :1]).any():
            raise ManifestError(f"{self._path}: {name} differs within a channel; export the model again")
        return np.ascontiguousarray(flat[:, 0])

    def _weight(self, name: str) -> Float32:
        if name not in self._weights:
            raise ManifestError(f"{self._path}: the graph lacks {name!r}; export the model again")
        return self._weights[name]


def _constants(graph: Any) -> Mapping[str, Float32]:
    """Return the initializers by name, and what Cast and Mul compute from those alone: the floats of int8 weights."""
    values = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
    for node in graph.node:
        operands = [values[name] for name in node.input if name in values]
        if len(operands) < len(node.input):
            continue
        if node.op_type == "Cast":
            values[node.output[0]] = operands[0].astype(helper.tensor_dtype_to_np_dtype(node.attribute[0].i))
        elif node.op_type == "Mul":
            values[node.output[0]] = operands[0] * operands[1]
    return values
