"""Thresholds chosen from what was measured, the settings that hold them, and the report on both."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detector.calibration.measure import ScoreStore, Segment
from detector.config.loading import Configuration, toml_key, toml_value
from detector.config.sections import Calibration
from detector.config.settings import Settings
from detector.decoder import EventDecoder
from detector.errors import ConfigError
from detector.manifest import Manifest
from detector.pipeline import with_threshold
from detector.statistics import HourlyRate, Rate, poisson_upper_bound
from detector.system import FileKind, write_text

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


FILE_NAME: Final = "50-calibration{}.toml"
FRAGMENT: Final = FileKind("a calibration", re.compile(rb"(\s|#[^\n]*\n)*\[(sources\.[\w-]+\.)?calibration\]"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The results of a calibration."""

    calibration: Calibration
    choices: tuple[Choice, ...]
    card: Mapping[str, float]
    """Recall by label in the model's own test, at its own threshold; classes may be missing."""
    fragment: Path | None
    """File that the settings were written to."""
    is_interrupted: bool


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return everything as one JSON document."""
    return {
        "v": 1,
        "calibration": outcome.calibration.model_dump(mode="json"),
        "interrupted": outcome.is_interrupted,
        "fragment": None if outcome.fragment is None else str(outcome.fragment),
        "classes": [
            {
                "label": c.label,
                "own_threshold": c.own.threshold,
                "threshold": c.chosen.threshold,
                "is_held": c.is_held,
                "card_recall": outcome.card.get(c.label),
                "rows": [_row_json(row) for row in c.rows],
            }
            for c in outcome.choices
        ],
    }


def _row_json(row: Row) -> dict[str, Any]:
    recall: dict[str, Any] | None = None
    if row.recall is not None:
        low, high = row.recall.interval
        recall = {"hits": row.recall.hits, "total": row.recall.total, "low": round(low, 4), "high": round(high, 4)}
    return {
        "threshold": row.threshold,
        "false_alarms": row.alarms.events,
        "per_hour": round(row.alarms.value, 6),
        "bound_per_hour": round(row.alarms.bound, 6),
        "recall": recall,
    }


def as_text(outcome: Outcome) -> Iterator[str]:
    """Yield the lines of the report."""
    done = outcome.calibration
    device = f" from {done.device}" if done.device else ""
    yield f"{done.hours:.2f} h of background{device}, measured with {done.model}; every event in it is a false alarm"
    for choice in outcome.choices:
        if not _is_silent(choice):
            yield from _table(choice, outcome.card.get(choice.label))
    if silent := [c for c in outcome.choices if _is_silent(c)]:
        bound = _rounded_up(silent[0].own.alarms.bound)
        yield from ("", f"no false alarm at any threshold, which is at most {bound} an hour (95 %):")
        yield f"  {', '.join(c.label for c in silent)}"
    yield ""
    if done.promise_per_hour > done.rate_per_hour:
        yield (
            f"{done.hours:.2f} h cannot promise {done.rate_per_hour:g} an hour, which takes "
            f"{hours_needed(done.rate_per_hour):.1f} h without a false alarm; they can promise "
            f"{_rounded_up(done.promise_per_hour)} an hour of each class (95 %)"
        )
    else:
        yield f"promised: at most {done.rate_per_hour:g} false alarms an hour of each class (95 %)"
    yield f"rule: {RULE}"
    for c in outcome.choices:
        if not c.is_held:
            yield (
                f"{c.label}: the promise cannot be held, with {_count(c.chosen.alarms.events)} even from "
                f"{c.chosen.threshold:g} on; exclude it (listening.only), or move the microphone"
            )
    for c in (c for c in outcome.choices if c.is_held and c.chosen != c.own):
        yield f"{c.label}: {c.chosen.threshold:g} in place of the model's own {c.own.threshold:g}"
    yield "all other thresholds stay those of the model"


def _is_silent(choice: Choice) -> bool:
    """Return whether a class has no recordings and was never reported."""
    return choice.own.recall is None and not any(row.alarms.events for row in choice.rows)


def _table(choice: Choice, card: float | None) -> Iterator[str]:
    """Yield the table of a class, without thresholds that differ little from the last one shown."""
    yield from ("", choice.label)
    yield f"  {'threshold':<14}{'false alarms':>12}   {'an hour (95 % at most)':<24} recall"
    shown: Row | None = None
    for _, group in itertools.groupby(choice.rows, lambda row: (row.alarms, row.recall, row == choice.own)):
        equal = list(group)
        row = equal[0]
        is_marked = choice.own in equal or choice.chosen in equal
        # Worth a line: a third fewer false alarms, or another number of recordings found.
        if shown is None or is_marked or row.recall != shown.recall or row.alarms.events <= shown.alarms.events * 2 / 3:
            shown = row
            yield _line(choice, equal, card)


def _line(choice: Choice, rows: Sequence[Row], card: float | None) -> str:
    """Return the line of rows that differ in the threshold alone."""
    first, last = rows[0].threshold, rows[-1].threshold
    name = f"{first:.2f}" if first == last else f"{first:.2f} to {last:.2f}"
    marks = ["the model's own"] if choice.own in rows else []
    marks += [f"suggested: {choice.chosen.threshold:.2f}"] if choice.chosen in rows else []
    mark = f"  <- {', '.join(marks)}" if marks else ""
    recall = _recall_text(rows[0].recall, card if choice.own in rows else None)
    return f"  {name:<14}{rows[0].alarms.events:>12}   {_rate_text(rows[0].alarms):<24} {recall}{mark}"


def _recall_text(measured: Rate | None, card: float | None) -> str:
    if measured is not None:
        return str(measured)
    return "unknown" if card is None else f"{100 * card:.0f} % in the model's own test"


def _rate_text(alarms: HourlyRate) -> str:
    text = f"{alarms.value:.3g} " if alarms.events else ""
    return f"{text}(<= {_rounded_up(alarms.bound)})"


def _count(alarms: int) -> str:
    return f"{alarms} false alarm{'' if alarms == 1 else 's'}"


def _rounded_up(value: float) -> str:
    """Return a bound with two digits, rounded up."""
    exponent = math.floor(math.log10(value))
    unit = 10.0 ** (exponent - 1)
    return f"{math.ceil(value / unit - 1e-9) * unit:.{max(0, 1 - exponent)}f}"


def fragment_path(configuration: Configuration, out: Path | None, source: str | None = None) -> Path | None:
    """Return the file for the settings: ``out``, else one in config.d beside the configuration; None without one.

    Each named ``source`` has a file of its own there.
    """
    if out is None and not configuration.files:
        return None
    return out or configuration.files[0].with_suffix(".d") / FILE_NAME.format("" if source is None else f"-{source}")


def write_fragment(path: Path, calibration: Calibration, choices: Sequence[Choice], source: str | None = None) -> None:
    """Write the fragment, of a named ``source`` or of all, whole or not at all; raises ConfigError if that fails."""
    text = "\n".join(_fragment_lines(calibration, choices, source)) + "\n"
    Settings.model_validate(tomllib.loads(text))  # what the service could not read must not be written
    try:
        path.parent.mkdir(exist_ok=True)
        write_text(path, text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


def _fragment_lines(calibration: Calibration, choices: Sequence[Choice], source: str | None) -> Iterator[str]:
    of_source = "" if source is None else f"sources.{source}."
    yield "# Written by snn-detect calibrate, which replaces it. To change a threshold, write it into a file with"
    yield "# a later name, such as 60-own.toml."
    yield f"[{of_source}calibration]"
    for name, value in calibration.model_dump(mode="json", exclude_none=True).items():
        yield f"{name} = {toml_value(value)}"
    yield from ("", f"[{of_source or 'listening.'}thresholds]")
    for choice in choices:
        alarms = choice.chosen.alarms
        name = toml_key(choice.label)
        text = f"{name} = {choice.chosen.threshold:g}"
        held = "" if choice.is_held else "; THE PROMISE IS NOT HELD at any threshold"
        yield f"{text:<28}  # {_count(alarms.events)}, at most {_rounded_up(alarms.bound)} an hour{held}"
