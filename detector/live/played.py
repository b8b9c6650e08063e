"""A sound file as a live source: heard at its own pace, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from detector.errors import SourceError
from detector.live.reading import Kind, ReadSource
from detector.messages import AudioChunk
from detector.microphone.news import Sound
from detector.sources import FileSource, in_real_time


class PlayedFile(ReadSource):
    """A live source over a sound file; the stream goes on where the file begins anew."""

    def __init__(self, path: Path | str, model_rate_hz: int, *, loop: bool) -> None:
        """Begin to play; raises SourceError for a file that is missing or no sound, or for a pipe."""
        if Path(path).is_fifo():  # opening it would wait for whoever writes, and there is no second reading of it
            raise SourceError(f"{path}: is a pipe, not a file; hear it with snn-detect replay")
        with closing(FileSource(path, model_rate_hz)) as source:  # to have it refused here, not in the thread
            rate_hz = source.source_rate_hz
        chunks = in_real_time(_chunks(path, model_rate_hz, loop=loop), model_rate_hz)
        sound = (Sound(chunk, time.monotonic()) for chunk in chunks)
        super().__init__(sound, Kind(str(path), rate_hz, 1), model_rate_hz)


def _chunks(path: Path | str, rate_hz: int, *, loop: bool) -> Iterator[AudioChunk]:
    first = 0
    while True:
        end = 0
        with closing(FileSource(path, rate_hz)) as source:
            for chunk in source:
                end = chunk.first_sample + len(chunk.samples)
                yield AudioChunk(chunk.samples, first + chunk.first_sample, chunk.gap)
        if not loop:
            return
        first += end
