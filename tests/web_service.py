"""The service with its page as a process on a free port, for tests."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import soundfile

from detector.messages import Samples
from tests.service import RATE, Child, service, wait_until

SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))


def scene() -> Samples:
    """Return the demo scene."""
    wave, _ = soundfile.read(SCENE, dtype="float32")
    return np.asarray(wave, np.float32)


def url_of(child: Child) -> str:
    """Wait for the address of the page and return it."""
    found: list[str] = []

    def is_logged() -> bool:
        assert child.process.poll() is None, child.errors
        found.extend(m[1] for line in list(child.errors) if (m := re.search(r"the page is at (http://\S+?)/$", line)))
        return bool(found)

    wait_until(is_logged, "the page's address")
    return found[0]


@contextlib.contextmanager
def web_service(folder: Path, web: str = "", **options: Any) -> Iterator[tuple[Child, httpx.Client]]:
    """Run the service with its page, a database and clips on raw samples, and yield it with a client."""
    config = folder / "config.toml"
    config.write_text(f"""
        node = "test"
        [audio]
        device = "-"
        source = "pipe"
        [database]
        path = "{folder / "events.db"}"
        commit_s = 0
        [clips]
        directory = "{folder / "clips"}"
        post_roll_s = 1
        min_free_bytes = 0
        [web]
        address = "127.0.0.1:0"
        {web}
    """)
    (folder / "clips").mkdir(exist_ok=True)
    with service(config, **options) as child, httpx.Client(base_url=url_of(child), timeout=60) as client:
        yield child, client


def play_scene(child: Child) -> None:
    """Play the scene as fast as it is processed, and wait for the offset of its second guitar."""
    child.play(np.concatenate([scene(), np.zeros(RATE, np.float32)]))  # a second in which it can end
    child.wait_for_records(lambda rs: [r["label"] for r in rs if r["type"] == "offset"].count("guitar") >= 2, "guitars")
