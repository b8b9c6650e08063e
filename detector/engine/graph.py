"""Model files without the library ``onnx``: from bytes to a graph, and from a graph to the arrays of a network.

Only what a streaming graph is made of is read. The fields and their numbers are those of ``onnx.proto``; the encoding
is Protocol Buffers' (https://protobuf.dev/programming-guides/encoding/). Sizes are compared with the bytes that are
there before anything is allocated.

A graph is taken node by node and compared with the one that its arrays mean: what is not exactly this family of
networks (``models/network/csnn.py``) is refused, and never computed as something else.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.engine import names
from detector.engine.names import LayerNames
from detector.manifest import Manifest

Array = NDArray[Any]
_Value = int | memoryview
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED: Final = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT: Final = 10
_MOST_AXES: Final = 8
_MOST_FIELDS: Final = 1 << 16
"""Of a message, and numbers of a list: a network of 64 layers has a thousand."""
_MOST_FOLDED: Final = 8
"""Bytes of computed constants for each byte of those in the file: int8 becomes float32, and that its product."""
FLOAT: Final = 1
"""Element type float32, in ONNX's numbering."""
_TYPES: Final[dict[int, np.dtype[Any]]] = {FLOAT: np.dtype("<f4"), 3: np.dtype("i1"), 7: np.dtype("<i8")}
"""float32, int8, int64: what constants of a streaming graph are made of."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, int | float | tuple[int, ...]]
    """Integers, floats and lists of integers by name; others are not read."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of the graph."""

    name: str
    element_type: int
    shape: tuple[int, ...]
    """-1 for an axis without a fixed length."""


