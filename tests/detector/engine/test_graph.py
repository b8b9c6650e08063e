"""Reading of ONNX files: what the library onnx reads, and bytes that are no model refused in a line, cheaply."""

from __future__ import annotations

import base64
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from detector import Detector
from detector.engine.graph import Graph, read_graph
from detector.errors import ManifestError
from detector.manifest import BLOCK_KEY, METADATA_KEY
from detector.network import ENGINE_VARIABLE, load_model
from firmware_export.onnx.int8 import export_int8
from tests.detector.engine.test_parity import SHIPPED
from tests.detector.engine.topologies import VARIANTS, write_model

SECONDS: Final = 90
"""A hostile file is refused in much less; this machine may be busy."""
BYTES_FOR_EACH: Final = 40
"""Memory for each byte of a file, at most."""
SPACE: Final = 32 << 20
"""Memory besides, at most."""


@pytest.fixture(autouse=True)
def _any_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model file that is quickly read and run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ENGINE_VARIABLE, raising=False)
        return write_model(VARIANTS["one threshold"], tmp_path_factory.mktemp("small"))


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def check_like_onnx(data: bytes) -> Graph:
    found, model = read_graph(data), onnx.load_from_string(data)
    assert found.metadata == {p.key: p.value for p in model.metadata_props}
    for tensors, infos in ((found.inputs, model.graph.input), (found.outputs, model.graph.output)):
        wanted = [
            (i.name, i.type.tensor_type.elem_type, tuple(d.dim_value for d in i.type.tensor_type.shape.dim))
            for i in infos
        ]
        assert [(t.name, t.element_type, t.shape) for t in tensors] == wanted
    for stored in model.graph.initializer:
        value, expected = found.constants[stored.name], numpy_helper.to_array(stored)
        assert value.dtype == expected.dtype
        assert value.shape == expected.shape
        assert value.tobytes() == expected.tobytes()
    kept = [n for n in model.graph.node if n.output[0] not in found.constants]
    wanted_nodes = [(n.op_type, tuple(n.input), tuple(n.output), attributes_of(n)) for n in kept]
    assert [(n.op, n.inputs, n.outputs, n.attributes) for n in found.nodes] == wanted_nodes
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_files_read_as_the_library_reads_them(path: Path) -> None:
    found = check_like_onnx(path.read_bytes())
    assert METADATA_KEY in found.metadata
    check_like_onnx(base64.b64decode(found.metadata[BLOCK_KEY]))


def test_int8_files_read_as_the_library_reads_them(tmp_path: Path) -> None:
    export_int8(SHIPPED[-1], tmp_path / "int8.onnx")
    data = (tmp_path / "int8.onnx").read_bytes()
    found = check_like_onnx(data)
    constants = {w.name: numpy_helper.to_array(w) for w in onnx.load_from_string(data).graph.initializer}
    stored = [name.removesuffix("_int8") for name in constants if name.endswith("_int8")]
    assert len(stored) > 3
    for name in stored:
        weight = constants[f"{name}_int8"].astype(np.float32) * constants[f"{name}_scale"]
        assert found.constants[name].tobytes() == weight.tobytes()


def varint(value: int) -> bytes:
    more, last = [], value
    while last > 0x7F:
        more.append(0x80 | last & 0x7F)
        last >>= 7
    return bytes([*more, last])


def part(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value % (1 << 64))


def constant(name: str, shape: list[int], raw: bytes, kind: int = TensorProto.FLOAT, more: bytes = b"") -> bytes:
    """Return a graph's initializer."""
    dims = b"".join(number(1, n) for n in shape)
    return part(5, dims + number(2, kind) + part(8, name.encode()) + part(9, raw) + more)


def file_of(graph: bytes) -> bytes:
    return number(1, 9) + part(7, graph)


def node(op: str, inputs: list[str], output: str, more: bytes = b"") -> bytes:
    names = b"".join(part(1, name.encode()) for name in inputs)
    return part(1, names + part(2, output.encode()) + part(4, op.encode()) + more)


def products(count: int, a: str, b: str) -> bytes:
    return b"".join(node("Mul", [a, b], f"product{i}") for i in range(count))


TO_FLOAT: Final = part(5, part(1, b"to") + number(3, TensorProto.FLOAT))
MEGABYTE: Final = bytes(1 << 20)

