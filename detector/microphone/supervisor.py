"""Somebody who looks after the capture thread: a call into the sound system may never come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from detector.microphone.blocks import BlockQueue, StreamFormat
from detector.microphone.capture import Capture, Stream
from detector.microphone.news import Condition

_HUNG_S: Final = 10.0
"""A call that takes so long will not come back soon; finding all devices may take some seconds."""
_LONGEST_LOOK_S: Final = 1.0
"""Time between two looks counts up to this: the whole process may have been stopped."""
_MOST_ABANDONED: Final = 2
"""So many threads may hang at once; then nothing new is tried until one comes back."""


class Supervisor:
    """Keeps one capture thread that works, as far as the sound system lets it."""

    def __init__(self, opener: Callable[[], Stream], queue: BlockQueue) -> None:
        """Start the thread."""
        self._opener, self._queue = opener, queue
        self._abandoned: list[Capture] = []
        self._calls = 0
        self._hung_s = 0.0
        self._looked_s = time.monotonic()
        self._capture = Capture(opener, queue)
        self._capture.start()

    @property
    def format(self) -> StreamFormat | None:
        """That of the stream that gives sound now; None while there is none."""
        return None if self._capture in self._abandoned else self._capture.format

    @property
    def is_stuck(self) -> bool:
        """Whether the device is no help though it is not away: it gives nothing, or a call does not come back."""
        if self.format is not None:
            return False
        return self._capture.is_stalled or any(c.is_alive() for c in self._abandoned)

    @property
    def overruns(self) -> int:
        """How many times the device's buffer has run over."""
        return self._capture.overruns

    @property
    def opened(self) -> int:
        """How many streams have given sound."""
        return self._capture.opened

    def look(self) -> None:
        """Abandon a thread that hangs, and start another one; to be called every second or more often."""
        if self._capture in self._abandoned:
            self._abandoned = [c for c in self._abandoned if c.is_alive() or c is self._capture]
            if len(self._abandoned) < _MOST_ABANDONED or not self._capture.is_alive():
                self._replace()
        elif self._is_hung():
            self._capture.stop()
            self._abandoned.append(self._capture)
            if not self._capture.is_waiting:
                detail = f"waiting for the microphone: the sound system has not answered for {_HUNG_S:.0f} s"
                self._queue.put(Condition("waiting", active=True, detail=detail))

    def close(self, timeout_s: float) -> bool:
        """Stop the thread and wait that long for it; False where it hangs."""
        self._capture.stop()
        self._capture.join(timeout_s)
        return not self._capture.is_alive()

    def _replace(self) -> None:
        self._capture = Capture(self._opener, self._queue, self._capture)
        self._capture.start()
        self._abandoned = [c for c in self._abandoned if c.is_alive()]

    def _is_hung(self) -> bool:
        """Say whether the thread has been in one call for too long."""
        before_s, self._looked_s = self._looked_s, time.monotonic()
        calls = self._capture.calls
        if calls % 2 == 0 or calls != self._calls:
            self._calls, self._hung_s = calls, 0.0
            return False
        self._hung_s += min(_LONGEST_LOOK_S, self._looked_s - before_s)
        return self._hung_s > _HUNG_S
