"""Option names and values of the release before: accepted, with one line of warning."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from models.cli.main import cli


def test_an_old_name_is_the_new_option(tmp_path: Path) -> None:
    arguments = ["tune-events", "m.onnx", str(tmp_path), "--total", "10", "--out", str(tmp_path / "x.onnx")]
    for old in (["--rate", "1"], ["--rate=1"]):
        done = CliRunner().invoke(cli, [*arguments, *old])
        assert done.exit_code == 2
        assert "warning: --rate is now --max-false-alarms; the old name goes with the next release" in done.stderr
        assert "--max-false-alarms and --total: name one of them." in done.stderr


def test_an_old_name_keeps_the_type_of_the_option(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["tune", "--judge", "m.onnx", "9", "--data", str(tmp_path)])
    assert done.exit_code == 2
    assert "warning: --judge is now --evaluate" in done.stderr
    assert "Invalid value for '--evaluate': 9 is not in the range 1<=x<=4" in done.stderr


@pytest.mark.parametrize("old", [["--use", "judge"], ["--use=judge"]])
def test_an_old_value_is_the_new_one(old: list[str]) -> None:
    new = CliRunner().invoke(cli, ["gather", "--packages", "debian", "--use", "evaluate"])
    done = CliRunner().invoke(cli, ["gather", "--packages", "debian", *old])
    assert (new.exit_code, done.exit_code) == (0, 0)
    assert done.stdout == new.stdout
    assert new.stderr == ""
    assert "--use judge is now --use evaluate; the old name goes with the next release" in done.stderr


def test_an_old_name_of_a_pair_is_the_new_option(tmp_path: Path) -> None:
    pairs = ["--judge", str(tmp_path / "a.onnx"), "1", "--judge", "b.onnx", "2"]
    done = CliRunner().invoke(cli, ["tune", *pairs, "--data", str(tmp_path)])
    assert "a.onnx" in done.stderr
    assert done.stderr.count("warning") == 1


def test_help_shows_the_new_names_only() -> None:
    for command, new, old in (("fit", "--warm-start", "--begin"), ("make-scenes", "--segment", "--stretch")):
        text = CliRunner().invoke(cli, [command, "--help"]).output
        assert new in text
        assert old not in text
