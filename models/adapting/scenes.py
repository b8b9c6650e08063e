"""What examples of an adaptation are made of: the recipe of a head, with the same conditions for all sounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np

from detector.manifest import Manifest
from detector.messages import Samples
from models.network.spec import NetworkSpec
from models.recipe import Data, Decoding, Loss, Recipe, SceneExamples, Schedule

HIDDEN: Final = 16
"""Neurons of the head: more of them find fewer new recordings."""
_SOURCE_WEIGHTS: Final = {"computed noises": 0.3, "demo scene": 0.2, "guitar_notes": 0.2}
"""Sampling weights of sources with few or similar sounds; others have 1.0."""
_SLOWEST: Final = 1.5
"""More than the largest factor by which examples slow down or speed up a sound."""
_INITIAL_THRESHOLD: Final = 0.6
"""On-threshold before one is chosen, for which only scores are used."""


def head_recipe(
    manifest: Manifest, categories: Mapping[str, str], schedule: Schedule, frames: int, negatives: float
) -> Recipe:
    """Return the recipe of a head: a small network of its own on the model's front end.

    ``categories`` are those of the new labels; ``negatives`` is how often a negative is drawn for each class.
    """
    decoder = manifest.classes[0].decoder
    return Recipe(
        kind="stream",
        name=manifest.name,
        version=manifest.version,
        data=Data("folders", "", "the user's own", ()),
        classes=dict(categories),
        features=manifest.features,
        encoder=manifest.encoder,
        network=_network(manifest, len(categories)),
        examples=_examples(frames, negatives * len(categories)),
        loss=Loss(
            frame=1.0,
            clip=0.0,
            score=0.0,
            deep_supervision=0.0,
            operations=0.0,
            background_operations=0.0,
            silence=0.0,
            min_rate=0.0,
        ),
        schedule=schedule,
        decoding=Decoding(
            decoder.smoothing_frames,
            decoder.min_on_frames,
            decoder.min_off_frames,
            decoder.refractory_frames,
            decoder.off_threshold / decoder.on_threshold,
            dict.fromkeys(categories, _INITIAL_THRESHOLD),
        ),
    )


def alone(wave: Samples, samples: int) -> Samples:
    """Return a wave with silence behind it, so that it occurs only once in an example of so many samples.

    Shorter recordings are repeated in examples; most sounds of a place come one by one.
    """
    return np.pad(wave, (0, max(0, math.ceil(samples * _SLOWEST) - wave.size)))


def _network(manifest: Manifest, classes: int) -> NetworkSpec:
    features, encoder = manifest.features, manifest.encoder
    return NetworkSpec(
        kind="fcsnn",
        planes=2 * len(encoder.thresholds),
        n_mfcc=features.n_mfcc,
        n_mels=features.n_mels,
        level_gain=1.0,
        classes=classes,
        convs=(),
        hidden=HIDDEN,
        frame_rate_hz=features.sample_rate_hz / features.hop_length,
        membrane_tau_s=(0.02, 0.4),  # not used: no convolutions
        dense_tau_s=(0.05, 0.8),
        readout_tau_s=0.3,
        surrogate="fast_sigmoid",
        slope=10.0,
        initial_gain=math.inf,
        dropout=0.25,
    )


def _examples(frames: int, negatives: float) -> SceneExamples:
    return SceneExamples(
        kind="scenes",
        frames=frames,
        source_weights=_SOURCE_WEIGHTS,
        class_weights={"none": negatives},
        rumbling=0.3,
        truncated=0.1,
        background_only=0.0,
        polyphonic=0.0,
        backgrounds=0.0,
        brief=0.0,
        band_limited=0.1,
        time_reversed=0.0,
        early_weight=1,
        level_db=(-55.0, -1.0),
        continued=1.0,
    )
