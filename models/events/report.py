"""What a scene says of a model, as one document of figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.statistics import HourlyRate, Rate
from models.events.conditions import (
    CONDITIONS,
    NOTHING,
    UNKNOWN,
    Judged,
    Outcome,
    background_hours,
    found_rate,
    latencies_s,
    reports_per_event,
    split,
)
from models.events.curves import Curve
from models.events.hearing import Heard
from models.events.standard import Standard
from models.scenes.folder import Scenes

RATES = (0.1, 1.0, 10.0)
"""False alarms per hour at which miss rates are given."""


def figures(  # noqa: PLR0913 - all that was measured
    command: str, heard: Heard, scenes: Scenes, outcome: Outcome, curves: Mapping[str, Curve], standard: Standard | None
) -> dict[str, Any]:
    """Return everything as one JSON document."""
    manifest = heard.manifest
    labels = [label for label in manifest.labels if outcome.of(label)]
    return {
        "command": command,
        "model": {"name": manifest.name, "version": manifest.version, "sha256": heard.sha256},
        "scenes": {"sha256": scenes.sha256, "command": scenes.manifest.command, "hours": scenes.manifest.hours},
        "events": len(outcome.judged),
        "unknown": scenes.manifest.unknown,
        "all": _setting(outcome.judged) | {"false_alarms": _hourly(_any_class(outcome, scenes))},
        "by_class": {label: _class(label, outcome, curves[label]) for label in labels},
        "by_condition": by_condition(outcome.judged),
        "false_alarms_by_background": _by_background(outcome, scenes),
        "false_alarms_by_class": {label: _hourly(outcome.false_alarms(label)) for label in manifest.labels},
        "false_alarms_over": dict(sorted(Counter(f.over for f in outcome.false).items())),
        "standard": None if standard is None else asdict(standard),
    }


def by_condition(judged: Sequence[Judged]) -> dict[str, dict[str, Any]]:
    """Return found shares, latencies and reports by each condition's values."""
    result: dict[str, dict[str, Any]] = {name: {} for name in CONDITIONS}
    for name, value, under in split(judged):
        result[name][value] = _setting(under)
    return result


def at_rate(curve: Curve, outcome: Outcome, most_per_hour: float) -> dict[str, Any] | None:
    """Return what a class's best threshold at a rate gives, with miss rates by condition; None: there is none."""
    place = curve.point(most_per_hour)
    if place is None:
        return None
    missed = curve.reports[place] == 0
    references = [j.reference for j in outcome.of(curve.label)]
    shares = {}
    for name in ("snr", "source"):
        values = np.array([CONDITIONS[name](r) for r in references])
        shares[f"miss_rate_by_{name}"] = {v: _missed(missed[values == v]) for v in sorted(set(values.tolist()))}
    return {
        "threshold": float(curve.thresholds[place]),
        "miss_rate": _missed(missed),
        "false_alarms": _hourly(curve.rate(place)),
        **shares,
        "latency_s": _quantiles(curve.latency_s[place][~missed]),
        "reports_per_event": _number(float(curve.reports[place][~missed].mean()) if (~missed).any() else math.nan),
    }


def _class(label: str, outcome: Outcome, curve: Curve) -> dict[str, Any]:
    judged = outcome.of(label)
    own = _setting(judged) | {
        "false_alarms": _hourly(outcome.false_alarms(label)),
        "false_alarms_without_other_classes": _hourly(outcome.false_alarms(label, (NOTHING, UNKNOWN))),
    }
    rates = {f"{rate:g}": at_rate(curve, outcome, rate) for rate in RATES}
    return {"own": own, "at_false_alarms_per_hour": rates, "by_condition": by_condition(judged)}


def _setting(judged: Sequence[Judged]) -> dict[str, Any]:
    return {
        "found": _share(found_rate(judged)),
        "latency_s": _quantiles(latencies_s(judged)),
        "reports_per_event": _number(reports_per_event(judged)),
    }


def _any_class(outcome: Outcome, scenes: Scenes) -> HourlyRate:
    return HourlyRate(len(outcome.false), sum(background_hours(scenes).values()))


def _by_background(outcome: Outcome, scenes: Scenes) -> dict[str, Any]:
    counts = Counter(f.background for f in outcome.false)
    return {name: _hourly(HourlyRate(counts[name], hours)) for name, hours in sorted(background_hours(scenes).items())}


def _missed(missed: NDArray[np.bool_]) -> dict[str, Any]:
    return _share(Rate(int(missed.sum()), missed.size))


def _share(rate: Rate) -> dict[str, Any]:
    return {
        "hits": rate.hits,
        "of": rate.total,
        "value": _number(rate.value),
        "interval": [round(x, 4) for x in rate.interval],
    }


def _hourly(rate: HourlyRate) -> dict[str, Any]:
    return {
        "events": rate.events,
        "hours": round(rate.hours, 4),
        "per_hour": _number(rate.value),
        "bound": _number(rate.bound),
    }


def _quantiles(values: Any) -> dict[str, float] | None:
    if not values.size:
        return None
    half, most = np.quantile(values, [0.5, 0.95])
    return {"p50": round(float(half), 3), "p95": round(float(most), 3)}


def _number(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
