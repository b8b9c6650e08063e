"""What a report tells of each form of a model, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from detector.statistics import Rate

SPEED_S: Final = 120
"""Seconds of sound that times are taken over."""
ROUNDS: Final = 5
PUSHES_MS: Final = (10, 100, 1000 * SPEED_S)
"""Lengths of pushes, beside a hop, at which the runtime is timed."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one form; None where it does not apply or could not be found out."""

    form: str
    bytes: int
    """Of the file; of flash, for C."""
    state_bytes: int | None
    stack_bytes: int | None
    dense_ops_per_s: float | None
    effective_ops_per_s: float | None
    same_events: Rate | None
    """Clips whose events are the runtime's, to the frame."""
    same_class: Rate | None
    accuracy: Rate | None
    cpu_s_per_s: float | None = None
    push_cpu_s_per_s: dict[int, float] | None = None
    """By the length of a push in milliseconds; of the runtime alone, since C gains nothing by longer ones."""

    def record(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        rates = {k: None if (r := getattr(self, k)) is None else {"hits": r.hits, "total": r.total} for k in _RATES}
        return asdict(self) | rates


_RATES: Final = ("same_events", "same_class", "accuracy")


def table(rows: Sequence[Row], model: Path) -> str:
    """Return the rows as a Markdown table."""
    base = rows[0].cpu_s_per_s or float("nan")
    sounds = rows[0].same_events.total if rows[0].same_events else 0
    head = ["form", "bytes", "state", "stack bound", "operations per s, dense / effective", "CPU s per s"]
    head += ["times quicker", "same events", "same class", "accuracy"]
    title = (
        f"{model.name}, over {sounds} sounds: the demo scene, clips it never saw. Times are medians of {ROUNDS}, "
        "of one core; the runtime is given a hop at a time."
    )
    lines = [
        title,
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
    ]
    for row in rows:
        quicker = None if row.cpu_s_per_s is None else base / row.cpu_s_per_s
        operations = "-" if row.dense_ops_per_s is None else _operations(row)
        cells = [row.form, _count(row.bytes), _count(row.state_bytes), _count(row.stack_bytes), operations]
        cells += ["-" if row.cpu_s_per_s is None else f"{row.cpu_s_per_s:.5f}"]
        cells += ["-" if quicker is None else f"{quicker:.1f}"]
        cells += ["-" if rate is None or not rate.total else str(rate) for rate in (getattr(row, k) for k in _RATES)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Same events: every onset and offset in its frame. Same class: the highest mean score over a clip."]
    if rows[0].push_cpu_s_per_s:
        told = (f"{seconds:.5f} ({ms} ms a push)" for ms, seconds in rows[0].push_cpu_s_per_s.items())
        lines += [f"Pushed otherwise, the runtime takes {', '.join(told)} CPU s per s."]
    return "\n".join(lines)


def to_json(rows: Sequence[Row]) -> str:
    """Return the rows as JSON."""
    return json.dumps([row.record() for row in rows], indent=1)


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _operations(row: Row) -> str:
    dense, effective = row.dense_ops_per_s or 0.0, row.effective_ops_per_s or 0.0
    return f"{dense / 1e6:.2f} M / {effective / 1e6:.2f} M"
