"""``snn-export nir``: a graph that spikes as its model does with a text beside it, or one line and no file."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import onnx
import pytest

from detector.errors import ConfigError
from detector.messages import Spikes
from detector.network import default_model_path, load_model
from firmware_export.cli import main
from firmware_export.nir import export as nir_export
from firmware_export.nir.export import check_graph, export_nir
from firmware_export.nir.graph import build_graph
from firmware_export.onnx.parity import ParityError, comparison_sound, encoded
from firmware_export.onnx.read import read_network
from models import DEMO_SCENE
from tests.firmware_export.onnx.test_export import scene


@pytest.fixture
def graph(model: Path, tmp_path: Path) -> Path:
    """Give the small model's graph as a file, unchecked."""
    nir.write(tmp_path / "small.nir", build_graph(read_network(model)))
    return tmp_path / "small.nir"


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run ``snn-export nir`` and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["snn-export", "nir", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_shipped_model_spikes_the_same(tmp_path: Path) -> None:
    parity = export_nir(default_model_path(), tmp_path / "new" / "household.nir")
    assert parity.frames > 2390
    assert (parity.near, list(parity.neurons)) == (0, ["conv1", "conv2", "conv3", "dense"])
    assert min(parity.spikes.values()) > 1000
    assert parity.largest_score_difference < 1e-6
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["household.md", "household.nir"]


def test_a_model_with_a_bias_behind_its_synapse_spikes_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_network(model).layers[0].neurons.offset is not None
    assert command(monkeypatch, model, "--out", tmp_path / "small.nir") == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert "the same spikes in 3 layers over 2399 frames" in printed
    first = (tmp_path / "small.nir").read_bytes()
    assert command(monkeypatch, model, "--out", tmp_path / "small.nir", "--force") == 0
    assert (tmp_path / "small.nir").read_bytes() == first


def test_the_file_gives_back_the_graph(model: Path, graph: Path) -> None:
    expected, found = build_graph(read_network(model)), nir.read(graph)
    assert sorted(found.edges) == sorted(expected.edges)
    assert found.nodes.keys() == expected.nodes.keys()
    for name, node in expected.nodes.items():
        read = found.nodes[name]
        assert type(read) is type(node)
        assert read.metadata == node.metadata
        for field in dataclasses.fields(node):
            if isinstance(value := getattr(node, field.name), np.ndarray):
                np.testing.assert_array_equal(getattr(read, field.name), value)
                assert getattr(read, field.name).dtype == value.dtype
    assert float(found.metadata["dt_s"]) == 0.025
    assert found.metadata["labels"] == "guitar,speech,rain"


def test_delays_are_those_of_the_frames_that_are_read(graph: Path) -> None:
    delays = {name: set(node.delay.ravel()) for name, node in nir.read(graph).nodes.items() if "delay" in name}
    assert delays == {"conv1_delay_4": {4 * 0.025}, "conv1_delay_2": {2 * 0.025}}


def change(path: Path, node: str, field: str, by: float) -> None:
    with h5py.File(path, "r+") as file:
        values = file[f"node/nodes/{node}/{field}"]
        values[...] = values[...] + by


@pytest.mark.parametrize(
    ("node", "field", "by", "error"),
    [
        ("conv1_weights_2", "weight", 0.5, "spikes of conv1 differ"),
        ("conv1_weights_0", "bias", 0.5, "spikes of conv1 differ"),
        ("conv1_delay_4", "delay", -0.025, "spikes of conv1 differ"),
        ("conv1", "tau_syn", 0.01, "spikes of conv1 differ"),
        ("conv1", "v_leak", 0.1, "spikes of conv1 differ"),
        ("conv2", "tau", 0.01, "spikes of conv2 differ"),
        ("dense", "v_threshold", 0.01, "spikes of dense differ"),
        ("dense_weights", "weight", np.nan, "spikes of dense differ"),
        ("readout_weights", "weight", 0.01, "a score differs by"),
        ("readout", "tau", 0.01, "a score differs by"),
    ],
)
def test_a_number_changed_in_the_file_is_found(  # noqa: PLR0913 - what is changed, and where
    model: Path, graph: Path, spikes: Spikes, node: str, field: str, by: float, error: str
) -> None:
    change(graph, node, field, by)
    with pytest.raises(ParityError, match=error):
        check_graph(graph, load_model(model), spikes)


def test_spikes_that_differ_at_the_threshold_are_counted(tmp_path: Path) -> None:
    model, path = load_model(), tmp_path / "household.nir"
    spikes = encoded(model.manifest, comparison_sound((DEMO_SCENE,), model.manifest.features.sample_rate_hz))[:800]
    nir.write(path, build_graph(read_network(default_model_path())))
    change(path, "conv2", "v_leak", 9e-5)  # every potential is higher by at most that
    parity = check_graph(path, model, spikes)
    assert 0 < parity.near < 100
    assert parity.largest_score_difference < 1e-6  # later layers received the runtime's spikes


def test_a_graph_of_another_model_is_refused(graph: Path, spikes: Spikes) -> None:
    with pytest.raises(ParityError, match="its layers are not those of household"):
        check_graph(graph, load_model(), encoded(load_model().manifest, scene())[: len(spikes)])


def test_the_text_has_the_parameters_that_the_graph_lacks(model: Path, tmp_path: Path) -> None:
    export_nir(model, tmp_path / "small.nir")
    text = (tmp_path / "small.md").read_text(encoding="utf-8")
    manifest = load_model(model).manifest
    (numbers,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    parameters = json.loads(numbers)
    for part in ("features", "encoder"):
        assert parameters[part] == json.loads(json.dumps(dataclasses.asdict(getattr(manifest, part))))
    assert re.search(r"\| guitar \| music \| 4 \| 0.5 \| 0.35 \| 2 \| 8 \| 4 \|", text)
    for word in (
        "v -= v_threshold",
        "dt = 0.025 s",
        "exp(-output)",
        "baselines",
        "none differs",
        read_network(model).sha256,
    ):
        assert word in text
    assert max(map(len, re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines())) <= 120


def without_manifest(model: Path, folder: Path) -> Path:
    graph = onnx.load(model)
    del graph.metadata_props[:]
    onnx.save(graph, folder / "no-manifest.onnx")
    return folder / "no-manifest.onnx"


def refusal_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path, out: Path) -> str:
    """Run the command, which must end with 2, one line and no new file; return the line."""
    before = sorted(out.parent.parent.rglob("*"))
    assert command(monkeypatch, model, "--out", out) == 2
    error = capsys.readouterr()
    assert error.out == ""
    assert error.err.startswith("snn-export: error: ")
    assert error.err.count("\n") == 1
    assert sorted(out.parent.parent.rglob("*")) == before
    return error.err


def test_a_file_that_is_no_model_is_refused_in_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "small.nir"
    (tmp_path / "text.onnx").write_text("guitar")
    assert "no manifest" in refusal_line(monkeypatch, capsys, without_manifest(model, tmp_path), out)
    assert "this is no ONNX file of a model" in refusal_line(monkeypatch, capsys, tmp_path / "text.onnx", out)
    assert "cannot be read" in refusal_line(monkeypatch, capsys, tmp_path / "none.onnx", out)
    assert "cannot be read" in refusal_line(monkeypatch, capsys, tmp_path, out)


def test_paths_that_cannot_be_written_are_refused_in_one_line(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("here")
    (tmp_path / "card.md").write_text("# A model card")
    (tmp_path / "folder.nir").mkdir()
    for name, error in [
        ("file/small.nir", "cannot be written"),
        (f"{'x' * 300}.nir", "cannot be written"),
        ("card.nir", "is not a text of this command"),
        ("folder.nir", "is a directory"),
        ("small.onnx", "must end in .nir"),
    ]:
        assert error in refusal_line(monkeypatch, capsys, model, tmp_path / name)
    assert (tmp_path / "card.md").read_text() == "# A model card"


def test_a_decay_that_nir_cannot_express_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = read_network(model)
    dense = network.layers[-1]
    neurons = dataclasses.replace(dense.neurons, beta=np.ones_like(dense.neurons.beta))
    layers = (*network.layers[:-1], dataclasses.replace(dense, neurons=neurons))
    monkeypatch.setattr(nir_export, "read_network", lambda _: dataclasses.replace(network, layers=layers))
    with pytest.raises(ConfigError, match="dense: a decay of 1"):
        export_nir(model, tmp_path / "small.nir")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_check_leaves_the_old_files(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    export_nir(model, tmp_path / "small.nir")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert sorted(before) == ["small.md", "small.nir"]

    def broken(path: Path, graph: Any) -> None:
        write(path, graph)
        change(path, "conv2_weights_0", "weight", 0.5)

    write = nir.write
    monkeypatch.setattr(nir, "write", broken)
    assert command(monkeypatch, model, "--out", tmp_path / "small.nir", "--force") == 70
    error = capsys.readouterr().err
    assert "spikes of conv2 differ from the model's at frame" in error
    assert error.count("\n") == 1
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_it_needs_no_torch() -> None:
    program = "import sys, firmware_export.nir.export; print([m for m in ('torch', 'snntorch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr
