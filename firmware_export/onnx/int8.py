"""A model file with its weights as int8: a third of the size, the same contract, made of the file alone.

Weights of convolutions, dense layer and read-out are stored as integers with one power of two per
output channel (``firmware_export/onnx/int8.py``); all else is as it was. In front of the operator that
reads them, Cast and Mul turn them into floats, both exact; onnxruntime does that once, at load, so
that a step costs what it did. DequantizeLinear would be the usual word for it, but onnxruntime keeps
that one in the graph, to match it with its integer kernels: a step took 1.4 times as long (1.32).

A network with int8 weights: each map's weights as integers on a power-of-two grid of its own.

A finished network lies on such grids already, finer ones, so that its sums are exact (see
``models/network/csnn.py``). The int8 form takes the finest grid on which a map's largest weight is at most
127: sums stay exact, in float32 as in integers, and only the weights themselves have changed. Decays
and thresholds are left as they are, biases too, but where rounded weights add up to more than before
and a bias lies on the finest grid there is: it then takes a coarser one, half a step of 2**-24 of the
largest sum away.
"""

from __future__ import annotations

import base64
import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from detector.errors import ConfigError, ManifestError
from detector.manifest import BLOCK_KEY, METADATA_KEY, Manifest
from detector.messages import Spikes
from detector.network import Model, StreamingNetwork, load_model, trace, verify
from firmware_export.onnx.export import ParityError, comparison_sound, encoded
from firmware_export.onnx.read import Float32, Network, read_network
from firmware_export.onnx.reference import Traces, check_exact, evaluate
from models import DEMO_SCENE

MANTISSA: Final = 24
"""Bits of a float32's fraction, the one that is not stored included."""
LARGEST: Final = 127
"""-128 stays unused: a weight and its negative are both at hand."""


@dataclass(frozen=True, slots=True)
class Int8Weights:
    """Weights of one layer: ``values * 2.0**-exponents``, an exponent for each output channel."""

    values: NDArray[np.int8]
    """(out channels, ...), as in the layer."""
    exponents: NDArray[np.int64]
    """(out channels,)."""

    @property
    def weight(self) -> Float32:
        """What they stand for, exactly."""
        return np.asarray(np.ldexp(self.values.astype(np.float32), -_column(self.exponents, self.values)), np.float32)

    @property
    def scale(self) -> Float32:
        """The size of a step of each output channel's grid, (out channels,)."""
        return np.asarray(np.ldexp(np.float32(1), -self.exponents.astype(np.int32)), np.float32)


def to_int8(weight: Float32, finest: int | None = None) -> Int8Weights:
    """Return weights (out channels, ...) rounded to the finest grid that int8 allows, halves to even.

    ``finest`` is the largest exponent that may be taken.
    """
    largest = np.abs(weight.reshape(len(weight), -1)).max(axis=1).astype(np.float64)
    # A map without weights has any grid.
    exponents = np.floor(np.log2(LARGEST / np.where(largest > 0, largest, 1.0))).astype(np.int64)
    exponents += np.round(np.ldexp(largest, exponents + 1)) <= LARGEST  # rounding may leave room for a finer one
    if finest is not None:
        exponents = np.minimum(exponents, finest)
    values = np.round(np.ldexp(weight.astype(np.float64), _column(exponents, weight)))
    return Int8Weights(values.astype(np.int8), exponents)


def rounded(network: Network) -> Network:
    """Return the network with the weights and biases that int8 leaves of it, in float32."""
    layers, largest = [], float(np.abs(network.to_bands).sum(axis=0).max())
    for layer in network.layers:
        weight = to_int8(layer.weight).weight
        bias = None if layer.bias is None else exact_bias(weight, layer.bias, largest)
        layers.append(dataclasses.replace(layer, weight=weight, bias=bias))
        largest = 1.0  # all other layers read spikes
    weight = to_int8(network.readout.weight).weight
    bias = None if network.readout.bias is None else exact_bias(weight, network.readout.bias, 1.0)
    return dataclasses.replace(
        network, layers=tuple(layers), readout=dataclasses.replace(network.readout, weight=weight, bias=bias)
    )


def exact_bias(weight: Float32, bias: Float32, largest_input: float) -> Float32:
    """Return biases (out channels,) whose sums with weights (out channels, ...) float32 does not have to round.

    A bias moves only where it must, to the nearest multiple of what the largest sum leaves of 24 bits.
    """
    most = np.abs(weight.reshape(len(weight), -1)).sum(axis=1, dtype=np.float64) * largest_input + np.abs(bias)
    step = np.exp2(np.ceil(np.log2(np.maximum(most, 2.0**-40))) - MANTISSA)
    return np.asarray(np.round(bias / step) * step, np.float32)


def _column(per_channel: NDArray[Any], like: NDArray[Any]) -> NDArray[np.int32]:
    """Shape a value for each output channel so that it meets all of that channel's weights."""
    return per_channel.astype(np.int32).reshape(-1, *[1] * (like.ndim - 1))


