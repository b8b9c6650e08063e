"""Model files with int8 weights: a third of the size, the same contract, made from the float model file alone.

Weights of convolutions, dense layer and read-out are stored as int8 with one power of two per output channel;
everything else stays as it is. A finished network's weights lie on such grids already, finer ones, so that its sums
are exact (``models/network/csnn.py``). int8 takes the finest grid on which a channel's largest weight is at most 127:
sums stay exact, in float32 as in integers, and only the weights themselves change. Decays and thresholds keep their
values. So do biases, except where the rounded weights sum to more than before and the bias lies on the finest grid
that float32 has: it then moves by at most half of 2**-24 of the largest sum.

In the graph, Cast and Mul turn the stored weights into floats, both exactly; onnxruntime does that once, at load, so
that a step costs what it did. DequantizeLinear is the usual operator, but onnxruntime keeps it in the graph, to match
it with its integer kernels: a step took 1.4 times as long (onnxruntime 1.32).
"""

from __future__ import annotations

import base64
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from detector.engine import names
from detector.engine.graph import Float32
from detector.engine.names import Int8Names
from detector.errors import ConfigError, ManifestError
from detector.manifest import BLOCK_KEY, METADATA_KEY, Manifest
from detector.network import Model, StreamingNetwork, load_model, verify
from firmware_export.files import atomic_output
from firmware_export.onnx.parity import check_equal, comparison_sound, encoded, largest_difference, step_file
from firmware_export.onnx.read import Network, read_network
from firmware_export.onnx.reference import MANTISSA_BITS, check_exact, evaluate
from models import DEMO_SCENE

LARGEST: Final = 127
"""Largest magnitude of a weight; -128 stays unused, so that every weight can be negated."""
VERSION_MARK: Final = "int8"
"""Build metadata of an int8 model's version: ``0.1.0+int8``."""
TOLERANCE: Final = 1e-6
"""Largest difference of a score between numpy and onnxruntime, whose sigmoids differ; spikes must be equal."""

Biases: TypeAlias = list[tuple[Float32, Float32]]
"""Biases of the float network and their replacements, (out channels,) each."""


@dataclass(frozen=True, slots=True)
class Int8Weights:
    """Weights of one layer: ``values * 2.0**-exponents``, an exponent for each output channel."""

    values: NDArray[np.int8]
    """(out channels, ...), the shape of the layer's weights."""
    exponents: NDArray[np.int64]
    """(out channels,)."""

    @property
    def weight(self) -> Float32:
        """The weights that they represent, exactly, as float32 (out channels, ...)."""
        return np.asarray(np.ldexp(self.values.astype(np.float32), -_column(self.exponents, self.values)), np.float32)

    @property
    def scale(self) -> Float32:
        """The step of each output channel's grid, (out channels,)."""
        return np.asarray(np.ldexp(np.float32(1), -self.exponents.astype(np.int32)), np.float32)


@dataclass(frozen=True, slots=True)
class Int8Export:
    """The sizes of both files in bytes, and the result of the comparison."""

    bytes_before: int
    bytes_after: int
    frames: int
    layers: int
    largest_score_difference: float


def export_int8(model: Path, out: Path) -> Int8Export:
    """Write a float model with int8 weights, after comparing the new file with numpy over the demo scene.

    Raises ManifestError where ``model`` is not a float model that can be read, ParityError where the new file differs
    from the network that it should hold, ConfigError where ``out`` cannot be written; it is then left as it was.
    """
    verify(model)  # so that an error found in the new file cannot come from the old one
    if out.resolve() == model.resolve():
        raise ConfigError(f"{out}: is the float model itself; name another file")
    loaded, network = load_model(model), read_network(model)
    expected = quantised(network)
    check_exact(expected)
    data = _with_int8_weights(loaded, _biases(network, expected)).SerializeToString()
    with atomic_output(out) as part:
        part.write_bytes(data)
        frames, largest = _compare(expected, part)
    return Int8Export(model.stat().st_size, len(data), frames, len(expected.layers), largest)


def to_int8(weight: Float32, finest: int | None = None) -> Int8Weights:
    """Return weights (out channels, ...) rounded half to even on the finest grid that int8 allows.

    ``finest`` is the largest exponent allowed; None means no limit.
    """
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1).astype(np.float64)
    # A channel whose weights are all zero can have any grid.
    exponents = np.floor(np.log2(LARGEST / np.where(largest > 0, largest, 1.0))).astype(np.int64)
    exponents += np.round(np.ldexp(largest, exponents + 1)) <= LARGEST  # rounding down may allow a finer grid
    if finest is not None:
        exponents = np.minimum(exponents, finest)
    values = np.round(np.ldexp(weight.astype(np.float64), _column(exponents, weight)))
    return Int8Weights(values.astype(np.int8), exponents)


