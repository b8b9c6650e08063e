"""The last sound, in memory."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.messages import AudioChunk, Samples

Pcm = NDArray[np.int16]
"""(samples,): mono, 16 bits."""
_FULL_SCALE: Final = 32768


@dataclass(slots=True)
class Run:
    """Sound without a gap, by positions since the stream began."""

    first: int
    end: int
    """One behind the last sample."""
    is_growing: bool = True
    """Whether the next chunk may go on with it."""


class SoundRing:
    """A bounded memory of sound, filled in one thread and read in another; neither waits for long."""

    def __init__(self, samples: int) -> None:
        """Remember that many samples, in two bytes each."""
        self._sound: Pcm = np.zeros(samples, np.int16)
        self._runs: deque[Run] = deque()
        self._lock = threading.Lock()
        self.stream = 0
        """Grows when positions begin anew: those from before mean nothing then."""

    def push(self, chunk: AudioChunk) -> None:
        """Take a chunk (n,) of any length; the oldest sound makes room."""
        pcm = _quantised(chunk.samples)
        end = chunk.first_sample + len(pcm)
        with self._lock:
            self._follow_on(chunk)
            kept = pcm[-len(self._sound) :]
            at = (end - len(kept)) % len(self._sound)
            head = min(len(kept), len(self._sound) - at)
            self._sound[at : at + head] = kept[:head]
            self._sound[: len(kept) - head] = kept[head:]
            self._runs[-1].end = end
            oldest = end - len(self._sound)
            while len(self._runs) > 1 and self._runs[0].end <= oldest:
                self._runs.popleft()
            self._runs[0].first = max(self._runs[0].first, oldest)

    def run_from(self, sample: int) -> Run | None:
        """Return the run that a sample belongs to, or that came next after it; None where there is none."""
        with self._lock:
            for run in self._runs:
                if run.end > sample:
                    return Run(run.first, run.end, run is self._runs[-1])
        return None

    def read(self, first: int, end: int) -> Pcm:
        """Return a copy of the samples of a run from ``first`` on, up to ``end``; fewer where some are gone."""
        with self._lock:
            newest = self._runs[-1].end if self._runs else 0
            first = max(first, newest - len(self._sound))
            return self._sound.take(np.arange(first, min(end, newest)), mode="wrap")

    def _follow_on(self, chunk: AudioChunk) -> None:
        """Begin a run where the chunk does not go on with the last one."""
        last = self._runs[-1] if self._runs else None
        if last is not None and chunk.first_sample < last.end:
            self._runs.clear()
            self.stream += 1
            last = None
        if last is None or chunk.gap or chunk.first_sample > last.end:
            self._runs.append(Run(chunk.first_sample, chunk.first_sample))


def _quantised(samples: Samples) -> Pcm:
    with np.errstate(invalid="ignore"):  # what is no number becomes some sample, as good as any other
        return np.clip(np.rint(samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
