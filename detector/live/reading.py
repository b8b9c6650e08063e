"""A live source that a thread reads ahead a little, from a pipe or from a file."""

from __future__ import annotations

import queue
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from detector.microphone.levels import Levels
from detector.microphone.news import Figures, News, Sound
from detector.read_ahead import Reader

_DEPTH: Final = 4
_JOIN_S: Final = 0.5
_NOTHING_YET: Final[Literal["nothing yet"]] = "nothing yet"


@dataclass(frozen=True, slots=True)
class Kind:
    """What is read."""

    name: str
    rate_hz: int
    channels: int


class ReadSource:
    """A live source over sound that is read, not recorded.

    Nothing is ever lost here: where the detector has not taken what was read, nothing more is read.
    """

    def __init__(self, sound: Iterable[Sound], kind: Kind, model_rate_hz: int) -> None:
        """Begin to read."""
        self._kind = kind
        self._reader = Reader(sound, _DEPTH)
        self._levels = Levels(model_rate_hz)
        self._is_over = False
        self._fault: BaseException | None = None
        self._reader.start()

    @property
    def figures(self) -> Figures:
        """How the source is; nothing is ever lost or opened anew."""
        levels, level = self._levels, self._levels.level
        return Figures(
            device=self._kind.name,
            device_rate_hz=self._kind.rate_hz,
            device_channels=self._kind.channels,
            is_open=not self._is_over,
            conditions=levels.active,
            lost_s=0.0,
            overruns=0,
            reopens=0,
            clipped_samples=levels.clipped_samples,
            rms_dbfs=level.rms_dbfs,
            peak_dbfs=level.peak_dbfs,
            dc=level.dc,
            queue_depth=self._reader.filled,
        )

    def take(self, timeout_s: float) -> list[News] | None:
        """Return what has been read, waiting for it at most that long; None behind the end.

        Raises SourceError, behind all that could be heard, for what the source refuses.
        """
        found: list[News] = []
        # No more than fits into the queue at once: what is read meanwhile would make this endless.
        for _ in range(_DEPTH):
            if self._is_over:
                break
            item = self._next(0.0 if found else timeout_s)
            if isinstance(item, Sound):
                found += [item, *self._levels.push(item.chunk.samples[:, None])]
            elif item == _NOTHING_YET:
                return found
            else:
                self._is_over, self._fault = True, item
        if found:
            return found
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault
        return None

    def close(self) -> None:
        """Read no more."""
        self._is_over = True
        self._reader.stopped.set()
        self._reader.join(_JOIN_S)

    def _next(self, timeout_s: float) -> Sound | BaseException | Literal["nothing yet"] | None:
        try:
            return self._reader.take(timeout_s)
        except queue.Empty:
            return _NOTHING_YET
