"""Asking the system's own programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import Final

_ANSWER_S: Final = 5.0
_PLACES: Final = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
"""Looked at behind ``PATH``, which for users may lack them."""


def answer(*command: str) -> str | None:
    """Return what a program prints; None where it is missing, fails, or takes too long."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_PLACES))
    program = shutil.which(command[0], path=path)
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments from here, never a shell
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_S,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
