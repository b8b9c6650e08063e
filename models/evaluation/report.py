"""The evaluation of a model on a scene, as one JSON document and as Markdown tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.statistics import HourlyRate, Rate
from models.evaluation.dcase import StandardMetrics
from models.evaluation.inference import ScenePredictions
from models.evaluation.matching import (
    CONDITIONS,
    NOTHING,
    UNKNOWN,
    Curve,
    MatchedReference,
    Outcome,
    background_hours,
    condition_order,
    found_rate,
    latencies_s,
    reports_per_event,
    split_by_condition,
)
from models.scenes.folder import Scenes

RATES = (0.1, 1.0, 10.0)
"""False alarms per hour at which miss rates are reported."""


def as_document(  # noqa: PLR0913 - all that was measured
    command: str,
    predictions: ScenePredictions,
    scenes: Scenes,
    outcome: Outcome,
    curves: Mapping[str, Curve],
    standard: StandardMetrics | None,
) -> dict[str, Any]:
    """Return all results as one JSON document."""
    manifest = predictions.manifest
    labels = [label for label in manifest.labels if outcome.of(label)]
    return {
        "command": command,
        "model": {"name": manifest.name, "version": manifest.version, "sha256": predictions.sha256},
        "scenes": {"sha256": scenes.sha256, "command": scenes.manifest.command, "hours": scenes.manifest.hours},
        "events": len(outcome.matched),
        "unknown": scenes.manifest.unknown,
        "all": _setting(outcome.matched) | {"false_alarms": _hourly(_any_class(outcome, scenes))},
        "by_class": {label: _class(label, outcome, curves[label]) for label in labels},
        "by_condition": by_condition(outcome.matched),
        "false_alarms_by_background": _by_background(outcome, scenes),
        "false_alarms_by_class": {label: _hourly(outcome.false_alarms(label)) for label in manifest.labels},
        "false_alarms_over": dict(sorted(Counter(f.over for f in outcome.false).items())),
        "standard": None if standard is None else asdict(standard),
    }


def by_condition(matched: Sequence[MatchedReference]) -> dict[str, dict[str, Any]]:
    """Return recall, latency and reports for each value of each condition."""
    result: dict[str, dict[str, Any]] = {name: {} for name in CONDITIONS}
    for name, value, under in split_by_condition(matched):
        result[name][value] = _setting(under)
    return result


def at_rate(curve: Curve, outcome: Outcome, max_per_hour: float) -> dict[str, Any] | None:
    """Return the results of a class at its operating point for a rate; None where there is none."""
    index = curve.operating_point(max_per_hour)
    if index is None:
        return None
    missed = curve.reports[index] == 0
    references = [m.reference for m in outcome.of(curve.label)]
    shares = {}
    for name in ("snr", "source"):
        values = np.array([CONDITIONS[name](r) for r in references])
        shares[f"miss_rate_by_{name}"] = {v: _missed(missed[values == v]) for v in sorted(set(values.tolist()))}
    return {
        "threshold": float(curve.thresholds[index]),
        "miss_rate": _missed(missed),
        "false_alarms": _hourly(curve.rate(index)),
        **shares,
        "latency_s": _quantiles(curve.latency_s[index][~missed]),
        "reports_per_event": _number(float(curve.reports[index][~missed].mean()) if (~missed).any() else math.nan),
    }


def as_markdown(document: Mapping[str, Any]) -> str:
    """Return a document of ``as_document`` as Markdown tables."""
    return "\n".join(_lines(document))


def hourly(rate: Mapping[str, Any]) -> str:
    """Return false alarms per hour as text, always with the upper bound."""
    if rate["per_hour"] is None:
        return "not evaluated"
    return f"{rate['events']} in {rate['hours']:.2f} h = {rate['per_hour']:.2f}/h (at most {rate['bound']:.2f}/h)"


def _class(label: str, outcome: Outcome, curve: Curve) -> dict[str, Any]:
    matched = outcome.of(label)
    own = _setting(matched) | {
        "false_alarms": _hourly(outcome.false_alarms(label)),
        "false_alarms_without_other_classes": _hourly(outcome.false_alarms(label, (NOTHING, UNKNOWN))),
    }
    rates = {f"{rate:g}": at_rate(curve, outcome, rate) for rate in RATES}
    return {"own": own, "at_false_alarms_per_hour": rates, "by_condition": by_condition(matched)}


def _setting(matched: Sequence[MatchedReference]) -> dict[str, Any]:
    return {
        "found": _share(found_rate(matched)),
        "latency_s": _quantiles(latencies_s(matched)),
        "reports_per_event": _number(reports_per_event(matched)),
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
    median, p95 = np.quantile(values, [0.5, 0.95])
    return {"p50": round(float(median), 3), "p95": round(float(p95), 3)}


def _number(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None


def _lines(d: Mapping[str, Any]) -> Iterator[str]:
    model, scenes, every = d["model"], d["scenes"], d["all"]
    name = f"{model['name']} {model['version']} ({model['sha256'][:12]})"
    yield f"{name} on {scenes['hours']:g} h of scenes ({scenes['sha256'][:12]})"
    yield f"{d['events']} events, {d['unknown']} out-of-class sounds"
    yield ""
    yield f"found {_text(every['found'])}; {_latency(every)}; {_cell(every['reports_per_event'])} reports per event"
    yield f"false events of any class: {hourly(every['false_alarms'])}; over {_counts(d['false_alarms_over'])}"
    yield from ("", "| class | found | false alarms | latency p50, p95 | reports |", "|---|---|---|---|---|")
    for label, row in d["by_class"].items():
        own = row["own"]
        cells = [_text(own["found"]), hourly(own["false_alarms"]), _latency(own), _cell(own["reports_per_event"])]
        yield "| " + " | ".join([label, *cells]) + " |"
    head = " | ".join(f"miss rate at {rate:g} per h" for rate in RATES)
    yield from ("", f"| class | {head} |", "|---" * (1 + len(RATES)) + "|")
    for label, row in d["by_class"].items():
        points = [_point(row["at_false_alarms_per_hour"][f"{rate:g}"]) for rate in RATES]
        yield "| " + " | ".join([label, *points]) + " |"
    yield from _by_snr(d["by_class"])
    for condition, values in d["by_condition"].items():
        yield from ("", f"| {condition} | found | latency p50, p95 | reports |", "|---|---|---|---|")
        for value, row in values.items():
            yield f"| {value} | {_text(row['found'])} | {_latency(row)} | {_cell(row['reports_per_event'])} |"
    yield from ("", "| background | false events of any class |", "|---|---|")
    for background, rate in d["false_alarms_by_background"].items():
        yield f"| {background} | {hourly(rate)} |"
    if d["standard"]:
        yield from _standard(d["standard"])


def _by_snr(classes: Mapping[str, Any]) -> Iterator[str]:
    """Yield miss rates by signal-to-noise ratio and latencies, at one false alarm per hour."""
    points = {label: row["at_false_alarms_per_hour"]["1"] for label, row in classes.items()}
    found = {label: point for label, point in points.items() if point}
    ratios = sorted({snr for point in found.values() for snr in point["miss_rate_by_snr"]}, key=condition_order)
    yield from ("", f"| missed at 1 per h | {' | '.join(ratios)} | latency p50, p95 |")
    yield "|---" * (2 + len(ratios)) + "|"
    for label, point in found.items():
        shares = [point["miss_rate_by_snr"].get(snr, {"of": 0}) for snr in ratios]
        yield "| " + " | ".join([label, *map(_text, shares), _latency(point)]) + " |"


def _standard(s: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "| by sed_scores_eval | macro | micro |", "|---|---|---|")
    names = {"onset_f1": "F1, onset within 500 ms", "strict_f1": "F1, onset 200 ms, offset 200 ms or 20 %"}
    for key, title in (names | {"segment_f1": "F1 of segments of 1 s"}).items():
        yield f"| {title} | {100 * s[key]['macro_average']:.1f} % | {100 * s[key]['micro_average']:.1f} % |"
    yield f"| PSDS1 | {s['psds1']:.3f} | |"
    yield f"| PSDS2 | {s['psds2']:.3f} | |"
    yield f"| F1, onset within 500 ms, by sed_eval | | {100 * s['sed_eval_onset_f1']['micro_average']:.1f} % |"


def _text(share: Mapping[str, Any]) -> str:
    return str(Rate(share["hits"], share["of"])) if share["of"] else "none of 0"


def _latency(row: Mapping[str, Any]) -> str:
    latency = row["latency_s"]
    return "none found" if latency is None else f"{latency['p50']:.2f} s, {latency['p95']:.2f} s"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _point(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return "no threshold"
    alarms, missed = point["false_alarms"], 100 * point["miss_rate"]["value"]
    return f"{missed:.0f} % ({alarms['events']} in {alarms['hours']:.2f} h, at most {alarms['bound']:.2f}/h)"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "nothing at all"
