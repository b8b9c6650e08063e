"""A recipe: every choice of a training run, as a TOML file in which all keys are required.

A recipe may train in stages: each ``[[stages]]`` entry is the recipe with some keys of its tables ``examples``,
``loss`` and ``schedule`` replaced, and starts from the weights of the stage before.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from detector.errors import ConfigError, unknown_label
from detector.manifest import EncoderParams, MfccParams, parse_strictly
from models.network.spec import NetworkSpec

_STAGE_TABLES: Final = ("examples", "loss", "schedule")
"""What a stage may change; everything else is shared by all stages."""
_RENAMED: Final = {
    "examples": {
        "ended": "truncated",
        "bare": "background_only",
        "crowded": "polyphonic",
        "narrow": "band_limited",
        "backwards": "time_reversed",
    },
    "network": {"drive": "initial_gain"},
    "loss": {"deep": "deep_supervision", "idle": "background_operations", "least_rate": "min_rate"},
}
"""Earlier names of keys, by table, with their present names."""
_ADDED: Final = {"examples": {"scenes": {"noise_like": [], "continued": 0.0, "pool": 0, "hard_negatives": 0.0}}}
"""Keys that earlier recipes had not, by table and its kind, with the values that do what was done then."""


@dataclass(frozen=True, slots=True)
class Data:
    """Which recordings are used; see ``models.data.datasets``."""

    layout: Literal["household", "esc", "folders", "kinds", "manifest"]
    path: str
    """Folder below the data folder, or CSV manifest beside the recipe; not used by the household layout."""
    licence: str
    """Licence of recordings that are not the household's, for the manifest of the model."""
    test_folds: tuple[int, ...]
    """Folds that are never trained on; ``--leave-out`` adds one."""


@dataclass(frozen=True, slots=True)
class SceneExamples:
    """Training examples for a detector: short scenes with onsets and offsets, and a target for every frame."""

    kind: Literal["scenes"]
    frames: int
    source_weights: dict[str, float]
    """Sampling weight of a source within its class (default 1.0); a source of n < 16 clips is weighted by n / 16."""
    class_weights: dict[str, float]
    """Sampling weight of a class (default 1.0); "none" stands for out-of-class sounds."""
    rumbling: float
    """Probability of low-frequency rumble at the level of the sound or above: wind and handling noise."""
    truncated: float
    """Probability that all sounds are cut off within the example; silence or ambient noise follows."""
    background_only: float
    """Probability of an example without foreground sounds: ambient noise, down to the last bit, or a backdrop."""
    polyphonic: float
    """Probability of one to three more simultaneous sounds than the usual one or two."""
    backgrounds: float
    """Probability of a continuous backdrop of several sounds of one category, whose classes are ignore-masked."""
    brief: float
    """Probability of short sounds (one more than usual) that follow each other or overlap."""
    band_limited: float
    """Probability of a microphone with a cut-off near 4 kHz, as in telephony."""
    time_reversed: float
    """Probability that an out-of-class sound is played in reverse, which leaves it out of class."""
    early_weight: int
    """Loss weight of the first frames of a sound against 1, for a low detection latency."""
    level_db: tuple[float, float]
    """Lowest and highest peak level, in dBFS."""
    noise_like: tuple[str, ...] = ()
    """Classes that resemble bright noise, such as rain: they are ignore-masked in such noise where they are absent."""
    continued: float = 0.0
    """Probability that an example continues the one before in its lane of the batch, with the states of encoder and
    network; otherwise it begins with the state after a reset, which a service is hardly ever in."""
    pool: int = 0
    """Number of different examples, which are kept in the run's folder and used again in later epochs, in another
    order: to make one takes as long as to train on it. 0: every example is new."""
    hard_negatives: float = 0.0
    """Probability that an out-of-class sound is one that the weights a run starts from take for a class."""


