"""Raw samples from a pipe as a live source: whoever writes them waits where the detector is slower."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, cast

from detector.live.reading import Kind, ReadSource
from detector.messages import AudioChunk
from detector.microphone.news import Sound
from detector.sources import PcmSource

_POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class RawFormat:
    """How raw samples are written."""

    rate_hz: int = 16000
    sample_format: str = "s16le"
    channels: int = 1


class PcmStream(ReadSource):
    """A live source over raw samples on a descriptor."""

    def __init__(self, descriptor: int, raw: RawFormat, model_rate_hz: int) -> None:
        """Begin to read; the descriptor stays open. Raises ConfigError for a rate, format or number of channels."""
        self._pipe = _Pipe(descriptor)
        source = PcmSource(cast("BinaryIO", self._pipe), raw.rate_hz, raw.sample_format, raw.channels, model_rate_hz)
        super().__init__(_timed(source), Kind("stdin", raw.rate_hz, raw.channels), model_rate_hz)

    def close(self) -> None:
        """Read no more."""
        self._pipe.closed.set()
        super().close()


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
            if poll.poll(1000 * _POLL_S):
                with contextlib.suppress(BlockingIOError):  # somebody else has taken it
                    return os.read(self._descriptor, size)
        return b""

    read = read1


def _timed(chunks: Iterable[AudioChunk]) -> Iterator[Sound]:
    for chunk in chunks:
        yield Sound(chunk, time.monotonic())
