"""What passes between the stages: arrays with fixed meanings, events, and traces of what each stage computed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Samples: TypeAlias = NDArray[np.float32]
"""(samples,): mono PCM at the model's rate, full scale is [-1, 1)."""

LOUDEST: Final = 10 ** (30 / 20)
"""30 dB over full scale: floats beyond it are integers that were not divided, or damage. A mix may reach some dB."""
_DIVISORS: Final = {1 << 15: 16, 1 << 23: 24, 1 << 31: 32}
"""Full scale of integers, and their bits."""

Frames: TypeAlias = NDArray[np.float32]
"""(frames, n_mfcc): one feature vector per analysis window."""

Spikes: TypeAlias = NDArray[np.float32]
"""(frames, planes, n_mfcc), values 0 or 1; plane 2*i is the up spikes of threshold i, 2*i+1 the down spikes."""

Scores: TypeAlias = NDArray[np.float32]
"""(frames, classes), values in [0, 1]."""


Reason: TypeAlias = Literal["ended", "end_of_stream", "gap", "shutdown"]
"""Why a sound is over: it ended, the stream ended, samples were lost, or the service stopped."""

GapCause: TypeAlias = Literal["overrun", "queue", "device", "suspended", "network", "off_hours"]
"""Why sound is missing.

The device's buffer overran, the detector was too slow, the device was away, the machine slept, the network or the
server of a stream lost it, or it was not to be processed.
"""

ConditionName: TypeAlias = Literal["waiting", "silent", "clipping", "dc_offset", "wrong_rate", "off_hours"]
"""A state of a source that users are notified of."""


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """A block of samples of any length, as the device gave it."""

    samples: Samples
    first_sample: int
    """Index of ``samples[0]`` since the stream began."""
    gap: bool = False
    """Samples were lost just before this chunk: the state of the stages is void."""


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
    rate_hz: int = 0
    """Samples a second of the positions, the rate of the model; 0: not known."""

    @property
    def onset_s(self) -> float:
        """Onset in seconds since the stream began; raises ValueError where the rate is not known."""
        return self._seconds(self.onset_sample)

    @property
    def offset_s(self) -> float | None:
        """Offset in seconds since the stream began, None for an onset; raises ValueError as ``onset_s``."""
        return None if self.offset_sample is None else self._seconds(self.offset_sample)

    def _seconds(self, sample: int) -> float:
        if self.rate_hz <= 0:
            raise ValueError("the event has no rate_hz, so its positions are known in samples only")
        return sample / self.rate_hz


def find_fault(samples: NDArray[np.float32]) -> tuple[int, str] | None:
    """Return where samples (n,) or frames (n, channels) are outside the scale of sound first, and why; None: nowhere.

    Sound has numbers, at most 30 dB over full scale; the reason names the peak and what to divide by.
    """
    with np.errstate(invalid="ignore"):
        sizes = np.abs(samples)
    if sizes.max(initial=0) <= LOUDEST:
        return None
    if sizes.ndim > 1:
        sizes = sizes.max(axis=1)  # NaN where any is
    at = int(np.argmax(~(sizes <= LOUDEST)))
    peak = float(np.max(sizes, where=np.isfinite(sizes), initial=0))
    divisor = next((d for d in _DIVISORS if peak <= d), None)
    if not np.isfinite(sizes[at]) or divisor is None:
        return at, f"is {sizes[at]:g}, which is not sound"
    over = f"is {sizes[at]:g}, {20 * math.log10(sizes[at]):.0f} dB over full scale"
    return at, f"{over}, and the peak {peak:g}: divide samples of {_DIVISORS[divisor]}-bit scale by {divisor}"


LayerSpikes: TypeAlias = Mapping[str, NDArray[np.float32]]
"""Spikes (frames, neurons) by the name of their layer, values 0 or 1, in the order of the layers."""


@dataclass(slots=True)
class Trace:
    """What one push computed in each stage, frame by frame; the stages fill it in when they are given one."""

    first_sample: int
    """Position of the first frame's first sample."""
    frames: Frames = field(default_factory=lambda: _none(0))
    """(frames, n_mfcc): the encoder's input."""
    spikes: Spikes = field(default_factory=lambda: _none(0, 0))
    """(frames, planes, n_mfcc): the encoder's output."""
    layers: LayerSpikes = field(default_factory=dict)
    """Empty without ``with_layers``."""
    membranes: NDArray[np.float32] = field(default_factory=lambda: _none(0))
    """(frames, classes): membranes of the read-out; (frames, 0) without ``with_layers``."""
    scores: Scores = field(default_factory=lambda: _none(0))
    """(frames, classes): the network's output."""
    means: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    """(frames, classes): smoothed scores, as compared with the thresholds; (frames, 0) without ``with_layers``."""
    with_layers: bool = True
    """Whether the spikes of the layers, the membranes and the smoothed scores are wanted, which takes time."""

    def cut(self, begin: int, end: int, hop_length: int) -> Trace:
        """Return frames ``begin`` to ``end``, as far as there are such; views, not copies."""
        kept = slice(max(0, begin), max(0, end))
        return Trace(
            first_sample=self.first_sample + kept.start * hop_length,
            frames=self.frames[kept],
            spikes=self.spikes[kept],
            layers={name: fired[kept] for name, fired in self.layers.items()},
            membranes=self.membranes[kept],
            scores=self.scores[kept],
            means=self.means[kept],
            with_layers=self.with_layers,
        )

    def clear(self) -> None:
        """Take all frames out."""
        empty = self.cut(0, 0, 0)
        self.frames, self.spikes, self.layers = empty.frames, empty.spikes, empty.layers
        self.membranes, self.scores, self.means = empty.membranes, empty.scores, empty.means


def _none(*shape: int) -> NDArray[np.float32]:
    """Return no frames of a shape."""
    return np.empty((0, *shape), np.float32)


class Observer(Protocol):
    """Receives the traces of a detector; called in the detector's thread, and must not block."""

    @property
    def wants_layers(self) -> bool:
        """Whether the traces shall have the layers; read once per push."""

    def on_trace(self, trace: Trace) -> None:
        """Take the trace of one push that completed frames; the arrays may be kept, not changed."""