@dataclass(frozen=True, slots=True)
class Graph:
    """An ONNX file's graph and metadata."""

    metadata: dict[str, str]
    nodes: tuple[Node, ...]
    constants: dict[str, Array]
    """Initializers by name, and what is computed from those alone: the floats of int8 weights."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def read_graph(data: bytes) -> Graph:
    """Read an ONNX file.

    Raises ValueError, with the reason in a few words, for bytes that are no ONNX file or hold constants of other
    types than float32, int8 and int64, or in other files.
    """
    try:
        model = _Message(memoryview(data))
        graph = _Message(model.only(7))
        constants = dict(_constant(_Message(t)) for t in graph.parts(5))
        nodes = _fold([_node(_Message(n)) for n in graph.parts(1)], constants)
        entries = [_Message(e) for e in model.parts(14)]
        return Graph(
            metadata={e.text(1): e.text(2) for e in entries},
            nodes=nodes,
            constants=constants,
            inputs=tuple(_tensor(_Message(t)) for t in graph.parts(11)),
            outputs=tuple(_tensor(_Message(t)) for t in graph.parts(12)),
        )
    except (IndexError, struct.error) as error:
        raise ValueError("it ends in the middle of a field") from error


class _Message:
    """A message of Protocol Buffers: its fields by number, in the order of the file."""

    def __init__(self, data: memoryview) -> None:
        self._fields: dict[int, list[_Value]] = {}
        for count, (number, value) in enumerate(_fields(data)):
            if count == _MOST_FIELDS:
                raise ValueError(f"it has more than {_MOST_FIELDS} fields in one message")
            self._fields.setdefault(number, []).append(value)

    def parts(self, number: int) -> list[memoryview]:
        """Return the texts, bytes or messages of a field."""
        found = self._fields.get(number, [])
        if not all(isinstance(value, memoryview) for value in found):
            raise ValueError(f"field {number} is a number")
        return [value for value in found if isinstance(value, memoryview)]

    def only(self, number: int) -> memoryview:
        """Return the one message of a field; an empty one where there is none."""
        return self.parts(number)[-1] if number in self._fields else memoryview(b"")

    def text(self, number: int) -> str:
        return bytes(self.only(number)).decode()

    def integers(self, number: int) -> list[int]:
        """Return the integers of a field, packed or not."""
        found: list[int] = []
        for value in self._fields.get(number, []):
            found += [value] if isinstance(value, int) else _packed(value)
        return [_signed(value) for value in found]

    def integer(self, number: int) -> int:
        """Return the integer of a field, 0 where there is none."""
        return (self.integers(number) or [0])[-1]

    def __contains__(self, number: int) -> bool:
        return number in self._fields


def _fields(data: memoryview) -> Iterator[tuple[int, _Value]]:
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise ValueError("it is not encoded as an ONNX file")
        if size > len(data) - at:
            raise ValueError("it ends in the middle of a field")
        yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(_LONGEST_VARINT):
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:  # noqa: PLR2004 - the bit that another byte follows
            return value, at + i + 1
    raise ValueError("it has an endless number")


def _packed(data: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(data):
        value, at = _varint(data, at)
        values.append(value)
        if len(values) > _MOST_FIELDS:
            raise ValueError(f"it has a list of more than {_MOST_FIELDS} numbers")
    return values


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _constant(tensor: _Message) -> tuple[str, Array]:
    name, kind, shape = tensor.text(8), tensor.integer(2), tensor.integers(1)
    if 13 in tensor or tensor.integer(14):  # noqa: PLR2004 - numbers of fields: data in another file
        raise ValueError(f"the constant {name!r} is in another file")
    if kind not in _TYPES:
        raise ValueError(f"the constant {name!r} is of type {kind}, not of float32, int8 or int64")
    if len(shape) > _MOST_AXES or min(shape, default=0) < 0:
        raise ValueError(f"the constant {name!r} has the shape {shape}")
    raw = tensor.only(9)
    if len(raw) != math.prod(shape) * _TYPES[kind].itemsize:
        raise ValueError(f"the constant {name!r} has {len(raw)} bytes, not those of its shape")
    return name, np.frombuffer(raw, _TYPES[kind]).reshape(shape)


def _node(node: _Message) -> Node:
    return Node(
        op=node.text(4) if not node.text(7) else f"{node.text(7)}.{node.text(4)}",
        inputs=tuple(bytes(name).decode() for name in node.parts(1)),
        outputs=tuple(bytes(name).decode() for name in node.parts(2)),
        attributes=dict(_attribute(_Message(a)) for a in node.parts(5)),
    )


def _attribute(attribute: _Message) -> tuple[str, int | float | tuple[int, ...]]:
    name = attribute.text(1)
    if 2 in attribute:  # noqa: PLR2004 - number of a field: a float
        return name, float(struct.unpack("<f", attribute.only(2))[0])
    return name, attribute.integer(3) if 3 in attribute else tuple(attribute.integers(8))  # noqa: PLR2004 - an integer


def _tensor(info: _Message) -> Tensor:
    kind = _Message(_Message(info.only(2)).only(1))
    axes = [_Message(axis) for axis in _Message(kind.only(2)).parts(1)]
    return Tensor(info.text(1), kind.integer(1), tuple(a.integer(1) if 1 in a else -1 for a in axes))


def _fold(nodes: list[Node], constants: dict[str, Array]) -> tuple[Node, ...]:
    """Compute the casts and products of constants, and return the other nodes."""
    left, space = [], _MOST_FOLDED * sum(value.nbytes for value in constants.values())
    for node in nodes:
        operands = [constants[name] for name in node.inputs if name in constants]
        is_cast = node.op == "Cast" and len(operands) == 1 and node.attributes.get("to") == FLOAT
        if not is_cast and not (node.op == "Mul" and _are_factors(operands)):
            left.append(node)
            continue
        space -= max(value.size for value in operands) * np.dtype(np.float32).itemsize
        if space < 0:
            raise ValueError("it computes more constants than it holds")
        with np.errstate(all="ignore"):  # what is not finite is refused where it is used
            folded = operands[0] if is_cast else operands[0] * operands[1]
            constants[node.outputs[0]] = np.asarray(folded, np.float32)
    return tuple(left)


def _are_factors(operands: list[Array]) -> bool:
    """Return whether there are two, whose product has the size of one of them: others could be of any size."""
    if len(operands) != 2:  # noqa: PLR2004 - a product
        return False
    a, b = operands
    try:
        return math.prod(np.broadcast_shapes(a.shape, b.shape)) == max(a.size, b.size)
    except ValueError:
        return False


Float32 = NDArray[np.float32]
_MANTISSA_BITS: Final = 24
_TINY: Final = 2.0**-40
"""Sums below it are taken for as large, so that no grid is finer than float32 can hold."""
_THRESHOLD: Final = 1.0


class TopologyError(ValueError):
    """The graph is no network of this family; the text says in which way."""


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
class Topology:
    """A streaming network, as read from a model file."""

    to_bands: Float32
    """(n_mfcc, n_mels): maps cepstral spikes to mel bands."""
    layers: tuple[Layer, ...]
    """The convolutions, then the dense layer."""
    readout: Readout

    def named_layers(self) -> Iterator[tuple[str, Layer]]:
        """Yield the spiking layers with their names in the graph."""
        yield from zip(names.spiking_layers(len(self.layers) - 1), self.layers, strict=True)


def topology_of(graph: Graph, manifest: Manifest) -> Topology:
    """Return the network of a model file's one-frame graph; weights stored as int8 are the floats that they represent.

    Raises TopologyError where the graph is another one than the arrays would mean.
    """
    reader = _Reader(graph, manifest)
    found = reader.read()
    if unknown := next((n for n in graph.nodes if n not in reader.expected), None):
        raise TopologyError(f"operation {unknown.op} with the output {unknown.outputs[0]!r} is not expected there")
    if len(graph.nodes) != len(reader.expected) or any(n not in graph.nodes for n in reader.expected):
        raise TopologyError("operations are missing, or there more than once")
    return found


def inexact_layer(topology: Topology) -> str | None:
    """Return the name of a layer whose sums may round, and so depend on their order; None where there is none.

    Sums do not round where the weights and the bias of each output channel are multiples of a power of two of which
    the largest sum has 2**24 at most.
    """
    largest, grid = float(np.abs(topology.to_bands).sum(axis=0).max()), _grid(topology.to_bands)
    for name, layer in topology.named_layers():
        if not _is_exact(layer.weight.reshape(len(layer.weight), -1), layer.bias, largest, grid):
            return name
        largest, grid = 1.0, 1.0
    return None if _is_exact(topology.readout.weight, topology.readout.bias, largest, grid) else names.READOUT


def _is_exact(weight: Float32, bias: Float32 | None, largest: float, grid: float) -> bool:
    """Return whether sums of inputs of at most ``largest``, which are multiples of ``grid``, are exact in float32."""
    most = np.abs(weight).sum(axis=1, dtype=np.float64) * largest + (0 if bias is None else np.abs(bias))
    if not grid or not np.isfinite(most).all():
        return False
    steps = np.exp2(np.ceil(np.log2(np.maximum(most, _TINY))) - _MANTISSA_BITS)
    scaled = weight * (grid / steps).astype(np.float32)[:, None]
    return bool((scaled == np.rint(scaled)).all()) and (bias is None or bool((bias % steps == 0).all()))


def _grid(values: Float32) -> float:
    """Return the largest power of two, 2**-24 at least and 1 at most, of which all values are multiples; else 0."""
    grids = (2.0**-bits for bits in range(_MANTISSA_BITS + 1))
    return next((grid for grid in grids if (values % grid == 0).all()), 0.0)


class _Reader:
    """Takes a graph apart and notes which operations its arrays mean."""

    def __init__(self, graph: Graph, manifest: Manifest) -> None:
        self._graph, self._manifest = graph, manifest
        self._by_output = {node.outputs[0]: node for node in graph.nodes if node.outputs}
        self._spikes = {layer.name: layer.spikes for layer in manifest.network.layers}
        self.expected: list[Node] = []

    def read(self) -> Topology:
        if self._graph.constants.get("threshold") != _THRESHOLD:
            raise TopologyError("its threshold is not 1")
        f, planes = self._manifest.features, 2 * len(self._manifest.encoder.thresholds)
        to_bands = self._floats(names.TO_BANDS, (f.n_mfcc, f.n_mels))
        self._expect("MatMul", (names.SPIKES, names.TO_BANDS), "bands")
        layers: list[Layer] = []
        x, channels, width = "bands", planes, f.n_mels
        while (layer := LayerNames(names.conv(len(layers) + 1))).weight in self._graph.constants:
            layers.append(self._convolution(x, layer, channels, width))
            x, channels, width = self._spikes.get(layer.layer, ""), len(layers[-1].weight), layers[-1].out_width
        layers.append(self._dense(x, channels, width))
        return Topology(to_bands, tuple(layers), self._readout(len(layers[-1].weight)))

    def _convolution(self, x: str, layer: LayerNames, channels: int, width: int) -> Layer:
        weight = self._floats(layer.weight, (-1, channels, -1, -1))
        attributes = self._attributes(layer.current)
        dilation, stride, padding = (_axis_of(attributes.get(k), i) for k, i in _CONV_ATTRIBUTES)
        out_width = (width + 2 * padding - weight.shape[3]) // max(stride, 1) + 1
        found_layer = Layer(
            weight, None, self._neurons(layer, len(weight), out_width), dilation, stride, padding, width, out_width
        )
        wanted: dict[str, Any] = {"kernel_shape": weight.shape[2:], "strides": (1, stride), "dilations": (dilation, 1)}
        wanted["pads"] = (0, padding, 0, padding)
        self._expect("Conv", (self._window(x, layer, found_layer.past), *self._sum(layer)), layer.current, **wanted)
        self._expect_neurons(layer, found_layer.neurons)
        return self._with_bias(found_layer, layer)

    def _window(self, x: str, layer: LayerNames, past: int) -> str:
        """Expect what puts earlier frames in front of an input; return the input of the convolution."""
        if not past:
            return x
        window, new_past = f"{layer.layer}_window", names.after_step(layer.past)
        self._expect("Concat", (layer.past, x), window, axis=2)
        if x != new_past:  # else the layer before writes its spikes there
            indices = {f"last_{past}": -past, "end": np.iinfo(np.int64).max, "axis_2": 2}
            for name, value in indices.items():
                if self._graph.constants.get(name, np.empty(0)).tolist() != [value]:
                    raise TopologyError(f"the constant {name!r} is not [{value}]")
            self._expect("Slice", (window, *indices), new_past)
        return window

    def _dense(self, x: str, channels: int, width: int) -> Layer:
        layer = LayerNames(names.DENSE)
        if self._graph.constants.get("flat_shape", np.empty(0)).tolist() != [1, -1]:
            raise TopologyError("the constant 'flat_shape' is not [1, -1]")
        self._expect("Reshape", (x, "flat_shape"), "flat")
        weight = self._floats(layer.weight, (-1, channels * width)).reshape(-1, channels, 1, width)
        self._expect("Gemm", ("flat", *self._sum(layer)), layer.current, transB=1)
        neurons = self._neurons(layer, len(weight), 1)
        self._expect_neurons(layer, neurons)
        return self._with_bias(Layer(weight, None, neurons, 1, 1, 0, width, 1), layer)

    def _readout(self, hidden: int) -> Readout:
        layer, classes = LayerNames(names.READOUT), len(self._manifest.classes)
        self._expect("Gemm", (self._spikes.get(names.DENSE, ""), layer.weight, layer.bias), layer.current, transB=1)
        decayed, after = f"{layer.membrane}_decayed_0", names.after_step(layer.membrane)
        self._expect("Mul", (layer.beta, layer.membrane), decayed)
        self._expect("Add", (decayed, layer.current), after)
        self._expect("Sigmoid", (after,), names.SCORES)
        return Readout(
            self._floats(layer.weight, (classes, hidden)),
            self._floats(layer.bias, (classes,)),
            self._floats(layer.beta, (classes,)),
        )

    def _neurons(self, layer: LayerNames, channels: int, width: int) -> Neurons:
        has_synapse = layer.alpha in self._graph.constants
        has_offset = has_synapse and layer.bias in self._graph.constants
        return Neurons(
            beta=self._per_channel(layer.beta, channels, width),
            alpha=self._per_channel(layer.alpha, channels, width) if has_synapse else None,
            offset=self._per_channel(layer.bias, channels, width) if has_offset else None,
        )

    def _expect_neurons(self, layer: LayerNames, neurons: Neurons) -> None:
        current, name = layer.current, layer.layer
        if neurons.alpha is not None:
            decayed, current = f"{layer.synapse}_decayed_0", names.after_step(layer.synapse)
            self._expect("Mul", (layer.alpha, layer.synapse), decayed)
            self._expect("Add", (decayed, layer.current), current)
            if neurons.offset is not None:
                self._expect("Add", (current, layer.bias), f"{name}_input_0")
                current = f"{name}_input_0"
        fired, sent = f"{name}_fired_0", self._spikes.get(name, "")
        self._expect("Mul", (layer.beta, layer.membrane), f"{name}_u_decayed_0")
        self._expect("Add", (f"{name}_u_decayed_0", current), f"{name}_u")
        self._expect("Greater", (f"{name}_u", "threshold"), fired)
        self._expect("Cast", (fired,), sent, to=FLOAT)
        self._expect("Sub", (f"{name}_u", sent), names.after_step(layer.membrane))

    def _sum(self, layer: LayerNames) -> tuple[str, ...]:
        """Return the weight and, where it is part of the sum, the bias."""
        has_bias = layer.bias in self._graph.constants and layer.alpha not in self._graph.constants
        return (layer.weight, layer.bias) if has_bias else (layer.weight,)

    def _with_bias(self, found: Layer, layer: LayerNames) -> Layer:
        bias = self._floats(layer.bias, (len(found.weight),)) if len(self._sum(layer)) > 1 else None
        return Layer(
            found.weight,
            bias,
            found.neurons,
            found.dilation,
            found.stride,
            found.padding,
            found.in_width,
            found.out_width,
        )

    def _per_channel(self, name: str, channels: int, width: int) -> Float32:
        """Return one value per channel, (channels,), of a constant with one per neuron, (1, channels, ..., width)."""
        values = self._floats(name, None).reshape(-1)
        if not values.size or values.size != channels * width:
            raise TopologyError(f"the constant {name!r} has {values.size} values, not {channels * width}")
        rows = values.reshape(channels, width)
        if (rows != rows[:, :1]).any():
            raise TopologyError(f"the constant {name!r} differs within a channel")
        return np.ascontiguousarray(rows[:, 0])

    def _floats(self, name: str, shape: Sequence[int] | None) -> Float32:
        """Return a finite float32 constant; -1 in the shape is any length of 1 or more."""
        value = self._graph.constants.get(name)
        if value is None or value.dtype != np.float32:
            raise TopologyError(f"the constant {name!r} is missing or not of float32")
        if shape is not None and not (
            len(value.shape) == len(shape)
            and all(n in (-1, m) and m > 0 for n, m in zip(shape, value.shape, strict=True))
        ):
            raise TopologyError(f"the constant {name!r} has the shape {value.shape}")
        if not np.isfinite(value).all():
            raise TopologyError(f"the constant {name!r} is not finite")
        return value

    def _attributes(self, output: str) -> dict[str, Any]:
        if output not in self._by_output:
            raise TopologyError(f"the operation with the output {output!r} is missing")
        return self._by_output[output].attributes

    def _expect(self, op: str, inputs: tuple[str, ...], output: str, **attributes: Any) -> None:
        self.expected.append(Node(op, inputs, (output,), attributes))


def _axis_of(attribute: Any, axis: int) -> int:
    """Return a convolution's parameter of an axis; 1 where it is no list or too short, which is not expected then."""
    return int(attribute[axis]) if isinstance(attribute, tuple) and len(attribute) > axis else 1


_CONV_ATTRIBUTES: Final = (("dilations", 0), ("strides", 1), ("pads", 1))
