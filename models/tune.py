"""Choose on-thresholds by an open rule, on folds that the judged models were not trained on.

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

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detector.decoder import EventDecoder
from detector.manifest import Manifest
from detector.pipeline import with_threshold
from detector.statistics import Rate
from models.evaluate import Heard

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
