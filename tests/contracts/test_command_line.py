"""Every command of the three programs with its options, and the exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

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
