"""A folder that is made whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detector.errors import ConfigError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder to write to, which becomes ``out`` at the end; nothing is left of it where that fails.

    Raises ConfigError where ``out`` is there already or cannot be made.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already; name a new folder")
    part = out.with_name(out.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        part.rename(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({(error.strerror or str(error)).lower()})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
