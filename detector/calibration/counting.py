"""What every threshold would have reported: the decoder that ships, run again over kept scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from detector.calibration.score_store import ScoreStore, Stretch
from detector.decoder import EventDecoder
from detector.manifest import Manifest
from detector.pipeline import with_threshold
from detector.rates import HourlyRate, Rate

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

    def begin(self, stretch: Stretch) -> None:
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
