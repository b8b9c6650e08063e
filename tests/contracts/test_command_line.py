"""Every command of the three programs with its options, and the exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from detector.cli.main import cli as snn_detect
from detector.network import load_model
from firmware_export.cli import cli as snn_export
from models.cli.main import cli as snn_train
from tests.contracts.command_tree import entry_points
from tests.contracts.live import ROOT
from tests.contracts.programs import clean_environment, detect, output
from tests.contracts.snapshots import EXPECTED, check


def test_the_programs() -> None:
    assert sorted(entry_points()) == ["snn-detect", "snn-export", "snn-train"]


@pytest.mark.parametrize("program", ["snn-detect", "snn-train", "snn-export"])
def test_commands_and_options(program: str) -> None:
    command = [sys.executable, "-m", "tests.contracts.command_tree", program]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    check(f"command-line-{program}.txt", done.stdout)


def expected_commands() -> Iterator[tuple[list[str], set[str]]]:
    """Yield each command of snn-detect with the long names of its options that are not hidden."""
    for block in (EXPECTED / "command-line-snn-detect.txt").read_text().split("\n\n"):
        head, *options = block.splitlines()
        path = [word for word in head.split()[1:] if re.fullmatch(r"[a-z-]+", word)]
        names = {line.split()[0].rstrip(":") for line in options if not line.endswith("hidden")}
        yield path, names


def test_help_shows_each_of_them() -> None:
    def shown(path: list[str]) -> set[str]:
        return set(
            re.findall(r"^  (?:-\w, )?(?:-\w )?(--[\w-]+)", output(*path, "--help").replace("-h, ", ""), re.MULTILINE)
        )

    commands = list(expected_commands())
    assert len(commands) > 20
    with ThreadPoolExecutor(2) as pool:
        for (path, names), found in zip(commands, pool.map(shown, [path for path, _ in commands]), strict=True):
            assert found == names, path


def test_exit_codes(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[audio]\nno_such_key = 1\n")
    (tmp_path / "broken.wav").write_bytes(b"RIFF....WAVE")
    (tmp_path / "broker.toml").write_text('[[mqtt]]\nhost = "127.0.0.1"\nport = 9\n')
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.zeros(1600, np.float32), 16000)
    cases: dict[str, tuple[str | Path, ...]] = {
        "--version": ("--version",),
        "replay a sound": ("replay", sound),
        "an option that there is not": ("--no-such-option",),
        "an option of a command that there is not": ("replay", "--no-such-option", sound),
        "a command that there is not": ("no-such-command",),
        "no sound named": ("replay",),
        "a sound that is missing": ("replay", tmp_path / "missing.wav"),
        "a sound that is broken": ("replay", tmp_path / "broken.wav"),
        "one of two sounds is missing": ("replay", tmp_path / "missing.wav", sound),
        "a model that is missing": ("replay", "--model", tmp_path / "missing.onnx", sound),
        "a model that is none": ("replay", "--model", sound, sound),
        "a threshold out of range": ("replay", "--threshold", "guitar=2", sound),
        "a configuration that is missing": ("run", "--config", tmp_path / "missing.toml"),
        "a configuration with an unknown key": ("run", "--config", tmp_path / "bad.toml"),
        "a device that is missing": ("--device", "no-such-device", "--no-wait"),
        "a broker that is away": ("mqtt", "test", "--config", tmp_path / "broker.toml"),
        "mqtt test without a broker": ("mqtt", "test"),
        "a database that is missing": ("events", "query", "--database", tmp_path / "missing.db"),
        "model verify": ("model", "verify"),
    }
    homes = {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda arguments: detect(*arguments, **homes), cases.values()))
    assert not [done.stderr for done in ended if "Traceback" in done.stderr]
    codes = zip(cases, ended, strict=True)
    check("exit-codes.txt", "\n".join(f"{done.returncode:3}  {case}" for case, done in codes))


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