HOSTILE: Final[dict[str, tuple[Callable[[], bytes], str]]] = {
    "field beyond the end": (lambda: varint(7 << 3 | 2) + varint(1 << 62) + b"x", "in the middle of a field"),
    "fixed number beyond the end": (lambda: varint(7 << 3 | 1) + b"x", "in the middle of a field"),
    "number that ends": (lambda: b"\x80", "in the middle of a field"),
    "endless number": (lambda: b"\xff" * 4000, "endless number"),
    "group": (lambda: varint(7 << 3 | 3), "not encoded as an ONNX file"),
    "graph that is a number": (lambda: number(7, 1), "field 7 is a number"),
    "name that is a number": (lambda: file_of(part(5, number(8, 1))), "field 8 is a number"),
    "negative axis": (lambda: file_of(constant("w", [-1], bytes(4))), "has the shape"),
    "axes whose product is small": (lambda: file_of(constant("w", [-1, -1], bytes(4))), "has the shape"),
    "axes whose product wraps": (lambda: file_of(constant("w", [1 << 32, 1 << 32], b"")), "not those of its shape"),
    "huge axes of nothing": (lambda: file_of(constant("w", [0, 1 << 62, 8], b"")), "too big|exceeded|of its shape"),
    "many axes": (lambda: file_of(constant("w", [1] * 40, bytes(4))), "has the shape"),
    "millions of axes": (lambda: file_of(part(5, part(1, MEGABYTE) + number(2, 1))), "a list of more than"),
    "more bytes than the shape has": (lambda: file_of(constant("w", [2], bytes(12))), "not those of its shape"),
    "values in another file": (lambda: file_of(constant("w", [1], bytes(4), more=number(14, 1))), "in another file"),
    "path of another file": (
        lambda: file_of(constant("w", [1], b"", more=part(13, part(1, b"location") + part(2, b"/etc/passwd")))),
        "in another file",
    ),
    "texts": (lambda: file_of(constant("w", [1], b"x", kind=TensorProto.STRING)), "is of type 8"),
    "unknown type": (lambda: file_of(constant("w", [1], b"x", kind=1 << 40)), "is of type"),
    "name that is no text": (lambda: file_of(part(5, part(8, b"\xff"))), "invalid start byte"),
    "float of three bytes": (
        lambda: file_of(node("Cast", ["w"], "x", part(5, part(1, b"to") + part(2, b"abc")))),
        "in the middle of a field",
    ),
    "millions of empty fields": (lambda: part(7, b"\x0a\x00" * (1 << 20)), "more than 65536 fields"),
    "cast without an output": (
        lambda: file_of(constant("w", [1], bytes(4)) + part(1, part(1, b"w") + part(4, b"Cast") + TO_FLOAT)),
        "in the middle of a field",
    ),
    "products of products": (
        lambda: file_of(constant("w", [1 << 18], MEGABYTE) + products(10_000, "w", "w")),
        "more constants than it holds",
    ),
    "casts of casts": (
        lambda: file_of(
            constant("w", [1 << 20], MEGABYTE, kind=TensorProto.INT8)
            + b"".join(node("Cast", ["w"], f"c{i}", TO_FLOAT) for i in range(10_000))
        ),
        "more constants than it holds",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused_in_a_line(name: str, tmp_path: Path) -> None:
    make, text = HOSTILE[name]
    data = make()
    begin = time.monotonic()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=text) as caught:
            read_graph(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert peak < SPACE + BYTES_FOR_EACH * len(data)
    assert time.monotonic() - begin < SECONDS
    path = tmp_path / "hostile.onnx"
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=f"^{path}: ") as refused:
        load_model(path)
    assert "\n" not in str(refused.value)


def test_products_whose_size_is_neither_factors_are_left_alone() -> None:
    """A row times a column of a million is 4 TB."""
    row, column = constant("row", [1, 1 << 18], MEGABYTE), constant("column", [1 << 18, 1], MEGABYTE)
    found = read_graph(file_of(row + column + products(3, "row", "column")))
    assert [n.op for n in found.nodes] == ["Mul"] * 3
    assert set(found.constants) == {"row", "column"}


def test_nested_messages_are_not_followed() -> None:
    """Graphs inside of attributes, ten thousand deep."""
    graph = b""
    for _ in range(10_000):
        graph = node("If", [], "x", part(5, part(1, b"then_branch") + part(6, graph)))
    assert [n.op for n in read_graph(file_of(graph)).nodes] == ["If"]


def run_or_refuse(path: Path, data: bytes) -> bool:
    """Return whether a file runs; else check that it is refused in one line that names it."""
    path.write_bytes(data)
    try:
        detector = Detector.load(path)
        detector.push(np.random.default_rng(0).normal(size=16000).astype(np.float32))
        detector.flush()
    except ManifestError as error:
        text = str(error)
        assert text.startswith(str(path)), text
        assert "\n" not in text
        return False
    return True


def test_truncated_files(small: Path, tmp_path: Path) -> None:
    data = small.read_bytes()
    for length in [*range(0, 400, 7), *range(400, len(data), len(data) // 60), len(data) - 1]:
        assert not run_or_refuse(tmp_path / "cut.onnx", data[:length]), length


def test_flipped_bits(small: Path, tmp_path: Path) -> None:
    """A file with bits changed at random is refused, or runs: most bits are those of weights."""
    data, rng = small.read_bytes(), np.random.default_rng(0)
    structure = [i for i in range(len(data)) if data[i : i + 1].isalpha()]
    ran = 0
    for trial in range(240):
        changed = bytearray(data)
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.choice(structure)) + int(rng.integers(-3, 4)) if trial % 2 else int(rng.integers(len(data)))
            changed[max(0, min(at, len(data) - 1))] ^= 1 << int(rng.integers(8))
        ran += run_or_refuse(tmp_path / "flipped.onnx", bytes(changed))
    assert 0 < ran < 240


def set_attribute(name: str, attribute: str, value: list[int]) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        found = next(n for n in model.graph.node if n.output[0] == f"{name}_current")
        kept = [a for a in found.attribute if a.name != attribute]
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute(attribute, value, attr_type=onnx.AttributeProto.INTS)])

    return change


