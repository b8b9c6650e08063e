"""Evaluation on clips through the streaming pipeline: of one model, of the folds together, and of thresholds.

A model is evaluated on recordings it was not trained on. Model files run through the runtime's pipeline; a CNN twin is
the folder of its run and reads the runtime's features. Both are scored alike: the predicted class of a clip is the one
with the highest mean score.

On-thresholds are chosen by a fixed rule, on folds that the models were not trained on. For each class: find the lowest
threshold of the grid at which, in no source of recordings, more than a given share of the clips of other classes has an
event of the class. From there up, the recall stays constant over a range of the grid; take the middle of that range,
which keeps a margin to false events and to misses. Sources are counted separately because the difficult ones are small:
for the guitar, other instruments.

The smoothing length is chosen by a second rule: the shortest one with which, each with its own thresholds, the recall
is within ``RECALL_TOLERANCE`` of the best. Smoothing costs latency, and pays off only where it separates what single
scores do not.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detector.audio.sources import read_chunks, read_sound
from detector.bench import activity
from detector.decoder import EventDecoder
from detector.errors import ConfigError
from detector.manifest import Manifest
from detector.network import load_model
from detector.pipeline import Detector, with_threshold
from detector.statistics import Rate
from models.console import progress
from models.data.clips import Clip
from models.data.datasets import recordings
from models.data.household import ESC10
from models.recipe import Recipe
from models.training.frontend import FrontEnd
from models.training.runs import load_run

_detector: Detector | None = None
"""One per worker process: loading takes longer than a clip."""
ELAPSED_S = (0.5, 1.0, 2.0, 5.0)
"""Durations of sound after which accuracy is measured, in seconds."""
ACTIVITY_CLIPS = 20
"""Clips of each fold over which spikes are counted, which is slow: all layers are read step by step."""
RECALL_TOLERANCE = 0.01
"""Loss of recall allowed for a shorter smoothing."""
THRESHOLD_GRID = tuple(round(0.30 + 0.02 * i, 2) for i in range(33))
"""Candidate on-thresholds, 0.30 to 0.94."""


@dataclass(frozen=True, slots=True)
class ClipPrediction:
    """Scores and onset events of one clip."""

    clip: Clip
    scores: NDArray[np.float32]
    """(frames, classes)."""
    onsets: tuple[str, ...]
    """Labels of the onset events, in order."""
    labels: tuple[str, ...]
    """Class labels, in the order of the scores."""

    def mean_scores(self, frames: int | None = None) -> NDArray[np.float32]:
        """Return each class's score, averaged over the clip's frames or its first ``frames``, (classes,)."""
        return np.asarray(self.scores[:frames].mean(axis=0))


def check_unseen(model: Path, fold: int) -> Manifest:
    """Return a model's manifest; raises ManifestError for other files, ConfigError where it was trained on the fold."""
    manifest = load_model(model).manifest
    left_out = manifest.training.folds_left_out
    if fold not in left_out:
        raise ConfigError(f"{model}: was trained on fold {fold}; evaluate it on {' or '.join(map(str, left_out))}")
    return manifest


def predict_clips(model: Path, clips: Sequence[Clip], processes: int = 2) -> list[ClipPrediction]:
    """Run every clip through the detector, each as a stream of its own."""
    with ProcessPoolExecutor(processes, initializer=_load, initargs=(model,)) as pool:
        return list(progress(pool.map(_predict, clips, chunksize=8), "predicting", "clips", len(clips)))


def accuracy(predictions: Sequence[ClipPrediction], frames: int | None = None) -> Rate:
    """Count clips whose class has the highest mean score, over their first ``frames`` if that is given."""
    return Rate(sum(_best(p, p.labels, frames) == p.clip.label for p in predictions), len(predictions))


