"""What sound files are called, and which of them lie below a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("wav", "flac", "ogg", "oga", "opus", "mp3"),
        *("aif", "aiff", "aifc", "caf", "au", "w64", "rf64"),
    )
)
"""What the names of files that the detector reads end in, in small letters."""


def is_sound_name(path: Path) -> bool:
    """Tell whether a file is a sound by its name."""
    return path.suffix.lower() in SUFFIXES


def sounds_below(folder: Path) -> Iterator[Path]:
    """Yield the sound files below a folder, at any depth, in the order of their names; hidden ones are left out."""
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_sound_name(path) and not is_hidden and path.is_file():
            yield path
