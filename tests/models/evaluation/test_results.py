"""The results page says what the kept figures say, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from detector.errors import ConfigError
from models.cli.main import cli
from models.evaluation.results import keep, write_report

ACTIVITY = {"spikes_per_neuron_s": {"conv1": 3.0}, "dense_ops_per_s": 12e6, "effective_ops_per_s": 4e6}


def cross(hits: int) -> dict[str, Any]:
    row = {"model": "m", "fold": 1, "seed": 0, "hits": hits, "clips": 80}
    mean = hits / 80
    return {
        "accuracy": mean,
        "interval": [mean - 0.05, mean + 0.05],
        "clips": 80,
        "by_seed": {"0": mean},
        "by_fold": {"1": mean},
        "elapsed": {"0.5": 0.5, "5.0": mean},
        "activity": ACTIVITY,
        "rows": [row],
    }


def metrics(**changes: Any) -> dict[str, Any]:
    return {
        "accuracy": 0.9912,
        "n": 10000,
        "interval": [0.9891, 0.9929],
        "training_seconds": 600.0,
        "dense_operations": 2_000_000,
        "effective_operations": 500_000,
        "dead": {"conv1": 0.25},
    } | changes


def run_folder(path: Path, name: str, found: Any) -> Path:
    path.mkdir(parents=True)
    (path / "metrics.json").write_text(json.dumps(found))
    (path / "plan.json").write_text(json.dumps({"recipe": {"name": name}, "seed": 3, "leave_out": None}))
    (path / "origin.json").write_text(json.dumps({"revision": "abc"}))
    (path / "curves.png").write_bytes(b"png")
    return path


def test_kept_runs_say_what_they_were(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "mnist-direct", metrics())
    path = keep("mnist-direct", "snn-train fit ...", [run], tmp_path / "results")
    found = json.loads(path.read_text())
    assert found["command"] == "snn-train fit ..."
    (row,) = found["runs"]
    assert (row["recipe"], row["seed"], row["origin"]["revision"]) == ("mnist-direct", 3, "abc")
    assert (tmp_path / "results" / "mnist-direct-curves.png").read_bytes() == b"png"
    with pytest.raises(ConfigError, match=r"metrics\.json: no metrics there"):
        keep("x", "", [tmp_path], tmp_path / "results")


def test_the_page_by_hand(tmp_path: Path) -> None:
    comparison = [metrics(name="surrogate atan", accuracy=0.97)]
    results = {
        "esc10": cross(72),
        "esc10-twin": cross(74),
        "themes": cross(76) | {"training_seconds": 100.0},
        "mnist-direct": {"command": "fit mnist", "runs": [{"metrics": metrics()}]},
        "surrogates": {"command": "compare it", "runs": [{"metrics": comparison}]},
    }
    write_report(results, tmp_path / "R.md")
    page = (tmp_path / "R.md").read_text()
    assert "| **this spiking network, streaming** | 90.0 % (85.0 to 95.0 %) | seeds: 1, clips: 80 |" in page
    assert "| its CNN twin | 92.5 %" in page
    assert "| people | 95.7 % |" in page
    assert "| ours | 95.0 % (90.0 to 100.0 %) | 95.0 % | 100 s | 12.00 M / 4.00 M |" in page
    assert "| direct | 99.12 % (98.91 to 99.29 %) | 2.00 M / 0.50 M | 25.0 % | 600 s |" in page
    assert "| surrogate atan | 97.00 %" in page
    assert "compare it" in page
    assert "*No results kept yet: `results/conversion.json` is missing.*" in page


def test_commands(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", "mnist-direct", metrics())
    options = ["--results", str(tmp_path / "results")]
    done = CliRunner().invoke(cli, ["keep", "mnist-direct", str(run), "--command", "c", *options])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(cli, ["report", "--out", str(tmp_path / "R.md"), *options])
    assert done.exit_code == 0, done.output
    assert "99.12 %" in (tmp_path / "R.md").read_text()
