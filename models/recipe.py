"""A recipe: every choice of a training run, as a TOML file whose keys are all required."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detector.errors import ConfigError
from detector.manifest import EncoderParams, MfccParams
from detector.strict import parse_strictly
from models.datasets import LABELS
from models.network import NetworkSpec


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn."""

    epochs: int
    examples_per_epoch: int
    batch: int
    frames: int
    """Length of an example."""
    learning_rate: float
    weight_decay: float
    clip_loss: float
    """Weight of the cross entropy over a whole example next to that of each frame."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What to hear how often."""

    source_weights: dict[str, float]
    """Within a class, draws from a source against 1.0 for a source not named."""
    class_weights: dict[str, float]
    """Draws against 1.0 for a class not named; "none" is sound of no class."""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How scores become events: durations in frames for all classes, thresholds by class."""

    smoothing_frames: int
    min_on_frames: int
    min_off_frames: int
    refractory_frames: int
    off_ratio: float
    """The off-threshold as a share of the on-threshold."""
    on_thresholds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training run but the data and the seed."""

    name: str
    version: str
    features: MfccParams
    encoder: EncoderParams
    network: NetworkSpec
    schedule: Schedule
    sampling: Sampling
    decoding: Decoding
    """Chosen on folds that the tuning runs left out; it takes no part in training."""


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; raises ConfigError that names the file and the key."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a recipe of models/recipes") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file ({error})") from error
    recipe: Recipe = parse_strictly(Recipe, data, str(path), "recipe", ConfigError)
    features, network = recipe.features, recipe.network
    wanted = {
        "planes": 2 * len(recipe.encoder.thresholds),
        "n_mfcc": features.n_mfcc,
        "n_mels": features.n_mels,
        "classes": len(LABELS),
        "frame_rate_hz": features.sample_rate_hz / features.hop_length,
    }
    for key, value in wanted.items():
        found = getattr(network, key)
        if found != value:
            raise ConfigError(f"{path}: network.{key} is {found}, but the rest of the recipe needs {value}")
    return recipe


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values, for run folders."""
    return dataclasses.asdict(recipe)
