"""Judge a model file on recordings that it never saw, through the pipeline that ships."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from detector.audio.sources import FileSource
from detector.errors import ConfigError
from detector.manifest import Manifest
from detector.network import load_model
from detector.pipeline import Detector
from detector.statistics import Rate
from models.datasets import ESC10, Clip


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
    with closing(FileSource(clip.path, _detector.sample_rate_hz)) as source:
        for chunk in source:
            scores, found = _detector.process(chunk.samples)
            parts.append(scores)
            events += found
    last, found = _detector.finish()
    onsets = tuple(e.label for e in [*events, *found] if e.kind == "onset")
    return Heard(clip, np.concatenate([*parts, last]), onsets, _detector.manifest.labels)
