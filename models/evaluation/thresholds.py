"""Decoder values by a fixed rule, from the scores of a tuning scene.

For each class, over a grid of smoothing lengths and minimum durations, or of the parameters of evidence
(``detector.decoder.Evidence``) without either, and of on-thresholds:

1. Only values within the limit of false alarms per hour, counted on the scene, are considered; where there are none,
   those with the fewest false alarms. A limit for all classes together is first divided among them
   (``allocate_budget``).
2. Of these, the smoothing and minimum duration, or the evidence, with the fewest missed events; then with the fewest
   events per found reference, the shortest median latency, an average before evidence, the shorter smoothing.
3. With these, the middle one of the thresholds with equally few misses, which keeps a margin to false events and to
   misses.
4. Then the shortest silence that ends an event, of a grid, that adds neither misses nor false alarms and for which no
   longer one has fewer reports.

Off-thresholds keep their ratio to on-thresholds; the refractory time is not changed.

This is done for each operating point: the limit is that of the balanced sensitivity, and a tenth and ten times as many
false alarms for the low and the high one. Where a model is to keep the values of the balanced sensitivity
(``tune_around``), low and high differ from them in the threshold alone, and lie on either side of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any, Final, Literal, get_args

import numpy as np

from detector.decoder import Evidence
from detector.manifest import (
    SENSITIVITIES,
    ClassSpec,
    DataSource,
    EvidenceParams,
    Manifest,
    OperatingPoints,
    Sensitivity,
)
from detector.messages import Scores
from detector.pipeline import with_threshold
from detector.statistics import HourlyRate, Rate
from models.console import progress
from models.evaluation.inference import ScenePredictions, decode, evaluated_hours
from models.evaluation.matching import match, of_label
from models.scenes.folder import EventReference, Scenes

Point = tuple[int, int]
"""False alarms and misses of one set of decoder values."""
RULE_MODULE = "models/evaluation/thresholds.py"
"""The module that documents the rule, for a model's training record."""
EVALUATED: Final = "evaluation scenes "
"""Begins the name, in a model's training record, of the scenes that its classes were evaluated on."""
THRESHOLDS = (*(round(0.1 + 0.04 * i, 2) for i in range(22)), 0.96, 0.98, 0.99, 0.995)
SMOOTHINGS, MIN_ON_FRAMES, MIN_OFF_FRAMES = (1, 2, 4, 8), (1, 2, 4), (16, 24, 32, 48)
"""In frames."""
LEAKS, WEIGHTS, BIASES = (0.0, 1 / 64, 1 / 16, 1 / 4), (1 / 16, 1 / 4), (-3.0, -1.5, 0.0, 1.5)
Smoothing = Literal["average", "evidence", "either"]
"""What is tried for each class."""
SMOOTHING: Final[tuple[Smoothing, ...]] = get_args(Smoothing)


_SHARES: Final[dict[Sensitivity, float]] = {"low": 0.1, "balanced": 1.0, "high": 10.0}


@dataclass(frozen=True, slots=True)
class FalseAlarmBudget:
    """The limit of false alarms per hour, at the balanced sensitivity."""

    per_hour: float
    all_classes: bool = False
    """Whether the limit is for all classes together instead of each."""

    @property
    def rule(self) -> str:
        """The rule in words, for the model's training record."""
        if self.all_classes:
            return (
                f"lowest mean miss rate at no more than {self.per_hour:g} false alarms per hour of all classes together"
            )
        return f"lowest miss rate at no more than {self.per_hour:g} false alarms per hour"

    def at(self, sensitivity: Sensitivity) -> FalseAlarmBudget:
        """Return the limit at another sensitivity."""
        return replace(self, per_hour=float(f"{self.per_hour * _SHARES[sensitivity]:.6g}"))

    @property
    def operating_points(self) -> OperatingPoints:
        """The limits at all sensitivities, for the manifest."""
        limits = {name: self.at(name).per_hour for name in SENSITIVITIES}
        return OperatingPoints(**limits, of="all classes" if self.all_classes else "class")


