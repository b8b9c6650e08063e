"""Output files and folders that appear complete or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detector.errors import ConfigError


@contextmanager
def atomic_output(out: Path) -> Iterator[Path]:
    """Give a temporary path beside ``out`` that replaces it when the block ends without an error.

    The block writes a file or a folder there, and may write others beside it. Missing parent folders are made.
    Raises ConfigError where the block or the replacement meets an OSError; nothing temporary is left behind.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            part = Path(folder) / out.name
            yield part
            if part.is_dir() and out.is_dir():
                shutil.rmtree(out)
            part.replace(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror or error}); name another path") from error
