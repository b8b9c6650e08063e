"""The figures of a scene at one setting of the decoder: by class, by condition, and what false events were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.statistics import HourlyRate, Rate
from models.events.hearing import Detection, judged_hours
from models.events.matching import COLLAR_S, match, of_label
from models.scenes.folder import EventReference, Scenes, Stream

NOTHING, UNKNOWN = "nothing", "unknown"
"""What a false event was told over: no sound, a sound of no class."""
_LEVELS_DB = (-50, -40, -30, -20, -10)


@dataclass(frozen=True, slots=True)
class Judged:
    """One reference event and what became of it."""

    reference: EventReference
    reports: int
    latency_s: float


@dataclass(frozen=True, slots=True)
class FalseEvent:
    """One false event."""

    label: str
    over: str
    """The class that was heard as it began, ``unknown`` or ``nothing``."""
    background: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """All references and all false events of a scene."""

    judged: tuple[Judged, ...]
    false: tuple[FalseEvent, ...]
    hours: dict[str, float]
    """In which each class is judged."""

    def of(self, label: str) -> list[Judged]:
        """Return the references of a class."""
        return [j for j in self.judged if j.reference.label == label]

    def false_alarms(self, label: str, over: Sequence[str] | None = None) -> HourlyRate:
        """Return a class's false events per hour, of all or only those over something."""
        count = sum(f.label == label and (over is None or f.over in over) for f in self.false)
        return HourlyRate(count, self.hours[label])


def judge(detections: Sequence[Sequence[Detection]], scenes: Scenes, labels: Sequence[str]) -> Outcome:
    """Judge the events of each stream by the rules of ``matching``."""
    judged, false = list[Judged](), list[FalseEvent]()
    for stream, found in zip(scenes.streams, detections, strict=True):
        for label in labels:
            own, references = [d for d in found if d.label == label], of_label(stream.events, label)
            result = match(references, own)
            rows = zip(references, result.reports.tolist(), result.latency_s.tolist(), strict=True)
            judged += [Judged(*row) for row in rows]
            false += [_false(d, stream) for d, is_false in zip(own, result.is_false, strict=True) if is_false]
    return Outcome(tuple(judged), tuple(false), {label: judged_hours(scenes, label) for label in labels})


def found_rate(judged: Sequence[Judged]) -> Rate:
    """Return how many of some references were found."""
    return Rate(sum(j.reports > 0 for j in judged), len(judged))


def latencies_s(judged: Sequence[Judged]) -> NDArray[np.float64]:
    """Return how long after their onset those of some references that were found were told of."""
    return np.array([j.latency_s for j in judged if j.reports > 0])


def reports_per_event(judged: Sequence[Judged]) -> float:
    """Return how many events one found reference brings; not a number where none was found."""
    found = [j.reports for j in judged if j.reports > 0]
    return float(np.mean(found)) if found else float("nan")


def split(judged: Sequence[Judged]) -> Iterator[tuple[str, str, list[Judged]]]:
    """Yield the references by each condition: its name, its value, and those under it."""
    for name, value_of in CONDITIONS.items():
        values: dict[str, list[Judged]] = {}
        for j in judged:
            values.setdefault(value_of(j.reference), []).append(j)
        for value in sorted(values, key=order):
            yield name, value, values[value]


def confusion(outcome: Outcome, labels: Sequence[str]) -> NDArray[np.int64]:
    """Return counts (what was heard, event): labels, unknown and nothing down; labels and "missed" to the right.

    A found reference counts once at its own class, a missed one at "missed", a false event where it began.
    """
    rows = [*labels, UNKNOWN, NOTHING]
    table = np.zeros((len(rows), len(labels) + 1), np.int64)
    for j in outcome.judged:
        row = rows.index(j.reference.label)
        table[row, row if j.reports else len(labels)] += 1
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


def order(value: str) -> tuple[float, str]:
    """Sort by the number that a condition's value begins with, if it does."""
    number = value.removeprefix("below ").partition(" ")[0]
    try:
        return float(number) - value.startswith("below"), value
    except ValueError:
        return float("inf"), value


CONDITIONS: dict[str, Callable[[EventReference], str]] = {
    "snr": lambda e: "over silence" if e.snr_db is None else f"{e.snr_db:g} dB",
    "background": lambda e: e.background,
    "level": _level,
    "source": lambda e: e.source,
    "room": lambda e: "reverberant" if e.reverberant else "dry",
}
