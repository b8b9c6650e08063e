"""A model with int8 weights: the same contract in a third of the bytes and the spikes of the reference, or no file."""

from __future__ import annotations

import base64
import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from detector.errors import ConfigError, ManifestError
from detector.manifest import BLOCK_KEY
from detector.network import default_model_path, load_model, trace, verify
from detector.pipeline import Detector
from firmware_export import cli
from firmware_export.c99.export import export_c
from firmware_export.c99.formats import NumberFormat
from firmware_export.onnx import int8 as int8_onnx
from firmware_export.onnx.export import build_manifest, export
from firmware_export.onnx.int8 import export_int8, quantised
from firmware_export.onnx.parity import ParityError, comparison_sound, encoded
from firmware_export.onnx.read import Network, read_network
from firmware_export.onnx.reference import check_exact, evaluate
from models import DEMO_SCENE
from models.network.csnn import SpikingConvNet
from tests.firmware_export.onnx.test_export import RECORD, small_recipe

WEIGHTS = ("conv1_weight", "conv2_weight", "dense_weight", "readout_weight")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a small float model with metrics, whose layers all spike."""
    torch.manual_seed(0)
    recipe, rng = small_recipe(load_model().manifest.features), np.random.default_rng(0)
    net, out = SpikingConvNet(recipe.network, recipe.encoder).train(), tmp_path_factory.mktemp("made") / "small.onnx"
    for _ in range(30):
        net(torch.from_numpy((rng.random((4, 80, 4, recipe.features.n_mfcc)) < 0.05).astype(np.float32)))
    sound = comparison_sound((DEMO_SCENE,), 16000)[: 16000 * 6]
    export(net, lambda finished: build_manifest(recipe, finished, RECORD, {"accuracy": 0.9}), sound, out)
    return out


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """Give a test its own copy in a folder of its own."""
    return Path(shutil.copy(made, tmp_path / "small.onnx"))


def demo_spikes(model: Path, seconds: int = 20) -> NDArray[np.float32]:
    manifest = load_model(model).manifest
    return encoded(manifest, comparison_sound((DEMO_SCENE,), 16000)[: 16000 * seconds])


def graphs(model: Path) -> Sequence[onnx.GraphProto]:
    """Return the step graph and the block graph."""
    return onnx.load(model).graph, onnx.load_from_string(load_model(model).block).graph


def weights(network: Network) -> Sequence[NDArray[np.float32]]:
    return [*(layer.weight for layer in network.layers), network.readout.weight]


def with_map(network: Network, index: int, change: float) -> Network:
    """Return the network with one layer's first map changed."""
    layers = list(network.layers)
    weight = layers[index].weight.copy()
    weight[0] += change
    layers[index] = dataclasses.replace(layers[index], weight=weight)
    return dataclasses.replace(network, layers=tuple(layers))


@pytest.mark.parametrize("shipped", [False, True], ids=["small", "shipped"])
def test_numpy_and_onnxruntime_spike_alike_before_and_after(model: Path, tmp_path: Path, shipped: bool) -> None:
    model = default_model_path() if shipped else model
    export_int8(model, tmp_path / "int8.onnx")
    spikes = demo_spikes(model)
    for path, network in ((model, read_network(model)), (tmp_path / "int8.onnx", quantised(read_network(model)))):
        check_exact(network)
        reference, rows = evaluate(network, spikes), list(trace(load_model(path), spikes))
        for name in reference.keys() - {"scores"}:
            np.testing.assert_array_equal(reference[name], [row[name] for row in rows], err_msg=name)
            assert 0.001 < reference[name].mean() < 0.6, name
        np.testing.assert_allclose(reference["scores"], [row["scores"] for row in rows], atol=1e-6)


def test_the_contract_is_that_of_the_float_model(model: Path, tmp_path: Path) -> None:
    made = export_int8(model, tmp_path / "int8.onnx")
    before, after = load_model(model), load_model(tmp_path / "int8.onnx")
    assert verify(after.path)["block_equals_step"] is True
    assert (after.manifest.version, after.manifest.metrics) == ("0.0.1+int8", {})
    assert before.manifest.metrics == {"accuracy": 0.9}
    assert after.manifest.training.command == f"none; snn-export int8 small.onnx (sha256 {before.sha256})"
    same = ("name", "licence", "classes", "features", "encoder", "network", "latency_samples")
    assert all(getattr(after.manifest, key) == getattr(before.manifest, key) for key in same)
    assert made.bytes_after == after.path.stat().st_size
    assert made.layers == 3
    assert made.frames >= 2399
    assert Detector.load(after.path).labels == before.manifest.labels


