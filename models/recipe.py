"""A recipe: every choice of a training run, as a TOML file whose keys are all required."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detector.errors import ConfigError
from detector.manifest import EncoderParams, MfccParams
from detector.strict import parse_strictly
from models.network.csnn import NetworkSpec


@dataclass(frozen=True, slots=True)
class Data:
    """Which recordings; see ``models.data.datasets``."""

    layout: Literal["household", "esc", "folders", "manifest"]
    path: str
    """The folder inside the data folder, or the manifest beside the recipe; the household needs none."""
    licence: str
    """Of recordings that are not the household's, for the manifest of the model."""
    test_folds: tuple[int, ...]
    """Never trained on; ``--leave-out`` adds one."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """Examples for a detector: sounds that begin and end in a room, with a target for every frame."""

    kind: Literal["scenes"]
    frames: int
    source_weights: dict[str, float]
    """Within a class, draws from a source against 1.0 for a source not named; n clips of fewer than 16 count n / 16."""
    class_weights: dict[str, float]
    """Draws against 1.0 for a class not named; "none" is sound of no class."""
    rumbling: float
    """Chance of low rumble, as loud as the sound or louder: wind and hands at a microphone."""
    ended: float
    """Chance that all sounds are cut off within the example: what is left of it is silence or the place's noise."""
    bare: float
    """Chance that no sound begins: there is the place's noise, down to a microphone's last bits, or what goes on."""
    crowded: float
    """Chance of one to three sounds more than the one or two of the other examples: several voices, a band."""
    backgrounds: float
    """Chance that several sounds of one category go on behind, in doubt themselves: a band, a room full of voices."""
    brief: float
    """Chance that the sounds, one more than otherwise, are cut short and come one after another or overlap."""
    narrow: float
    """Chance that the microphone hears nothing above some 4 kHz, as a telephone's."""
    backwards: float
    """Chance that a sound of no class is played backwards: it is another sound then, and of no class still."""
    early_weight: int
    """What frames in the first moments of a sound count, against 1: a detector should know soon."""
    level_db: tuple[float, float]
    """Lowest and highest peak, in dB of full scale."""


@dataclass(frozen=True, slots=True)
class Mixtures:
    """Examples for whole clips: one clip or two of different classes, and the share of each as the target."""

    kind: Literal["mixtures"]
    frames: int
    mixed: float
    """Chance that a second clip is mixed in."""
    speed: float
    """Largest change of speed, as a natural logarithm."""
    equalised: float
    """Chance of a random equaliser."""
    reverberated: float
    """Chance that an equalised sound is put into a room."""
    noisy: float
    """Chance of background noise."""
    rumbling: float
    """Chance of low rumble, as loud as the sound or louder: wind and hands at a microphone."""
    level_db: tuple[float, ...]
    """Lowest and highest peak level."""
    remembered: bool
    """A sound counts from where it begins to the end of the example: what has been heard, not what is being heard."""


@dataclass(frozen=True, slots=True)
class Loss:
    """What the training makes small: weighted terms; zero leaves one out. See ``models.training.losses``."""

    frame: float
    clip: float
    score: float
    deep: float
    """The frame term of read-outs of the hidden convolutions; see ``models.training.losses``."""
    operations: float
    idle: float
    """As ``operations``, in frames alone in which nothing is to be heard, of a class or of none."""
    silence: float
    least_rate: float
    """Spikes per frame below which a neuron is pushed by the silence term."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn."""

    epochs: int
    examples_per_epoch: int
    batch: int
    learning_rate: float
    weight_decay: float
    muon: bool
    """Whether the weights of convolutions and of the dense layer learn by Muon, not by AdamW as everything else.

    The first convolution is one of them: what it reads are spikes, through a fixed matrix of its own.
    """


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

    kind: Literal["stream"]
    name: str
    version: str
    data: Data
    classes: dict[str, str]
    """Labels in the order of the scores, each with its category."""
    features: MfccParams
    encoder: EncoderParams
    network: NetworkSpec
    examples: Scenes | Mixtures
    loss: Loss
    schedule: Schedule
    decoding: Decoding
    """What an exported network begins with, until it is tuned; it takes no part in training."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes' labels, in the order of the scores."""
        return tuple(self.classes)


def load_recipe(path: Path) -> Recipe:
    """Read a recipe of a streaming network; raises ConfigError that names the file and the key."""
    recipe: Recipe = parse_strictly(Recipe, read_toml(path), str(path), "recipe", ConfigError)
    _check(recipe, str(path))
    return recipe


def read_toml(path: Path) -> dict[str, Any]:
    """Read a recipe's keys; raises ConfigError where the file cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a recipe of models/recipes") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file ({error})") from error


def _check(recipe: Recipe, where: str) -> None:
    """Refuse tables that do not fit each other; raises ConfigError that names the key."""
    features, network = recipe.features, recipe.network
    wanted = {
        "planes": 2 * len(recipe.encoder.thresholds),
        "n_mfcc": features.n_mfcc,
        "n_mels": features.n_mels,
        "classes": len(recipe.classes),
        "frame_rate_hz": features.sample_rate_hz / features.hop_length,
    }
    for key, value in wanted.items():
        found = getattr(network, key)
        if found != value:
            raise ConfigError(f"{where}: network.{key} is {found}, but the rest of the recipe needs {value}")
    _check_training(recipe, where)
    if missing := [label for label in recipe.classes if label not in recipe.decoding.on_thresholds]:
        raise ConfigError(f"{where}: decoding.on_thresholds lacks {', '.join(missing)}")


def _check_training(recipe: Recipe, where: str) -> None:
    """Refuse what a network cannot be trained by; raises ConfigError that names the key."""
    for key in ("membrane_tau_s", "dense_tau_s"):
        match getattr(recipe.network, key):
            case (shortest, longest) if 0 < shortest <= longest < math.inf:
                pass
            case found:
                wanted = "it takes a shortest and a longest, above 0"
                raise ConfigError(f"{where}: network.{key} is {list(found)}; {wanted}")
    if recipe.loss.deep < 0:
        raise ConfigError(f"{where}: loss.deep is {recipe.loss.deep}; it takes a weight, 0 or above")
    if recipe.loss.deep and not recipe.network.convs[1:]:
        raise ConfigError(f"{where}: loss.deep needs two convolutions or more; set it to 0")


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values, for run folders."""
    return dataclasses.asdict(recipe)
