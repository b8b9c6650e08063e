"""What has been done since the process began."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from detector.sinks.sink import Record

_DURATIONS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


@dataclass(slots=True)
class Tally:
    """Counts of the engines of a process, one after another."""

    samples: Counter[int] = field(default_factory=Counter)
    """Samples that were worked off, by their rate in Hz."""
    busy_ns: int = 0
    """Time that it took."""
    frames: int = 0
    """Frames that the network has judged."""
    gaps: int = 0
    """Resets because sound was lost."""
    repairs: int = 0
    """Resets because the network gave what is no number."""
    sounds: int = 0
    """Onsets reported."""
    last_onset: Record | None = None
    _durations: list[int] = field(default_factory=lambda: [0] * (len(_DURATIONS_S) + 1))

    @property
    def heard_s(self) -> float:
        """Length of the sound that was worked off."""
        return sum(count / rate for rate, count in self.samples.items())

    @property
    def busy_s(self) -> float:
        """Seconds that it took."""
        return self.busy_ns / 1e9

    def add(self, samples: int, rate_hz: int, frames: int, taken_ns: int) -> None:
        """Count a chunk of so many samples that became so many frames."""
        self.samples[rate_hz] += samples
        self.frames += frames
        self.busy_ns += taken_ns
        self._durations[bisect_left(_DURATIONS_S, taken_ns / 1e9)] += 1

    def inference(self) -> dict[str, Any]:
        """Return how many chunks took at most how long: bounds, cumulative counts and the sum."""
        counts = list(itertools.accumulate(self._durations))
        return {"le_s": list(_DURATIONS_S), "counts": counts, "sum_s": round(self.busy_s, 6)}
