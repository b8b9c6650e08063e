"""The event decoder, scores to onsets and offsets: smoothing or evidence, hysteresis, durations, refractory time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from detector.manifest import ClassSpec, DecoderParams, EvidenceParams
from detector.messages import Event, Reason, Scores, Trace


class Track:
    """One class over time: closed, or open between an onset and its offset."""

    def __init__(self, params: DecoderParams) -> None:
        self._on = float(np.float32(params.on_threshold))
        self._off = float(np.float32(params.off_threshold))
        self._min_on, self._min_off = params.min_on_frames, params.min_off_frames
        self._refractory = params.refractory_frames
        self._free_from = 0
        self._is_open = False
        # Frames in a row that speak for the other state.
        self._run = 0
        # The sound from the first frame of its run to the last frame at or above the off-threshold.
        self.first = self.last = 0
        self.peak = self._sum = self._sum_to_last = 0.0

    @property
    def is_active(self) -> bool:
        """Whether a score below the on-threshold can change anything."""
        return self._is_open or self._run > 0

    @property
    def mean(self) -> float:
        """Mean score of the sound, dips included."""
        return self._sum_to_last / (self.last - self.first + 1)

    def step(self, frame: int, score: float) -> Literal["onset", "offset"] | None:
        """Take the smoothed score of a frame, in the order of the frames."""
        if self._is_open:
            return self._step_open(frame, score)
        if score < self._on or frame < self._free_from:
            self._run = 0
            return None
        if not self._run:
            self.first, self.peak, self._sum = frame, 0.0, 0.0
        self._run += 1
        self._take(frame, score)
        if self._run < self._min_on:
            return None
        self._is_open, self._run = True, 0
        return "onset"

    def _step_open(self, frame: int, score: float) -> Literal["offset"] | None:
        if score >= self._off:
            self._run = 0
            self._take(frame, score)
            return None
        self._run += 1
        self._sum += score
        if self._run < self._min_off:
            return None
        self.close(frame)
        return "offset"

    def close(self, frame: int) -> None:
        """End what is open or about to open; an offset sent in this frame begins the refractory time."""
        if self._is_open:
            self._free_from = frame + 1 + self._refractory
        self._is_open, self._run = False, 0

    def _take(self, frame: int, score: float) -> None:
        self.last, self.peak = frame, max(self.peak, score)
        self._sum += score
        self._sum_to_last = self._sum


_LEAST = np.float32(2.0**-20)
"""Lower scores count as zero. A float32 above it is a multiple of 2**-44, so that float64 adds up hundreds
of them without rounding: averages do not depend on the order, nor on how the stream was cut."""
_LONGEST_MEAN = 256
_BLOCK_FRAMES = 256
"""Frames looked at together: bounds memory, and for how long a class that stirs once is followed."""


_SCORE_STEPS: Final = 1 << 15
"""Evidence is computed in integers, so that each implementation gives the same: scores are multiples of 2**-15."""
LARGEST_LOG_ODDS: Final = 6
_ODDS_STEPS: Final = 16
"""Entries of the table for each unit of log-odds."""
_PART_BITS: Final = 10
"""Fraction bits between two entries; evidence from none to the largest fits 18 bits."""
_LEAK_BITS: Final = 12
SCORE_OF_ODDS: Final = (
    0,
    *(
        round(_SCORE_STEPS / (1 + math.exp(LARGEST_LOG_ODDS - j / _ODDS_STEPS)))
        for j in range(1, 2 * LARGEST_LOG_ODDS * _ODDS_STEPS)
    ),
    _SCORE_STEPS,
)
"""Scores in steps, by the log-odds from -6 to 6 that they stand for (``detector/engine/c/snn_evidence.h``)."""


class Evidence:
    """Accumulate the evidence for some classes, each by itself.

    Per class and frame, with L the log-odds ln(s / (1 - s)) of the score s, limited to -6 to 6:

        E <- (1 - leak) E + weight (L - bias), limited to 0 to 12

    which is the cumulative sum of a sequential test (E. S. Page, "Continuous inspection schemes", Biometrika 41, 1954)
    with a leak. What is compared with the thresholds is the score that has the log-odds E - 6, 0 without evidence. Log
    and exponential are interpolated in one table; parameters and evidence are integers.
    """

    def __init__(self, params: Sequence[EvidenceParams]) -> None:
        """Start without evidence; the parameters are those of the columns of the scores."""
        rows = np.array([evidence_integers(p) for p in params], np.int64).reshape(-1, 3)
        self._leak, self._weight, self._bias = rows.T
        self._table = np.array((*SCORE_OF_ODDS, _SCORE_STEPS), np.int64)
        self._steps = np.diff(self._table)
        self._steps[-1] = 1  # behind the last entry there is nothing to interpolate
        self.reset()

    def reset(self) -> None:
        """Forget all evidence."""
        self._evidence = np.zeros(len(self._leak), np.int64)

    def push(self, scores: Scores) -> NDArray[np.float64]:
        """Return the evidence (frames, classes), as scores, of scores (frames, classes) in [0, 1]."""
        if len(scores) == 0:
            return np.empty(scores.shape)
        added = self._weight * (self._log_odds(scores) - self._bias) >> _PART_BITS
        rows, now = np.empty_like(added), self._evidence
        largest = (len(SCORE_OF_ODDS) - 1) << _PART_BITS
        for row, more in zip(rows, added, strict=True):
            now = np.minimum(np.maximum(now - (now * self._leak >> _LEAK_BITS) + more, 0, out=row), largest, out=row)
        self._evidence = now.copy()
        at, part = rows >> _PART_BITS, rows & ((1 << _PART_BITS) - 1)
        steps = np.where(at < len(SCORE_OF_ODDS) - 1, self._steps[at], 0)
        return np.asarray((self._table[at] + (steps * part >> _PART_BITS)) / _SCORE_STEPS)

    def _log_odds(self, scores: Scores) -> NDArray[np.int64]:
        """Return how far the log-odds of scores lie above the smallest ones."""
        found = np.floor(scores.astype(np.float64) * _SCORE_STEPS).astype(np.int64)
        at = np.searchsorted(self._table[1:-1], found, side="right")
        part = ((found - self._table[at]) << _PART_BITS) // self._steps[at]
        return np.asarray((at << _PART_BITS) + part)


def evidence_integers(params: EvidenceParams) -> tuple[int, int, int]:
    """Return leak, weight and bias as they are computed with, in C as well."""
    unit = _ODDS_STEPS << _PART_BITS
    return (
        round(params.leak * (1 << _LEAK_BITS)),
        round(params.weight * (1 << _PART_BITS)),
        round((params.bias + LARGEST_LOG_ODDS) * unit),
    )


def frame_span(frame: int, first_sample: int, hop_length: int, frame_length: int) -> tuple[int, int]:
    """Return a frame's first sample and the one behind its last; frame 0 begins at ``first_sample``."""
    start = first_sample + frame * hop_length
    return start, start + frame_length


