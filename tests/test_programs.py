"""What the three programs have in common: -h, errors of one line, and completion in shells."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from detector.cli.main import cli as snn_detect
from detector.network import load_model
from firmware_export.cli import cli as snn_export
from models.cli.main import cli as snn_train
from tests.contracts.snapshots import EXPECTED


def commands(program: str) -> Iterator[list[str]]:
    """Yield the path of the program itself and of each of its commands, without the hidden ones."""
    for line in (EXPECTED / f"command-line-{program}.txt").read_text().splitlines():
        if line.startswith(program) and not line.endswith("(hidden)"):
            yield [word for word in line.split()[1:] if re.fullmatch(r"[a-z0-9-]+", word)]


PROGRAMS: dict[str, click.Command] = {"snn-detect": snn_detect, "snn-train": snn_train, "snn-export": snn_export}


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_command_explains_itself_with_h_as_with_help(program: str) -> None:
    paths = list(commands(program))
    assert len(paths) > 5
    for path in paths:
        short, long = (CliRunner().invoke(PROGRAMS[program], [*path, option]) for option in ("-h", "--help"))
        assert (short.exit_code, short.stdout) == (0, long.stdout), path
        assert short.stdout.startswith(f"Usage: {' '.join([program, *path])} ")


@pytest.mark.parametrize("program", ["snn-train", "snn-export"])
@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["no-such-command"], 2, "No such command 'no-such-command'"),
        (["--no-such-option"], 2, "No such option"),
    ],
)
def test_an_error_of_usage_is_one_line_that_names_the_program(
    program: str, arguments: list[str], code: int, reason: str
) -> None:
    done = CliRunner().invoke(PROGRAMS[program], arguments)
    assert done.exit_code == code
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"{program}: error: {reason}")
    assert done.stderr.endswith(f"(see {program} --help)\n")


def test_other_errors_of_training_and_export_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[str, list[str], int, str]] = [
        ("snn-export", ["int8", str(tmp_path / "no.onnx"), "--out", str(tmp_path / "x.onnx")], 2, "no.onnx"),
        ("snn-export", ["c"], 2, "Missing argument 'MODEL'"),
        ("snn-train", ["evaluate", str(tmp_path / "no.onnx"), "--data", str(tmp_path)], 2, "no.onnx"),
        ("snn-train", ["fit"], 2, "Missing option '--"),
    ]
    for program, arguments, code, reason in cases:
        done = CliRunner().invoke(PROGRAMS[program], arguments)
        assert (done.exit_code, len(done.stderr.splitlines())) == (code, 1), done.stderr
        assert done.stderr.startswith(f"{program}: error: ")
        assert reason in done.stderr
    monkeypatch.setitem(sys.modules, "nir", None)
    monkeypatch.delitem(sys.modules, "firmware_export.nir.export", raising=False)
    done = CliRunner().invoke(snn_export, ["nir", str(load_model().path), "--out", str(tmp_path / "x.nir")])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert re.search(r"nir(\.\w+)? is not installed: .*pip install -e '.*\[export\]'$", done.stderr)
