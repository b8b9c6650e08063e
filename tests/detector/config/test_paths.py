"""Where things are kept: systemd's word first, then the system's folders for root and a user's own for others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from detector.config.paths import configuration_directories, state_directory


def test_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/elsewhere")
    assert state_directory() == tmp_path


def test_directories_of_users() -> None:
    """Asked in a process of its own, which is no longer root's: the system's folders are root's alone."""
    program = (
        "import os\n"
        "from detector.config.paths import state_directory\n"
        "os.geteuid() or os.setuid(65534)\n"
        "print(state_directory())"
    )

    def ask(**variables: str) -> str:
        environment = {"HOME": "/home/user", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | variables
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    assert ask() == "/home/user/.local/state/snn-detect"
    assert ask(XDG_STATE_HOME="relative") == "/home/user/.local/state/snn-detect"
    assert ask(XDG_STATE_HOME="/s") == "/s/snn-detect"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_directories_of_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert state_directory() == Path("/var/lib/snn-detect")
    assert Path("/etc/snn-detect") in configuration_directories()