def esc10_accuracy(predictions: Sequence[ClipPrediction]) -> Rate:
    """Count ESC-10 clips whose class has the highest mean score among the ten."""
    clips = [p for p in predictions if p.clip.source == "esc10"]
    return Rate(sum(_best(p, ESC10) == p.clip.label for p in clips), len(clips))


def event_rates(predictions: Sequence[ClipPrediction], label: str) -> tuple[Rate, Rate]:
    """Return (recall, false rate): clips of the class, and clips of others, with an event of the class."""
    own = [label in p.onsets for p in predictions if p.clip.label == label]
    others = [label in p.onsets for p in predictions if p.clip.label != label]
    return Rate(sum(own), len(own)), Rate(sum(others), len(others))


def confusion(predictions: Sequence[ClipPrediction]) -> NDArray[np.int64]:
    """Return counts (true class, class of the highest mean score) over the model's classes."""
    labels = predictions[0].labels
    table = np.zeros((len(labels), len(labels)), np.int64)
    for p in predictions:
        if p.clip.label is not None:
            table[labels.index(p.clip.label), int(np.argmax(p.mean_scores()))] += 1
    return table


def metrics(predictions: Sequence[ClipPrediction]) -> dict[str, float]:
    """Return the metrics for a manifest: shares of clips in [0, 1], and counts."""
    ten, every = esc10_accuracy(predictions), accuracy([p for p in predictions if p.clip.label is not None])
    result = {"accuracy": every.value, "clips": float(every.total)}  # those of no class are in the rates of events
    result |= {"esc10_accuracy": ten.value, "esc10_clips": float(ten.total)} if ten.total else {}
    for label in predictions[0].labels:
        recall, false = event_rates(predictions, label)
        result |= {f"{label}_recall": recall.value, f"{label}_false_rate": false.value}
    return {name: round(value, 4) for name, value in result.items() if not math.isnan(value)}


def table(predictions: Sequence[ClipPrediction]) -> str:
    """Return the metrics as a Markdown table, with counts and intervals."""
    ten, labelled = esc10_accuracy(predictions), [p for p in predictions if p.clip.label is not None]
    rows = [f"accuracy (argmax of the mean score): {accuracy(labelled)}"]
    if ten.total:
        rows.append(f"ESC-10 accuracy (argmax of the mean score over ten classes): {ten}")
    rows += ["", "| class | clips with its event | other clips with its event |", "|---|---|---|"]
    for label in predictions[0].labels:
        recall, false = event_rates(predictions, label)
        rows.append(f"| {label} | {recall} | {false} |")
    return "\n".join(rows)


@dataclass(frozen=True, slots=True)
class FoldResult:
    """Predictions of one model on its held-out fold."""

    name: str
    fold: int
    seed: int
    predictions: tuple[ClipPrediction, ...]
    activity: dict[str, Any]
    """Spikes per neuron and second, synaptic operations per second of sound; empty for a twin."""

    def row(self) -> dict[str, Any]:
        """Return the row for the results page, as JSON values."""
        rate = accuracy(self.predictions)
        elapsed = {str(s): accuracy(self.predictions, self._frames(s)).value for s in ELAPSED_S}
        key = {"model": self.name, "fold": self.fold, "seed": self.seed}
        return key | {"hits": rate.hits, "clips": rate.total, "elapsed": elapsed, "activity": self.activity}

    def _frames(self, seconds: float) -> int:
        longest = max(len(p.scores) for p in self.predictions)
        return max(1, math.floor(seconds / ELAPSED_S[-1] * longest))


def evaluate_fold(model: Path, recipe: Recipe, data: Path) -> FoldResult:
    """Evaluate a model file, or the run folder of a twin, on the one fold that it left out.

    Raises ConfigError where it left out none or several, or a run is not finished.
    """
    if model.is_dir():
        return _evaluate_run(model, recipe, data)
    manifest = load_model(model).manifest
    fold = _only_fold(model, manifest.training.folds_left_out)
    clips = [c for c in recordings(recipe, data).clips if c.fold == fold]
    predictions = predict_clips(model, clips)
    waves = [read_sound(c.path, manifest.features.sample_rate_hz) for c in _activity_clips(clips)]
    found = activity(Detector.load(model), np.concatenate(waves))
    return FoldResult(model.name, fold, manifest.training.seed, tuple(predictions), found)


