"""``snn-export nir --for``: forms that spike as the model does in a simulator, with the module that runs them there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest

from detector.engine.graph import Layer, Neurons
from detector.errors import ConfigError
from detector.messages import Spikes
from detector.network import load_model, trace
from firmware_export.cli import main
from firmware_export.nir import export as nir_export
from firmware_export.nir.export import check_chain, export_nir, target_of
from firmware_export.nir.forms import REFUSED, TARGETS
from firmware_export.nir.unrolled import FLAGS, unroll, windows
from firmware_export.onnx.parity import ParityError
from firmware_export.onnx.read import Network, read_network

README = Path(__file__).resolve().parents[3] / "firmware_export" / "README.md"
UNROLLED = [name for name, form in TARGETS.items() if form.is_unrolled]


@pytest.fixture(autouse=True)
def short_comparison(monkeypatch: pytest.MonkeyPatch, spikes: Spikes) -> None:
    """Compare over 5 s in place of the whole scene, so that the tests stay quick."""
    monkeypatch.setattr(nir_export, "encoded", lambda *_: spikes[:200])


def command(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["snn-export", "nir", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def run_module(path: Path) -> Any:
    """Return a running network of an exported module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Network(path.with_suffix(".nir"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("simulator", ["nirtorch", "snntorch"])
def test_the_module_spikes_as_the_runtime_does(simulator: str, model: Path, spikes: Spikes, tmp_path: Path) -> None:
    export_nir(model, tmp_path / "small.nir", simulator)
    network = run_module(tmp_path / "small.py")
    for _ in range(2):  # and the same again after a reset
        sent = 0
        for x, expected in zip(spikes[:300], trace(load_model(model), spikes[:300]), strict=True):
            scores: Any = network.step(x)
            assert np.abs(scores - expected.pop("scores")).max() <= 1e-6
            assert network.layers.keys() == expected.keys()
            for name, wanted in expected.items():
                np.testing.assert_array_equal(network.layers[name], wanted)
                sent += int(wanted.sum())
        assert sent > 1000
        network.reset()


@pytest.mark.parametrize("simulator", UNROLLED)
def test_an_unrolled_form_spikes_the_same(
    simulator: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, model, "--out", tmp_path / "small.nir", "--for", simulator) == 0
    printed = capsys.readouterr().out
    assert re.search(
        r"(the same spikes|\d+ spikes differ by rounding at the threshold) in 3 layers over 200 frames", printed
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["small.md", "small.nir", "small.py"]
    graph = nir.read(tmp_path / "small.nir")
    senders = [source for source, _ in graph.edges]
    assert len(senders) == len(set(senders)) == len(graph.nodes) - 1  # a chain
    text = (tmp_path / "small.md").read_text(encoding="utf-8")
    for word in (
        f"unrolled over the {unroll(read_network(model)).frames} frames",
        TARGETS[simulator].packages,
        "small.py",
        "`on`",
        "exp(-output)",
    ):
        assert word in text
    compile((tmp_path / "small.py").read_text(encoding="utf-8"), "small.py", "exec")


def test_sinabs_counts_in_steps_and_its_synapses_are_integrators(model: Path, tmp_path: Path) -> None:
    export_nir(model, tmp_path / "small.nir", "sinabs")
    nodes = nir.read(tmp_path / "small.nir").nodes
    assert {type(node).__name__ for node in nodes.values()} == {"Input", "Affine", "LI", "LIF", "Output"}
    network = read_network(model)
    chain = unroll(network)
    alpha, beta = chain.layers[0].alpha, chain.layers[0].beta
    assert alpha is not None
    np.testing.assert_allclose(np.exp(-1 / nodes["conv1"].tau), beta, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(np.exp(-1 / nodes["conv1_synapse"].tau), alpha, rtol=1e-6, atol=1e-9)


def test_the_window_has_the_frames_that_the_network_reads(model: Path) -> None:
    network = read_network(model)
    chain = unroll(network)
    # conv1 reads t, t-2, t-4 of the input and conv2 t, t-1, t-2 of conv1.
    reads = [(layer.frames, layer.dilation) for _, layer in network.named_layers()]
    assert chain.frames == 1 + sum((frames - 1) * dilation for frames, dilation in reads)
    assert chain.layers[-1].ages == (0,)
    frames = np.arange(4 * 6, dtype=np.float32).reshape(4, 2, 3)
    first, second, *_ = windows(frames, 2)
    np.testing.assert_array_equal(first.reshape(-1, 2).T, [[0] * 8, [0, 1, 2, 3, 4, 5, 1, 1]])
    np.testing.assert_array_equal(second.reshape(-1, 2).T, [[0, 1, 2, 3, 4, 5, 1, 1], [6, 7, 8, 9, 10, 11, 1, 0]])


@pytest.mark.parametrize(
    ("node", "field", "by", "error"),
    [
        ("conv1_weights", "weight", 0.5, "spikes of conv1 differ"),
        ("conv2", "tau", 0.1, "spikes of conv2 differ"),
        ("dense", "v_threshold", 0.01, "spikes of dense differ"),
        ("readout", "tau", 1.0, "a score differs by"),
    ],
)
def test_a_number_changed_in_the_file_is_found(  # noqa: PLR0913 - what is changed, and where
    model: Path, spikes: Spikes, tmp_path: Path, node: str, field: str, by: float, error: str
) -> None:
    export_nir(model, tmp_path / "small.nir", "sinabs")
    with h5py.File(tmp_path / "small.nir", "r+") as file:
        values = file[f"node/nodes/{node}/{field}"]
        values[...] = values[...] + by
    with pytest.raises(ParityError, match=error):
        check_chain(tmp_path / "small.nir", TARGETS["sinabs"], read_network(model), load_model(model), spikes[:200])


def test_a_file_for_older_readers_has_what_they_know(model: Path, tmp_path: Path) -> None:
    export_nir(model, tmp_path / "new.nir", "sinabs")
    export_nir(model, tmp_path / "old.nir", "sinabs", "1.0.4")
    with h5py.File(tmp_path / "new.nir") as new, h5py.File(tmp_path / "old.nir") as old:
        assert old["version"][()] == b"1.0.4"
        fields: dict[str, set[str]] = {"new": set(), "old": set()}
        new["node"].visit(fields["new"].add)
        old["node"].visit(fields["old"].add)
        assert {name.split("/")[-1] for name in fields["new"] - fields["old"]} == {"v_reset"}
        assert not any(np.any(new["node"][name][()]) for name in fields["new"] - fields["old"])
    assert "sinabs==3.1.3 nirtorch==2.0.2 nir==1.0.4" in (tmp_path / "old.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("simulator", [*REFUSED, "matlab"])
def test_simulators_without_a_form_are_refused_in_one_line(
    simulator: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(monkeypatch, model, "--out", tmp_path / "small.nir", "--for", simulator) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"--for {simulator}: " in error
    assert REFUSED.get(simulator, "unknown; give one of nirtorch, snntorch, sinabs, norse") in error
    assert list(tmp_path.iterdir()) == []


def test_a_module_of_a_users_own_is_not_replaced(model: Path, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text("import this\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"small\.py: exists and was not made by this command"):
        export_nir(model, tmp_path / "small.nir", "norse")
    assert [p.name for p in tmp_path.iterdir()] == ["small.py"]


def test_a_network_that_would_be_too_large_is_refused(model: Path) -> None:
    network = read_network(model)
    first = network.layers[0]
    neurons = Neurons(np.tile(first.neurons.beta, 8000), None, None)
    wide = Layer(
        np.tile(first.weight, (8000, 1, 1, 1)),
        None,
        neurons,
        first.dilation,
        first.stride,
        first.padding,
        first.in_width,
        first.out_width,
    )
    large = Network(network.to_bands, (wide, *network.layers[1:]), network.readout, network.manifest, network.sha256)
    with pytest.raises(ConfigError, match=r"million weights; export it without --for"):
        unroll(large)


def test_each_layer_ends_with_the_flags(model: Path) -> None:
    network = read_network(model)
    for (_, layer), chained in zip(network.named_layers(), unroll(network).layers, strict=True):
        assert len(chained.beta) == (len(layer.weight) * layer.out_width + FLAGS) * len(chained.ages)
    assert target_of(None) is None


def test_the_table_in_the_readme_is_of_the_releases_that_forms_name() -> None:
    text = README.read_text(encoding="utf-8")
    for form in TARGETS.values():
        for packages in (form.packages, form.packages_with_old_nir):
            if form.simulator != "norse" or packages == form.packages:
                assert f"| {packages.split()[0].replace('==', ' ')} |" in text
