"""Options under their old names: they work for one more release, with one line of warning."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from detector.cli.main import cli
from detector.cli.program import renamed_option

SAMPLE_RATE = "snn-detect: warning: --rate is now --sample-rate; the old name goes with the next release"
MAX_FALSE_ALARMS = "snn-detect: warning: --rate is now --max-false-alarms; the old name goes with the next release"


@click.command()
@click.option("--new", type=click.IntRange(1, 9), default=3)
@renamed_option("--old", "--new")
def command(new: int) -> None:
    """Print the value."""
    click.echo(new)


@pytest.mark.parametrize(
    ("arguments", "value", "warnings"),
    [
        ([], "3", 0),
        (["--new", "4"], "4", 0),
        (["--old", "5"], "5", 1),
        (["--old", "5", "--old", "6"], "6", 1),
        (["--old", "5", "--new", "4"], "4", 1),
        (["--new", "4", "--old", "5"], "4", 1),
    ],
)
def test_the_new_name_has_precedence(arguments: list[str], value: str, warnings: int) -> None:
    done = CliRunner().invoke(command, arguments, prog_name="tool")
    assert (done.exit_code, done.stdout) == (0, f"{value}\n")
    line = "tool: warning: --old is now --new; the old name goes with the next release\n"
    assert done.stderr == warnings * line


def test_the_limits_are_those_of_the_new_name() -> None:
    done = CliRunner().invoke(command, ["--old", "10"])
    assert done.exit_code == 2
    assert "'--new'" in done.stderr


def test_the_old_name_is_not_shown() -> None:
    assert "--old" not in CliRunner().invoke(command, ["--help"]).stdout


@pytest.mark.parametrize("arguments", [("replay", "-", "--json", "-q"), ("--device", "-", "--json", "-q")])
def test_raw_samples_accept_the_old_name_of_their_rate(arguments: tuple[str, ...]) -> None:
    """The rate is out of range, so that the error shows that the value has arrived."""
    run = [sys.executable, "-W", "error", "-m", "detector", *arguments, "--rate", "100"]
    done = subprocess.run(run, input=bytes(2000), capture_output=True, check=False)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 2
    assert lines[0] == SAMPLE_RATE
    assert "100 Hz" in lines[-1]
    assert sum("warning" in line for line in lines) == 1


@pytest.mark.parametrize("arguments", [("replay", "-", "--json", "-q"), ("--device", "-", "--json", "-q")])
def test_the_new_name_gives_no_warning(arguments: tuple[str, ...]) -> None:
    run = [sys.executable, "-W", "error", "-m", "detector", *arguments, "--sample-rate", "100"]
    done = subprocess.run(run, input=bytes(2000), capture_output=True, check=False)
    assert done.returncode == 2
    assert b"100 Hz" in done.stderr
    assert b"warning" not in done.stderr


def test_the_old_name_is_for_raw_samples_alone_too(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["replay", str(tmp_path / "a.wav"), "--rate", "8000"], prog_name="snn-detect")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[0] == SAMPLE_RATE
    assert "--sample-rate, --format and --channels describe raw samples" in done.stderr
    done = CliRunner().invoke(cli, ["--rate", "8000", "model", "info"], prog_name="snn-detect")
    assert done.exit_code == 2
    assert "Options belong after 'model'" in done.stderr


def test_calibrate_accepts_the_old_name_of_its_rate(tmp_path: Path) -> None:
    quiet = tmp_path / "quiet.wav"
    soundfile.write(quiet, np.zeros(3 * 16000, np.float32), 16000)
    arguments = ["calibrate", str(quiet), "--rate", "30", "--no-write", "--json", "-q"]
    done = CliRunner().invoke(cli, arguments, prog_name="snn-detect")
    assert (done.exit_code, done.stderr.splitlines()) == (0, [MAX_FALSE_ALARMS])
    assert json.loads(done.stdout)["calibration"]["rate_per_hour"] == 30
