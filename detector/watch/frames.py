"""The last frames, as the messages of the stream tell of them; see ``detector.web.packing``."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_BYTE: Final = 255
_RATE_FRAMES: Final = 40
"""Frames over which a layer's rate is averaged."""


class LastFrames:
    """Remembers bands, spikes and means of a bounded number of frames."""

    def __init__(self, model: Mapping[str, Any], most: int) -> None:
        """Take the model as ``/api/model`` tells of it."""
        self._most = most
        self._encoder = int(model["encoder"]["planes"]) * int(model["encoder"]["width"])
        self._width = int(model["encoder"]["width"])
        neurons = {x["name"]: int(x["neurons"]) for x in model["layers"] if x["spikes"]}
        self._per_s = 1 / float(model["features"]["hop_s"])
        self.mel: NDArray[np.float32] = np.zeros((most, len(model["features"]["mel_hz"])), np.float32)
        """(frames, bands), 0 to 1; before the first sound there was silence."""
        self.encoder: NDArray[np.bool_] = np.zeros((most, self._encoder), np.bool_)
        """(frames, spike trains): the up planes, the finest threshold first, then the down planes."""
        self.layers: dict[str, NDArray[np.bool_]] = {n: np.zeros((most, k), np.bool_) for n, k in neurons.items()}
        self.means: NDArray[np.float64] = np.zeros(len(model["classes"]))
        """Of the last frame, by class."""

    def push(self, message: Mapping[str, Any]) -> None:
        """Take a message with frames."""
        frames = int(message["frames"])
        mel = _bytes(message["mel"]).reshape(frames, -1)
        self.mel = self._added(self.mel, mel.astype(np.float32) / _BYTE)
        planes = _bits(message["encoder"], frames, self._encoder).reshape(frames, -1, self._width)
        ordered = np.concatenate((planes[:, 0::2], planes[:, 1::2]), axis=1).reshape(frames, -1)
        self.encoder = self._added(self.encoder, ordered)
        for name, kept in self.layers.items():
            packed = message["layers"].get(name)
            width = kept.shape[1]
            fired = np.zeros((frames, width), np.bool_) if packed is None else _bits(packed, frames, width)
            self.layers[name] = self._added(kept, fired)
        if frames:
            self.means = _bytes(message["means"]).reshape(frames, -1)[-1] / _BYTE

    def rate_hz(self, spikes: NDArray[np.bool_]) -> float:
        """Return how often a neuron has fired lately, on average."""
        return float(spikes[-_RATE_FRAMES:].mean()) * self._per_s

    def _added(self, kept: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate((kept, new))[-self._most :]


def _bytes(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def _bits(text: str, frames: int, neurons: int) -> NDArray[np.bool_]:
    return np.unpackbits(_bytes(text).reshape(frames, -1), axis=1, count=neurons).astype(np.bool_)
