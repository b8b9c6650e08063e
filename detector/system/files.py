"""Files that appear complete or not at all."""

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


def _sync(path: Path) -> None:
    """Have the file on the disk before its new name is: after a power failure the name must not lead to nothing."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
