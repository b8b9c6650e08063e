"""Judge a model file on recordings that it never saw, through the pipeline that ships.

Judge one model per fold, each on the fold that its training left out, and put the folds together.

Spiking models are model files and run through the pipeline that ships; a twin is the folder of its
run and is heard over the runtime's features. Both are judged alike: the class with the highest mean
score over the clip.

Choose on-thresholds by an open rule, on folds that the judged models were not trained on.

The rule, for each class: find the lowest threshold of the grid at which, in no source of recordings,
more than a stated share of the clips of other classes has an event of it. From there up, as many of
the class's own clips are found over some stretch of the grid; take the middle of that stretch, which
keeps its distance from false events and from missed ones. The sources count one by one because the
hard ones are small: other instruments for the guitar, say. The events are those of the decoder that
ships.

How long the scores are averaged is chosen by a second rule: the shortest time with which, each with
its thresholds, hardly fewer clips are found than with the best. Averaging costs time before an
event is known, and pays only where it keeps apart what single scores do not.
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
from tqdm import tqdm

from detector.audio.sources import read_chunks, read_sound
from detector.bench import activity
from detector.decoder import EventDecoder
from detector.errors import ConfigError
from detector.manifest import Manifest
from detector.network import load_model
from detector.pipeline import Detector, with_threshold
from detector.statistics import Rate
from models.data.datasets import recordings
from models.data.household import ESC10, Clip
from models.recipe import Recipe
from models.training.frontend import FrontEnd
from models.training.runs import load_run


@dataclass(frozen=True, slots=True)
class Heard:
    """What the detector made of one clip."""

    clip: Clip
    scores: NDArray[np.float32]
    """(frames, classes)."""
    onsets: tuple[str, ...]
    """Labels of the onset events, in order."""
    labels: tuple[str, ...]
    """Of the classes, in the order of the scores."""

    def mean_scores(self, frames: int | None = None) -> NDArray[np.float32]:
        """Return each class's score, averaged over the clip's frames or its first ``frames``, (classes,)."""
        return np.asarray(self.scores[:frames].mean(axis=0))


def check_unseen(model: Path, fold: int) -> Manifest:
    """Return a model's manifest; raises ManifestError where it is no model, ConfigError where it has seen the fold."""
    manifest = load_model(model).manifest
    left_out = manifest.training.folds_left_out
    if fold not in left_out:
        raise ConfigError(f"{model}: was trained on fold {fold}; judge it on {' or '.join(map(str, left_out))}")
    return manifest


def listen(model: Path, clips: Sequence[Clip], processes: int = 2) -> list[Heard]:
    """Run every clip through the detector as one stream of its own."""
    with ProcessPoolExecutor(processes, initializer=_load, initargs=(model,)) as pool:
        return list(tqdm(pool.map(_hear, clips, chunksize=8), total=len(clips), unit="clip", leave=False))


def accuracy(heard: Sequence[Heard], frames: int | None = None) -> Rate:
    """Count clips whose class has the highest mean score, over their first ``frames`` if that is given."""
    return Rate(sum(_best(h, h.labels, frames) == h.clip.label for h in heard), len(heard))


def esc10_accuracy(heard: Sequence[Heard]) -> Rate:
    """Count ESC-10 clips whose class has the highest mean score among the ten."""
    clips = [h for h in heard if h.clip.source == "esc10"]
    return Rate(sum(_best(h, ESC10) == h.clip.label for h in clips), len(clips))


def _best(heard: Heard, labels: Sequence[str], frames: int | None = None) -> str:
    means = heard.mean_scores(frames)
    return max(labels, key=lambda label: means[heard.labels.index(label)])


def event_rates(heard: Sequence[Heard], label: str) -> tuple[Rate, Rate]:
    """Return (recall, false rate): clips of the class, and clips of others, with an event of the class."""
    own = [label in h.onsets for h in heard if h.clip.label == label]
    others = [label in h.onsets for h in heard if h.clip.label != label]
    return Rate(sum(own), len(own)), Rate(sum(others), len(others))


