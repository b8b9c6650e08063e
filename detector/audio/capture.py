"""The capture thread, the bounded queue behind it, and the supervisor that replaces a thread that hangs.

The thread opens the device, reads from it and does nothing else; an absent device it waits for. A call into the
sound system may never return. Most of what listening costs is paid by the block, so blocks are as long as the delay
that they add allows, and the thread wakes up once for each.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from detector.audio.live_source import SourceCondition
from detector.errors import DetectorError, DeviceError
from detector.messages import GapCause
from detector.system import Backoff

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_MAX_CONDITIONS: Final = 100
"""More of them are queued only where the consumer has stopped."""
_BLOCK_S: Final = 0.1
"""The time between two blocks, and the longest that a sample waits for its block to be read."""
_LEAST_BLOCK_S: Final = 0.06
"""So much is read if no more is there: a device delivers in periods, the last of which may be a moment late."""
_LONGEST_BLOCK_S: Final = 0.2
"""A backlog is read in blocks of this length."""
_SHORTEST_NAP_S: Final = 0.005
_NO_FRAMES_S: Final = 5.0
"""A device that delivers nothing for so long is lost; a sound server may need two seconds to begin."""
_SUSPENDED_S: Final = 2.0
"""A pause between two checks of the device that only a suspended machine or a stopped process makes."""
_PAUSE_S: Final = (0.5, 10.0)
"""Shortest and longest pause before a device is opened again."""
_STEADY_S: Final = 30.0
"""A device that delivered for so long is opened again after the shortest pause when it is lost."""
_HUNG_S: Final = 10.0
"""A call that takes so long will not return soon; enumerating all devices may take some seconds."""
_LONGEST_CHECK_S: Final = 1.0
"""The time between two checks counts up to this: the whole process may have been stopped."""
_MAX_ABANDONED: Final = 2
"""So many threads may hang at once; then no other one is started until one returns."""


@dataclass(frozen=True, slots=True)
class StreamFormat:
    """What a stream delivers, and which channels of it are used."""

    device: str
    """The device's id."""
    rate_hz: int
    channels: int
    """Interleaved in each frame."""
    column: int | None
    """The channel to use; None: the mean of all."""


@dataclass(slots=True, eq=False)
class Block:
    """Frames as the device delivered them, with what is known of their arrival."""

    data: memoryview
    frames: int
    format: StreamFormat
    arrived_s: float
    """When they were read, by CLOCK_BOOTTIME."""
    left: int = 0
    """Frames that were available behind them."""
    cause: GapCause | None = None
    """Why samples were lost just before, for a time that the clock gives; None: none were."""
    dropped: int = 0
    """Frames just before that the queue has dropped."""
    lost: int | None = None
    """Frames that were lost just before by the timestamps of the stream; None: those do not say."""

    def samples(self) -> NDArray[np.float32]:
        """Return the frames (frames, channels); (frames, 1) where one channel is to be used."""
        all_channels = np.frombuffer(self.data, np.float32).reshape(self.frames, self.format.channels)
        column = self.format.column
        return all_channels if column is None else all_channels[:, column : column + 1]

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.frames / self.format.rate_hz

    @property
    def is_placed_by_clock(self) -> bool:
        """Whether only the clock says how much was lost before it."""
        return self.cause is not None and self.lost is None


class BlockQueue:
    """Blocks and conditions in order; beyond the bound, the oldest blocks are dropped, which the next one notes."""

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
        """Number of overflows; one that continues counts once."""
        return self._overflows

    def put(self, item: Block | SourceCondition) -> None:
        """Append an item; never blocks."""
        with self._changed:
            self._items.append(item)
            if isinstance(item, Block):
                self._seconds += item.seconds
                self._drop_oldest()
            elif sum(isinstance(i, SourceCondition) for i in self._items) > _MAX_CONDITIONS:
                self._items.remove(next(i for i in self._items if isinstance(i, SourceCondition)))
            self._changed.notify()

    def take(self, timeout_s: float) -> list[Block | SourceCondition]:
        """Return everything, oldest first; wait at most so long for a first item."""
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
            successor = self._oldest()
            by_clock = successor.is_placed_by_clock or oldest.is_placed_by_clock
            if successor.format != oldest.format:
                # Frames of another rate do not add up.
                successor.cause, by_clock = successor.cause or "queue", True
            successor.dropped += oldest.dropped + oldest.frames + (oldest.lost or 0)
            successor.cause = successor.cause or oldest.cause
            successor.lost = None if by_clock else successor.lost or 0
            self._overflows += not self._overflowing
            self._overflowing = True

    def _oldest(self) -> Block:
        return next(item for item in self._items if isinstance(item, Block))


