"""From the table of a class to its threshold, by a rule that holds what it promises.

A promise is a rate that the 95 % bound of the false alarms does not exceed. With T hours in which
nothing was reported the bound is 3.0 / T, so no fewer than 3.0 / rate hours can promise a rate; fewer
promise 3.0 / T.

The rule goes from the highest threshold downwards, as long as each one holds the promise, and stops
at the first that does not. Going down in a fixed order and stopping there, the bound is good for the
threshold that is chosen, though it was chosen by looking (fixed-sequence testing); and a class that
is on all the time at a low threshold, which is a single event, does not pass for one that is quiet.

Where it has come to is as low as a threshold may be. Without recordings of the class, the model's own
threshold stays if that is higher: an hour of one background says nothing of other sounds, which
the model's own was chosen on. With recordings, as many of them are found over some stretch of the
table; the model's own stays if it lies in there, else the middle is taken, as ``snn-train tune`` does.

What every threshold would have reported: the decoder that ships, run again over kept scores.
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
from detector.statistics import HourlyRate, Rate, most_expected

GRID: Final = (*(round(0.30 + 0.02 * i, 2) for i in range(35)), 0.99)
"""Thresholds that are tried beside each class's own, 0.30 to 0.99."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one threshold does for one class."""

    threshold: float
    alarms: HourlyRate
    """Events in the background."""
    recall: Rate | None
    """Recordings of the class with an event of it; None where there are none."""


def count(store: ScoreStore, manifest: Manifest, advance: Callable[[int], None]) -> dict[str, list[Row]]:
    """Return by label the rows of all thresholds, ascending; ``advance`` is told of frames gone through.

    Scores are not decoded class by class but threshold by threshold: one decoder for each of the
    grid, and one with the model's own.
    """
    tries = [_Try(manifest, threshold) for threshold in (None, *GRID)]
    for stretch in store.stretches():
        for one in tries:
            one.begin(stretch)
        for scores in store.scores(stretch):
            for one in tries:
                one.note([e.label for e in one.decoder.push(scores) if e.kind == "onset"])
            advance(len(scores))
    hours = store.background_hours
    return {c.label: _rows(c.label, c.decoder.on_threshold, tries, hours) for c in manifest.classes}


class _Try:
    """One threshold for all classes (None: each its own), and what came of it."""

    def __init__(self, manifest: Manifest, threshold: float | None) -> None:
        self.threshold = threshold
        classes = [c if threshold is None else with_threshold(c, threshold) for c in manifest.classes]
        self.decoder = EventDecoder(classes, manifest.features.hop_length, manifest.features.frame_length)
        self.alarms: Counter[str] = Counter()
        self.found: dict[tuple[str, str], bool] = {}
        """By label and recording of it."""
        self._target: tuple[str, str] | None = None

    def begin(self, stretch: Segment) -> None:
        self.decoder.reset()
        self._target = None if stretch.label is None else (stretch.label, stretch.source)
        if self._target is not None:
            self.found.setdefault(self._target, False)

    def note(self, labels: Sequence[str]) -> None:
        if self._target is None:
            self.alarms.update(labels)
        elif self._target[0] in labels:
            self.found[self._target] = True


def _rows(label: str, own: float, tries: list[_Try], hours: float) -> list[Row]:
    rows: dict[float, Row] = {}
    for one in tries:
        found = [is_found for (target, _), is_found in one.found.items() if target == label]
        threshold = own if one.threshold is None else one.threshold
        recall = Rate(sum(found), len(found)) if found else None
        rows.setdefault(threshold, Row(threshold, HourlyRate(one.alarms[label], hours), recall))
    return [rows[threshold] for threshold in sorted(rows)]


RULE: Final = (
    "from the highest threshold down to the last whose false alarms have a 95 % bound within the promise; with "
    "recordings of the class the middle of the stretch that finds as many; the model's own where that is no worse"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The threshold of a class."""

    label: str
    own: Row
    """At the model's own threshold."""
    chosen: Row
    is_held: bool
    """Whether the promise holds; where not, the chosen one is the highest there is."""
    rows: tuple[Row, ...]
    """All that were tried, ascending."""


def promise(hours: float, rate_per_hour: float) -> float:
    """Return the lowest rate per hour, no lower than is asked for, that so many hours can promise."""
    return max(rate_per_hour, most_expected(0) / hours)


def hours_needed(rate_per_hour: float) -> float:
    """Return how many hours without a false alarm it takes to promise a rate."""
    return most_expected(0) / rate_per_hour


def choose(label: str, own_threshold: float, rows: Sequence[Row], most_per_hour: float) -> Choice:
    """Choose from rows in ascending order, one of them the model's own, by the rule above."""
    own = next(row for row in rows if row.threshold == own_threshold)
    lowest = len(rows)
    while lowest and rows[lowest - 1].alarms.bound <= most_per_hour:
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
