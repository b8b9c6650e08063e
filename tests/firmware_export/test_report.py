"""The table of all forms of a model, each made from the model file and run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from detector.network import default_model_path
from firmware_export.cli import cli
from models.data.household import list_clips
from tests.firmware_export.programs import need

FORMS = ["float ONNX, the runtime", "int8 ONNX", "C99, float", "C99, int8, MFCC in float", "C99, int8", "NIR"]


def test_every_form_is_made_and_run(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("make", "gcc", "arm-none-eabi-gcc", "qemu-system-arm")
    few = [c for c in list_clips(data) if c.source == "esc10" and c.fold == 5][::10]
    monkeypatch.setattr("models.data.datasets.list_clips", lambda *_: few)
    # How long it takes is printed, and not compared with anything here.
    monkeypatch.setattr("firmware_export.report.SPEED_S", 4)
    monkeypatch.setattr("firmware_export.report.ROUNDS", 2)
    measurements = tmp_path / "measurements.json"
    arguments = ["report", str(default_model_path()), "--data", str(data), "--json", str(measurements)]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = {row["form"]: row for row in json.loads(measurements.read_text())}
    assert list(rows) == FORMS
    assert all(f"| {form} |" in done.output for form in FORMS)
    runtime, single, int8 = (rows[name] for name in (FORMS[0], FORMS[2], FORMS[4]))
    sounds = runtime["same_events"]["total"]
    assert sounds == 1 + len(few)
    assert single["same_events"] == {"hits": sounds, "total": sounds}
    assert single["accuracy"] == runtime["accuracy"]
    assert int8["bytes"] <= 320 * 1024
    assert int8["state_bytes"] + int8["stack_bytes"] <= 96 * 1024
    assert all(runtime["push_cpu_s_per_s"][ms] > 0 for ms in ("10", "100"))
    assert runtime["cpu_s_per_s"] > 0
    assert single["cpu_s_per_s"] > 0


@pytest.mark.parametrize(
    ("name", "message"), [("none/measurements.json", "there is no folder"), ("", "is a directory")]
)
def test_a_report_that_cannot_be_written_is_not_started(name: str, message: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["report", str(default_model_path()), "--json", str(tmp_path / name)])
    assert done.exit_code == 2
    assert message in done.stderr
