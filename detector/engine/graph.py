"""Reading of ONNX files without the library ``onnx``: nodes, constants, names and shapes, metadata.

Only what a streaming graph is made of is read. The fields and their numbers are those of ``onnx.proto``; the encoding
is Protocol Buffers' (https://protobuf.dev/programming-guides/encoding/). Sizes are compared with the bytes that are
there before anything is allocated, and what is made of them has bounds: memory is a small multiple of the file's size.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

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
