"""Which classes work: the results of each on scenes that no choice was made on, for the manifest.

A class is ready where, at the threshold at which it has no more than one false event an hour on these scenes, at least
60 % of its sounds with 10 dB and more above the background are found, and where the scenes have ten of these or more;
all others are on trial. The threshold is that of the curves of ``models.evaluation.matching``: the rule is about the
class, not about how well its own threshold was met.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np

from detector.errors import ConfigError
from detector.manifest import ClassResults, DataSource, Manifest
from detector.statistics import HourlyRate, Rate
from models.evaluation.matching import Curve, of_label
from models.evaluation.thresholds import EVALUATED, recordings_of, tuned_on
from models.scenes.folder import EventReference, Scenes

MIN_SHARE: Final = 0.6
MIN_SOUNDS: Final = 10
"""With six of ten found, the 95 % interval begins at 31 %; of fewer sounds a share says next to nothing."""
MIN_SNR_DB: Final = 10.0
MAX_FALSE_PER_HOUR: Final = 1.0
RULE: Final = (
    f"ready where {MIN_SHARE:.0%} of {MIN_SOUNDS} sounds or more at {MIN_SNR_DB:g} dB and more are found "
    f"at no more than {MAX_FALSE_PER_HOUR:g} false event an hour (models/evaluation/readiness.py)"
)


def check_unseen(manifest: Manifest, scenes: Scenes) -> None:
    """Raise ConfigError for scenes that the model's decoder values were chosen on."""
    if any(scenes.sha256.startswith(digest) for digest in tuned_on(manifest)):
        raise ConfigError("this model's decoder values were chosen on these scenes; evaluate its classes on others")


def shares_recordings(manifest: Manifest, scenes: Scenes) -> bool:
    """Return whether the model's decoder values were chosen on scenes of the same recordings."""
    same = recordings_of(scenes)
    tuned = [s for s in manifest.training.sources if s.name.startswith("scenes ")]
    return bool(same) and any(s.use.endswith(same) for s in tuned)


def class_results(curve: Curve, scenes: Scenes) -> ClassResults | None:
    """Return the results of a class; None where the scenes have none of its sounds that stand out enough."""
    references = [e for stream in scenes.streams for e in of_label(stream.events, curve.label)]
    counts = np.array([_stands_out(e) for e in references], bool)
    if not counts.any():
        return None
    index = curve.operating_point(MAX_FALSE_PER_HOUR)
    if index is None:  # at the highest threshold there are more false events than that
        rate = curve.rate(len(curve.thresholds) - 1)
        return ClassResults(is_ready=False, found=0, references=int(counts.sum()), **_false(rate.events, curve.hours))
    is_found = (curve.reports[index] > 0) & counts
    found, latencies = int(is_found.sum()), curve.latency_s[index][is_found]
    return ClassResults(
        is_ready=bool(counts.sum() >= MIN_SOUNDS and found >= MIN_SHARE * counts.sum()),
        found=found,
        references=int(counts.sum()),
        **_false(int(curve.false_alarms[index]), curve.hours),
        latency_s=round(float(np.median(latencies)), 3) if found else None,
    )


def evaluated_manifest(manifest: Manifest, curves: Mapping[str, Curve], scenes: Scenes, command: str) -> Manifest:
    """Return a manifest with the results of each class, and rule and scenes in its training record.

    A class of which the scenes have no sound keeps the results that it has.
    """
    found = {label: class_results(curve, scenes) for label, curve in curves.items()}
    classes = tuple(c if found[c.label] is None else replace(c, results=found[c.label]) for c in manifest.classes)
    made, record = scenes.manifest, manifest.training
    use = f"results of classes: {RULE}; {made.hours:g} h, seed {made.seed}{recordings_of(scenes)}"
    source = DataSource(f"{EVALUATED}{scenes.sha256[:12]}", "as the recordings that they are made of", use)
    kept = tuple(s for s in record.sources if not s.name.startswith(EVALUATED))
    base = record.command.partition(" && snn-train evaluate-classes ")[0]
    training = replace(record, command=f"{base} && {command}", sources=(*kept, source))
    return replace(manifest, classes=classes, training=training)


def _stands_out(event: EventReference) -> bool:
    return event.snr_db is None or event.snr_db >= MIN_SNR_DB


def _false(events: int, hours: float) -> dict[str, float]:
    return {"false_per_hour": round(events / hours, 3), "hours": round(hours, 3)}


def results_table(manifest: Manifest) -> str:
    """Return the results of the classes as a table in Markdown."""
    rows = ["| class | state | found | false events an hour | median latency |", "|---|---|---|---|---|"]
    for c in manifest.classes:
        r = c.results
        if r is None:
            rows.append(f"| {c.label} | not evaluated | | | |")
            continue
        latency = "" if r.latency_s is None else f"{r.latency_s:.2f} s"
        found, false = Rate(r.found, r.references), HourlyRate(round(r.false_per_hour * r.hours), r.hours)
        state = "ready" if r.is_ready else "on trial"
        rows.append(
            f"| {c.label} | {state} | {found} | {r.false_per_hour:.2f} (at most {false.bound:.1f}) | {latency} |"
        )
    return "\n".join(rows)