def test_weights_are_int8_in_both_graphs_and_the_rest_is_untouched(model: Path, tmp_path: Path) -> None:
    export_int8(model, tmp_path / "int8.onnx")
    for before, after in zip(graphs(model), graphs(tmp_path / "int8.onnx"), strict=True):
        had = {w.name: numpy_helper.to_array(w) for w in before.initializer}
        have = {w.name: numpy_helper.to_array(w) for w in after.initializer}
        for name in WEIGHTS:
            assert name not in have
            assert have[f"{name}_int8"].dtype == np.int8
            scale = have[f"{name}_scale"]
            assert scale.shape == (len(had[name]), *[1] * (had[name].ndim - 1))
            assert (np.frexp(scale)[0] == 0.5).all()
            assert (np.abs(have[f"{name}_int8"] * scale - had[name]) <= scale / 2).all()
        for name in had.keys() - set(WEIGHTS):
            np.testing.assert_array_equal(had[name], have[name])
        assert list(after.node)[2 * len(WEIGHTS) :] == list(before.node)


def test_onnxruntime_makes_the_floats_at_load(tmp_path: Path) -> None:
    """A third of the shipped file's size, and the same operators in a step."""
    float_model = default_model_path()
    export_int8(float_model, tmp_path / "int8.onnx")
    assert 3 * (tmp_path / "int8.onnx").stat().st_size < float_model.stat().st_size
    run = []
    for path in (float_model, tmp_path / "int8.onnx"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        run.append(sorted(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node))
    assert run[0] == run[1]


def test_other_exports_read_it_as_its_floats(model: Path, tmp_path: Path) -> None:
    export_int8(model, tmp_path / "int8.onnx")
    expected, found = quantised(read_network(model)), read_network(tmp_path / "int8.onnx")
    again = quantised(found)  # on its own grid nothing moves
    for a, b, c in zip(weights(expected), weights(found), weights(again), strict=True):
        assert b.dtype == np.float32
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(b, c)
    tables = []
    for source in (model, tmp_path / "int8.onnx"):
        export_c(source, tmp_path / "c", NumberFormat(int8=True, fixed_front_end=True))
        tables.append((tmp_path / "c" / "snn_model.c").read_text().partition("\nstatic ")[2])
    assert "weight" in tables[0]
    assert tables[0] == tables[1]  # C with int8 weights is the same network, whichever file it is made of


def test_an_int8_model_is_not_rounded_again(model: Path, tmp_path: Path) -> None:
    export_int8(model, tmp_path / "int8.onnx")
    with pytest.raises(ManifestError, match="conv1_weight is not stored as float32"):
        export_int8(tmp_path / "int8.onnx", tmp_path / "twice.onnx")
    assert not (tmp_path / "twice.onnx").exists()


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_file_of_another_network_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: int
) -> None:
    monkeypatch.setattr(int8_onnx, "quantised", lambda network: with_map(quantised(network), layer, 0.5))
    (tmp_path / "int8.onnx").write_text("old")
    with pytest.raises(ParityError, match="of numpy and onnxruntime differ from frame"):
        export_int8(model, tmp_path / "int8.onnx")
    assert (tmp_path / "int8.onnx").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["int8.onnx", "small.onnx"]


def test_sums_that_need_rounding_are_refused(model: Path) -> None:
    with pytest.raises(ParityError, match=r"^conv2: its sums can exceed the 24 bits"):
        check_exact(with_map(read_network(model), 1, 2.0**4))


def spoilt(model: Path, what: str) -> Path:
    """Return a copy of a model that cannot be exported."""
    graph, path = onnx.load(model), model.with_name("spoilt.onnx")
    if what == "manifest":
        del graph.metadata_props[:]
    elif what == "operation":
        last = next(node for node in graph.graph.node if node.output[0] == "scores")
        last.output[0] = "certain"
        graph.graph.node.append(helper.make_node("Identity", ["certain"], ["scores"]))
    else:
        props = {p.key: p.value for p in graph.metadata_props}
        block = onnx.load_from_string(base64.b64decode(props[BLOCK_KEY]))
        weight = next(w for w in block.graph.initializer if w.name == "conv2_weight")
        weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
        helper.set_model_props(graph, props | {BLOCK_KEY: base64.b64encode(block.SerializeToString()).decode()})
    onnx.save(graph, path)
    return path


@pytest.mark.parametrize(
    ("what", "text"),
    [("manifest", "no manifest"), ("operation", "is not expected there"), ("block", "other bits than single frames")],
)
def test_a_wrong_model_is_reported_in_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, text: str
) -> None:
    assert run(spoilt(model, what), tmp_path / "out" / "int8.onnx") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert text in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["small.onnx", "small.onnx/int8.onnx", "folder", "x" * 300])
def test_a_path_that_cannot_be_written_is_reported_in_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "folder").mkdir()
    before = model.read_bytes()
    assert run(model, tmp_path / out) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert out in error
    assert model.read_bytes() == before
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["folder", "small.onnx"]


def test_a_full_disk_leaves_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, _: bytes) -> int:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ConfigError, match="No space left on device"):
        export_int8(model, tmp_path / "int8.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["small.onnx"]


def run(model: Path, out: Path) -> int:
    """Run the command and return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["snn-export", "int8", str(model), "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    return int(str(ended.value.code))


def test_the_command_needs_no_torch(model: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from firmware_export.onnx.int8 import export_int8; "
        "export_int8(*map(Path, sys.argv[1:])); print([m for m in ('torch', 'snntorch') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program, str(model), str(tmp_path / "int8.onnx")]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
