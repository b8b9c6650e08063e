"""Matching of events to references: misses, false alarms, latency, by condition and over all thresholds.

For each class by itself, with every reference extended by a collar of half a second on both sides:

    found    an event of its class begins in the extended reference
    reports  number of events that begin in it
    false    an event that overlaps no extended reference of its class
    neither  an event that began before a reference and extends into it

So a never-ending event does not find everything. References of a class are more than ``models.data.segments.JOIN_S``
apart, so that extended ones do not overlap. Curves of miss rate against false alarms per hour decode the stored scores
by the runtime's decoder, threshold by threshold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from detector.manifest import ClassSpec, Manifest
from detector.messages import Scores
from detector.pipeline import with_threshold
from detector.statistics import HourlyRate, Rate
from models.console import progress
from models.evaluation.inference import Detection, ScenePredictions, decode, evaluated_hours
from models.scenes.folder import EventReference, Scenes, Stream

COLLAR_S = 0.5
NOTHING, UNKNOWN = "nothing", "unknown"
"""What a false event coincides with: no sound, or an out-of-class sound."""
_LEVELS_DB = (-50, -40, -30, -20, -10)
THRESHOLD_GRID = (
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
"""On-thresholds of the curves; off-thresholds keep their ratio."""
Events = tuple[tuple[Detection, ...], ...]
"""Of each stream."""


@dataclass(frozen=True, slots=True)
class Match:
    """References and events of one class in one stream, matched; both in order of time."""

    reports: NDArray[np.int64]
    """For each reference."""
    latency_s: NDArray[np.float64]
    """For each reference, from its onset to the emission of the first event that begins in it; NaN if missed."""
    is_false: NDArray[np.bool_]
    """For each event."""

    @property
    def found(self) -> NDArray[np.bool_]:
        """For each reference, whether it was found."""
        return np.asarray(self.reports > 0)


def match(references: Sequence[EventReference], detections: Sequence[Detection]) -> Match:
    """Match the references and the events of one class, each sorted by onset and without overlaps of its own."""
    onsets = np.array([r.onset_s for r in references])
    offsets = np.array([r.offset_s for r in references])
    begins = np.array([d.onset_s for d in detections])
    ends = np.array([d.offset_s for d in detections])
    emitted = np.array([d.emitted_s for d in detections])
    firsts = np.searchsorted(begins, onsets - COLLAR_S, "left")
    lasts = np.searchsorted(begins, offsets + COLLAR_S, "right")
    reports = np.maximum(0, lasts - firsts)
    latency = np.full(onsets.size, np.nan)
    if begins.size:
        earliest = emitted[np.minimum(firsts, begins.size - 1)]
        latency = np.where(reports > 0, earliest - onsets, np.nan)
    # An event overlaps no reference if as many end before it begins as begin before it ends.
    before = np.searchsorted(offsets + COLLAR_S, begins, "left")
    begun = np.searchsorted(onsets - COLLAR_S, ends, "right")
    return Match(np.asarray(reports, np.int64), latency, np.asarray(before == begun))


def of_label(items: Sequence[EventReference], label: str) -> list[EventReference]:
    """Return the references of one class."""
    return [item for item in items if item.label == label]


@dataclass(frozen=True, slots=True)
class MatchedReference:
    """One reference event with the events that match it."""

    reference: EventReference
    reports: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class FalseEvent:
    """One false event."""

    label: str
    over: str
    """The class present at its onset, ``unknown`` or ``nothing``."""
    background: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """All references and false events of a scene."""

    matched: tuple[MatchedReference, ...]
    false: tuple[FalseEvent, ...]
    hours: dict[str, float]
    """In which each class is evaluated."""

    def of(self, label: str) -> list[MatchedReference]:
        """Return the references of a class."""
        return [m for m in self.matched if m.reference.label == label]

    def false_alarms(self, label: str, over: Sequence[str] | None = None) -> HourlyRate:
        """Return a class's false alarms per hour, all or only those that coincide with one of ``over``."""
        count = sum(f.label == label and (over is None or f.over in over) for f in self.false)
        return HourlyRate(count, self.hours[label])


def evaluate_detections(detections: Sequence[Sequence[Detection]], scenes: Scenes, labels: Sequence[str]) -> Outcome:
    """Match the events of each stream."""
    matched, false = list[MatchedReference](), list[FalseEvent]()
    for stream, found in zip(scenes.streams, detections, strict=True):
        for label in labels:
            own, references = [d for d in found if d.label == label], of_label(stream.events, label)
            result = match(references, own)
            rows = zip(references, result.reports.tolist(), result.latency_s.tolist(), strict=True)
            matched += [MatchedReference(*row) for row in rows]
            false += [_false(d, stream) for d, is_false in zip(own, result.is_false, strict=True) if is_false]
    return Outcome(tuple(matched), tuple(false), {label: evaluated_hours(scenes, label) for label in labels})


def found_rate(matched: Sequence[MatchedReference]) -> Rate:
    """Return the share of references that were found."""
    return Rate(sum(m.reports > 0 for m in matched), len(matched))


def latencies_s(matched: Sequence[MatchedReference]) -> NDArray[np.float64]:
    """Return the latencies of the references that were found."""
    return np.array([m.latency_s for m in matched if m.reports > 0])