def summary(results: Sequence[FoldResult]) -> dict[str, Any]:
    """Return the rows and their summary: mean over folds by seed, over seeds, and a 95 % interval.

    The interval is Wilson's over the clips of one seed, so that every clip counts once however many seeds there are.
    Raises ConfigError where a seed lacks a fold that another one has.
    """
    rows = [j.row() for j in sorted(results, key=lambda j: (j.seed, j.fold))]
    folds = sorted({row["fold"] for row in rows})
    seeds = {seed: [r for r in rows if r["seed"] == seed] for seed in sorted({r["seed"] for r in rows})}
    for seed, own in seeds.items():
        if sorted(r["fold"] for r in own) != folds:
            raise ConfigError(f"seed {seed}: lacks a model for some of the folds {folds}")
    means = {str(seed): statistics.mean(r["hits"] / r["clips"] for r in own) for seed, own in seeds.items()}
    clips = sum(r["clips"] for r in next(iter(seeds.values())))
    mean = statistics.mean(means.values())
    rate = Rate(round(mean * clips), clips)
    elapsed = {str(s): statistics.mean(r["elapsed"][str(s)] for r in rows) for s in ELAPSED_S}
    by_fold = {str(f): statistics.mean(r["hits"] / r["clips"] for r in rows if r["fold"] == f) for f in folds}
    return {
        "accuracy": mean,
        "interval": rate.interval,
        "clips": clips,
        "by_seed": means,
        "by_fold": by_fold,
        "elapsed": elapsed,
        "activity": _mean_activity([r["activity"] for r in rows if r["activity"]]),
        "rows": rows,
    }


def mean_training_seconds(runs: Path) -> float:
    """Return the mean training time of the runs below a folder; raises ConfigError where none is finished."""
    finished = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(runs.glob("*/metrics.json"))]
    if not finished:
        raise ConfigError(f"{runs}: no finished run below it; name the folder of snn-train folds")
    return statistics.mean(float(metrics["training_seconds"]) for metrics in finished)


def folds_table(result: dict[str, Any]) -> str:
    """Return the summary as a Markdown table: a column per fold, a row per seed."""
    folds = list(result["by_fold"])
    rows = ["| seed | " + " | ".join(f"fold {f}" for f in folds) + " | mean |", "|" + "---|" * (len(folds) + 2)]
    for seed, mean in result["by_seed"].items():
        own = {r["fold"]: r for r in result["rows"] if str(r["seed"]) == seed}
        cells = [f"{100 * own[int(f)]['hits'] / own[int(f)]['clips']:.1f}" for f in folds]
        rows.append(f"| {seed} | {' | '.join(cells)} | {100 * mean:.1f} |")
    low, high = result["interval"]
    rows += ["", f"mean {100 * result['accuracy']:.1f} % (95 % interval {100 * low:.1f} to {100 * high:.1f} %, "]
    rows[-1] += f"{result['clips']} clips); after " + ", ".join(
        f"{s} s {100 * value:.1f} %" for s, value in result["elapsed"].items()
    )
    return "\n".join(rows)