class EventDecoder:
    """Turn scores into onsets and offsets, each class by itself.

    Per class and frame t, with s[t] the mean of the last ``smoothing_frames`` scores (at the start
    of a stream, of those that there are), or the evidence (see ``Evidence``) where the class has its parameters:

        onset    s >= on_threshold in min_on_frames frames in a row
        offset   after an onset, s < off_threshold in min_off_frames frames in a row

    A shorter dip is part of the sound. The run that leads to an onset lies wholly behind the
    refractory_frames that follow the class's last offset.

    A sound begins with the first sample of the first frame of the run that led to its onset, and
    ends behind the last sample of its last frame at or above the off-threshold. Nothing else is
    taken into account: how far smoothing and network lag behind the sound stays in these positions.
    An event is emitted with the last sample of the frame that decides it.

    Thresholds are rounded to float32 as scores are, so that a score of 0.7 meets a threshold of
    0.7. A score that is not a number counts as 0, one outside [0, 1] as the nearer end.
    """

    def __init__(self, classes: Sequence[ClassSpec], hop_length: int, frame_length: int, rate_hz: int = 0) -> None:
        """Take the classes in the order of the scores; raises ValueError, naming class and value, for a wrong one.

        ``rate_hz`` is passed on in the events; 0: not known.
        """
        check_classes(classes, hop_length, frame_length)
        self._classes, self._rate_hz = tuple(classes), rate_hz
        self._span = partial(frame_span, hop_length=hop_length, frame_length=frame_length)
        self._smoothing = np.array([c.decoder.smoothing_frames for c in classes])
        self._memory = int(self._smoothing.max()) - 1
        # One row per frame remembered, this one last: 1 for the classes whose mean takes it in.
        self._taps = (np.arange(self._memory, -1, -1)[:, None] < self._smoothing).astype(np.float64)
        self._on = np.array([c.decoder.on_threshold for c in classes], np.float32)
        self._ons: list[float] = self._on.tolist()
        own = [(i, c.decoder.evidence) for i, c in enumerate(classes) if c.decoder.evidence is not None]
        self._evidence = Evidence([params for _, params in own]) if own else None
        self._evident = np.array([i for i, _ in own], np.int64)
        """Columns of the classes that have evidence in place of an average."""
        self.reset()

    def reset(self, first_sample: int = 0, first_index: int = 0) -> None:
        """Clear the state; the next frame begins at ``first_sample``, the next onset is ``first_index``."""
        self._first_sample, self._next_index, self._frames = first_sample, first_index, 0
        self._end_sample: int | None = None
        self._tracks = [Track(c.decoder) for c in self._classes]
        self._onsets: dict[int, Event] = {}
        self._active: list[int] = []
        # The last scores, up to row _end: _memory rows of the past and those of a block.
        self._scores = np.zeros((self._memory + _BLOCK_FRAMES, len(self._classes)), np.float32)
        self._end = self._memory
        # While no score that a mean takes in reaches its on-threshold, no mean does.
        self._frames_below = self._memory
        if self._evidence is not None:
            self._evidence.reset()
            self._evidences = np.zeros((1, len(self._evident)))

    @property
    def next_index(self) -> int:
        """The number that the next onset will have."""
        return self._next_index

    @property
    def next_sample(self) -> int:
        """Position of the first sample of the next frame."""
        return self._span(self._frames, self._first_sample)[0]

    def end_at(self, samples: int) -> None:
        """Let no event lie behind so many samples of the stream, until a reset: the last frame is padded."""
        self._end_sample = self._first_sample + samples

    def push(self, scores: Scores, trace: Trace | None = None) -> list[Event]:
        """Return the events that scores (frames, classes) bring about.

        They come frame by frame; in a frame offsets before onsets, then in the order of the classes.
        A trace with layers is given the smoothed scores (frames, classes) that were compared with the thresholds.
        Raises ValueError where the scores have another number of classes.
        """
        if scores.ndim != 2 or scores.shape[1] != len(self._classes):  # noqa: PLR2004 - a matrix
            raise ValueError(f"scores must have the shape (n, {len(self._classes)}), not {scores.shape}")
        events: list[Event] = []
        if trace is not None:
            trace.means = np.empty((len(scores), len(self._classes) if trace.with_layers else 0))
        for at in range(0, len(scores), _BLOCK_FRAMES):
            block = self._remember(scores[at : at + _BLOCK_FRAMES])
            if self._can_matter(block):
                self._decide(len(block), events)
            if trace is not None and trace.with_layers:
                trace.means[at : at + len(block)] = self._smooth(len(block))
        return events

    def flush(self, reason: Reason = "end_of_stream") -> list[Event]:
        """Close open events with the last frame; return their offsets in the order of the classes."""
        last = self._frames - 1
        for c in self._active:
            self._tracks[c].close(last)
        self._active = []
        latest = self._smooth(1)[0].tolist() if self._onsets else []
        return [self._offset(c, last, latest[c], reason) for c in sorted(self._onsets)]

    def _remember(self, scores: Scores) -> Scores:
        """Keep the scores of a block's frames at most, and return them limited to [0, 1]."""
        frames = len(scores)
        if self._end + frames > len(self._scores):
            self._scores[: self._memory] = self._scores[self._end - self._memory : self._end]
            self._end = self._memory
        block = self._scores[self._end : self._end + frames]
        # fmax, unlike maximum, also puts 0 in the place of what is not a number.
        np.fmax(scores, 0, out=block)
        np.fmin(block, 1, out=block)
        block *= block >= _LEAST
        self._end += frames
        self._frames += frames
        if self._evidence is not None and frames:
            self._evidences = self._evidence.push(block[:, self._evident])
        return block

    def _can_matter(self, block: Scores) -> bool:
        """Return, before any smoothing, whether the block just kept can change the state of a class."""
        below = self._frames_below
        reached = block >= self._on
        if self._evidence is not None:
            reached[:, self._evident] = self._evidences >= self._on[self._evident]
        self._frames_below = 0 if reached.any() else below + len(block)
        return not self._frames_below or below < self._memory or bool(self._active)

    def _smooth(self, frames: int) -> NDArray[np.float64]:
        """Return the averages, or the evidence, (frames, classes) of the last frames remembered."""
        smoothed = self._average(frames)
        if self._evidence is not None:
            smoothed[:, self._evident] = self._evidences[-frames:]
        return smoothed

    def _average(self, frames: int) -> NDArray[np.float64]:
        """Return the moving averages (frames, classes) of the last frames remembered."""
        scores = self._scores[self._end - frames - self._memory : self._end]
        if frames == 1:
            sums = np.add.reduce(scores * self._taps, axis=0, keepdims=True)
        else:
            totals = np.zeros((len(scores) + 1, len(self._classes)))
            np.cumsum(scores, axis=0, out=totals[1:])
            ends = np.arange(self._memory + 1, len(totals))[:, None]
            columns = np.arange(len(self._classes))
            sums = totals[ends, columns] - totals[ends - self._smoothing, columns]
        if self._frames - frames >= self._memory:
            return np.asarray(sums / self._smoothing)
        ages = np.arange(self._frames - frames + 1, self._frames + 1)[:, None]
        return np.asarray(sums / np.minimum(ages, self._smoothing))

    def _decide(self, frames: int, events: list[Event]) -> None:
        """Take the last frames remembered through the tracks that they can move; append the events."""
        smoothed = self._smooth(frames)
        # Python's own lists: for a frame or two they are quicker than arrays of a dozen classes.
        highest = (smoothed[0] if frames == 1 else smoothed.max(axis=0)).tolist()
        reached = [score >= on for score, on in zip(highest, self._ons, strict=True)]
        classes = [c for c, is_loud in enumerate(reached) if is_loud or c in self._active]
        rows = [[highest[c] for c in classes]] if frames == 1 else smoothed[:, classes].tolist()
        for frame, row in enumerate(rows, self._frames - frames):
            onsets = []
            for c, score in zip(classes, row, strict=True):
                change = self._tracks[c].step(frame, score)
                if change == "offset":
                    events.append(self._offset(c, frame, score, "ended"))
                elif change == "onset":
                    onsets.append((c, score))
            for c, score in onsets:
                events.append(self._onset(c, frame, score))
        self._active = [c for c in classes if self._tracks[c].is_active]

    def _end_of(self, frame: int) -> int:
        """Return the position behind a frame's last sample, or behind the stream's last one."""
        end = self._span(frame, self._first_sample)[1]
        return end if self._end_sample is None else min(end, self._end_sample)

    def _onset(self, c: int, frame: int, score: float) -> Event:
        spec = self._classes[c]
        self._onsets[c] = onset = Event(
            kind="onset",
            index=self._next_index,
            label=spec.label,
            category=spec.category,
            onset_sample=self._span(self._tracks[c].first, self._first_sample)[0],
            emitted_sample=self._end_of(frame) - 1,
            score=score,
            threshold=spec.decoder.on_threshold,
            rate_hz=self._rate_hz,
        )
        self._next_index += 1
        return onset

    def _offset(self, c: int, frame: int, score: float, reason: Reason) -> Event:
        track = self._tracks[c]
        return replace(
            self._onsets.pop(c),
            kind="offset",
            emitted_sample=self._end_of(frame) - 1,
            score=score,
            offset_sample=self._end_of(track.last),
            peak=track.peak,
            mean=track.mean,
            reason=reason,
        )


