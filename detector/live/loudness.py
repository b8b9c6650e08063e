"""How loud it has been in the last seconds."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import numpy as np

from detector.messages import AudioChunk
from detector.microphone.levels import FLOOR_DBFS

_PIECE_S: Final = 0.05
_PIECES: Final = 400


class Loudness:
    """Remembers the energy of the last sound, in pieces, at most 20 s and at least 400 chunks of it."""

    def __init__(self, rate_hz: int) -> None:
        """Take the rate of the chunks."""
        self._length = max(1, round(_PIECE_S * rate_hz))
        self._pieces: deque[tuple[int, int, float]] = deque(maxlen=_PIECES)

    def push(self, chunk: AudioChunk) -> None:
        """Take a chunk (n,) at any position."""
        for at in range(0, len(chunk.samples), self._length):
            piece = chunk.samples[at : at + self._length]
            self._pieces.append((chunk.first_sample + at, len(piece), float(np.dot(piece, piece))))

    def dbfs(self, first_sample: int, end_sample: int) -> float | None:
        """Return the level of a stretch of sound, to a twentieth of a second; None where it is forgotten.

        0 dBFS is a square wave at full scale, as for the levels of the source.
        """
        samples, energy = 0, 0.0
        for first, length, square in self._pieces:
            if first < end_sample and first + length > first_sample:
                samples, energy = samples + length, energy + square
        if not samples or not math.isfinite(energy):
            return None
        power = energy / samples
        return round(max(FLOOR_DBFS, 10 * math.log10(power)), 1) if power > 0 else FLOOR_DBFS