def confusion(heard: Sequence[Heard]) -> NDArray[np.int64]:
    """Return counts (true class, class of the highest mean score) over the model's classes."""
    labels = heard[0].labels
    table = np.zeros((len(labels), len(labels)), np.int64)
    for h in heard:
        if h.clip.label is not None:
            table[labels.index(h.clip.label), int(np.argmax(h.mean_scores()))] += 1
    return table


def figures(heard: Sequence[Heard]) -> dict[str, float]:
    """Return the figures that stand in a manifest: shares of clips in [0, 1], and counts."""
    ten, every = esc10_accuracy(heard), accuracy([h for h in heard if h.clip.label is not None])
    result = {"accuracy": every.value, "clips": float(len(heard))}
    result |= {"esc10_accuracy": ten.value, "esc10_clips": float(ten.total)} if ten.total else {}
    for label in heard[0].labels:
        recall, false = event_rates(heard, label)
        result |= {f"{label}_recall": recall.value, f"{label}_false_rate": false.value}
    return {name: round(value, 4) for name, value in result.items() if not math.isnan(value)}


def table(heard: Sequence[Heard]) -> str:
    """Return the figures as a Markdown table, with the number of clips and the interval."""
    ten, labelled = esc10_accuracy(heard), [h for h in heard if h.clip.label is not None]
    rows = [f"accuracy (argmax of the mean score): {accuracy(labelled)}"]
    if ten.total:
        rows.append(f"ESC-10 accuracy (argmax of the mean score over ten classes): {ten}")
    rows += ["", "| class | clips with its event | other clips with its event |", "|---|---|---|"]
    for label in heard[0].labels:
        recall, false = event_rates(heard, label)
        rows.append(f"| {label} | {recall} | {false} |")
    return "\n".join(rows)


_detector: Detector | None = None
"""One per worker process: loading costs more than a clip."""


def _load(model: Path) -> None:
    global _detector  # noqa: PLW0603 - set once when the worker process starts
    _detector = Detector.load(model)


def _hear(clip: Clip) -> Heard:
    assert _detector is not None  # noqa: S101 - the pool's initialiser has run
    parts, events = [], []
    with closing(read_chunks(clip.path, _detector.sample_rate_hz)) as source:
        for chunk in source:
            scores, found = _detector.process(chunk.samples)
            parts.append(scores)
            events += found
    last, found = _detector.finish()
    onsets = tuple(e.label for e in [*events, *found] if e.kind == "onset")
    return Heard(clip, np.concatenate([*parts, last]), onsets, _detector.manifest.labels)


ELAPSED_S = (0.5, 1.0, 2.0, 5.0)
"""Lengths of sound after which the class is asked for."""
ACTIVITY_CLIPS = 20
"""Clips of each fold over which spikes are counted: every layer's are read out step by step, which takes time."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What one model made of the fold that it never saw."""

    name: str
    fold: int
    seed: int
    heard: tuple[Heard, ...]
    activity: dict[str, Any]
    """Spikes per neuron and second, synaptic operations per second of sound; empty for a twin."""

    def row(self) -> dict[str, Any]:
        """Return what the results page needs of it."""
        rate = accuracy(self.heard)
        elapsed = {str(s): accuracy(self.heard, self._frames(s)).value for s in ELAPSED_S}
        key = {"model": self.name, "fold": self.fold, "seed": self.seed}
        return key | {"hits": rate.hits, "clips": rate.total, "elapsed": elapsed, "activity": self.activity}

    def _frames(self, seconds: float) -> int:
        longest = max(len(h.scores) for h in self.heard)
        return max(1, math.floor(seconds / ELAPSED_S[-1] * longest))


def evaluate_fold(model: Path, recipe: Recipe, data: Path) -> Judged:
    """Judge a model file, or the run folder of a twin, on the one fold that it left out.

    Raises ConfigError where it left out none or several, or a run has not ended.
    """
    if model.is_dir():
        return _judge_run(model, recipe, data)
    manifest = load_model(model).manifest
    fold = _only_fold(model, manifest.training.folds_left_out)
    clips = [c for c in recordings(recipe, data).clips if c.fold == fold]
    heard = listen(model, clips)
    waves = [read_sound(c.path, manifest.features.sample_rate_hz) for c in _some(clips)]
    found = activity(Detector.load(model), np.concatenate(waves))
    return Judged(model.name, fold, manifest.training.seed, tuple(heard), found)


