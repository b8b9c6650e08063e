"""Who is inside PortAudio: it cannot be started anew under somebody's feet."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from detector.errors import DeviceError


class Users:
    """Who is inside PortAudio: any number of users, or one that starts it anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._renewing = False

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """Be inside for the length of a call; raises DeviceError as ``enter`` does."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def enter(self) -> None:
        """Go inside; raises DeviceError where PortAudio is just being started anew."""
        with self._lock:
            if self._renewing:
                raise DeviceError("the sound system has not answered yet to the question for its devices")
            self._count += 1

    def leave(self) -> None:
        """Go out."""
        with self._lock:
            self._count -= 1

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Yield whether nobody is inside; if so, nobody gets in until the end. Raises DeviceError as ``enter`` does."""
        with self._lock:
            if self._renewing:
                raise DeviceError("the sound system has not answered yet to the question for its devices")
            alone = self._renewing = self._count == 0
        try:
            yield alone
        finally:
            if alone:
                with self._lock:
                    self._renewing = False
