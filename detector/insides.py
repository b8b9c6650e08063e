"""What goes on inside the rooms, handed to whoever looks as it is computed; without an observer none of it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detector.messages import Frames, Scores, Spikes

LayerSpikes: TypeAlias = Mapping[str, NDArray[np.float32]]
"""Spikes (frames, neurons) by the name of their layer, values 0 or 1, in the order of the layers."""


@dataclass(frozen=True, slots=True)
class Insides:
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

    def cut(self, begin: int, end: int, hop_length: int) -> Insides:
        """Return the frames from ``begin`` on, up to ``end``, as far as they are here; views, not copies."""
        kept = slice(max(0, begin), max(0, end))
        return Insides(
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

    def see(self, insides: Insides) -> None:
        """Take what one push has brought about; the arrays may be kept, not changed."""
