"""A sound server, and processes that record from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.detector.audio.recorder import Listen, Listening
from tests.sound_server import SoundServer, sound_server

__all__ = ["listen", "sound_server"]


@pytest.fixture
def listen(sound_server: SoundServer, tmp_path: Path) -> Iterator[Listen]:
    running: list[Listening] = []

    def start(**options: Any) -> Listening:
        running.append(Listening(tmp_path, sound_server.env, **options))
        running[-1].until("ready", "unsupported")
        return running[-1]

    yield start
    for one in running:
        one.process.kill()
        one.process.communicate()