class _StalledError(DeviceError):
    """A device is open and delivers nothing."""


class Stream(Protocol):
    """An open and running device; methods raise DeviceError where it is lost."""

    format: StreamFormat

    def available(self) -> int:
        """Return how many frames can be read without blocking."""

    def read(self, frames: int) -> tuple[memoryview, bool]:
        """Return frames that are available, and whether some were lost before them."""

    def restart(self) -> None:
        """Discard what is buffered, and continue with present sound."""

    def close(self) -> None:
        """Close; never raises."""


class Capture(threading.Thread):
    """Reads a device into a queue until stopped; one that is lost is opened again, with exponential backoff.

    ``calls`` counts the calls into the sound system, which may hang: it is odd within one. The supervisor
    abandons a thread whose count stays odd for too long; the thread then ends as soon as it can.
    """

    noun: ClassVar[str] = "the microphone"
    """What it waits for, in messages."""
    system: ClassVar[str] = "the sound system"
    """What its calls go to, in messages."""
    span_s: ClassVar[float | None] = None
    """Within this time, at least one block is assumed to arrive without delay; None: that of devices."""

    def __init__(self, opener: Callable[[], Any], queue: BlockQueue, before: Capture | None = None) -> None:
        """Take what opens the device, the queue, and the abandoned thread that this one replaces."""
        super().__init__(name="capture", daemon=True)
        self._open, self._queue = opener, queue
        self._stopped = threading.Event()
        pause_s = self.pause_s()
        self._backoff = Backoff(*pause_s, first_s=None if before is None else pause_s[1])
        self._pause_s = 0.0 if before is None else self._backoff.next_s()
        self.is_waiting: bool = before is not None
        """Whether it has reported that it waits for the device."""
        self._cause: GapCause | None = None
        self.had_sound: bool = before is not None and before.had_sound
        self.is_stalled = False
        """Whether the device was last present but delivered nothing."""
        self.format: StreamFormat | None = None
        """Of the stream that delivers; None while none does."""
        self.calls = 0
        self.overruns: int = 0 if before is None else before.overruns
        self.opened: int = 0 if before is None else before.opened
        """Number of streams that have delivered."""

    @classmethod
    def pause_s(cls) -> tuple[float, float]:
        """Return the shortest and the longest pause before a device is opened again."""
        return _PAUSE_S

    @classmethod
    def hung_s(cls) -> float:
        """Return how long a call takes that will not return soon."""
        return _HUNG_S

    def stop(self) -> None:
        """Ask the thread to end; does not block."""
        self._stopped.set()

    def run(self) -> None:
        """Open, read, and open again, until stopped."""
        while not self._stopped.wait(self._pause_s):
            begin_s = now_s()
            try:
                self._capture()
            except DetectorError as error:
                self._lose(str(error))
            except Exception as error:  # noqa: BLE001 - after any error the device has to be opened again
                if not self.is_waiting:
                    _log.exception("the capture thread failed and tries again")
                self._lose(f"{type(error).__name__}: {error}")
            if self.format is not None and now_s() - begin_s > _STEADY_S:
                self._backoff.reset()
            self.format = None
            self._pause_s = self._backoff.next_s()

    def _capture(self) -> None:
        """Read one stream until it is lost or the thread is stopped; raises DeviceError."""
        try:
            stream = self._call(self._open)
        except DetectorError:
            self.is_stalled = False
            raise
        try:
            self._read(stream)
        except _StalledError:
            self.is_stalled = True
            raise
        finally:
            self._call(stream.close)

    def _read(self, stream: Any) -> None:
        """Read what the opener has opened, a ``Stream``, until it is lost or the thread is stopped."""
        self._cause = "device" if self.had_sound else None
        rate_hz = stream.format.rate_hz
        block_frames, least_frames = round(_BLOCK_S * rate_hz), round(_LEAST_BLOCK_S * rate_hz)
        checked_s = fed_s = now_s()
        while not self._stopped.is_set():
            available = self._call(stream.available)
            before_s, checked_s = checked_s, now_s()
            missing = least_frames - available
            if checked_s - before_s > _SUSPENDED_S:
                self._call(stream.restart)
                self._cause = "suspended"
                checked_s = fed_s = now_s()
                continue
            if missing <= 0:
                missing = block_frames - self._pass_on(stream, available)
                fed_s = checked_s
            elif checked_s - fed_s > _NO_FRAMES_S:
                raise _StalledError(f"no sound arrives from {stream.format.device}")
            time.sleep(max(_SHORTEST_NAP_S, missing / rate_hz))

    def _pass_on(self, stream: Stream, available: int) -> int:
        """Read and queue one block, with the cause of a gap before it; return how many frames are left."""
        frames = min(available, round(_LONGEST_BLOCK_S * stream.format.rate_hz))
        data, overrun = self._call(lambda: stream.read(frames))
        arrived_s = now_s()
        if overrun:
            self.overruns += 1
            self._cause = self._cause or "overrun"
        self._deliver(Block(data, frames, stream.format, arrived_s, available - frames, self._cause))
        return available - frames

    def _deliver(self, block: Block) -> None:
        """Queue a block, unless the thread is stopped."""
        if self._stopped.is_set():
            return
        if self.format is None:
            self._begin(block.format)
        self.format = block.format
        self._queue.put(block)
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
            self._queue.put(SourceCondition("waiting", active=True, detail=f"waiting for {self.noun}: {why}"))

    def _call(self, function: Callable[[], _T]) -> _T:
        self.calls += 1
        try:
            return function()
        finally:
            self.calls += 1


