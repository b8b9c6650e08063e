"""Output files and folders that appear complete or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detector.errors import ConfigError


@contextmanager
def atomic_output(out: Path) -> Iterator[Path]:
    """Give a temporary path beside ``out`` that replaces it when the block ends without an error.

    Where ``out`` is a folder, files in it that the new one does not have are kept. The block writes a file or a folder
    there, and may write others beside it. Missing parent folders are made.
    Raises ConfigError where the block or the replacement meets an OSError; nothing temporary is left behind.
    """
    try:
        out = Path(os.path.realpath(out))
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            part = Path(folder) / out.name
            yield part
            if part.is_dir() and out.is_dir():
                old = out.rename(Path(folder) / "old")
                part.replace(out)
                _keep_others(old, out)
            else:
                part.replace(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error}); name another path") from error


def _keep_others(old: Path, new: Path) -> None:
    """Move the files of the old folder that the new one does not have to their places in it."""
    for file in sorted(old.rglob("*")):
        place = new / file.relative_to(old)
        if not file.is_dir() and not os.path.lexists(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            file.rename(place)
