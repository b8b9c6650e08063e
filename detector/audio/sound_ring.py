"""The last seconds of sound, in memory."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detector.messages import AudioChunk, Samples

Pcm: TypeAlias = NDArray[np.int16]
"""(samples,): mono, 16 bits."""
_FULL_SCALE: Final = 32768


@dataclass(slots=True)
class Segment:
    """Sound without a gap, by positions since the stream began."""

    first: int
    end: int
    """One behind the last sample."""
    is_growing: bool = True
    """Whether the next chunk may continue it."""


class SoundRing:
    """A ring buffer of sound, written in one thread and read in another; the lock is held for a copy at most."""

    def __init__(self, samples: int) -> None:
        """Keep that many samples, in two bytes each."""
        self._sound: Pcm = np.zeros(samples, np.int16)
        self._segments: deque[Segment] = deque()
        self._lock = threading.Lock()
        self.stream = 0
        """Incremented when positions restart: those from before are meaningless then."""

    def push(self, chunk: AudioChunk) -> None:
        """Add a chunk (n,) of any length; the oldest samples are overwritten."""
        pcm = _quantised(chunk.samples)
        end = chunk.first_sample + len(pcm)
        with self._lock:
            self._start_segment(chunk)
            kept = pcm[-len(self._sound) :]
            at = (end - len(kept)) % len(self._sound)
            head = min(len(kept), len(self._sound) - at)
            self._sound[at : at + head] = kept[:head]
            self._sound[: len(kept) - head] = kept[head:]
            self._segments[-1].end = end
            oldest = end - len(self._sound)
            while len(self._segments) > 1 and self._segments[0].end <= oldest:
                self._segments.popleft()
            self._segments[0].first = max(self._segments[0].first, oldest)

    def segment_from(self, sample: int, stream: int) -> Segment | None:
        """Return the segment that a sample belongs to, else the next one; None without, or in another stream."""
        with self._lock:
            for segment in self._segments if stream == self.stream else ():
                if segment.end > sample:
                    return Segment(segment.first, segment.end, segment is self._segments[-1])
        return None

    def read(self, first: int, end: int, stream: int) -> Pcm:
        """Return a copy of the samples of a segment from ``first`` on, up to ``end``; fewer where some are gone."""
        with self._lock:
            newest = self._segments[-1].end if self._segments and stream == self.stream else 0
            first = max(first, newest - len(self._sound))
            return self._sound.take(np.arange(first, min(end, newest)), mode="wrap")

    def _start_segment(self, chunk: AudioChunk) -> None:
        """Start a segment where the chunk does not continue the last one."""
        last = self._segments[-1] if self._segments else None
        if last is not None and chunk.first_sample < last.end:
            self._segments.clear()
            self.stream += 1
            last = None
        if last is None or chunk.gap or chunk.first_sample > last.end:
            self._segments.append(Segment(chunk.first_sample, chunk.first_sample))


def _quantised(samples: Samples) -> Pcm:
    with np.errstate(invalid="ignore"):  # NaN becomes an arbitrary sample
        return np.clip(np.rint(samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
