"""Raw samples from a pipe as a live source: whoever writes them waits where the detector is slower."""

from __future__ import annotations

import contextlib
import os
import queue
import select
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal, cast

from detector.messages import AudioChunk
from detector.microphone.levels import Levels
from detector.microphone.news import Figures, News, Sound
from detector.read_ahead import Reader
from detector.sources import PcmSource

_DEPTH: Final = 4
_LOOK_S: Final = 0.2
_JOIN_S: Final = 0.5
_NOTHING_YET: Final[Literal["nothing yet"]] = "nothing yet"


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How raw samples are written."""

    rate_hz: int = 16000
    sample_format: str = "s16le"
    channels: int = 1


class PcmStream:
    """A live source over raw samples on a descriptor.

    Nothing is ever lost here: where the detector has not taken what was read, nothing more is read.
    """

    def __init__(self, descriptor: int, raw: RawFormat, model_rate_hz: int) -> None:
        """Begin to read; the descriptor stays open. Raises ConfigError for a rate, format or number of channels."""
        self._raw, self._rate_hz = raw, model_rate_hz
        self._pipe = _Pipe(descriptor)
        source = PcmSource(cast("BinaryIO", self._pipe), raw.rate_hz, raw.sample_format, raw.channels, model_rate_hz)
        self._reader = Reader(_timed(source), _DEPTH)
        self._levels = Levels(model_rate_hz)
        self._is_over = False
        self._fault: BaseException | None = None
        self._reader.start()

    @property
    def figures(self) -> Figures:
        """How the source is; nothing is ever lost or opened anew."""
        levels, level = self._levels, self._levels.level
        return Figures(
            device="stdin",
            device_rate_hz=self._raw.rate_hz,
            device_channels=self._raw.channels,
            is_open=not self._is_over,
            conditions=levels.active,
            lost_s=0.0,
            overruns=0,
            reopens=0,
            clipped_samples=levels.clipped_samples,
            rms_dbfs=level.rms_dbfs,
            peak_dbfs=level.peak_dbfs,
            dc=level.dc,
            queue_depth=self._reader.ready.qsize() / _DEPTH,
        )

    def take(self, timeout_s: float) -> list[News] | None:
        """Return what has been read, waiting for it at most that long; None behind the end.

        Raises SourceError, behind all that could be heard, for what ``PcmSource`` refuses.
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
        self._pipe.closed.set()
        self._reader.join(_JOIN_S)

    def _next(self, timeout_s: float) -> Sound | BaseException | Literal["nothing yet"] | None:
        try:
            return self._reader.ready.get(block=timeout_s > 0, timeout=timeout_s)
        except queue.Empty:
            return _NOTHING_YET


class _Pipe:
    """Reads a descriptor without ever waiting in a read: such a thread could not be ended."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.closed = threading.Event()

    def read1(self, size: int) -> bytes:
        """Return what there is, at most ``size`` bytes, when there is something; nothing at the end."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        while not self.closed.is_set():
            if poll.poll(1000 * _LOOK_S):
                with contextlib.suppress(BlockingIOError):  # somebody else has taken it
                    return os.read(self._descriptor, size)
        return b""

    read = read1


def _timed(chunks: Iterable[AudioChunk]) -> Iterator[Sound]:
    for chunk in chunks:
        yield Sound(chunk, time.monotonic())
