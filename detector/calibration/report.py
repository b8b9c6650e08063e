"""The table and the suggestion, for people and for programs.

The file of settings that a calibration leaves: thresholds, and what they were measured with.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from detector.calibration.choose import RULE, Choice, Row, hours_needed
from detector.config.loading import Configuration
from detector.config.sections import Calibration
from detector.config.settings import Settings
from detector.config.show import toml_value
from detector.errors import ConfigError
from detector.statistics import HourlyRate, Rate


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that a calibration has found."""

    calibration: Calibration
    choices: tuple[Choice, ...]
    card: Mapping[str, float]
    """Recall by label as the model's own test had it, at its own threshold; classes may be missing."""
    fragment: Path | None
    """Where the settings went."""
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


def in_words(outcome: Outcome) -> Iterator[str]:
    """Yield the lines of the report."""
    done = outcome.calibration
    device = f" by {done.device}" if done.device else ""
    yield f"{done.hours:.2f} h of background{device}, heard by {done.model}; every event in them is a false alarm"
    for choice in outcome.choices:
        if not _is_quiet(choice):
            yield from _table(choice, outcome.card)
    if silent := [c for c in outcome.choices if _is_quiet(c)]:
        bound = _upwards(silent[0].own.alarms.bound)
        yield ""
        yield f"no false alarm at any threshold, which is at most {bound} an hour (95 %):"
        yield f"  {', '.join(c.label for c in silent)}"
    yield ""
    yield from _promise(done)
    yield from _suggestion(outcome)


def _is_quiet(choice: Choice) -> bool:
    """Tell whether there is nothing to say of a class but that it was never reported."""
    return choice.own.recall is None and not any(row.alarms.events for row in choice.rows)


def _table(choice: Choice, card: Mapping[str, float]) -> Iterator[str]:
    yield ""
    yield f"{choice.label}"
    yield f"  {'threshold':<14}{'false alarms':>12}   {'an hour (95 % at most)':<24} recall"
    shown: Row | None = None
    for _, group in itertools.groupby(choice.rows, lambda row: (row.alarms, row.recall, row == choice.own)):
        alike = list(group)
        is_marked = choice.own in alike or choice.chosen in alike
        if shown is None or is_marked or _differs(alike[0], shown):
            shown = alike[0]
            yield _line(choice, alike, card.get(choice.label))


def _differs(row: Row, shown: Row) -> bool:
    """Tell whether a row is worth a line: its false alarms are a third fewer, or it finds another number."""
    return row.recall != shown.recall or row.alarms.events <= shown.alarms.events * 2 / 3


def _line(choice: Choice, alike: Sequence[Row], card: float | None) -> str:
    """Return the line of rows that differ in nothing but the threshold."""
    first, last = alike[0].threshold, alike[-1].threshold
    name = f"{first:.2f}" if first == last else f"{first:.2f} to {last:.2f}"
    marks = [*(["the model's own"] if choice.own in alike else [])]
    marks += [f"suggested: {choice.chosen.threshold:.2f}"] if choice.chosen in alike else []
    mark = f"  <- {', '.join(marks)}" if marks else ""
    recall = _recall(alike[0].recall, card if choice.own in alike else None)
    return f"  {name:<14}{alike[0].alarms.events:>12}   {_rate(alike[0].alarms):<24} {recall}{mark}"


def _promise(done: Calibration) -> Iterator[str]:
    if done.promise_per_hour > done.rate_per_hour:
        needed = hours_needed(done.rate_per_hour)
        yield (
            f"{done.hours:.2f} h cannot promise {done.rate_per_hour:g} an hour, which takes {needed:.1f} h without a "
            f"false alarm; they can promise {_upwards(done.promise_per_hour)} an hour of each class (95 %)"
        )
    else:
        yield f"promised: at most {done.rate_per_hour:g} false alarms an hour of each class (95 %)"
    yield f"rule: {RULE}"


def _suggestion(outcome: Outcome) -> Iterator[str]:
    for c in outcome.choices:
        if not c.is_held:
            yield (
                f"{c.label}: cannot be promised, with {c.chosen.alarms.events} false alarms even from "
                f"{c.chosen.threshold:g} on; leave it out (listening.only), or move the microphone"
            )
    for c in (c for c in outcome.choices if c.is_held and c.chosen != c.own):
        yield f"{c.label}: {c.chosen.threshold:g} in place of the model's own {c.own.threshold:g}"
    yield "all other thresholds stay as the model has them"


def _recall(measured: Rate | None, card: float | None) -> str:
    if measured is not None:
        return str(measured)
    return "unknown" if card is None else f"{100 * card:.0f} % in the model's own test"


def _rate(alarms: HourlyRate) -> str:
    """Return a rate with its bound: none is known to be 0."""
    text = f"{alarms.value:.3g} " if alarms.events else ""
    return f"{text}(<= {_upwards(alarms.bound)})"


def _upwards(value: float) -> str:
    """Return a bound in two digits, rounded to its safe side."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    rounded = math.ceil(value / unit - 1e-9) * unit
    return f"{rounded:.{max(0, 1 - math.floor(math.log10(value)))}f}"


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


NAME: Final = "50-calibration.toml"
_SECTION: Final = "calibration"
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def target_of(configuration: Configuration, out: Path | None) -> Path | None:
    """Return where the settings go: ``out``, else config.d beside the configuration; None where there is none.

    Raises ConfigError where nothing can be written there, or something else lies there: better before
    hours of listening than behind them.
    """
    if out is None and not configuration.files:
        return None
    path = out or configuration.files[0].with_suffix(".d") / NAME
    folder = next(p for p in path.absolute().parents if p.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ConfigError(f"{path}: cannot be written ({folder} is not yours); sudo, or --out FILE, or --no-write")
    if out is not None and folder != path.absolute().parent:
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    if path.exists() and not _is_calibration(path):
        raise ConfigError(f"{path}: is there already and is no calibration; name another file with --out")
    return path


def write(path: Path, calibration: Calibration, choices: Sequence[Choice]) -> None:
    """Write the file, whole or not at all; raises ConfigError where that cannot be."""
    text = "\n".join(lines(calibration, choices)) + "\n"
    Settings.model_validate(tomllib.loads(text))  # what is not fit to be read must not be written
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(exist_ok=True)
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error
    finally:
        part.unlink(missing_ok=True)


def lines(calibration: Calibration, choices: Sequence[Choice]) -> Iterator[str]:
    """Yield the lines of the file."""
    yield "# Written by snn-detect calibrate, which replaces it. To change a threshold, write it into a file with"
    yield "# a later name, such as 60-own.toml."
    yield f"[{_SECTION}]"
    for name, value in calibration.model_dump(mode="json", exclude_none=True).items():
        yield f"{name} = {toml_value(value)}"
    yield ""
    yield "[listening.thresholds]"
    for choice in choices:
        alarms = choice.chosen.alarms
        name = choice.label if _BARE.fullmatch(choice.label) else toml_value(choice.label)
        text = f"{name} = {choice.chosen.threshold:g}"
        held = "" if choice.is_held else "; THE PROMISE IS NOT HELD at any threshold"
        yield f"{text:<28}  # {alarms.events} false alarms, at most {alarms.bound:.2g} an hour{held}"


def _is_calibration(path: Path) -> bool:
    try:
        return _SECTION in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