def allocate_budget(points: Sequence[Sequence[Point]], references: Sequence[int], limit: float) -> list[int]:
    """Divide a total of ``limit`` false alarms among the classes.

    ``points`` are the operating points of each class. Each class starts at its fewest false alarms; then, as long as
    alarms are left, the class whose miss rate falls most per alarm gets more. A class without references stays at
    its start. The starting points alone may exceed ``limit``. Returns the limit of each class.
    """
    fronts = [_front(own) for own in points]
    indices = [0] * len(fronts)
    while upgrades := list(_upgrades(fronts, indices, references, limit)):
        _, c, index = max(upgrades)
        indices[c] = index
    return [front[index][0] for front, index in zip(fronts, indices, strict=True)]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Results of one class with one set of decoder values on the tuning scene."""

    spec: ClassSpec
    missed: int
    references: int
    false_alarms: int
    hours: float
    reports: float
    """Per found reference; infinite where none was found."""
    latency_s: float
    """Median; infinite where none was found."""

    def __str__(self) -> str:
        d, found = self.spec.decoder, Rate(self.references - self.missed, self.references)
        alarms = HourlyRate(self.false_alarms, self.hours)
        e = d.evidence
        form = f"leak {e.leak:.3f} weight {e.weight:.3f} bias {e.bias:g}" if e else f"smoothing {d.smoothing_frames}"
        values = f"threshold {d.on_threshold:.3f}, {form}, on {d.min_on_frames}"
        return (
            f"{self.spec.label:15} {values}, off {d.min_off_frames}: found {found}, "
            f"{alarms.events} false in {alarms.hours:.2f} h (at most {alarms.bound:.2f}/h)"
        )


Choices = dict[Sensitivity, list[Candidate]]
"""The choice for each class, in the order of the manifest, at each sensitivity."""


def tune(
    predictions: ScenePredictions,
    scenes: Scenes,
    budget: FalseAlarmBudget,
    processes: int,
    smoothing: Smoothing = "either",
) -> Choices:
    """Return each class's choices by the rule; a class without reference events keeps its values."""
    manifest = predictions.manifest
    evaluated: list[list[Candidate]] = []
    if smoothing != "evidence":
        settings = list(product(SMOOTHINGS, MIN_ON_FRAMES, THRESHOLDS))
        averages = [[_with(c, *setting) for c in manifest.classes] for setting in settings]
        evaluated += _evaluate_settings(predictions, scenes, averages, processes, "thresholds")
    if smoothing != "average":
        evaluated += _evaluate_evidence(predictions, scenes, processes)
    by_class = list(zip(*evaluated, strict=True))
    chosen: Choices = {}
    for name in SENSITIVITIES:
        limits = _limits(by_class, budget.at(name))
        chosen[name] = [_choose_threshold(list(own), limit) for own, limit in zip(by_class, limits, strict=True)]
    second = [[_with_off(t.spec, n) for t in own] for own, n in product(chosen.values(), MIN_OFF_FRAMES)]
    evaluated = _evaluate_settings(predictions, scenes, second, processes, "durations")
    for number, name in enumerate(SENSITIVITIES):
        first_row = number * len(MIN_OFF_FRAMES)
        by_off = zip(*evaluated[first_row : first_row + len(MIN_OFF_FRAMES)], strict=True)
        best = [_choose_min_off(t, list(own)) for t, own in zip(chosen[name], by_off, strict=True)]
        kept = [c.at(name) for c in manifest.classes]
        chosen[name] = [t if t.references else replace(t, spec=c) for t, c in zip(best, kept, strict=True)]
    return chosen


def tune_around(predictions: ScenePredictions, scenes: Scenes, budget: FalseAlarmBudget, processes: int) -> Choices:
    """Return the choices for a model that keeps its balanced values: for low and high, another threshold of each class.

    No threshold of the low sensitivity is below the balanced one and none of the high one above it, so that each
    sensitivity finds what a lower one finds. A class without reference events keeps its values.
    """
    manifest = predictions.manifest
    grid = [[with_threshold(c, threshold) for c in manifest.classes] for threshold in THRESHOLDS]
    evaluated = _evaluate_settings(predictions, scenes, [list(manifest.classes), *grid], processes, "thresholds")
    by_class = list(zip(*evaluated, strict=True))
    chosen: Choices = {"balanced": [own[0] for own in by_class]}
    sides: dict[Sensitivity, int] = {"low": 1, "high": -1}
    for name, sign in sides.items():
        beside = [[t for t in own if sign * (_threshold(t) - _threshold(own[0])) >= 0] for own in by_class]
        limits = _limits(beside, budget.at(name))
        best = [_choose_threshold(own, limit) for own, limit in zip(beside, limits, strict=True)]
        chosen[name] = [t if t.references else own[0] for t, own in zip(best, by_class, strict=True)]
    return chosen