def now_s() -> float:
    """Return seconds on a clock that continues while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Supervisor:
    """Keeps one capture thread running, as far as the sound system allows it."""

    def __init__(self, opener: Callable[[], Any], queue: BlockQueue, kind: type[Capture] = Capture) -> None:
        """Start the thread, of a kind that can read what the opener opens."""
        self._opener, self._queue, self._kind = opener, queue, kind
        self._abandoned: list[Capture] = []
        self._calls = 0
        self._hung_s = 0.0
        self._checked_s = time.monotonic()
        self._capture = kind(opener, queue)
        self._capture.start()

    @property
    def format(self) -> StreamFormat | None:
        """Of the stream that delivers; None while none does."""
        return None if self._capture in self._abandoned else self._capture.format

    @property
    def is_stuck(self) -> bool:
        """Whether the device is present, but delivers nothing or a call does not return."""
        if self.format is not None:
            return False
        return self._capture.is_stalled or any(c.is_alive() for c in self._abandoned)

    @property
    def overruns(self) -> int:
        """Number of overruns of the device's buffer."""
        return self._capture.overruns

    @property
    def opened(self) -> int:
        """Number of streams that have delivered."""
        return self._capture.opened

    def check(self) -> None:
        """Abandon a thread that hangs, and start another one; to be called at least every second."""
        if self._capture in self._abandoned:
            self._abandoned = [c for c in self._abandoned if c.is_alive() or c is self._capture]
            if len(self._abandoned) < _MAX_ABANDONED or not self._capture.is_alive():
                self._replace()
        elif self._is_hung():
            self._capture.stop()
            self._abandoned.append(self._capture)
            if not self._capture.is_waiting:
                kind = self._kind
                detail = f"waiting for {kind.noun}: {kind.system} has not answered for {kind.hung_s():.0f} s"
                self._queue.put(SourceCondition("waiting", active=True, detail=detail))

    def close(self, timeout_s: float) -> bool:
        """Stop the thread and wait at most so long for it; False where it hangs."""
        self._capture.stop()
        self._capture.join(timeout_s)
        return not self._capture.is_alive()

    def _replace(self) -> None:
        self._capture = self._kind(self._opener, self._queue, self._capture)
        self._capture.start()
        self._abandoned = [c for c in self._abandoned if c.is_alive()]

    def _is_hung(self) -> bool:
        """Return whether the thread has been in one call for too long."""
        before_s, self._checked_s = self._checked_s, time.monotonic()
        calls = self._capture.calls
        if calls % 2 == 0 or calls != self._calls:
            self._calls, self._hung_s = calls, 0.0
            return False
        self._hung_s += min(_LONGEST_CHECK_S, self._checked_s - before_s)
        return self._hung_s > self._kind.hung_s()
