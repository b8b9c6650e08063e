"""Miss rate against false alarms per hour: the decoder that ships over stored scores, threshold by threshold."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from detector.manifest import ClassSpec, Manifest
from detector.messages import Scores
from detector.pipeline import with_threshold
from detector.statistics import HourlyRate
from models.events.hearing import Detection, Heard, decode, judged_hours
from models.events.matching import match, of_label
from models.scenes.folder import Scenes

GRID = (
    *(round(0.02 * i, 2) for i in range(1, 49)),
    0.97,
    0.98,
    0.985,
    0.99,
    0.993,
    0.995,
    0.997,
    0.998,
    0.999,
)
"""On-thresholds that are tried; off-thresholds keep their proportion."""
Events = tuple[tuple[Detection, ...], ...]
"""Of each stream."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One class over the grid."""

    label: str
    hours: float
    """In which the class is judged."""
    thresholds: NDArray[np.float64]
    reports: NDArray[np.int64]
    """(thresholds, references): events that begin in each reference, streams in their order."""
    false_alarms: NDArray[np.int64]
    """(thresholds,)."""
    latency_s: NDArray[np.float64]
    """(thresholds, references); NaN where missed."""

    def point(self, most_per_hour: float) -> int | None:
        """Return the place in the grid with the lowest miss rate at no more false alarms per hour; None: there is none.

        Of several, the one with the fewest false alarms, and of those the highest threshold.
        """
        allowed = np.flatnonzero(self.false_alarms <= most_per_hour * self.hours)
        if not allowed.size:
            return None
        missed = (self.reports[allowed] == 0).sum(axis=1)
        order = np.lexsort((-self.thresholds[allowed], self.false_alarms[allowed], missed))
        return int(allowed[order[0]])

    def rate(self, place: int) -> HourlyRate:
        """Return the false alarms at a place in the grid."""
        return HourlyRate(int(self.false_alarms[place]), self.hours)


def sweep(heard: Heard, processes: int = 2) -> list[Events]:
    """Return the events of each stream at each threshold of the grid, every class at the same one."""
    work = partial(_at_threshold, heard.manifest, heard.scores)
    with ProcessPoolExecutor(processes) as pool:
        found = pool.map(work, GRID)
        return list(tqdm(found, total=len(GRID), unit="threshold", desc="curves", leave=False, disable=None))


def curves(events: Sequence[Events], scenes: Scenes, labels: Sequence[str]) -> dict[str, Curve]:
    """Return the curve of each class from the events of a sweep."""
    return {label: _curve(label, events, scenes) for label in labels}


def _curve(label: str, events: Sequence[Events], scenes: Scenes) -> Curve:
    reports, latencies, false_alarms = [], [], []
    references = [of_label(stream.events, label) for stream in scenes.streams]
    for by_stream in events:
        matches = [
            match(refs, [d for d in found if d.label == label])
            for refs, found in zip(references, by_stream, strict=True)
        ]
        reports.append(np.concatenate([m.reports for m in matches]))
        latencies.append(np.concatenate([m.latency_s for m in matches]))
        false_alarms.append(sum(int(m.is_false.sum()) for m in matches))
    return Curve(
        label,
        judged_hours(scenes, label),
        np.array(GRID),
        np.array(reports),
        np.array(false_alarms),
        np.array(latencies),
    )


def _at_threshold(manifest: Manifest, scores: Sequence[Scores], threshold: float) -> Events:
    classes: list[ClassSpec] = [with_threshold(c, threshold) for c in manifest.classes]
    return tuple(tuple(decode(classes, manifest, s)) for s in scores)
