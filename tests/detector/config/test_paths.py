"""Where things are kept: systemd's word first, then the system's folders for root and a user's own for others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detector.config.paths import cache_directory, configuration_directories, runtime_directory, state_directory


def test_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for function, variable in (
        (state_directory, "STATE_DIRECTORY"),
        (cache_directory, "CACHE_DIRECTORY"),
        (runtime_directory, "RUNTIME_DIRECTORY"),
    ):
        monkeypatch.setenv(variable, f"{tmp_path}:/elsewhere")
        assert function() == tmp_path


def test_directories_of_users() -> None:
    """Asked in a process of its own, which is no longer root's: the system's folders are root's alone."""
    program = (
        "import os\n"
        "from detector.config.paths import cache_directory, runtime_directory, state_directory\n"
        "os.geteuid() or os.setuid(65534)\n"
        "print(state_directory(), cache_directory(), runtime_directory())"
    )

    def ask(**variables: str) -> list[str]:
        environment = {"HOME": "/home/user", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | variables
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.split()

    home = "/home/user"
    assert ask() == [f"{home}/{part}/snn-detect" for part in (".local/state", ".cache", ".cache")]
    assert ask(XDG_STATE_HOME="/s", XDG_CACHE_HOME="relative", XDG_RUNTIME_DIR="/r") == [
        "/s/snn-detect",
        f"{home}/.cache/snn-detect",
        "/r/snn-detect",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_directories_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("STATE_DIRECTORY", "CACHE_DIRECTORY", "RUNTIME_DIRECTORY"):
        monkeypatch.delenv(variable, raising=False)
    assert [str(f()) for f in (state_directory, cache_directory, runtime_directory)] == [
        "/var/lib/snn-detect",
        "/var/cache/snn-detect",
        "/run/snn-detect",
    ]
    assert Path("/etc/snn-detect") in configuration_directories()