@dataclass(frozen=True, slots=True)
class MixtureExamples:
    """Training examples for clip classification: one clip or a mixture of two, with the class shares as target."""

    kind: Literal["mixtures"]
    frames: int
    mixed: float
    """Probability of mixing in a second clip."""
    speed: float
    """Largest change of speed, as the natural logarithm of the factor."""
    equalised: float
    """Probability of a random equaliser."""
    reverberated: float
    """Probability of reverberation, for an equalised sound."""
    noisy: float
    """Probability of background noise."""
    rumbling: float
    """Probability of low-frequency rumble at the level of the sound or above: wind and handling noise."""
    level_db: tuple[float, ...]
    """Lowest and highest peak level, in dBFS."""
    remembered: bool
    """Whether a sound stays in the target from its onset to the end of the example."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Weights of the loss terms; zero leaves a term out. See ``models.training.losses``."""

    frame: float
    clip: float
    score: float
    deep_supervision: float
    """Weight of the auxiliary heads' frame loss (deep supervision)."""
    operations: float
    background_operations: float
    """As ``operations``, over background frames alone: those without any sound, in class or out of class."""
    silence: float
    min_rate: float
    """Spikes per frame below which the silence term penalises a neuron."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Duration of training and learning rate."""

    epochs: int
    examples_per_epoch: int
    batch: int
    learning_rate: float
    weight_decay: float
    muon: bool
    """Whether the weights of the convolutions and of the dense layer are trained by Muon, and the rest by AdamW.

    The first convolution is one of them: its input are spikes, through a fixed matrix of its own.
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
    """Everything that determines a training run except the data and the seed."""

    kind: Literal["stream"]
    name: str
    version: str
    data: Data
    classes: dict[str, str]
    """Labels in the order of the scores, each with its category."""
    features: MfccParams
    encoder: EncoderParams
    network: NetworkSpec
    examples: SceneExamples | MixtureExamples
    loss: Loss
    schedule: Schedule
    decoding: Decoding
    """Initial decoder values of an exported network, until it is tuned; not used in training."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The class labels, in the order of the scores."""
        return tuple(self.classes)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of training, with its own examples, loss and schedule."""

    recipe: Recipe
    seed_offset: int
    """Added to the seed of the run, so that stages draw different examples."""


def load_recipe(path: Path) -> Recipe:
    """Read a recipe of a streaming network: of several stages, the last; raises ConfigError with file and key."""
    return load_stages(path)[-1].recipe


def load_stages(path: Path) -> list[Stage]:
    """Read a recipe's training stages in order; a recipe without ``[[stages]]`` has one.

    Raises ConfigError that names the file and the key.
    """
    data, where = read_toml(path), str(path)
    _refuse_renamed_keys(data, where)
    entries = data.pop("stages", [{"seed_offset": 0}])
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(f"{where}: stages must be one or more tables [[stages]]")
    return [_stage(data, entry, f"stages[{i}]", where) for i, entry in enumerate(entries)]


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises ConfigError where it cannot be read or parsed."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a recipe of models/recipes") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file ({error})") from error


def as_dict(recipe: Recipe) -> dict[str, Any]:
    """Return the recipe as plain values, for run folders."""
    return dataclasses.asdict(recipe)


def with_current_keys(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored recipe (plain values) of an earlier version with the present keys."""
    renamed = {
        table: {names.get(key, key): value for key, value in data[table].items()}
        for table, names in _RENAMED.items()
        if isinstance(data.get(table), dict)
    }
    current = {**data, **renamed}
    for table, kinds in _ADDED.items():
        if isinstance(found := current.get(table), dict):
            current[table] = {**kinds.get(str(found.get("kind")), {}), **found}
    return current


