"""What travels between the rooms: arrays with fixed meanings, and events.

What goes on inside the rooms, handed to whoever looks as it is computed; without an observer none of it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

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

GapCause: TypeAlias = Literal["overrun", "queue", "device", "suspended"]
"""The device's buffer overran, the detector was too slow, the device was away, the machine slept."""

ConditionName: TypeAlias = Literal["waiting", "silent", "clipping", "dc_offset", "wrong_rate"]
"""A state of a source that users are notified of."""


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


LayerSpikes: TypeAlias = Mapping[str, NDArray[np.float32]]
"""Spikes (frames, neurons) by the name of their layer, values 0 or 1, in the order of the layers."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What a push brought about in each room, frame by frame."""

    first_sample: int
    """Position of the first frame's first sample."""
    frames: Frames
    """(frames, n_mfcc): what the encoder was given."""
    spikes: Spikes
    """(frames, planes, n_mfcc): what the encoder sent."""
    layers: LayerSpikes
    """Empty where the observer did not want them."""
    membranes: NDArray[np.float32]
    """(frames, classes): the membranes of the read-out; (frames, 0) without the layers."""
    scores: Scores
    """(frames, classes): what the network gave."""
    means: NDArray[np.float64]
    """(frames, classes): the averages that are held against the thresholds; (frames, 0) without the layers."""

    def cut(self, begin: int, end: int, hop_length: int) -> Trace:
        """Return the frames from ``begin`` on, up to ``end``, as far as they are here; views, not copies."""
        kept = slice(max(0, begin), max(0, end))
        return Trace(
            first_sample=self.first_sample + kept.start * hop_length,
            frames=self.frames[kept],
            spikes=self.spikes[kept],
            layers={name: fired[kept] for name, fired in self.layers.items()},
            membranes=self.membranes[kept],
            scores=self.scores[kept],
            means=self.means[kept],
        )


class Observer(Protocol):
    """Somebody who looks into a detector; it is called in the detector's thread and must not wait."""

    @property
    def wants_layers(self) -> bool:
        """Whether the layers' spikes and membranes are worth their cost now."""

    def on_trace(self, trace: Trace) -> None:
        """Take what one push has brought about; the arrays may be kept, not changed."""