@dataclass(frozen=True, slots=True)
class ThresholdChoice:
    """The threshold of a class, with recall and false events on the folds it was chosen on."""

    label: str
    threshold: float
    recall: Rate
    false: Rate
    """Share of the clips of other classes with an event of this one."""
    worst: Rate
    """The same in the source where it is highest."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A smoothing length with the thresholds chosen for it, and their results."""

    smoothing_frames: int
    choices: list[ThresholdChoice]
    delays_s: NDArray[np.float64]
    """Of each detected clip: from the onset of its sound to the emission of the event."""

    @property
    def recall(self) -> Rate:
        """Share of the clips with an event of their class."""
        return Rate(sum(c.recall.hits for c in self.choices), sum(c.recall.total for c in self.choices))

    def __str__(self) -> str:
        text = f"smoothing over {self.smoothing_frames:3} frames: own clips {self.recall}, others {self.false}"
        if not self.delays_s.size:
            return text
        median, p95 = np.quantile(self.delays_s, [0.5, 0.95])
        return f"{text}, latency {median:.2f} s (median) to {p95:.2f} s (95 %)"

    @property
    def false(self) -> Rate:
        """Pairs of a clip and another class with an event of that class."""
        return Rate(sum(c.false.hits for c in self.choices), sum(c.false.total for c in self.choices))


def evaluate_settings(
    predictions: Sequence[ClipPrediction],
    onset_samples: Sequence[int],
    manifest: Manifest,
    false_rate: float,
    smoothings: Sequence[int],
) -> list[Setting]:
    """Return a setting for each smoothing length; ``onset_samples`` has the onset of each clip's sound."""
    found = []
    for frames in sorted(smoothings):
        smoothed = with_smoothing(manifest, frames)
        choices = choose_thresholds(predictions, smoothed, false_rate)
        found.append(Setting(frames, choices, _delays_s(predictions, onset_samples, smoothed, choices)))
    return found


def select_setting(settings: Sequence[Setting]) -> Setting:
    """Return the setting with the shortest smoothing whose recall is within ``RECALL_TOLERANCE`` of the best."""
    best = max(s.recall.value for s in settings)
    return min((s for s in settings if s.recall.value >= best - RECALL_TOLERANCE), key=lambda s: s.smoothing_frames)


def with_smoothing(manifest: Manifest, frames: int) -> Manifest:
    """Return a manifest whose classes smooth their scores over ``frames`` frames."""
    classes = (replace(c, decoder=replace(c.decoder, smoothing_frames=frames)) for c in manifest.classes)
    return replace(manifest, classes=tuple(classes))


