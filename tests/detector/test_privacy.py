"""The detector stores and sends nothing that was not asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("arguments", [["replay", "--quiet", SCENE], ["model", "info"], ["--help"], ["config", "show"]])
def test_commands_write_nothing_below_the_home_directory(arguments: list[str | Path], tmp_path: Path) -> None:
    """Libraries neither: onnxruntime stores a device id and events to send where its telemetry is not switched off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-B", "-m", "detector", *arguments]
    subprocess.run(command, cwd=ROOT, env=kept | {"HOME": str(home)}, capture_output=True, check=True)
    assert list(home.rglob("*")) == []


def test_telemetry_is_off_in_this_process() -> None:
    import detector.network  # noqa: F401

    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
