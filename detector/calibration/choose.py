"""Choosing the threshold of a class from its table of false alarms, so that a promised rate holds.

A promise is a rate that the 95 % upper bound of the false alarms does not exceed. After T hours without
a false alarm the bound is 3.0 / T, so that promising a rate takes at least 3.0 / rate hours; fewer hours
promise 3.0 / T.

The rule goes from the highest threshold downwards while each one holds the promise, and stops at the
first that does not. Because of the fixed order the bound is valid for the chosen threshold, although it
was chosen by looking at the data (fixed-sequence testing); and a class that is on all the time at a low
threshold, which is a single event, does not pass for a quiet one.

The last threshold that holds is the lowest that is acceptable. Without recordings of the class, the
model's own threshold stays if it is higher: an hour of one background says nothing about other sounds,
which the model's own was chosen on. With recordings, several thresholds may find as many of them; the
model's own stays if it is among these, else the middle one is chosen, as ``snn-train tune`` does.

Scores are decoded again at every threshold, by the decoder that ships.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from detector.calibration.measure import ScoreStore, Segment
from detector.decoder import EventDecoder
from detector.manifest import Manifest
from detector.pipeline import with_threshold
from detector.statistics import HourlyRate, Rate, poisson_upper_bound

GRID: Final = (*(round(0.30 + 0.02 * i, 2) for i in range(35)), 0.99)
"""Thresholds, 0.30 to 0.99, that are evaluated in addition to each class's own."""
RULE: Final = (
    "from the highest threshold down to the last whose false alarms have a 95 % bound within the promise; with "
    "recordings of the class the middle of those that find as many; the model's own where that is no worse"
)


@dataclass(frozen=True, slots=True)
class Row:
    """What one threshold does for one class."""

    threshold: float
    alarms: HourlyRate
    """Events in the background."""
    recall: Rate | None
    """Recordings of the class with an event of it; None without recordings."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen threshold of a class."""

    label: str
    own: Row
    """At the model's own threshold."""
    chosen: Row
    is_held: bool
    """Whether the promise holds; if not, ``chosen`` is the highest threshold."""
    rows: tuple[Row, ...]
    """All thresholds, ascending."""


def promise(hours: float, rate_per_hour: float) -> float:
    """Return the lowest rate per hour, no lower than the requested one, that so many hours can promise."""
    return max(rate_per_hour, poisson_upper_bound(0) / hours)


def hours_needed(rate_per_hour: float) -> float:
    """Return the hours without a false alarm that it takes to promise a rate."""
    return poisson_upper_bound(0) / rate_per_hour


def choose(label: str, own_threshold: float, rows: Sequence[Row], max_per_hour: float) -> Choice:
    """Choose from rows in ascending order, one of them the model's own, by ``RULE``."""
    own = next(row for row in rows if row.threshold == own_threshold)
    lowest = len(rows)
    while lowest and rows[lowest - 1].alarms.bound <= max_per_hour:
        lowest -= 1
    held = rows[lowest:]
    if not held:
        return Choice(label, own, rows[-1], is_held=False, rows=tuple(rows))
    first = held[0]
    if first.recall is None:
        chosen = max(first, own, key=lambda row: row.threshold)
    else:
        alike = [row for row in held if row.recall is not None and row.recall.hits == first.recall.hits]
        chosen = own if own in alike else alike[len(alike) // 2]
    return Choice(label, own, chosen, is_held=True, rows=tuple(rows))


def count(store: ScoreStore, manifest: Manifest, advance: Callable[[int], None]) -> dict[str, list[Row]]:
    """Return the rows of all thresholds, ascending, by label; ``advance`` receives the numbers of decoded frames.

    There is one decoder for all classes at each threshold of the grid, and one at the model's own.
    """
    trials = [_Trial(manifest, threshold) for threshold in (None, *GRID)]
    for segment in store.segments():
        for trial in trials:
            trial.begin(segment)
        for scores in store.scores(segment):
            for trial in trials:
                trial.add([e.label for e in trial.decoder.push(scores) if e.kind == "onset"])
            advance(len(scores))
    hours = store.background_hours
    return {c.label: _rows(c.label, c.decoder.on_threshold, trials, hours) for c in manifest.classes}


class _Trial:
    """A decoder at one threshold for all classes (None: each its own), and the events it gives."""

    def __init__(self, manifest: Manifest, threshold: float | None) -> None:
        self.threshold = threshold
        classes = [c if threshold is None else with_threshold(c, threshold) for c in manifest.classes]
        self.decoder = EventDecoder(classes, manifest.features.hop_length, manifest.features.frame_length)
        self.alarms: Counter[str] = Counter()
        self.found: dict[tuple[str, str], bool] = {}
        """By label and recording of it."""
        self._target: tuple[str, str] | None = None

    def begin(self, segment: Segment) -> None:
        self.decoder.reset()
        self._target = None if segment.label is None else (segment.label, segment.source)
        if self._target is not None:
            self.found.setdefault(self._target, False)

    def add(self, labels: Sequence[str]) -> None:
        if self._target is None:
            self.alarms.update(labels)
        elif self._target[0] in labels:
            self.found[self._target] = True


def _rows(label: str, own: float, trials: list[_Trial], hours: float) -> list[Row]:
    rows: dict[float, Row] = {}
    for trial in trials:
        found = [is_found for (target, _), is_found in trial.found.items() if target == label]
        threshold = own if trial.threshold is None else trial.threshold
        recall = Rate(sum(found), len(found)) if found else None
        rows.setdefault(threshold, Row(threshold, HourlyRate(trial.alarms[label], hours), recall))
    return [rows[threshold] for threshold in sorted(rows)]
