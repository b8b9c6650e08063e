"""Choose on-thresholds by an open rule, on folds that the judged models were not trained on.

The rule, for each class: find the lowest threshold of the grid at which, in no source of recordings,
more than a stated share of the clips of other classes has an event of it. From there up, as many of
the class's own clips are found over some stretch of the grid; take the middle of that stretch, which
keeps its distance from false events and from missed ones. The sources count one by one because the
hard ones are small: other instruments for the guitar, say. The events are those of the decoder that
ships.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detector.decoder import EventDecoder
from detector.manifest import Manifest
from detector.pipeline import with_threshold
from models.evaluate import Heard, Rate

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
    """Return the choices as the recipe's table."""
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


def _labels(heard: Heard, manifest: Manifest, threshold: float) -> set[str]:
    """Return the labels with an event in a clip, were every on-threshold this one."""
    classes = [with_threshold(c, threshold) for c in manifest.classes]
    decoder = EventDecoder(classes, manifest.features.hop_length, manifest.features.frame_length)
    return {e.label for e in decoder.push(heard.scores) if e.kind == "onset"}