def set_constant(name: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        stored = next(w for w in model.graph.initializer if w.name == name)
        old = numpy_helper.to_array(stored)
        stored.CopyFrom(numpy_helper.from_array(np.asarray(value(old), old.dtype), name))

    return change


def with_first(value: float) -> Callable[[Any], Any]:
    """Return an array with another first value."""
    return lambda old: np.concatenate([[value], old.reshape(-1)[1:]]).reshape(old.shape)


def repeat_a_node_in_place_of_another(model: onnx.ModelProto) -> None:
    model.graph.node[-1].CopyFrom(model.graph.node[-2])


HOSTILE_GRAPHS: Final[dict[str, Callable[[onnx.ModelProto], None]]] = {
    "no strides": set_attribute("conv2", "strides", []),
    "a stride too few": set_attribute("conv2", "strides", [1]),
    "a stride of 0": set_attribute("conv2", "strides", [1, 0]),
    "a negative stride": set_attribute("conv2", "strides", [1, -2]),
    "a stride beyond 32 bits": set_attribute("conv2", "strides", [1, (1 << 32) + 2]),
    "no padding": set_attribute("conv2", "pads", []),
    "negative padding": set_attribute("conv2", "pads", [0, -1, 0, -1]),
    "huge padding": set_attribute("conv2", "pads", [0, 1 << 40, 0, 1 << 40]),
    "dilation of 0": set_attribute("conv1", "dilations", [0, 1]),
    "dilation beyond 32 bits": set_attribute("conv1", "dilations", [(1 << 32) + 2, 1]),
    "a kernel of another shape": set_attribute("conv2", "kernel_shape", [1, 1 << 40]),
    "no weights": set_constant("conv2_weight", lambda old: np.empty((0, *old.shape[1:]))),
    "weights of too few axes": set_constant("conv2_weight", lambda old: old[0]),
    "a missing row": set_constant("dense_weight", lambda old: old[:, :-1]),
    "a missing channel": set_constant("conv2_beta", lambda old: old[:, :-1]),
    "weights that are no number": set_constant("dense_weight", with_first(float("nan"))),
    "an infinite weight": set_constant("readout_weight", with_first(float("inf"))),
    "a decay that is no number": set_constant("readout_beta", with_first(float("nan"))),
    "neurons without width": set_constant("conv2_beta", lambda old: old[:, :, :, :0]),
    "another end of the past": set_constant("end", lambda old: old - 1),
    "a missing operation": repeat_a_node_in_place_of_another,
}


@pytest.mark.parametrize("name", HOSTILE_GRAPHS)
def test_graphs_that_are_no_network_never_run_in_the_core(name: str, small: Path, tmp_path: Path) -> None:
    """They go to onnxruntime, which refuses them in one line or runs them as what they are."""
    model, path = onnx.load(small), tmp_path / "hostile.onnx"
    HOSTILE_GRAPHS[name](model)
    onnx.save(model, path)
    if run_or_refuse(path, path.read_bytes()):
        assert load_model(path).engine == "onnxruntime"


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(ManifestError, match=r"^/dev/zero: it has more than 256 MiB and is no model"):
        load_model("/dev/zero")


def test_a_state_that_no_memory_holds_is_refused(small: Path, tmp_path: Path) -> None:
    """Where onnxruntime runs the network, the states are allocated as the file says."""
    model, path = onnx.load(small), tmp_path / "large.onnx"
    for tensor in (*model.graph.input, *model.graph.output):
        if tensor.name.endswith("conv1_past"):
            tensor.type.tensor_type.shape.dim[2].dim_value = 1 << 45
    manifest = next(p for p in model.metadata_props if p.key == METADATA_KEY)
    before = '"name":"conv1_past","shape":[1,2,4,40]'
    changed = manifest.value.replace(before, before.replace("4,40", f"{1 << 45},40"))
    assert changed != manifest.value
    manifest.value = changed
    set_constant("conv1_weight", with_first(1 / 3))(model)
    onnx.save(model, path)
    assert not run_or_refuse(path, path.read_bytes())