MARK: Final = "int8"
"""What the version of a model says of its weights, as build metadata: ``0.1.0+int8``."""
TOLERANCE: Final = 1e-6
"""Largest difference of a score between numpy and onnxruntime, whose sigmoids differ; spikes must be equal."""


Biases: TypeAlias = list[tuple[Float32, Float32]]
"""Biases of the float network and those that take their place, (out channels,) each."""


@dataclass(frozen=True, slots=True)
class Int8Export:
    """What was written, and over how much sound it was compared."""

    bytes_before: int
    bytes_after: int
    frames: int
    layers: int
    largest_score_difference: float


def export_int8(model: Path, out: Path) -> Int8Export:
    """Write a float model as one with int8 weights, after comparing it with numpy over the demo scene.

    Raises ManifestError for what is no float model that can be read, ParityError where the new file
    is not the network that it should be, ConfigError where it cannot be written; ``out`` is written
    whole or not at all.
    """
    verify(model)  # whatever is wrong in the new file came in here
    if out.resolve() == model.resolve():
        raise ConfigError(f"{out} is the float model itself; name another file")
    loaded, network = load_model(model), read_network(model)
    wanted = rounded(network)
    check_exact(wanted)
    data = _with_int8_weights(loaded, _biases(network, wanted)).SerializeToString()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
            part = Path(beside) / out.name
            part.write_bytes(data)
            frames, largest = _compare(wanted, part)
            part.replace(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from error
    return Int8Export(model.stat().st_size, len(data), frames, len(wanted.layers), largest)


def _biases(network: Network, wanted: Network) -> Biases:
    """Pair the biases of the float network with what int8 leaves of them."""
    before, after = ([*(layer.bias for layer in n.layers), n.readout.bias] for n in (network, wanted))
    return [(old, new) for old, new in zip(before, after, strict=True) if old is not None and new is not None]


def _with_int8_weights(loaded: Model, biases: Biases) -> onnx.ModelProto:
    """Return the file's model with int8 weights in both graphs and the manifest that goes with them."""
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
    """Replace the weights that Conv and Gemm read by int8 ones, and nodes that give their floats."""
    stored = {w.name: w for w in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for name in dict.fromkeys(node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm")):
        if name not in stored:
            raise ManifestError(f"{path}: {name} is not stored as float32; take the float model that this was made of")
        weights = to_int8(numpy_helper.to_array(stored[name]))
        scale = weights.scale.reshape(-1, *[1] * (weights.values.ndim - 1))
        graph.initializer.remove(stored[name])
        graph.initializer.append(numpy_helper.from_array(weights.values, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_scale"))
        nodes.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_whole"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}_whole", f"{name}_scale"], [name]))
    nodes.extend(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)


def _replace_biases(graph: onnx.GraphProto, biases: Biases) -> None:
    """Put biases in the place of those that Conv and Gemm read, found by their values."""
    read = {node.input[2] for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) > 2}  # noqa: PLR2004
    for stored in graph.initializer:
        value = numpy_helper.to_array(stored) if stored.name in read else None
        for old, new in biases:
            if value is not None and np.array_equal(value, old):
                stored.CopyFrom(numpy_helper.from_array(new, stored.name))


def _manifest(loaded: Model) -> Manifest:
    """Return the manifest of the int8 form: marked in its version, and without figures that another form earned."""
    before = loaded.manifest
    command = f"{before.training.command}; snn-export int8 {loaded.path.name} (sha256 {loaded.sha256})"
    return dataclasses.replace(
        before,
        version=f"{before.version}{'.' if '+' in before.version else '+'}{MARK}",
        training=dataclasses.replace(before.training, command=command),
        metrics={},
    )


def _compare(wanted: Network, path: Path) -> tuple[int, float]:
    """Compare a file with the network that it should be; return the frames, and how far scores differ at most."""
    verify(path)
    model, rate = load_model(path), wanted.manifest.features.sample_rate_hz
    spikes = encoded(model.manifest, comparison_sound((DEMO_SCENE,), rate))
    oracle, stepped = evaluate(wanted, spikes), _stepped(model, spikes)
    for name in oracle.keys() - {"scores"}:
        if not np.array_equal(oracle[name], stepped[name]):
            frame = int(np.flatnonzero((oracle[name] != stepped[name]).any(axis=1))[0])
            raise ParityError(f"{path.name}: spikes of {name} are not numpy's from frame {frame}; nothing was written")
    if not np.array_equal(stepped["scores"], StreamingNetwork(model).push(spikes)):
        raise ParityError(f"{path.name}: blocks of frames give other scores than single frames; nothing was written")
    largest = float(np.abs(oracle["scores"] - stepped["scores"]).max())
    if largest > TOLERANCE:
        raise ParityError(f"{path.name}: scores are {largest:.2g} off, more than {TOLERANCE:g}; nothing was written")
    return len(spikes), largest


def _stepped(model: Model, spikes: Spikes) -> Traces:
    """Return what onnxruntime makes of spikes (frames, planes, n_mfcc), one frame a call."""
    rows = list(trace(model, spikes))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
