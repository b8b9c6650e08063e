"""The input of a network from a wave: the runtime's features, and for a spiking network the runtime's spikes.

``BulkEncoder`` is the delta encoder of ``detector.encoder``, compiled for training, where it runs millions of frames
(forty times faster); a test checks that both send the same spikes.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from detector.encoder import DeltaEncoder
from detector.features import MfccExtractor
from detector.manifest import EncoderParams
from detector.messages import Frames
from models.recipe import Recipe


class BulkEncoder:
    """Delta encoder over many frames at once."""

    def __init__(self, params: EncoderParams) -> None:
        self._exact = DeltaEncoder(params)
        self._compiled = params.rule == "send_on_delta" and bool(params.rest)
        self._thresholds = np.array(params.thresholds, np.float32)
        self._rest = np.array(params.rest, np.float32)
        self._keep = np.float32(1 - params.leak)
        self._baseline = np.zeros(self._thresholds.shape[1], np.float32)

    def reset(self) -> None:
        """Return to the state in which the baseline is at rest."""
        self._exact.reset()
        self._baseline[:] = 0

    def push(self, frames: Frames) -> NDArray[np.uint8]:
        """Return the spikes (frames, planes, n_mfcc) that ``DeltaEncoder`` sends."""
        if not self._compiled:
            return self._exact.push(frames).astype(np.uint8)
        spikes = np.zeros((len(frames), self._exact.planes, frames.shape[1]), np.uint8)
        _track(frames - self._rest, self._keep, self._thresholds, self._baseline, spikes)
        return spikes

    def encode(self, frames: Frames) -> NDArray[np.uint8]:
        """Return the spikes (frames, planes, n_mfcc) of a whole wave, from the state after a reset."""
        self.reset()
        return self.push(frames)


class FrontEnd:
    """Samples to the input of a recipe's network, from the state after a reset."""

    def __init__(self, recipe: Recipe, *, is_encoded: bool = True) -> None:
        """Give spikes, or features for a CNN and where they are encoded elsewhere."""
        self._mfcc = MfccExtractor(recipe.features)
        self._delta = BulkEncoder(recipe.encoder) if is_encoded and recipe.network.kind != "cnn" else None

    def encode(self, wave: NDArray[np.float32]) -> NDArray[Any]:
        """Return spikes (frames, planes, n_mfcc) uint8, or the features (frames, n_mfcc) float32."""
        self._mfcc.reset()
        return self._sent(self._mfcc.push(wave))

    def encode_clip(self, wave: NDArray[np.float32]) -> NDArray[Any]:
        """Do the same for a whole clip, whose last frame is padded with silence as the runtime does at its end."""
        self._mfcc.reset()
        return self._sent(np.concatenate([self._mfcc.push(wave), self._mfcc.flush()]))

    def _sent(self, frames: Frames) -> NDArray[Any]:
        if self._delta is None:
            return np.asarray(frames, np.float32)
        return self._delta.encode(frames)


@numba.njit(cache=True)
def _track(frames: Any, keep: Any, thresholds: Any, baselines: Any, spikes: Any) -> None:
    # Every operation is rounded to float32, in the order of DeltaEncoder._track.
    for k in range(frames.shape[1]):
        baseline = baselines[k]
        for t in range(frames.shape[0]):
            baseline = np.float32(baseline * keep)
            change = np.float32(frames[t, k] - baseline)
            for i in range(thresholds.shape[0]):
                sent = np.float32(0)
                if change > thresholds[i, k]:
                    spikes[t, 2 * i, k] = 1
                    sent = thresholds[i, k]
                elif -change > thresholds[i, k]:
                    spikes[t, 2 * i + 1, k] = 1
                    sent = -thresholds[i, k]
                change = np.float32(change - sent)
                baseline = np.float32(baseline + sent)
        baselines[k] = baseline