def quantised(network: Network) -> Network:
    """Return the network with its weights and biases rounded as int8 needs them, in float32."""
    layers, largest = [], float(np.abs(network.to_bands).sum(axis=0).max())
    for layer in network.layers:
        weight = to_int8(layer.weight).weight
        bias = None if layer.bias is None else exact_bias(weight, layer.bias, largest)
        layers.append(dataclasses.replace(layer, weight=weight, bias=bias))
        largest = 1.0  # all other layers read spikes, 0 or 1
    weight = to_int8(network.readout.weight).weight
    bias = None if network.readout.bias is None else exact_bias(weight, network.readout.bias, 1.0)
    return dataclasses.replace(
        network, layers=tuple(layers), readout=dataclasses.replace(network.readout, weight=weight, bias=bias)
    )


def exact_bias(weight: Float32, bias: Float32, largest_input: float) -> Float32:
    """Return biases (out channels,) whose sums with weights (out channels, ...) are exact in float32.

    Inputs are at most ``largest_input`` in magnitude. A bias changes only where it has to, to the nearest multiple of
    the last of the 24 bits of the largest sum.
    """
    largest = np.abs(weight.reshape(len(weight), -1)).sum(axis=1, dtype=np.float64) * largest_input + np.abs(bias)
    step = np.exp2(np.ceil(np.log2(np.maximum(largest, 2.0**-40))) - MANTISSA_BITS)
    return np.asarray(np.round(bias / step) * step, np.float32)


def _biases(network: Network, expected: Network) -> Biases:
    """Return the biases of the float network, each with its replacement."""
    before, after = ([*(layer.bias for layer in n.layers), n.readout.bias] for n in (network, expected))
    return [(old, new) for old, new in zip(before, after, strict=True) if old is not None and new is not None]


def _with_int8_weights(loaded: Model, biases: Biases) -> onnx.ModelProto:
    """Return the file's model with int8 weights in both graphs and the manifest of the int8 model."""
    step, block = onnx.load(loaded.path), onnx.load_from_string(loaded.block)
    for part in (step, block):
        _store_as_int8(part.graph, loaded.path)
        _replace_biases(part.graph, biases)
    metadata = {p.key: p.value for p in step.metadata_props}
    metadata[METADATA_KEY] = _manifest(loaded).to_json()
    metadata[BLOCK_KEY] = base64.b64encode(block.SerializeToString()).decode("ascii")
    del step.metadata_props[:]
    helper.set_model_props(step, metadata)
    return step


def _store_as_int8(graph: onnx.GraphProto, path: Path) -> None:
    """Replace the weights that Conv and Gemm read by int8 values and nodes that compute the floats from them."""
    stored = {w.name: w for w in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for name in dict.fromkeys(node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm")):
        if name not in stored:
            raise ManifestError(
                f"{path}: {name} is not stored as float32; name the float model that this file was made from"
            )
        weights = to_int8(numpy_helper.to_array(stored[name]))
        scale = weights.scale.reshape(-1, *[1] * (weights.values.ndim - 1))
        graph.initializer.remove(stored[name])
        new = Int8Names(name)
        graph.initializer.append(numpy_helper.from_array(weights.values, new.values))
        graph.initializer.append(numpy_helper.from_array(scale, new.scale))
        nodes.append(helper.make_node("Cast", [new.values], [new.cast], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [new.cast, new.scale], [name]))
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)


def _replace_biases(graph: onnx.GraphProto, biases: Biases) -> None:
    """Replace the biases that Conv and Gemm read, found by their values."""
    read = {node.input[2] for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2}  # noqa: PLR2004
    for stored in graph.initializer:
        value = numpy_helper.to_array(stored) if stored.name in read else None
        for old, new in biases:
            if value is not None and np.array_equal(value, old):
                stored.CopyFrom(numpy_helper.from_array(new, stored.name))


def _manifest(loaded: Model) -> Manifest:
    """Return the manifest of the int8 model: its version marked, and without the metrics of the float model."""
    before = loaded.manifest
    command = f"{before.training.command}; snn-export int8 {loaded.path.name} (sha256 {loaded.sha256})"
    return dataclasses.replace(
        before,
        version=f"{before.version}{'.' if '+' in before.version else '+'}{VERSION_MARK}",
        training=dataclasses.replace(before.training, command=command),
        metrics={},
    )


def _compare(expected: Network, path: Path) -> tuple[int, float]:
    """Compare a file with the network that it should hold; return the frames and the largest difference of a score.

    Raises ParityError, naming the first layer and frame that differ, or ManifestError as ``verify`` does.
    """
    verify(path)
    model, rate = load_model(path), expected.manifest.features.sample_rate_hz
    spikes = encoded(model.manifest, comparison_sound((DEMO_SCENE,), rate))
    reference, stepped = evaluate(expected, spikes), step_file(model, spikes)
    for name in reference.keys() - {names.SCORES}:
        check_equal(path, f"spikes of {name} of numpy and onnxruntime", reference[name], stepped[name])
    blocks = StreamingNetwork(model).push(spikes)
    check_equal(path, "scores of single frames and blocks", stepped[names.SCORES], blocks)
    return len(spikes), largest_difference(path, reference[names.SCORES], stepped[names.SCORES], TOLERANCE)


def _column(per_channel: NDArray[Any], like: NDArray[Any]) -> NDArray[np.int32]:
    """Return one value per output channel in a shape that broadcasts over that channel's weights."""
    return per_channel.astype(np.int32).reshape(-1, *[1] * (like.ndim - 1))
