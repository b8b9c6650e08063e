"""Blocks of frames on their way from the capture thread to whoever takes them, in a bounded queue."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.microphone.news import Cause, Condition

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
    cause: Cause | None = None
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
        self._items: deque[Block | Condition] = deque()
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

    def put(self, item: Block | Condition) -> None:
        """Add something at the end; never waits."""
        with self._changed:
            self._items.append(item)
            if isinstance(item, Block):
                self._seconds += item.seconds
                self._drop_oldest()
            elif sum(isinstance(i, Condition) for i in self._items) > _MOST_CONDITIONS:
                self._items.remove(next(i for i in self._items if isinstance(i, Condition)))
            self._changed.notify()

    def take(self, timeout_s: float) -> list[Block | Condition]:
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