def choose_thresholds(
    predictions: Sequence[ClipPrediction], manifest: Manifest, false_rate: float
) -> list[ThresholdChoice]:
    """Return a threshold for each class by the rule above; where none satisfies it, the highest of the grid."""
    found = {threshold: [_labels(p, manifest, threshold) for p in predictions] for threshold in THRESHOLD_GRID}
    choices = []
    for label in manifest.labels:
        candidates = [
            _evaluate_threshold(predictions, found[threshold], label, threshold) for threshold in THRESHOLD_GRID
        ]
        allowed = [c for c in candidates if c.worst.hits <= false_rate * c.worst.total] or candidates[-1:]
        equivalent = [c for c in candidates[candidates.index(allowed[0]) :] if c.recall.hits == allowed[0].recall.hits]
        choices.append(equivalent[len(equivalent) // 2])
    return choices


def toml(choices: Sequence[ThresholdChoice]) -> str:
    """Return the choices as the recipe's table of on-thresholds."""
    return "\n".join(["[decoding.on_thresholds]", *(f"{c.label} = {c.threshold}" for c in choices)])


def _best(predictions: ClipPrediction, labels: Sequence[str], frames: int | None = None) -> str:
    means = predictions.mean_scores(frames)
    return max(labels, key=lambda label: means[predictions.labels.index(label)])


def _load(model: Path) -> None:
    global _detector  # noqa: PLW0603 - set once when the worker process starts
    _detector = Detector.load(model)


def _predict(clip: Clip) -> ClipPrediction:
    assert _detector is not None  # noqa: S101 - the pool's initialiser has run
    parts, events = [], []
    with closing(read_chunks(clip.path, _detector.sample_rate_hz)) as source:
        for chunk in source:
            scores, found = _detector.process(chunk.samples)
            parts.append(scores)
            events += found
    last, found = _detector.finish()
    onsets = tuple(e.label for e in [*events, *found] if e.kind == "onset")
    return ClipPrediction(clip, np.concatenate([*parts, last]), onsets, _detector.manifest.labels)


def _evaluate_run(folder: Path, recipe: Recipe, data: Path) -> FoldResult:
    net, own, record = load_run(folder)
    fold = _only_fold(folder, record.folds_left_out)
    front, net = FrontEnd(own), net.eval()
    clips = [c for c in recordings(recipe, data).clips if c.fold == fold]
    predictions = tuple(_score_run(net, front, own, clip) for clip in clips)
    return FoldResult(folder.name, fold, record.seed, predictions, {})


def _score_run(net: torch.nn.Module, front: FrontEnd, recipe: Recipe, clip: Clip) -> ClipPrediction:
    given = front.encode_clip(read_sound(clip.path, recipe.features.sample_rate_hz))
    with torch.no_grad():
        logits, _ = net(torch.from_numpy(given).float()[None])
    return ClipPrediction(clip, torch.sigmoid(logits[0]).numpy(), (), recipe.labels)


def _only_fold(model: Path, folds: Sequence[int]) -> int:
    if len(folds) != 1:
        raise ConfigError(f"{model}: left out folds {folds}; a model of a cross-evaluation leaves out one")
    return folds[0]


def _activity_clips(clips: Sequence[Clip]) -> list[Clip]:
    """Select clips evenly from all classes."""
    return list(clips[:: max(1, len(clips) // ACTIVITY_CLIPS)])


def _mean_activity(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if not found:
        return {}
    layers = found[0]["spikes_per_neuron_s"]
    spikes = {name: statistics.mean(f["spikes_per_neuron_s"][name] for f in found) for name in layers}
    operations = {key: statistics.mean(f[key] for f in found) for key in ("dense_ops_per_s", "effective_ops_per_s")}
    return {"spikes_per_neuron_s": spikes, **operations}


def _evaluate_threshold(
    predictions: Sequence[ClipPrediction], labels: Sequence[set[str]], label: str, threshold: float
) -> ThresholdChoice:
    own = [label in found for p, found in zip(predictions, labels, strict=True) if p.clip.label == label]
    others: dict[str, list[bool]] = {}
    for p, found in zip(predictions, labels, strict=True):
        if p.clip.label != label:
            others.setdefault(p.clip.source, []).append(label in found)
    rates = [Rate(sum(hits), len(hits)) for hits in others.values()]
    false = Rate(sum(r.hits for r in rates), sum(r.total for r in rates))
    return ThresholdChoice(
        label, threshold, Rate(sum(own), len(own)), false, max(rates, key=lambda r: r.value, default=Rate(0, 0))
    )


def _delays_s(
    predictions: Sequence[ClipPrediction],
    onset_samples: Sequence[int],
    manifest: Manifest,
    choices: Sequence[ThresholdChoice],
) -> NDArray[np.float64]:
    features = manifest.features
    classes = [with_threshold(c, choice.threshold) for c, choice in zip(manifest.classes, choices, strict=True)]
    delays = []
    for p, onset_sample in zip(predictions, onset_samples, strict=True):
        decoder = EventDecoder(classes, features.hop_length, features.frame_length)
        known = [e.emitted_sample + 1 for e in decoder.push(p.scores) if e.kind == "onset" and e.label == p.clip.label]
        delays += [(known[0] - onset_sample) / features.sample_rate_hz] if known else []
    return np.array(delays)


def _labels(predictions: ClipPrediction, manifest: Manifest, threshold: float) -> set[str]:
    """Return the labels with an event in a clip, with one on-threshold for all classes."""
    classes = [with_threshold(c, threshold) for c in manifest.classes]
    decoder = EventDecoder(classes, manifest.features.hop_length, manifest.features.frame_length)
    return {e.label for e in decoder.push(predictions.scores) if e.kind == "onset"}
