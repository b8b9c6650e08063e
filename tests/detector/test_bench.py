"""The benchmark: it runs, and its figures are plausible (none is compared with a target here)."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from detector import bench
from detector.errors import ManifestError


def test_figures_and_table() -> None:
    figures = bench.run()
    assert figures["step_us"]["p50"] <= figures["step_us"]["p99"] <= figures["step_us"]["max"]
    assert figures["engine"] == "core"
    assert figures["instructions"] in {"baseline", "avx2", "avx512"}
    assert 0 < figures["effective_ops_per_s"] < figures["dense_ops_per_s"]
    assert set(figures["spikes_per_neuron_s"]) == {"encoder", "conv1", "conv2", "conv3", "dense"}
    text = io.StringIO()
    bench.print_table(figures, Console(file=text, width=160))
    for word in ("real time", "core", "p99", "peak memory", "effective synaptic operations"):
        assert word in text.getvalue()


def test_engines_are_compared_in_turns() -> None:
    result = bench.compare(rounds=1)
    assert set(result["engines"]) == {"core", "onnxruntime"}
    text = io.StringIO()
    bench.print_comparison(result, Console(file=text, width=160))
    assert "onnxruntime" in text.getvalue()


def test_onnxruntime_is_measured_stage_by_stage() -> None:
    figures = bench.run(engine="onnxruntime")
    assert set(figures["stages_us"]) == {"features", "encoder", "network", "decoder"}


def test_a_missing_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.onnx: the model cannot be read"):
        bench.run(tmp_path / "none.onnx")