def check_classes(classes: Sequence[ClassSpec], hop_length: int, frame_length: int) -> None:
    """Raise ValueError, naming class and value, for parameters that cannot be."""
    if not classes:
        raise ValueError("decoder: there must be at least one class")
    if min(hop_length, frame_length) < 1:
        raise ValueError(f"decoder: hop and frame must be 1 or more samples long, not {hop_length} and {frame_length}")
    least = {"smoothing_frames": 1, "min_on_frames": 1, "min_off_frames": 1, "refractory_frames": 0}
    for spec in classes:
        limits = {name: (low, math.inf) for name, low in least.items()}
        limits["smoothing_frames"] = (1, _LONGEST_MEAN)
        limits |= {"on_threshold": (0, 1), "off_threshold": (0, spec.decoder.on_threshold)}
        for name, (low, high) in limits.items():
            value = getattr(spec.decoder, name)
            if not low <= value <= high:
                raise ValueError(f"decoder of {spec.label!r}: {name} must lie in [{low}, {high}], not {value}")
        _check_evidence(spec)


def _check_evidence(spec: ClassSpec) -> None:
    evidence = spec.decoder.evidence
    if evidence is None:
        return
    if spec.decoder.smoothing_frames != 1:
        raise ValueError(f"decoder of {spec.label!r}: smoothing_frames must be 1 with evidence, which takes its place")
    limits = {"leak": (0.0, 1.0), "weight": (2.0**-_PART_BITS, 1.0), "bias": (-LARGEST_LOG_ODDS, LARGEST_LOG_ODDS)}
    for name, (low, high) in limits.items():
        value = getattr(evidence, name)
        if not low <= value <= high:
            raise ValueError(f"decoder of {spec.label!r}: evidence.{name} must lie in [{low}, {high}], not {value}")
