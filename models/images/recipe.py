"""A recipe for a network that sees one still picture for some steps: every choice, as TOML whose keys are all required.

``kind = "image"`` at the top tells it from a recipe for the streaming network (``models.recipe``).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detector.errors import ConfigError
from detector.manifest import MfccParams
from detector.strict import parse_strictly
from models.images import mnist
from models.network.spec import SurrogateName
from models.recipe import read_toml

DELTA_PLANES = 2


@dataclass(frozen=True, slots=True)
class Conv:
    """One convolution with what pools its currents."""

    channels: int
    size: int
    """Rows and columns of the kernel."""
    padding: int
    pool: int
    """Rows and columns that are pooled to one; 1 is no pooling."""


@dataclass(frozen=True, slots=True)
class ImageNetworkSpec:
    """The topology, the neurons and the code of the input."""

    kind: Literal["csnn", "fcsnn", "cnn"]
    """Spiking convolutions, spiking dense layers only, or the twin: the topology of a csnn with ReLU."""
    encoding: Literal["direct", "rate", "latency", "delta"]
    steps: int
    """How long the picture is seen; with "delta" its rows (a sound's frames), 1 for a cnn."""
    delta_threshold: float
    """Least change between neighbouring rows that is a spike; only "delta" uses it."""
    convs: tuple[Conv, ...]
    pooling: Literal["max", "average"]
    hidden: tuple[int, ...]
    """Neurons of the dense layers before the output."""
    readout: Literal["count", "membrane_mean", "membrane_sum"]
    """What the cross entropy sees over the steps: output spikes, or the potential of outputs that never fire."""
    batch_norm: bool
    beta: float
    learn_beta: bool
    threshold: float
    surrogate: SurrogateName
    slope: float
    """Of the surrogate; snntorch calls atan's "alpha"."""
    dropout: float
    start_rate: float
    """Spikes per neuron and step to which the first batch scales each layer's weights; 0 leaves them alone."""


@dataclass(frozen=True, slots=True)
class RateTerm:
    """A cost of firing rates next to the cross entropy."""

    target: float
    """Spikes per neuron and step that cost nothing."""
    weight: float
    """0 is no such cost."""


@dataclass(frozen=True, slots=True)
class ImageSchedule:
    """How long and how fast to learn."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class MnistPictures:
    """Handwritten digits, and how training moves them."""

    kind: Literal["mnist"]
    examples: int
    """Pictures to train on, from the first; 0 is all."""
    judge_on: Literal["test", "validation"]
    """The 10,000 test pictures, or the last 10,000 of the training file, which are then not trained on."""
    shift_pixels: float
    rotation_degrees: float
    stretch: float
    """Largest share by which a digit gets larger or smaller."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The ten digits."""
        return mnist.CLASSES

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns; the rows are what the delta code reads as time."""
        return (mnist.SIDE, mnist.SIDE)


@dataclass(frozen=True, slots=True)
class SoundPictures:
    """Clips as pictures of cepstra over time, and how training alters them."""

    kind: Literal["mfcc"]
    manifest: str
    """CSV of clips (path,label,fold) in models/recipes, or any absolute path."""
    labels: tuple[str, ...]
    seconds: float
    """Longer clips are cut."""
    short_clips: Literal["repeat", "pad"]
    features: MfccParams
    shift_s: float
    speed: float
    """Largest change of speed (and pitch), as the logarithm of the factor."""
    noise_chance: float
    """Share of examples with coloured noise, 5 to 30 dB below the sound."""
    mask_frames: int
    """Longest stretch of frames set to the mean; 0 is none."""
    mask_coefficients: int

    @property
    def shape(self) -> tuple[int, int]:
        """Coefficients and frames."""
        samples = round(self.seconds * self.features.sample_rate_hz)
        frames = 1 + -(-max(0, samples - self.features.frame_length) // self.features.hop_length)
        return (self.features.n_mfcc, frames)


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """Everything that decides a training run but the data and the seed."""

    kind: Literal["image"]
    name: str
    pictures: MnistPictures | SoundPictures
    network: ImageNetworkSpec
    rate_term: RateTerm
    schedule: ImageSchedule

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Planes, rows and columns of what the network sees at one step."""
        rows, columns = self.pictures.shape
        if self.network.encoding != "delta":
            return (1, rows, columns)
        return (DELTA_PLANES, 1, rows if isinstance(self.pictures, SoundPictures) else columns)


def load_image_recipe(path: Path) -> ImageRecipe:
    """Read a recipe; raises ConfigError that names the file and the key."""
    return parse_image_recipe(read_toml(path), str(path))


def parse_image_recipe(data: dict[str, Any], where: str) -> ImageRecipe:
    """Turn parsed TOML into a recipe and check it against itself; ``where`` names the file in errors."""
    if data.get("kind") != "image":
        raise ConfigError(f"{where}: kind must be 'image', not {data.get('kind')!r}: name a recipe for still pictures")
    recipe: ImageRecipe = parse_strictly(ImageRecipe, data, where, "recipe", ConfigError)
    for is_wrong, text in _contradictions(recipe):
        if is_wrong:
            raise ConfigError(f"{where}: {text}")
    layer_shapes(recipe, where)
    return recipe


def as_dict(recipe: ImageRecipe) -> dict[str, Any]:
    """Return the recipe as plain values, as TOML would give them: ``parse_image_recipe`` reads them again."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return plain


def layer_shapes(recipe: ImageRecipe, where: str = "recipe") -> list[tuple[int, int, int]]:
    """Return each convolution's pooled output as (channels, rows, columns); raises ConfigError where nothing is left.

    Where the input is a single row, kernels and pools are one row high and rows are not padded.
    """
    _, rows, columns = recipe.input_shape
    flat, shapes = rows == 1, []
    for i, conv in enumerate(recipe.network.convs):
        columns = (columns + 2 * conv.padding - conv.size + 1) // conv.pool
        rows = 1 if flat else (rows + 2 * conv.padding - conv.size + 1) // conv.pool
        if min(rows, columns) < 1:
            raise ConfigError(f"{where}: network.convs[{i}] leaves nothing of its input ({rows} x {columns})")
        shapes.append((conv.channels, rows, columns))
    return shapes


def _contradictions(recipe: ImageRecipe) -> list[tuple[bool, str]]:
    n, s, cnn = recipe.network, recipe.schedule, recipe.network.kind == "cnn"
    sizes = [v for c in n.convs for v in (c.channels, c.size, c.pool)]
    height, width = recipe.pictures.shape
    frames = width if isinstance(recipe.pictures, SoundPictures) else height
    return [
        (min(s.epochs, s.batch, n.steps, *sizes, *n.hidden) < 1, "epochs, batch, steps and sizes must be at least 1"),
        (any(c.padding < 0 for c in n.convs), "network.convs: padding must not be negative"),
        (n.kind == "fcsnn" and bool(n.convs), "network.convs must be empty in a fcsnn"),
        (n.kind != "fcsnn" and not n.convs, f"network.convs must not be empty in a {n.kind}"),
        (cnn and (n.steps != 1 or n.encoding != "direct"), "a cnn needs network.steps = 1 and encoding = 'direct'"),
        (cnn and n.readout != "membrane_mean", "a cnn needs network.readout = 'membrane_mean': its output is no spike"),
        (cnn and n.start_rate > 0, "a cnn needs network.start_rate = 0: it has no spikes"),
        (n.encoding == "delta" and n.steps != frames, f"network.steps must be {frames}, as many as the delta code has"),
        (not 0 < n.beta <= 1, "network.beta must be above 0 and at most 1"),
        (n.learn_beta and n.beta == 1, "network.beta must be below 1 where it is learned"),
        (min(n.threshold, n.slope) <= 0, "network.threshold and network.slope must be above 0"),
        (not 0 <= n.dropout < 1, "network.dropout must be at least 0 and below 1"),
        (not 0 <= n.start_rate < 1, "network.start_rate must be at least 0 and below 1"),
        (min(recipe.rate_term.target, recipe.rate_term.weight) < 0, "rate_term values must not be negative"),
        (s.learning_rate <= 0, "schedule.learning_rate must be above 0"),
    ]
