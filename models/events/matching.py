"""Which references were found, which events are false, how late and how often a sound was told of.

For each class by itself, with every reference widened by a collar of half a second on both sides:

    found    an event of its class begins in the widened reference
    reports  so many events begin in it
    false    an event that overlaps no widened reference of its class
    stray    an event that began before a reference and reached into it: neither

So an event that never ends is no way to find everything. References of a class are apart by more
than a pause (``models.delays.JOIN_S``), so that widened ones do not meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.events.hearing import Detection
from models.scenes.folder import EventReference

COLLAR_S = 0.5


@dataclass(frozen=True, slots=True)
class Match:
    """What became of the references and the events of one class in one stream, both in the order of time."""

    reports: NDArray[np.int64]
    """For each reference."""
    latency_s: NDArray[np.float64]
    """For each reference, from its onset until the first event that begins in it was known; NaN if missed."""
    is_false: NDArray[np.bool_]
    """For each event."""

    @property
    def found(self) -> NDArray[np.bool_]:
        """For each reference, whether it was found."""
        return np.asarray(self.reports > 0)


def match(references: Sequence[EventReference], detections: Sequence[Detection]) -> Match:
    """Match the references and the events of one class, each sorted by onset and without overlaps of its own."""
    onsets = np.array([r.onset_s for r in references])
    offsets = np.array([r.offset_s for r in references])
    begins = np.array([d.onset_s for d in detections])
    ends = np.array([d.offset_s for d in detections])
    known = np.array([d.known_s for d in detections])
    firsts = np.searchsorted(begins, onsets - COLLAR_S, "left")
    lasts = np.searchsorted(begins, offsets + COLLAR_S, "right")
    reports = np.maximum(0, lasts - firsts)
    latency = np.full(onsets.size, np.nan)
    if begins.size:
        earliest = known[np.minimum(firsts, begins.size - 1)]
        latency = np.where(reports > 0, earliest - onsets, np.nan)
    # An event overlaps some reference unless as many have ended before it begins as begin before it ends.
    before = np.searchsorted(offsets + COLLAR_S, begins, "left")
    begun = np.searchsorted(onsets - COLLAR_S, ends, "right")
    return Match(np.asarray(reports, np.int64), latency, np.asarray(before == begun))


def of_label(items: Sequence[EventReference], label: str) -> list[EventReference]:
    """Return the references of one class."""
    return [item for item in items if item.label == label]
