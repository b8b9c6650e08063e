"""Which descriptors and threads stay behind something: what ends meanwhile, of tests before, does not count."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import NamedTuple


class Resources(NamedTuple):
    """What this process has open: descriptors, by number and target, and threads."""

    descriptors: frozenset[tuple[str, str]]
    threads: frozenset[threading.Thread]


def resources() -> Resources:
    """Return what this process has open."""
    descriptors = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            descriptors.add((entry.name, str(entry.readlink())))
    return Resources(frozenset(descriptors), frozenset(threading.enumerate()))


def left_open(before: Resources) -> list[str]:
    """Return what this process has open now and had not before."""
    now = resources()
    opened = [f"{number} -> {target}" for number, target in now.descriptors - before.descriptors]
    return sorted([*opened, *(thread.name for thread in now.threads - before.threads)])
