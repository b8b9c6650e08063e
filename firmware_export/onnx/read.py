"""The network of a model file as plain arrays: what every export but ONNX itself starts from."""

from __future__ import annotations

from collections.abc import Mapping
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

Float32 = NDArray[np.float32]
_KNOWN: Final = frozenset(
    ("MatMul", "Concat", "Slice", "Conv", "Gemm", "Reshape", "Mul", "Add", "Greater", "Cast", "Sub", "Sigmoid")
)


@dataclass(frozen=True, slots=True)
class Neurons:
    """What turns a layer's sums into spikes; one value per channel each."""

    beta: Float32
    alpha: Float32 | None
    """Decay of the synapse in front; None without one."""
    offset: Float32 | None
    """Added behind the synapse; None without one."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A spiking convolution; a dense layer is one over the whole width, with one place."""

    weight: Float32
    """(out channels, in channels, frames, bands)."""
    bias: Float32 | None
    """(out channels,), part of the sum."""
    neurons: Neurons
    dilation: int
    stride: int
    padding: int
    in_width: int
    out_width: int

    @property
    def frames(self) -> int:
        """Frames that it reads."""
        return int(self.weight.shape[2])

    @property
    def past(self) -> int:
        """How many frames before this one it reaches back."""
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
    """A streaming network, read from its file."""

    manifest: Manifest
    sha256: str
    to_bands: Float32
    """(n_mfcc, n_mels), from cepstral spikes back to bands."""
    layers: tuple[Layer, ...]
    """The convolutions, then the dense layer."""
    readout: Readout


def read_network(path: Path) -> Network:
    """Read a model file; weights that it stores as int8 are read as the floats that they stand for.

    Raises ManifestError where it is no model of this project, or its graph is one that cannot be
    read back: an unknown operation, a weight that is missing, no convolution in front.
    """
    model = load_model(path)
    graph = onnx.load(path).graph
    unknown = sorted({node.op_type for node in graph.node} - _KNOWN)
    if unknown:
        raise ManifestError(f"{path}: the operation {unknown[0]} is not one that can be exported; use snn-export onnx")
    return _Reader(path, model.manifest, model.sha256, graph).read()


class _Reader:
    def __init__(self, path: Path, manifest: Manifest, sha256: str, graph: Any) -> None:
        self._path, self._manifest, self._sha256 = path, manifest, sha256
        self._weights = _constants(graph)
        self._nodes = {node.output[0]: node for node in graph.node}

    def read(self) -> Network:
        layers: list[Layer] = []
        width = self._manifest.features.n_mels
        while f"conv{len(layers) + 1}_current" in self._nodes:
            layers.append(self._convolution(f"conv{len(layers) + 1}", width))
            width = layers[-1].out_width
        if not layers:
            raise ManifestError(f"{self._path}: a network without convolutions cannot be exported in this form")
        layers.append(self._dense(layers[-1]))
        readout = Readout(self._weight("readout_weight"), self._weight("readout_bias"), self._weight("readout_beta"))
        return Network(self._manifest, self._sha256, self._weight("to_bands"), tuple(layers), readout)

    def _convolution(self, name: str, in_width: int) -> Layer:
        found = {a.name: list(a.ints) for a in self._nodes[f"{name}_current"].attribute}
        weight, neurons = self._weight(f"{name}_weight"), self._neurons(name)
        padding, stride = found["pads"][1], found["strides"][1]
        return Layer(
            weight=weight,
            bias=self._bias(name),
            neurons=neurons,
            dilation=found.get("dilations", [1, 1])[0],
            stride=stride,
            padding=padding,
            in_width=in_width,
            out_width=(in_width + 2 * padding - weight.shape[3]) // stride + 1,
        )

    def _dense(self, before: Layer) -> Layer:
        channels, width = before.weight.shape[0], before.out_width
        weight = self._weight("dense_weight").reshape(-1, channels, 1, width)
        return Layer(weight, self._bias("dense"), self._neurons("dense"), 1, 1, 0, width, 1)

    def _neurons(self, name: str) -> Neurons:
        offset = self._weights.get(f"{name}_bias")
        has_offset = offset is not None and offset.ndim > 1
        return Neurons(
            beta=self._by_channel(f"{name}_beta"),
            alpha=self._by_channel(f"{name}_alpha") if f"{name}_alpha" in self._weights else None,
            offset=self._by_channel(f"{name}_bias") if has_offset else None,
        )

    def _bias(self, name: str) -> Float32 | None:
        """Return the bias in a layer's sum; what is there per neuron lies behind the synapse."""
        bias = self._weights.get(f"{name}_bias")
        return None if bias is None or bias.ndim > 1 else bias

    def _by_channel(self, name: str) -> Float32:
        """Take one value per channel out of one per neuron, (1, channels, ...)."""
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
    """Return by name what is stored, and what Cast and Mul make of that alone: the floats of int8 weights."""
    values = {w.name: numpy_helper.to_array(w) for w in graph.initializer}
    for node in graph.node:
        given = [values[name] for name in node.input if name in values]
        if len(given) < len(node.input):
            continue
        if node.op_type == "Cast":
            values[node.output[0]] = given[0].astype(helper.tensor_dtype_to_np_dtype(node.attribute[0].i))
        elif node.op_type == "Mul":
            values[node.output[0]] = given[0] * given[1]
    return values
