"""The capture thread: opens the device, reads from it and does nothing else; waits for it where it is away.

Blocks of frames on their way from the capture thread to whoever takes them, in a bounded queue.

Somebody who looks after the capture thread: a call into the sound system may never come back.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.audio.live_source import SourceCondition
from detector.errors import DetectorError, DeviceError
from detector.messages import GapCause

_MOST_CONDITIONS: Final = 100
"""More of them wait only where nobody takes anything any more."""


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """What a stream delivers, and what of it is heard."""

    device: str
    """The device's id."""
    rate_hz: int
    channels: int
    """Interleaved in each frame."""
    column: int | None
    """The channel to hear; None: the mean of all."""


@dataclass(slots=True, eq=False)
class Block:
    """Frames as the device gave them, and how they came."""

    data: memoryview
    frames: int
    format: StreamFormat
    arrived_s: float
    """When they were read, by CLOCK_BOOTTIME."""
    left: int = 0
    """Frames that the device had ready behind them."""
    cause: GapCause | None = None
    """Why sound was lost just before, for as long as the clock tells; None: it was not."""
    dropped: int = 0
    """Frames just before that the queue had no room for, and has dropped."""

    def samples(self) -> NDArray[np.float32]:
        """Return the frames (frames, channels); those of one channel, where one is to be heard."""
        all_channels = np.frombuffer(self.data, np.float32).reshape(self.frames, self.format.channels)
        column = self.format.column
        return all_channels if column is None else all_channels[:, column : column + 1]

    @property
    def seconds(self) -> float:
        """How long the sound is."""
        return self.frames / self.format.rate_hz


class BlockQueue:
    """Holds so many seconds of sound; where more comes, the oldest goes, and the block behind it knows.

    Conditions travel in between, so that the order is that in which things happened.
    """

    def __init__(self, bound_s: float) -> None:
        """Take the length of sound to hold."""
        self._bound_s = bound_s
        self._items: deque[Block | SourceCondition] = deque()
        self._seconds = 0.0
        self._changed = threading.Condition()
        self._overflowing = False
        self._overflows = 0

    @property
    def depth(self) -> float:
        """Share that is filled, 0 to 1."""
        return min(1.0, self._seconds / self._bound_s)

    @property
    def overflows(self) -> int:
        """How many times it has run over, each time counted once however long it lasts."""
        return self._overflows

    def put(self, item: Block | SourceCondition) -> None:
        """Add something at the end; never waits."""
        with self._changed:
            self._items.append(item)
            if isinstance(item, Block):
                self._seconds += item.seconds
                self._drop_oldest()
            elif sum(isinstance(i, SourceCondition) for i in self._items) > _MOST_CONDITIONS:
                self._items.remove(next(i for i in self._items if isinstance(i, SourceCondition)))
            self._changed.notify()

    def take(self, timeout_s: float) -> list[Block | SourceCondition]:
        """Return all that there is, oldest first, waiting that long at most for something to come."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while not self._items and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)
            found = list(self._items)
            self._items.clear()
            self._seconds = 0.0
            self._overflowing = False
            return found

    def _drop_oldest(self) -> None:
        while self._seconds > self._bound_s and (oldest := self._oldest()) is not self._items[-1]:
            self._items.remove(oldest)
            self._seconds -= oldest.seconds
            heir = self._oldest()
            if heir.format != oldest.format:
                heir.cause = heir.cause or "queue"  # frames of another rate do not add up: the clock will tell
            heir.dropped += oldest.dropped + oldest.frames
            heir.cause = heir.cause or oldest.cause
            self._overflows += not self._overflowing
            self._overflowing = True

    def _oldest(self) -> Block:
        return next(item for item in self._items if isinstance(item, Block))


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
        self._cause: GapCause | None = None
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
            self._queue.put(SourceCondition("waiting", active=False, detail=f"listening to {stream_format.device}"))

    def _lose(self, why: str) -> None:
        if not self.is_waiting and not self._stopped.is_set():
            self.is_waiting = True
            self._queue.put(SourceCondition("waiting", active=True, detail=f"waiting for the microphone: {why}"))

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

    def check(self) -> None:
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
                self._queue.put(SourceCondition("waiting", active=True, detail=detail))

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
