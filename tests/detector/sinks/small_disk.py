"""A disk that can be filled to the last byte, and emptied again."""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SmallDisk:
    """A mounted disk of little space."""

    path: Path

    def fill(self, leave: int = 0) -> None:
        """Take all the space but for some bytes."""
        with (self.path / "filling").open("ab", buffering=0) as file:
            for size in (65536, 4096, 512, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise
            if leave:
                file.truncate(max(0, file.tell() - leave))

    def make_room(self) -> None:
        """Give the space back."""
        with contextlib.suppress(FileNotFoundError):
            (self.path / "filling").unlink()
