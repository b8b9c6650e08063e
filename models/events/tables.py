"""The figures of a scene as people read them: Markdown tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from detector.statistics import Rate
from models.events.conditions import order
from models.events.report import RATES


def tables(document: Mapping[str, Any]) -> str:
    """Return the figures as Markdown."""
    return "\n".join(_lines(document))


def _lines(d: Mapping[str, Any]) -> Iterator[str]:
    model, scenes, every = d["model"], d["scenes"], d["all"]
    name = f"{model['name']} {model['version']} ({model['sha256'][:12]})"
    yield f"{name} on {scenes['hours']:g} h of scenes ({scenes['sha256'][:12]})"
    yield f"{d['events']} events, {d['unknown']} sounds of no class"
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
    """Say how misses at one false alarm an hour depend on what lies behind, and how late what is found is told."""
    points = {label: row["at_false_alarms_per_hour"]["1"] for label, row in classes.items()}
    found = {label: point for label, point in points.items() if point}
    ratios = sorted({snr for point in found.values() for snr in point["miss_rate_by_snr"]}, key=order)
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


def hourly(rate: Mapping[str, Any]) -> str:
    """Return false alarms per hour as text: never a rate without how much the hours allow."""
    if rate["per_hour"] is None:
        return "not judged"
    return f"{rate['events']} in {rate['hours']:.2f} h = {rate['per_hour']:.2f}/h (at most {rate['bound']:.2f}/h)"


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
