"""The comparison that every export must pass: which sound, which spikes, and the error where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from detector.audio.sources import read_sound
from detector.encoder import DeltaEncoder
from detector.errors import DetectorError
from detector.features import MfccExtractor
from detector.manifest import Manifest
from detector.messages import Samples, Spikes
from detector.network import Model, trace

MIN_SECONDS: Final = 60
"""Shortest comparison, in seconds of sound."""
NOT_WRITTEN: Final = "nothing was written; report it with the versions of numpy, torch and onnxruntime"

Traces: TypeAlias = dict[str, NDArray[np.float32]]
"""Scores and each layer's spikes by name, (frames, values)."""


class ParityError(DetectorError):
    """The exported file is not the network that it was made from."""


def comparison_sound(paths: tuple[Path, ...], rate_hz: int) -> Samples:
    """Return sounds joined to at least ``MIN_SECONDS`` at the rate, repeated where they are shorter."""
    joined = np.concatenate([read_sound(path, rate_hz) for path in paths])
    return np.resize(joined, max(joined.size, MIN_SECONDS * rate_hz))


def encoded(manifest: Manifest, sound: Samples) -> Spikes:
    """Return the spikes (frames, planes, n_mfcc) that a model's encoder makes of sound at the model's rate."""
    features, encoder = MfccExtractor(manifest.features), DeltaEncoder(manifest.encoder)
    return encoder.push(np.concatenate([features.push(sound), features.flush()]))


def step_file(model: Model, spikes: Spikes) -> Traces:
    """Return what onnxruntime computes from spikes (frames, planes, n_mfcc), one frame a call, from a reset on."""
    rows = list(trace(model, spikes))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def check_equal(path: Path, what: str, expected: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    """Raise ParityError, naming the first frame, where values (frames, n) differ in any bit."""
    if not np.array_equal(expected, found):
        frame = int(np.flatnonzero((expected != found).any(axis=1))[0])
        raise ParityError(f"{path.name}: {what} differ from frame {frame} on; {NOT_WRITTEN}")


def largest_difference(path: Path, expected: NDArray[np.float32], found: NDArray[np.float32], limit: float) -> float:
    """Return the largest difference of scores (frames, classes); raise ParityError where it exceeds the limit."""
    largest = float(np.abs(expected - found).max())
    if not largest <= limit:
        raise ParityError(f"{path.name}: scores differ by {largest:.2g}, more than {limit:g}; {NOT_WRITTEN}")
    return largest
