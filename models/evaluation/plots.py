"""Plots of events: DET curve, precision and recall, confusion, and a timeline of references and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.evaluation.inference import Detection
from models.evaluation.matching import NOTHING, UNKNOWN, Curve
from models.plots import draw_confusion, new_figure, save
from models.scenes.folder import EventReference, Stream

TIMELINE_S = 300.0
_MIN_MISS_RATE = 0.005


def draw_det(curves: Mapping[str, Curve], path: Path, *, title: str) -> None:
    """Draw the detection error trade-off: miss rate against false alarms per hour, on logarithmic axes."""
    figure = new_figure(8, 6)
    axes = figure.subplots()
    for i, (label, curve) in enumerate(curves.items()):
        alarms, lowest = _envelope(curve)
        # Zero is drawn as half an alarm in the hours that there are: the axis is logarithmic.
        rates, missed = np.maximum(alarms, 0.5) / curve.hours, np.maximum(lowest, _MIN_MISS_RATE)
        axes.step(rates, missed, _style(i), where="post", label=label.replace("_", " "), markersize=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(_MIN_MISS_RATE, 1.05)
    axes.set_xlabel("false alarms per hour (none: half of one in these hours)")
    axes.set_ylabel("miss rate")
    _finish(figure, axes, path, title)


def draw_precision_recall(curves: Mapping[str, Curve], path: Path, *, title: str) -> None:
    """Draw precision against recall, with one point per threshold."""
    figure = new_figure(8, 6)
    axes = figure.subplots()
    for i, (label, curve) in enumerate(curves.items()):
        found = (curve.reports > 0).sum(axis=1)
        reported = found + curve.false_alarms
        recall, precision = found[reported > 0] / curve.reports.shape[1], found[reported > 0] / reported[reported > 0]
        axes.plot(recall, precision, _style(i), label=label.replace("_", " "), markersize=3)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    _finish(figure, axes, path, title)


def draw_event_confusion(counts: NDArray[np.int64], labels: Sequence[str], path: Path, *, title: str) -> None:
    """Draw references (rows) against events (columns), as counted by ``matching.confusion``."""
    draw_confusion(
        counts,
        [*labels, UNKNOWN, NOTHING],
        path,
        title=title,
        columns=[*labels, "missed"],
        axis_names=("reference", "event"),
    )


def draw_timeline(stream: Stream, detections: Sequence[Detection], labels: Sequence[str], path: Path) -> None:
    """Draw the first minutes of a stream: references and events in a row per class, backgrounds on top."""
    end_s = min(TIMELINE_S, stream.seconds)
    rows = [*labels, UNKNOWN]
    figure = new_figure(15, 1.5 + 0.42 * len(rows))
    axes = figure.subplots()
    for event in (*stream.events, *stream.unknown):
        if event.onset_s < end_s:
            _bar(axes, event, rows.index(event.label or UNKNOWN), end_s)
    for d in detections:
        if d.onset_s < end_s:
            length = min(d.offset_s, end_s) - d.onset_s
            axes.broken_barh([(d.onset_s, length)], (rows.index(d.label) + 0.05, 0.3), color="tab:orange")
            axes.plot(d.emitted_s, rows.index(d.label) + 0.2, "k|", markersize=6)
    for span in stream.spans:
        if span.onset_s < end_s:
            axes.axvline(span.onset_s, color="grey", linewidth=0.6)
            axes.text(span.onset_s + 1, -0.7, f"{span.background}, {span.level_db:.0f} dBFS", fontsize=8)
    axes.set_yticks(range(len(rows)), [r.replace("_", " ") for r in rows])
    axes.set_ylim(len(rows) - 0.4, -1.1)
    axes.set_xlim(0, end_s)
    axes.set_xlabel("seconds")
    axes.set_title(f"{stream.path.name}: reference (blue, upper), events (orange, lower; emitted at the stroke)")
    axes.grid(axis="x", alpha=0.3)
    save(figure, path)


def _bar(axes: Any, event: EventReference, row: int, end_s: float) -> None:
    length = min(event.offset_s, end_s) - event.onset_s
    colour = "tab:blue" if event.label else "lightgrey"
    axes.broken_barh([(event.onset_s, length)], (row - 0.35, 0.35), color=colour)
    if event.snr_db is not None:
        axes.text(event.onset_s, row - 0.05, f"{event.snr_db:g}", fontsize=6, color="white")


def _envelope(curve: Curve) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return counts of false alarms, ascending, and the lowest miss rate with no more than each."""
    order = np.argsort(curve.false_alarms, kind="stable")
    missed = (curve.reports[order] == 0).mean(axis=1)
    return curve.false_alarms[order], np.minimum.accumulate(missed)


def _style(i: int) -> str:
    return ("o-", "s--", "^:")[i // 10 % 3]


def _finish(figure: Any, axes: Any, path: Path, title: str) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncols=2)
    axes.set_title(title)
    save(figure, path)