def tuned_manifest(  # noqa: PLR0913 - what was done, for the record
    manifest: Manifest,
    chosen: Choices,
    scenes: Scenes,
    budget: FalseAlarmBudget,
    command: str,
    *,
    keep_balanced: bool = False,
) -> Manifest:
    """Return a manifest with the chosen values, and the rule and scenes in its training record.

    With ``keep_balanced`` the record of how the balanced values were chosen stays, and so does what was measured with
    them.
    """
    record, metrics = manifest.training, manifest.metrics
    base, sources = record.command, list(record.sources)
    if not keep_balanced:
        base, metrics = base.partition(" && snn-train tune-events ")[0], {}
        sources = [s for s in sources if not s.name.startswith(("scenes ", EVALUATED))]
    sources.append(_source_of(scenes, budget, only_beside=keep_balanced))
    training = replace(record, command=f"{base} && {command}", sources=tuple(sources))
    values = {name: [t.spec.decoder for t in chosen[name]] for name in SENSITIVITIES}
    classes = tuple(
        replace(c, decoder=balanced, low=low, high=high, results=c.results if keep_balanced else None)
        for c, low, balanced, high in zip(manifest.classes, *(values[n] for n in SENSITIVITIES), strict=True)
    )
    points = budget.operating_points
    return replace(manifest, classes=classes, training=training, metrics=metrics, operating_points=points)


def _source_of(scenes: Scenes, budget: FalseAlarmBudget, *, only_beside: bool) -> DataSource:
    """Return the record of scenes on which values were chosen, ``only_beside`` the balanced ones or all of them."""
    made = scenes.manifest
    points = "; low sensitivity: a tenth of them, high: ten times"
    if only_beside:
        points += ", by another threshold alone"
    use = f"decoder values: {budget.rule}{points} ({RULE_MODULE}); {made.hours:g} h, seed {made.seed}"
    use += recordings_of(scenes)
    return DataSource(f"scenes {scenes.sha256[:12]}", "as the recordings that they are made of", use)


def recordings_of(scenes: Scenes) -> str:
    """Return which recordings scenes were made of, for training records; empty where they are of no fold."""
    made = scenes.manifest
    return f", fold {made.fold}" + (f", {made.half} half" if made.half else "") if made.fold else ""


def as_json(chosen: Sequence[Candidate]) -> dict[str, dict[str, Any]]:
    """Return the choices by class, as JSON values."""
    result = {}
    for t in chosen:
        counts = {"references": t.references, "missed": t.missed, "false_alarms": t.false_alarms, "hours": t.hours}
        result[t.spec.label] = asdict(t.spec.decoder) | counts
    return result


def tuned_on(manifest: Manifest) -> list[str]:
    """Return the hash prefixes of the scenes that a model's decoder values were chosen on."""
    return [s.name.removeprefix("scenes ") for s in manifest.training.sources if s.name.startswith("scenes ")]


def _upgrades(
    fronts: Sequence[Sequence[Point]], indices: Sequence[int], references: Sequence[int], limit: float
) -> Iterator[tuple[float, int, int]]:
    """Yield gain per false alarm, class and index on its front, of every affordable change."""
    left = limit - sum(front[index][0] for front, index in zip(fronts, indices, strict=True))
    for c, (front, current) in enumerate(zip(fronts, indices, strict=True)):
        for index in range(current + 1, len(front)):
            more, fewer = front[index][0] - front[current][0], front[current][1] - front[index][1]
            if references[c] and more <= left:
                yield fewer / references[c] / more, c, index


def _front(points: Sequence[Point]) -> list[Point]:
    """Return the Pareto front, by increasing false alarms."""
    front: list[Point] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _evaluate_settings(
    predictions: ScenePredictions, scenes: Scenes, settings: Sequence[Sequence[ClassSpec]], processes: int, what: str
) -> list[list[Candidate]]:
    references = [stream.events for stream in scenes.streams]
    hours = {label: evaluated_hours(scenes, label) for label in predictions.manifest.labels}
    work = partial(_evaluate_setting, predictions.manifest, predictions.scores, references, hours)
    with ProcessPoolExecutor(processes) as pool:
        results = pool.map(work, settings, chunksize=4)
        return list(progress(results, what, "settings", len(settings)))


def _evaluate_evidence(predictions: ScenePredictions, scenes: Scenes, processes: int) -> list[list[Candidate]]:
    """Return the results of all classes for each of the parameters of evidence and each threshold."""
    references = [stream.events for stream in scenes.streams]
    hours = {label: evaluated_hours(scenes, label) for label in predictions.manifest.labels}
    work = partial(_evaluate_one_evidence, predictions.manifest, predictions.scores, references, hours)
    parameters = [EvidenceParams(*values) for values in product(LEAKS, WEIGHTS, BIASES)]
    with ProcessPoolExecutor(processes) as pool:
        found = progress(pool.map(work, parameters), "evidence", "settings", len(parameters))
        return [candidates for several in found for candidates in several]