def _judge_run(folder: Path, recipe: Recipe, data: Path) -> Judged:
    net, own, record = load_run(folder)
    fold = _only_fold(folder, record.folds_left_out)
    front, net = FrontEnd(own), net.eval()
    clips = [c for c in recordings(recipe, data).clips if c.fold == fold]
    heard = tuple(_score_run(net, front, own, clip) for clip in clips)
    return Judged(folder.name, fold, record.seed, heard, {})


def _score_run(net: torch.nn.Module, front: FrontEnd, recipe: Recipe, clip: Clip) -> Heard:
    given = front.encode_clip(read_sound(clip.path, recipe.features.sample_rate_hz))
    with torch.no_grad():
        logits, _ = net(torch.from_numpy(given).float()[None])
    return Heard(clip, torch.sigmoid(logits[0]).numpy(), (), recipe.labels)


def _only_fold(model: Path, folds: Sequence[int]) -> int:
    if len(folds) != 1:
        raise ConfigError(f"{model}: left out folds {folds}; a model of a cross-evaluation leaves out one")
    return folds[0]


def _some(clips: Sequence[Clip]) -> list[Clip]:
    """Take clips evenly from all classes."""
    return list(clips[:: max(1, len(clips) // ACTIVITY_CLIPS)])


def summary(judged: Sequence[Judged]) -> dict[str, Any]:
    """Return rows and what they say together: mean over folds for each seed, over seeds, 95 % interval.

    The interval is Wilson's over the clips of one seed: every clip is counted once, whoever trained
    twice. Raises ConfigError where a seed lacks a fold that another one has.
    """
    rows = [j.row() for j in sorted(judged, key=lambda j: (j.seed, j.fold))]
    folds = sorted({row["fold"] for row in rows})
    seeds = {seed: [r for r in rows if r["seed"] == seed] for seed in sorted({r["seed"] for r in rows})}
    for seed, own in seeds.items():
        if sorted(r["fold"] for r in own) != folds:
            raise ConfigError(f"seed {seed}: has not one model for each of the folds {folds}")
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


def _mean_activity(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if not found:
        return {}
    layers = found[0]["spikes_per_neuron_s"]
    spikes = {name: statistics.mean(f["spikes_per_neuron_s"][name] for f in found) for name in layers}
    operations = {key: statistics.mean(f[key] for f in found) for key in ("dense_ops_per_s", "effective_ops_per_s")}
    return {"spikes_per_neuron_s": spikes, **operations}


def mean_training_seconds(runs: Path) -> float:
    """Return how long the runs below a folder trained, on average; raises ConfigError where none has ended."""
    ended = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(runs.glob("*/metrics.json"))]
    if not ended:
        raise ConfigError(f"{runs}: no ended run below it; name the folder of snn-train folds")
    return statistics.mean(float(metrics["training_seconds"]) for metrics in ended)


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


SPARED = 0.01
"""Share of the clips that a shorter average may lose."""
GRID = tuple(round(0.30 + 0.02 * i, 2) for i in range(33))
"""Thresholds that are tried, 0.30 to 0.94."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A class's threshold, and what it does on the folds it was chosen on."""

    label: str
    threshold: float
    recall: Rate
    false: Rate
    """Of all clips of other classes."""
    worst: Rate
    """Of those of the source in which the most have an event."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A length of the average, the thresholds that go with it, and what they do together."""

    smoothing_frames: int
    choices: list[Choice]
    delays_s: NDArray[np.float64]
    """Of each clip that is found: from the beginning of its sound until the event was known."""

    @property
    def recall(self) -> Rate:
        """Clips in which the event of their class is found."""
        return Rate(sum(c.recall.hits for c in self.choices), sum(c.recall.total for c in self.choices))

    def __str__(self) -> str:
        text = f"average of {self.smoothing_frames:3} frames: own clips {self.recall}, others {self.false}"
        if not self.delays_s.size:
            return text
        half, most = np.quantile(self.delays_s, [0.5, 0.95])
        return f"{text}, known after {half:.2f} s (half of them) to {most:.2f} s (95 %)"

    @property
    def false(self) -> Rate:
        """Pairs of a clip and another class with an event of that class."""
        return Rate(sum(c.false.hits for c in self.choices), sum(c.false.total for c in self.choices))


def settle(
    heard: Sequence[Heard], begins: Sequence[int], manifest: Manifest, false_rate: float, smoothings: Sequence[int]
) -> list[Setting]:
    """Return a setting for each length of the average; ``begins``: sample at which each clip's sound begins."""
    found = []
    for frames in sorted(smoothings):
        smoothed = with_smoothing(manifest, frames)
        choices = choose(heard, smoothed, false_rate)
        found.append(Setting(frames, choices, _delays_s(heard, begins, smoothed, choices)))
    return found


def pick(settings: Sequence[Setting]) -> Setting:
    """Return the setting with the shortest average that finds all but ``SPARED`` of what the best finds."""
    most = max(s.recall.value for s in settings)
    return min((s for s in settings if s.recall.value >= most - SPARED), key=lambda s: s.smoothing_frames)


def with_smoothing(manifest: Manifest, frames: int) -> Manifest:
    """Return a manifest whose classes average their scores over so many frames."""
    classes = (replace(c, decoder=replace(c.decoder, smoothing_frames=frames)) for c in manifest.classes)
    return replace(manifest, classes=tuple(classes))


def choose(heard: Sequence[Heard], manifest: Manifest, false_rate: float) -> list[Choice]:
    """Return a threshold for each class by the rule above; the grid's highest where none is high enough."""
    found = {threshold: [_labels(h, manifest, threshold) for h in heard] for threshold in GRID}
    choices = []
    for label in manifest.labels:
        judged = [_judge(heard, found[threshold], label, threshold) for threshold in GRID]
        quiet = [c for c in judged if c.worst.hits <= false_rate * c.worst.total] or judged[-1:]
        alike = [c for c in judged[judged.index(quiet[0]) :] if c.recall.hits == quiet[0].recall.hits]
        choices.append(alike[len(alike) // 2])
    return choices


def toml(choices: Sequence[Choice]) -> str:
    """Return the choices as the recipe's table of on-thresholds."""
    return "\n".join(["[decoding.on_thresholds]", *(f"{c.label} = {c.threshold}" for c in choices)])


def _judge(heard: Sequence[Heard], labels: Sequence[set[str]], label: str, threshold: float) -> Choice:
    own = [label in found for h, found in zip(heard, labels, strict=True) if h.clip.label == label]
    others: dict[str, list[bool]] = {}
    for h, found in zip(heard, labels, strict=True):
        if h.clip.label != label:
            others.setdefault(h.clip.source, []).append(label in found)
    rates = [Rate(sum(hits), len(hits)) for hits in others.values()]
    false = Rate(sum(r.hits for r in rates), sum(r.total for r in rates))
    return Choice(
        label, threshold, Rate(sum(own), len(own)), false, max(rates, key=lambda r: r.value, default=Rate(0, 0))
    )


def _delays_s(
    heard: Sequence[Heard], begins: Sequence[int], manifest: Manifest, choices: Sequence[Choice]
) -> NDArray[np.float64]:
    features = manifest.features
    classes = [with_threshold(c, choice.threshold) for c, choice in zip(manifest.classes, choices, strict=True)]
    delays = []
    for h, begin in zip(heard, begins, strict=True):
        decoder = EventDecoder(classes, features.hop_length, features.frame_length)
        known = [e.emitted_sample + 1 for e in decoder.push(h.scores) if e.kind == "onset" and e.label == h.clip.label]
        delays += [(known[0] - begin) / features.sample_rate_hz] if known else []
    return np.array(delays)


def _labels(heard: Heard, manifest: Manifest, threshold: float) -> set[str]:
    """Return the labels with an event in a clip, were every on-threshold this one."""
    classes = [with_threshold(c, threshold) for c in manifest.classes]
    decoder = EventDecoder(classes, manifest.features.hop_length, manifest.features.frame_length)
    return {e.label for e in decoder.push(heard.scores) if e.kind == "onset"}
