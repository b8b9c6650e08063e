"""All that can be wrong with the sound of an open device."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.microphone.levels import Latch, Levels
from detector.microphone.news import Condition, ConditionName

_OFF_PACE: Final = (0.03, 0.015)
"""How far from the device's rate frames come when that is told, and when it is over; crystals keep to 0.001."""


class Checks:
    """Levels and rate of one device, from its opening to its end."""

    def __init__(self, rate_hz: int) -> None:
        """Take the rate that the device claims."""
        self.levels = Levels(rate_hz)
        self._rate = RateWatch(rate_hz)

    @property
    def active(self) -> tuple[ConditionName, ...]:
        """The conditions that hold."""
        return self.levels.active + (("wrong_rate",) if self._rate.active else ())

    def push(self, frames: NDArray[np.float32], pace: float) -> list[Condition]:
        """Take frames (frames, channels) and the pace at which they come; return what begins or ends with them."""
        return self.levels.push(frames) + self._rate.push(pace)

    def end(self) -> list[Condition]:
        """Return the ends of the conditions that hold: the device is gone."""
        return [Condition(name, active=False, detail="the microphone is away") for name in self.active]


class RateWatch:
    """Compares the rate at which frames come with the one that the device claims."""

    def __init__(self, rate_hz: int) -> None:
        """Take the rate that the device claims."""
        self._rate_hz = rate_hz
        self._latch = Latch(2, 2)
        self._seen = self._seen_before = 1.0

    @property
    def active(self) -> bool:
        """Whether the rate is wrong."""
        return self._latch.active

    def push(self, pace: float) -> list[Condition]:
        """Take the pace of the last seconds (see ``Timeline.pace``); the same one again is no second look."""
        if pace == self._seen:
            return []
        self._seen_before, self._seen = self._seen, pace
        off = abs(pace - 1)
        # Too slow and then too fast is no rate, but sound that came late.
        goes_on = (pace > 1) == (self._seen_before > 1)
        if not self._latch.look(begins=goes_on and off > _OFF_PACE[0], ends=off < _OFF_PACE[1]):
            return []
        if not self._latch.active:
            return [Condition("wrong_rate", active=False, detail="frames come at the right rate again")]
        text = f"{pace * self._rate_hz:.0f} frames a second come instead of {self._rate_hz}"
        return [Condition("wrong_rate", active=True, detail=f"{text}: set audio.rate_hz, or use another device")]