def _evaluate_one_evidence(
    manifest: Manifest,
    scores: Sequence[Scores],
    references: Sequence[Sequence[EventReference]],
    hours: dict[str, float],
    evidence: EvidenceParams,
) -> list[list[Candidate]]:
    """Accumulate the evidence once: to the decoder, it is a score without an average."""
    accumulated = [Evidence([evidence] * s.shape[1]).push(s).astype(np.float32) for s in scores]
    results = []
    for threshold in THRESHOLDS:
        plain = [_with(c, 1, 1, threshold) for c in manifest.classes]
        found = _evaluate_setting(manifest, accumulated, references, hours, plain)
        results.append([replace(t, spec=_with(t.spec, 1, 1, threshold, evidence)) for t in found])
    return results


def _evaluate_setting(
    manifest: Manifest,
    scores: Sequence[Scores],
    references: Sequence[Sequence[EventReference]],
    hours: dict[str, float],
    classes: Sequence[ClassSpec],
) -> list[Candidate]:
    found = [decode(classes, manifest, s) for s in scores]
    candidates = []
    for spec in classes:
        matches = [
            match(of_label(refs, spec.label), [d for d in events if d.label == spec.label])
            for refs, events in zip(references, found, strict=True)
        ]
        reports = np.concatenate([m.reports for m in matches])
        late = np.concatenate([m.latency_s for m in matches])[reports > 0]
        reports_found = reports[reports > 0]
        candidates.append(
            Candidate(
                spec=spec,
                missed=int((reports == 0).sum()),
                references=reports.size,
                false_alarms=sum(int(m.is_false.sum()) for m in matches),
                hours=hours[spec.label],
                reports=float(reports_found.mean()) if reports_found.size else float("inf"),
                latency_s=float(np.median(late)) if late.size else float("inf"),
            )
        )
    return candidates


def _limits(by_class: Sequence[Sequence[Candidate]], budget: FalseAlarmBudget) -> list[float]:
    """Return the limit of false alarms of each class on the scene."""
    if not budget.all_classes:
        return [budget.per_hour * candidates[0].hours for candidates in by_class]
    points = [[(t.false_alarms, t.missed) for t in candidates] for candidates in by_class]
    hours = max(candidates[0].hours for candidates in by_class)
    return [
        float(n)
        for n in allocate_budget(points, [candidates[0].references for candidates in by_class], budget.per_hour * hours)
    ]


def _choose_threshold(candidates: Sequence[Candidate], limit: float) -> Candidate:
    """Choose smoothing, minimum duration and threshold: steps 1 to 3 of the rule."""
    allowed = [t for t in candidates if t.false_alarms <= limit] or [
        t for t in candidates if t.false_alarms == min(u.false_alarms for u in candidates)
    ]
    best = min(allowed, key=lambda t: (t.missed, t.reports, t.latency_s, *_simplicity(t)))
    equivalent = [t for t in allowed if _form(t) == _form(best) and t.missed == best.missed]
    return sorted(equivalent, key=lambda t: t.spec.decoder.on_threshold)[len(equivalent) // 2]


def _choose_min_off(before: Candidate, candidates: Sequence[Candidate]) -> Candidate:
    """Choose the silence that ends an event: step 4 of the rule."""
    as_good = [t for t in candidates if t.missed <= before.missed and t.false_alarms <= before.false_alarms]
    return min([*as_good, before], key=lambda t: (t.missed, t.reports, t.spec.decoder.min_off_frames))


def _form(t: Candidate) -> tuple[int, int, EvidenceParams | None]:
    return t.spec.decoder.smoothing_frames, t.spec.decoder.min_on_frames, t.spec.decoder.evidence


def _threshold(t: Candidate) -> float:
    return t.spec.decoder.on_threshold


def _simplicity(t: Candidate) -> tuple[bool, int]:
    return t.spec.decoder.evidence is not None, t.spec.decoder.smoothing_frames


def _with(
    spec: ClassSpec, smoothing: int, min_on_frames: int, threshold: float, evidence: EvidenceParams | None = None
) -> ClassSpec:
    decoder = replace(spec.decoder, smoothing_frames=smoothing, min_on_frames=min_on_frames, evidence=evidence)
    return with_threshold(replace(spec, decoder=decoder), threshold)


def _with_off(spec: ClassSpec, frames: int) -> ClassSpec:
    return replace(spec, decoder=replace(spec.decoder, min_off_frames=frames))
