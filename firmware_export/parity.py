"""What every export is compared on, and the error when it is not the same network."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detector.audio.sources import read_sound
from detector.encoder import DeltaEncoder
from detector.errors import DetectorError
from detector.features import MfccExtractor
from detector.manifest import Manifest
from detector.messages import Samples, Spikes

DEMO = Path(__file__).resolve().parent.parent / "models" / "demo" / "scene.flac"
LEAST_SECONDS = 60


class ParityError(DetectorError):
    """The exported graph is not the network it was made of."""


def comparison_sound(paths: tuple[Path, ...], rate_hz: int) -> Samples:
    """Join sounds to at least a minute at the rate, repeating them where they are shorter."""
    joined = np.concatenate([read_sound(path, rate_hz) for path in paths])
    return np.resize(joined, max(joined.size, LEAST_SECONDS * rate_hz))


def encoded(manifest: Manifest, sound: Samples) -> Spikes:
    """Return the spikes (frames, planes, n_mfcc) that a model's network gets of sound at the model's rate."""
    features, encoder = MfccExtractor(manifest.features), DeltaEncoder(manifest.encoder)
    return encoder.push(np.concatenate([features.push(sound), features.flush()]))