def reports_per_event(matched: Sequence[MatchedReference]) -> float:
    """Return the mean number of events per found reference; NaN where none was found."""
    found = [m.reports for m in matched if m.reports > 0]
    return float(np.mean(found)) if found else float("nan")


def split_by_condition(matched: Sequence[MatchedReference]) -> Iterator[tuple[str, str, list[MatchedReference]]]:
    """Yield, for each condition and value: name, value, and the references under it."""
    for name, value_of in CONDITIONS.items():
        values: dict[str, list[MatchedReference]] = {}
        for m in matched:
            values.setdefault(value_of(m.reference), []).append(m)
        for value in sorted(values, key=condition_order):
            yield name, value, values[value]


def confusion(outcome: Outcome, labels: Sequence[str]) -> NDArray[np.int64]:
    """Return counts (reference, event): rows are labels, unknown and nothing, columns are labels and "missed".

    A found reference counts once, at its own class, a missed one at "missed", a false event where it began.
    """
    rows = [*labels, UNKNOWN, NOTHING]
    table = np.zeros((len(rows), len(labels) + 1), np.int64)
    for m in outcome.matched:
        row = rows.index(m.reference.label)
        table[row, row if m.reports else len(labels)] += 1
    for (label, over), count in Counter((f.label, f.over) for f in outcome.false).items():
        table[rows.index(over), labels.index(label)] += count
    return table


def background_hours(scenes: Scenes) -> dict[str, float]:
    """Return the hours of each background."""
    hours: dict[str, float] = {}
    for stream in scenes.streams:
        for span in stream.spans:
            hours[span.background] = hours.get(span.background, 0.0) + (span.offset_s - span.onset_s) / 3600
    return hours


def condition_order(value: str) -> tuple[float, str]:
    """Return a sort key: the number that a condition's value begins with, if any."""
    number = value.removeprefix("below ").partition(" ")[0]
    try:
        return float(number) - value.startswith("below"), value
    except ValueError:
        return float("inf"), value


@dataclass(frozen=True, slots=True)
class Curve:
    """One class over the threshold grid."""

    label: str
    hours: float
    """In which the class is evaluated."""
    thresholds: NDArray[np.float64]
    reports: NDArray[np.int64]
    """(thresholds, references): events that begin in each reference, streams in their order."""
    false_alarms: NDArray[np.int64]
    """(thresholds,)."""
    latency_s: NDArray[np.float64]
    """(thresholds, references); NaN where missed."""

    def operating_point(self, max_per_hour: float) -> int | None:
        """Return the grid index with the lowest miss rate at no more false alarms per hour; None where there is none.

        Ties are resolved by fewer false alarms, then by the higher threshold.
        """
        allowed = np.flatnonzero(self.false_alarms <= max_per_hour * self.hours)
        if not allowed.size:
            return None
        missed = (self.reports[allowed] == 0).sum(axis=1)
        order = np.lexsort((-self.thresholds[allowed], self.false_alarms[allowed], missed))
        return int(allowed[order[0]])

    def rate(self, index: int) -> HourlyRate:
        """Return the false alarms at a grid index."""
        return HourlyRate(int(self.false_alarms[index]), self.hours)


def sweep(predictions: ScenePredictions, processes: int = 2) -> list[Events]:
    """Return the events of each stream at each threshold of the grid, which all classes share."""
    work = partial(_at_threshold, predictions.manifest, predictions.scores)
    with ProcessPoolExecutor(processes) as pool:
        found = pool.map(work, THRESHOLD_GRID)
        return list(progress(found, "curves", "thresholds", len(THRESHOLD_GRID)))


def curves(events: Sequence[Events], scenes: Scenes, labels: Sequence[str]) -> dict[str, Curve]:
    """Return the curve of each class, from the events of a sweep."""
    return {label: _curve(label, events, scenes) for label in labels}


def _false(detection: Detection, stream: Stream) -> FalseEvent:
    over = next((e.label for e in stream.events if _is_on(e, detection.onset_s)), None)
    if over is None:
        over = UNKNOWN if any(_is_on(e, detection.onset_s) for e in stream.unknown) else NOTHING
    behind = [s.background for s in stream.spans if s.onset_s <= detection.onset_s]
    return FalseEvent(detection.label, over, behind[-1])


def _is_on(event: EventReference, time_s: float) -> bool:
    return event.onset_s - COLLAR_S <= time_s <= event.offset_s + COLLAR_S


def _level(event: EventReference) -> str:
    lower = max((edge for edge in _LEVELS_DB if edge <= event.level_db), default=None)
    return f"below {_LEVELS_DB[0]} dBFS" if lower is None else f"{lower} dBFS and above"


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
        evaluated_hours(scenes, label),
        np.array(THRESHOLD_GRID),
        np.array(reports),
        np.array(false_alarms),
        np.array(latencies),
    )


def _at_threshold(manifest: Manifest, scores: Sequence[Scores], threshold: float) -> Events:
    classes: list[ClassSpec] = [with_threshold(c, threshold) for c in manifest.classes]
    return tuple(tuple(decode(classes, manifest, s)) for s in scores)


CONDITIONS: dict[str, Callable[[EventReference], str]] = {
    "snr": lambda e: "over silence" if e.snr_db is None else f"{e.snr_db:g} dB",
    "background": lambda e: e.background,
    "level": _level,
    "source": lambda e: e.source,
    "room": lambda e: "reverberant" if e.reverberant else "dry",
}
