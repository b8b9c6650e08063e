"""Calls into a sound system that may not come back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

from detector.errors import DeviceError

_T = TypeVar("_T")


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

    threading.Thread(target=run, name="patience", daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except queue.Empty:
        raise DeviceError(f"{what} does not answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]  # without an error there is a result
