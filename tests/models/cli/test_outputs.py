"""Commands of snn-train and snn-export replace no input, and no file or folder that they did not make."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import soundfile
from click.testing import CliRunner, Result

from detector.errors import ConfigError
from firmware_export.cli import cli as export_cli
from models import DEMO_SCENE
from models.cli.main import cli
from models.evaluation.results import keep
from models.files import new_folder
from models.training.runs import RunFolder

MODEL = Path(__file__).resolve().parents[3] / "models/pretrained/household.onnx"


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    wave, rate_hz = soundfile.read(DEMO_SCENE, dtype="float32", frames=16000)
    soundfile.write(path, wave, rate_hz)
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    shutil.copy(MODEL, path)
    return path


def refused(done: Result, words: str) -> None:
    assert done.exit_code == ConfigError.exit_code, done.output
    assert words in done.stderr


def train(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def export(*arguments: str | Path) -> Result:
    return CliRunner().invoke(export_cli, [*map(str, arguments)])


@pytest.mark.parametrize(
    "command",
    [
        ("adapt", "MODEL", "--add-class", "bell", "BELLS", "--out"),
        ("evaluate", "MODEL", "--data", "DATA", "--out"),
        ("evaluate", "MODEL", "--data", "DATA", "--json"),
        ("evaluate", "MODEL", "--data", "DATA", "--picture"),
        ("cross-evaluate", "MODEL", "--data", "DATA", "--json"),
        ("evaluate-events", "MODEL", "SCENES", "--json"),
        ("evaluate-channels", "MODEL", "SCENES", "--json"),
        ("tune-events", "MODEL", "SCENES", "--out"),
        ("manifest", "--data", "DATA", "--class", "a=b", "--out"),
        ("report", "--out"),
    ],
)
def test_no_output_of_training_replaces_a_recording_or_the_model(
    command: tuple[str, ...], sound: Path, model: Path, tmp_path: Path
) -> None:
    given = [str(model) if part == "MODEL" else part for part in command]
    recording, network = sound.read_bytes(), model.read_bytes()
    refused(train(*given, sound, "--force"), "exists, is not")
    refused(train(*given, tmp_path / "none/out"), "there is no folder") if command[0] != "cross-evaluate" else None
    if "MODEL" in command:
        refused(train(*given, model, "--force"), "is read by this command")
    assert (sound.read_bytes(), model.read_bytes()) == (recording, network)


def test_the_card_of_an_adapted_model_replaces_no_other_text(model: Path, tmp_path: Path) -> None:
    notes = tmp_path / "README.md"
    notes.write_text("# My notes\n")
    out = tmp_path / "README.onnx"
    refused(train("adapt", model, "--add-class", "bell", tmp_path, "--out", out, "--force"), "README.md")
    assert notes.read_text() == "# My notes\n"


@pytest.mark.parametrize("command", ["int8", "c", "nir"])
def test_no_export_replaces_a_recording_or_the_model(command: str, sound: Path, model: Path) -> None:
    recording, network = sound.read_bytes(), model.read_bytes()
    refused(export(command, model, "--out", sound, "--force"), "exists, is not")
    refused(export(command, model, "--out", model, "--force"), "is read by this command")
    refused(export("report", model, "--json", sound, "--force"), "exists, is not")
    assert (sound.read_bytes(), model.read_bytes()) == (recording, network)


def test_an_exported_folder_is_replaced_with_force_and_keeps_the_files_of_its_user(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    assert export("c", model, "--out", out).exit_code == 0
    (out / "board/pins.h").parent.mkdir()
    (out / "board/pins.h").write_text("mine")
    (out / "main_own.c").write_text("mine too")
    (out / "snn_model.c").write_text("old")
    refused(export("c", model, "--out", out), "exists already")
    assert (out / "snn_model.c").read_text() == "old"
    assert export("c", model, "--out", out, "--force").exit_code == 0
    assert (out / "snn_model.c").read_text() != "old"
    assert (out / "board/pins.h").read_text() == "mine"
    assert (out / "main_own.c").read_text() == "mine too"
    home = tmp_path / "home"
    home.mkdir()
    (home / "letter.txt").write_text("dear")
    refused(export("c", model, "--out", home, "--force"), "was not made by this command")
    assert (home / "letter.txt").read_text() == "dear"


def test_a_model_file_is_replaced_only_with_force(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.onnx"
    assert export("int8", model, "--out", out).exit_code == 0
    written = out.read_bytes()
    refused(export("int8", model, "--out", out), "exists already")
    assert export("int8", model, "--out", out, "--force").exit_code == 0
    assert out.read_bytes() == written


def test_results_are_kept_beside_each_other(tmp_path: Path) -> None:
    run, results = tmp_path / "run", tmp_path / "results"
    run.mkdir()
    (run / "metrics.json").write_text(json.dumps({"accuracy": 1}))
    keep("one", "command", [run], results)
    with pytest.raises(ConfigError, match="exists already"):
        keep("one", "command", [run], results)
    with pytest.raises(ConfigError, match="is read by this command"):
        keep("metrics", "command", [run], run, force=True)
    keep("one", "other", [run], results, force=True)
    assert json.loads((results / "one.json").read_text())["command"] == "other"
    assert json.loads((run / "metrics.json").read_text()) == {"accuracy": 1}


def test_a_run_takes_no_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "origin.json").write_text("mine")
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        RunFolder(tmp_path).claim({"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["origin.json"]
    run = RunFolder(tmp_path / "run")
    run.claim({"a": 1})
    run.claim({"a": 1})  # resumed


def test_a_new_folder_removes_no_other_one(tmp_path: Path) -> None:
    other = tmp_path / "scenes.part"
    other.mkdir()
    (other / "mine.txt").write_text("mine")
    with new_folder(tmp_path / "scenes") as part:
        (part / "theirs.txt").write_text("")
    assert (other / "mine.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["scenes", "scenes.part"]