def check_recipe(recipe: Recipe, where: str) -> None:
    """Raise ConfigError, naming the key, where tables contradict each other or a value is out of range."""
    features, network = recipe.features, recipe.network
    expected = {
        "planes": 2 * len(recipe.encoder.thresholds),
        "n_mfcc": features.n_mfcc,
        "n_mels": features.n_mels,
        "classes": len(recipe.classes),
        "frame_rate_hz": features.sample_rate_hz / features.hop_length,
    }
    for key, value in expected.items():
        found = getattr(network, key)
        if found != value:
            raise ConfigError(f"{where}: network.{key} is {found}, but the rest of the recipe needs {value}")
    _check_training(recipe, where)
    if missing := [label for label in recipe.classes if label not in recipe.decoding.on_thresholds]:
        raise ConfigError(f"{where}: decoding.on_thresholds lacks {', '.join(missing)}")


def _stage(data: Mapping[str, Any], entry: Mapping[str, Any], key: str, where: str) -> Stage:
    """Apply one ``[[stages]]`` entry to the recipe's tables."""
    merged = copy.deepcopy(dict(data))
    seed_offset = entry.get("seed_offset")
    if type(seed_offset) is not int:
        raise ConfigError(f"{where}: {key}.seed_offset must be an integer")
    for table, changes in entry.items():
        if table == "seed_offset":
            continue
        if table not in _STAGE_TABLES or not isinstance(changes, dict):
            raise ConfigError(f"{where}: {key}.{table}: a stage has seed_offset and tables {', '.join(_STAGE_TABLES)}")
        if unknown := [name for name in changes if name not in merged.get(table, {})]:
            raise ConfigError(f"{where}: {key}.{table}.{unknown[0]}: the recipe's table {table} has no such key")
        merged[table] |= changes
    recipe: Recipe = parse_strictly(Recipe, merged, where, "recipe", ConfigError)
    check_recipe(recipe, where)
    return Stage(recipe, seed_offset)


def _refuse_renamed_keys(data: Mapping[str, Any], where: str) -> None:
    for table, names in _RENAMED.items():
        for old, new in names.items():
            if isinstance(data.get(table), dict) and old in data[table]:
                raise ConfigError(f"{where}: {table}.{old} is now {table}.{new}; rename the key")


def _check_examples(examples: SceneExamples, recipe: Recipe, where: str) -> None:
    if unknown := [label for label in examples.noise_like if label not in recipe.classes]:
        raise ConfigError(f"{where}: examples.noise_like: {unknown_label(unknown[0], recipe.classes, 'the recipe')}")
    if not 0 <= examples.continued <= 1:
        raise ConfigError(f"{where}: examples.continued is {examples.continued}; it takes a probability, 0 to 1")
    if examples.continued and recipe.network.kind == "cnn":
        raise ConfigError(f"{where}: examples.continued needs a network with a state; set it to 0")
    if not 0 <= examples.hard_negatives <= 1:
        raise ConfigError(
            f"{where}: examples.hard_negatives is {examples.hard_negatives}; it takes a probability, 0 to 1"
        )
    if examples.pool < 0 or examples.pool % recipe.schedule.batch:
        raise ConfigError(f"{where}: examples.pool is {examples.pool}; it takes a multiple of schedule.batch, or 0")


def _check_training(recipe: Recipe, where: str) -> None:
    """Raise ConfigError, naming the key, for values that a network cannot be trained with."""
    for key in ("membrane_tau_s", "dense_tau_s"):
        match getattr(recipe.network, key):
            case (shortest, longest) if 0 < shortest <= longest < math.inf:
                pass
            case found:
                expected = "it takes a shortest and a longest, above 0"
                raise ConfigError(f"{where}: network.{key} is {list(found)}; {expected}")
    if isinstance(recipe.examples, SceneExamples):
        _check_examples(recipe.examples, recipe, where)
    weight = recipe.loss.deep_supervision
    if weight < 0:
        raise ConfigError(f"{where}: loss.deep_supervision is {weight}; it takes a weight, 0 or above")
    if weight and not recipe.network.convs[1:]:
        raise ConfigError(f"{where}: loss.deep_supervision needs two convolutions or more; set it to 0")
