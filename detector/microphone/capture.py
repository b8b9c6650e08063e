"""The capture thread: opens the device, reads from it and does nothing else; waits for it where it is away."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Protocol

from detector.errors import DetectorError, DeviceError
from detector.microphone.blocks import Block, BlockQueue, StreamFormat
from detector.microphone.news import Cause, Condition

_log = logging.getLogger(__name__)
_BLOCK_S: Final = 0.04
_LONGEST_BLOCK_S: Final = 0.1
"""What is late is caught up with in blocks of this length."""
_SHORTEST_NAP_S: Final = 0.005
_NO_FRAMES_S: Final = 5.0
"""A device that gives nothing for so long is lost; a sound server may need two seconds to begin."""
_SUSPENDED_S: Final = 2.0
"""A pause between two looks at the device that only a sleeping machine or a stopped process makes."""
_PAUSE_S: Final = (0.5, 10.0)
"""Shortest and longest pause before a device is tried again; each one doubles the last."""
_STEADY_S: Final = 30.0
"""A device that stayed so long is tried again soon when it goes."""


class _StalledError(DeviceError):
    """A device is open and gives nothing."""


class Stream(Protocol):
    """A device that is open and running; methods raise DeviceError where it is lost."""

    format: StreamFormat

    def available(self) -> int:
        """Return how many frames can be read without waiting."""

    def read(self, frames: int) -> tuple[memoryview, bool]:
        """Return frames that are available, and whether some were lost before them."""

    def restart(self) -> None:
        """Throw away what waits, and go on with the sound of now."""

    def close(self) -> None:
        """Close; never raises."""


class Capture(threading.Thread):
    """Reads into a queue until it is told to stop; whatever the device does, it tries again.

    ``calls`` counts the calls into the sound system, which may hang: it is odd within one. Who finds
    it odd and the same for too long abandons the thread, which then ends as soon as it can.
    """

    def __init__(self, opener: Callable[[], Stream], queue: BlockQueue, before: Capture | None = None) -> None:
        """Take what opens the device, where blocks go, and the thread that was abandoned before this one."""
        super().__init__(name="capture", daemon=True)
        self._open, self._queue = opener, queue
        self._stopped = threading.Event()
        self._pause_s = 0.0 if before is None else _PAUSE_S[1]
        self.is_waiting: bool = before is not None
        """Whether it has told that it waits for the device."""
        self._cause: Cause | None = None
        self.had_sound: bool = before is not None and before.had_sound
        self.is_stalled = False
        """Whether the device was there the last time, but gave no sound: that is no device to be waited for."""
        self.format: StreamFormat | None = None
        """That of the stream that gives sound now; None while there is none."""
        self.calls = 0
        self.overruns: int = 0 if before is None else before.overruns
        self.opened: int = 0 if before is None else before.opened
        """Streams that have given sound."""

    def stop(self) -> None:
        """Ask the thread to end; does not wait."""
        self._stopped.set()

    def run(self) -> None:
        """Open, read, and open again, until stopped."""
        while not self._stopped.wait(self._pause_s):
            begin_s = now_s()
            try:
                self._listen()
            except DetectorError as error:
                self._lose(str(error))
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody else would try again
                if not self.is_waiting:
                    _log.exception("the capture thread failed and tries again")
                self._lose(f"{type(error).__name__}: {error}")
            steady = self.format is not None and now_s() - begin_s > _STEADY_S
            self.format = None
            self._pause_s = _PAUSE_S[0] if steady or not self._pause_s else min(2 * self._pause_s, _PAUSE_S[1])

    def _listen(self) -> None:
        """Read one stream until it is lost or the thread is stopped; raises DeviceError."""
        try:
            with self._call():
                stream = self._open()
        except DetectorError:
            self.is_stalled = False
            raise
        try:
            self._read(stream)
        except _StalledError:
            self.is_stalled = True
            raise
        finally:
            with self._call():
                stream.close()

    def _read(self, stream: Stream) -> None:
        self._cause = "device" if self.had_sound else None
        block_frames = round(_BLOCK_S * stream.format.rate_hz)
        looked_s = fed_s = now_s()
        while not self._stopped.is_set():
            with self._call():
                available = stream.available()
            before_s, looked_s = looked_s, now_s()
            if looked_s - before_s > _SUSPENDED_S:
                with self._call():
                    stream.restart()
                self._cause = "suspended"
                looked_s = fed_s = now_s()
            elif available >= block_frames:
                self._pass_on(stream, available)
                fed_s = looked_s
            elif looked_s - fed_s > _NO_FRAMES_S:
                raise _StalledError(f"no sound comes from {stream.format.device}")
            else:
                missing_s = (block_frames - available) / stream.format.rate_hz
                time.sleep(max(_SHORTEST_NAP_S, missing_s))

    def _pass_on(self, stream: Stream, available: int) -> None:
        """Read and queue one block, with why sound was lost before it."""
        frames = min(available, round(_LONGEST_BLOCK_S * stream.format.rate_hz))
        with self._call():
            data, overrun = stream.read(frames)
        arrived_s = now_s()
        if overrun:
            self.overruns += 1
            self._cause = self._cause or "overrun"
        if self._stopped.is_set():
            return
        if self.format is None:
            self._begin(stream.format)
        self._queue.put(Block(data, frames, stream.format, arrived_s, available - frames, self._cause))
        self._cause = None

    def _begin(self, stream_format: StreamFormat) -> None:
        self.format = stream_format
        self.opened += 1
        self.had_sound = True
        self.is_stalled = False
        if self.is_waiting:
            self.is_waiting = False
            self._queue.put(Condition("waiting", active=False, detail=f"listening to {stream_format.device}"))

    def _lose(self, why: str) -> None:
        if not self.is_waiting and not self._stopped.is_set():
            self.is_waiting = True
            self._queue.put(Condition("waiting", active=True, detail=f"waiting for the microphone: {why}"))

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        self.calls += 1
        try:
            yield
        finally:
            self.calls += 1


def now_s() -> float:
    """Return seconds on a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
