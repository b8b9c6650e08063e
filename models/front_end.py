"""What a network gets of a wave: the runtime's own features, and for a spiking one the runtime's own spikes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.features import MfccExtractor
from detector.messages import Frames
from models.bulk import BulkEncoder
from models.recipe import Recipe


class FrontEnd:
    """Samples to the input of a recipe's network, from a state after a reset."""

    def __init__(self, recipe: Recipe) -> None:
        self._mfcc = MfccExtractor(recipe.features)
        self._delta = None if recipe.network.kind == "cnn" else BulkEncoder(recipe.encoder)

    def encode(self, wave: NDArray[np.float32]) -> NDArray[Any]:
        """Return spikes (frames, planes, n_mfcc) uint8, or for a CNN the features (frames, n_mfcc) float32."""
        self._mfcc.reset()
        return self._sent(self._mfcc.push(wave))

    def encode_clip(self, wave: NDArray[np.float32]) -> NDArray[Any]:
        """Do the same with a whole clip, whose last frame is filled up with silence as the runtime does at its end."""
        self._mfcc.reset()
        return self._sent(np.concatenate([self._mfcc.push(wave), self._mfcc.flush()]))

    def _sent(self, frames: Frames) -> NDArray[Any]:
        if self._delta is None:
            return np.asarray(frames, np.float32)
        return self._delta.encode(frames)
