"""Decoder values of a new class at three sensitivities, by a fixed rule.

The rule looks at pieces: the user's recordings, and some seconds of each other sound, each behind a further sound and
evaluated by a head that was not trained on its fold. Pieces of other sounds are counted by group, such as speech or
dishes. At each sensitivity a largest share of pieces with an event of the class is allowed, and no group may exceed
it: 0.5 % (low), 2 % (balanced) and 8 % (high). The lowest threshold of the grid that keeps to it finds most. From there
up, the number of recordings found stays the same over a range of the grid; the threshold chosen lies in it, a quarter
of the way up, which keeps a margin to false events and a larger one to misses.

The length of the average and the fewest frames of an onset are the same at all sensitivities: those with which most
recordings are found, on average over the three; of equals, the shortest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.manifest import SENSITIVITIES, ClassSpec, DecoderParams, Sensitivity
from detector.pipeline import with_threshold
from detector.statistics import Rate
from models.evaluation.thresholds import MIN_ON_FRAMES, SMOOTHINGS

LIMITS: Final[dict[Sensitivity, float]] = {"low": 0.005, "balanced": 0.02, "high": 0.08}
"""Largest share of the pieces of any group of other sounds with an event of the class."""
_GRID: Final = np.round(np.arange(0.02, 0.995, 0.01), 2)
_MARGIN: Final = 0.25
"""Where in the range of equivalent thresholds the chosen one lies."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Scores of one class over a sound."""

    group: str
    """What it is counted with; "": it is of the class."""
    kind: str
    fold: int
    scores: NDArray[np.float32]
    """(frames,): of a sound before it, then of its own."""
    begin: int
    """First frame of its own."""


@dataclass(frozen=True, slots=True)
class Smoother:
    """How a class's scores are smoothed and for how long they must stay high."""

    smoothing_frames: int
    min_on_frames: int


@dataclass(frozen=True, slots=True)
class Peaks:
    """Of each piece the highest threshold at which it has an event, with one smoother."""

    values: NDArray[np.float64]
    groups: NDArray[np.str_]
    folds: NDArray[np.int64]

    def without(self, fold: int) -> Peaks:
        """Return the pieces of all other folds."""
        return self._kept(self.folds != fold)

    def only(self, fold: int) -> Peaks:
        """Return the pieces of one fold."""
        return self._kept(self.folds == fold)

    def _kept(self, kept: NDArray[np.bool_]) -> Peaks:
        return Peaks(self.values[kept], self.groups[kept], self.folds[kept])

    def found(self, threshold: float) -> Rate:
        """Return the share of the recordings of the class with an event."""
        return _rate(self.values[self.groups == ""], threshold)

    def false(self, threshold: float) -> dict[str, Rate]:
        """Return the share of pieces with an event in each group of other sounds."""
        names = [str(name) for name in np.unique(self.groups) if name]
        return {name: _rate(self.values[self.groups == name], threshold) for name in names}


@dataclass(frozen=True, slots=True)
class Choice:
    """Smoother and thresholds of a class."""

    smoother: Smoother
    thresholds: dict[Sensitivity, float]

    def decoder(self, first: DecoderParams, sensitivity: Sensitivity) -> DecoderParams:
        """Return decoder values like those of another class, but with this choice."""
        own = dataclasses.replace(first, evidence=None, **dataclasses.asdict(self.smoother))
        return with_threshold(ClassSpec("", "", own), self.thresholds[sensitivity]).decoder


def peak(piece: Piece, smoother: Smoother) -> float:
    """Return the highest threshold at which a piece has an event of its class, by ``detector.decoder``'s rule."""
    sums = np.concatenate([[0.0], np.cumsum(piece.scores, dtype=np.float64)])
    ends = np.arange(1, len(sums))
    smoothed = (sums[ends] - sums[np.maximum(ends - smoother.smoothing_frames, 0)]) / np.minimum(
        ends, smoother.smoothing_frames
    )
    own = smoothed[max(0, piece.begin - smoother.min_on_frames + 1) :]
    if len(own) < smoother.min_on_frames:
        return 0.0
    return float(np.lib.stride_tricks.sliding_window_view(own, smoother.min_on_frames).min(axis=1).max())


def peaks_of(pieces: Sequence[Piece], smoother: Smoother) -> Peaks:
    """Return the peaks of pieces."""
    return Peaks(
        np.array([peak(p, smoother) for p in pieces]),
        np.array([p.group for p in pieces]),
        np.array([p.fold for p in pieces]),
    )


def choose(peaks: dict[Smoother, Peaks]) -> Choice:
    """Return the choice by the rule above."""
    return max((_with_form(smoother, own) for smoother, own in peaks.items()), key=lambda found: found[0])[1]


def smoothers() -> Iterator[Smoother]:
    """Yield all smoothers, the quickest first."""
    for smoothing, min_on in sorted(product(SMOOTHINGS, MIN_ON_FRAMES), key=lambda pair: (sum(pair), pair)):
        yield Smoother(smoothing, min_on)


def _with_form(smoother: Smoother, peaks: Peaks) -> tuple[float, Choice]:
    thresholds = {name: _threshold(peaks, LIMITS[name]) for name in SENSITIVITIES}
    found = sum(peaks.found(threshold).value for threshold in thresholds.values())
    return found, Choice(smoother, thresholds)


def _threshold(peaks: Peaks, limit: float) -> float:
    """Return the threshold for a limit; the highest of the grid where none keeps to it."""
    others = [_counts(peaks.values[peaks.groups == name]) for name in np.unique(peaks.groups) if name]
    sizes = [(peaks.groups == name).sum() for name in np.unique(peaks.groups) if name]
    allowed = np.ones(len(_GRID), bool)
    for counts, size in zip(others, sizes, strict=True):
        allowed &= counts <= limit * size
    if not allowed.any():
        return float(_GRID[-1])
    hits = _counts(peaks.values[peaks.groups == ""])
    equivalent = _GRID[allowed & (hits == hits[np.argmax(allowed)])]
    return float(equivalent[int(_MARGIN * (len(equivalent) - 1))])


def _counts(values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return how many values reach each threshold of the grid."""
    return len(values) - np.searchsorted(np.sort(values), _GRID.astype(np.float32), side="left")


def _rate(values: NDArray[np.float64], threshold: float) -> Rate:
    return Rate(int((values >= np.float32(threshold)).sum()), len(values))
