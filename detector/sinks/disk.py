"""What a disk refuses, in words."""

from __future__ import annotations

import errno
from pathlib import Path


def refusal(path: Path, error: OSError) -> str:
    """Return one line that says why a file cannot be written, and what to do where that can be told."""
    if error.errno == errno.ENOENT:
        return f"{path}: there is no directory {path.parent}; create it, or name another path"
    return f"{path}: cannot be written ({(error.strerror or str(error)).lower()})"
