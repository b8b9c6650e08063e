"""Judge one model per fold, each on the fold that its training left out, and put the folds together.

Spiking models are model files and run through the pipeline that ships; a twin is the folder of its
run and is heard over the runtime's features. Both are judged alike: the class with the highest mean
score over the clip.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detector.audio.sources import read_sound
from detector.bench import activity
from detector.errors import ConfigError
from detector.network import load_model
from detector.pipeline import Detector
from detector.statistics import Rate
from models.corpus import recordings
from models.datasets import Clip
from models.evaluate import Heard, accuracy, listen
from models.front_end import FrontEnd
from models.recipe import Recipe
from models.trained import load_run

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
