"""What travels between the rooms: arrays with fixed meanings, and events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float32]
"""(samples,): mono PCM at the model's rate, full scale is [-1, 1)."""

Frames: TypeAlias = NDArray[np.float32]
"""(frames, n_mfcc): one feature vector per analysis window."""

Spikes: TypeAlias = NDArray[np.float32]
"""(frames, planes, n_mfcc), values 0 or 1; plane 2*i is the up spikes of threshold i, 2*i+1 the down spikes."""

Scores: TypeAlias = NDArray[np.float32]
"""(frames, classes), values in [0, 1]."""


Reason: TypeAlias = Literal["ended", "end_of_stream", "gap", "shutdown"]
"""Why a sound is over: it ended, or the stream did, or sound was lost, or nobody listens any more."""


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """A block of samples of any length, as the device gave it."""

    samples: Samples
    first_sample: int
    """Index of ``samples[0]`` since the stream began."""
    gap: bool = False
    """Sound was lost just before this chunk: what the rooms remember is void."""


@dataclass(frozen=True, slots=True)
class Event:
    """An onset or an offset of one labelled sound; positions are samples since the stream began.

    An offset repeats the onset's ``index`` and ``onset_sample``, so that the pair can be joined.
    """

    kind: Literal["onset", "offset"]
    index: int
    """Number of this sound since the stream began; an onset and its offset share it."""
    label: str
    category: str
    onset_sample: int
    emitted_sample: int
    """Last sample that had arrived when the event became known."""
    score: float
    """Smoothed score at the moment of emission."""
    threshold: float
    """The on-threshold in force."""
    offset_sample: int | None = None
    """Where the sound ended; None for an onset."""
    peak: float | None = None
    """Highest smoothed score between onset and offset; None for an onset."""
    mean: float | None = None
    """Mean smoothed score between onset and offset; None for an onset."""
    reason: Reason | None = None
    """Why an offset was sent; None for an onset."""
