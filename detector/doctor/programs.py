"""Asking the system's own programs, and calls that may never come back."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from detector.errors import DeviceError

_T = TypeVar("_T")
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


def within(seconds: float, call: Callable[[], _T], what: str) -> _T:
    """Return what a call returns, or raise what it raises; DeviceError where that takes too long.

    The call goes on in a thread that nobody waits for.
    """
    results: queue.SimpleQueue[tuple[_T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            results.put((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            results.put((None, error))

    threading.Thread(target=run, name="doctor", daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise DeviceError(f"{what} does not answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # without an error there is a result
