"""One class of the event decoder over time: the rules of hysteresis, durations and refractory time."""

from __future__ import annotations

from typing import Literal

import numpy as np

from detector.manifest import DecoderParams


class Track:
    """One class over time: closed, or open between an onset and its offset."""

    def __init__(self, params: DecoderParams) -> None:
        self._on = float(np.float32(params.on_threshold))
        self._off = float(np.float32(params.off_threshold))
        self._min_on, self._min_off = params.min_on_frames, params.min_off_frames
        self._refractory = params.refractory_frames
        self._free_from = 0
        self._is_open = False
        # Frames in a row that speak for the other state.
        self._run = 0
        # The sound from the first frame of its run to the last frame at or above the off-threshold.
        self.first = self.last = 0
        self.peak = self._sum = self._sum_to_last = 0.0

    @property
    def is_active(self) -> bool:
        """Whether a score below the on-threshold can change anything."""
        return self._is_open or self._run > 0

    @property
    def mean(self) -> float:
        """Mean score of the sound, dips included."""
        return self._sum_to_last / (self.last - self.first + 1)

    def step(self, frame: int, score: float) -> Literal["onset", "offset"] | None:
        """Take the smoothed score of a frame, in the order of the frames."""
        if self._is_open:
            return self._step_open(frame, score)
        if score < self._on or frame < self._free_from:
            self._run = 0
            return None
        if not self._run:
            self.first, self.peak, self._sum = frame, 0.0, 0.0
        self._run += 1
        self._take(frame, score)
        if self._run < self._min_on:
            return None
        self._is_open, self._run = True, 0
        return "onset"

    def _step_open(self, frame: int, score: float) -> Literal["offset"] | None:
        if score >= self._off:
            self._run = 0
            self._take(frame, score)
            return None
        self._run += 1
        self._sum += score
        if self._run < self._min_off:
            return None
        self.close(frame)
        return "offset"

    def close(self, frame: int) -> None:
        """End what is open or about to open; an offset sent in this frame begins the refractory time."""
        if self._is_open:
            self._free_from = frame + 1 + self._refractory
        self._is_open, self._run = False, 0

    def _take(self, frame: int, score: float) -> None:
        self.last, self.peak = frame, max(self.peak, score)
        self._sum += score
        self._sum_to_last = self._sum
