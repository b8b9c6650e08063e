"""Files that appear complete or not at all, and growing pauses between retries."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield the name of a new file beside ``path``, with its suffix; at the end it is synced and takes its place.

    Where the block raises, ``path`` stays as it was and the new file is removed. Raises OSError where the file
    cannot be synced or renamed. The folder must exist; access rights are those that the block gives the new file.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield part
        _sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file (UTF-8), complete or not at all; raises OSError. ``errors``: as for ``open``."""
    with replace_file(path) as part:
        part.write_text(text, encoding="utf-8", errors=errors)


class Backoff:
    """Exponential backoff: each pause is twice the one before, between two bounds (in seconds)."""

    def __init__(self, shortest_s: float, longest_s: float, *, first_s: float | None = None) -> None:
        """Take the bounds; ``first_s``: the first pause, until ``reset`` (default: the shortest)."""
        self._shortest_s, self._longest_s = min(shortest_s, longest_s), longest_s
        self._pause_s = self._shortest_s if first_s is None else min(first_s, longest_s)

    def next_s(self) -> float:
        """Return the pause before the next attempt, in seconds."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Begin again with the shortest pause: an attempt has succeeded."""
        self._pause_s = self._shortest_s


def _sync(path: Path) -> None:
    """Have the file on the disk before its new name is: after a power failure the name must not lead to nothing."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
