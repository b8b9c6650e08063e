"""Programs and file systems with contents that a test chooses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from detector.doctor.result import SystemPaths
from detector.pipeline import Detector
from tests.sound_server import sound_server

__all__ = ["sound_server"]

Program = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def _folder_of_the_service(tmp_path: Path) -> None:
    """Let the service's user, as whom root's doctor looks at folders, write to those of a test."""
    if os.geteuid() == 0:
        for path in (tmp_path, *tmp_path.parents):
            if "pytest" in str(path):
                path.chmod(0o755)
        tmp_path.chmod(0o777)


@pytest.fixture
def paths(tmp_path: Path) -> SystemPaths:
    """Give an empty file system."""
    return SystemPaths(tmp_path / "root")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Give a function that writes a shell script of a name, which is found before all other programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def make(name: str, lines: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture(scope="session")
def detector() -> Detector:
    return Detector.load(os.environ.get("SNN_DETECT_MODEL"))


def write(path: Path, text: str) -> Path:
    """Write a file, and create the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
