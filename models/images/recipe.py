"""A recipe of a network for still images: every choice, as TOML in which all keys are required.

``kind = "image"`` at the top distinguishes it from a recipe for the streaming network (``models.recipe``).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from detector.errors import ConfigError
from detector.manifest import MfccParams, parse_strictly
from models.images import mnist
from models.network.spec import SurrogateName
from models.recipe import read_toml

DELTA_PLANES = 2


@dataclass(frozen=True, slots=True)
class Conv:
    """One convolution with the pooling of its currents."""

    channels: int
    size: int
    """Rows and columns of the kernel."""
    padding: int
    pool: int
    """Rows and columns of the pooling window; 1 is no pooling."""


@dataclass(frozen=True, slots=True)
class ImageNetworkSpec:
    """Topology, neurons and input encoding."""

    kind: Literal["csnn", "fcsnn", "cnn"]
    """Spiking convolutions, spiking dense layers only, or the twin: the topology of a csnn with ReLU."""
    encoding: Literal["direct", "rate", "latency", "delta"]
    steps: int
    """Number of steps; with "delta" the number of rows (a sound's frames), 1 for a cnn."""
    delta_threshold: float
    """Smallest change between neighbouring rows that sends a spike; used by "delta" only."""
    convs: tuple[Conv, ...]
    pooling: Literal["max", "average"]
    hidden: tuple[int, ...]
    """Neurons of the dense layers before the output."""
    readout: Literal["count", "membrane_mean", "membrane_sum"]
    """Input of the cross entropy: output spike counts, or the potential of non-spiking outputs."""
    batch_norm: bool
    beta: float
    learn_beta: bool
    threshold: float
    surrogate: SurrogateName
    slope: float
    """Slope of the surrogate (alpha, for the arctangent)."""
    dropout: float
    start_rate: float
    """Spikes per neuron and step to which each layer is scaled on the first batch; 0: no scaling."""


@dataclass(frozen=True, slots=True)
class RateTerm:
    """A penalty on firing rates, in addition to the cross entropy."""

    target: float
    """Spikes per neuron and step without penalty."""
    weight: float
    """0: no penalty."""


@dataclass(frozen=True, slots=True)
class ImageSchedule:
    """Duration of training and learning rate."""

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float


@dataclass(frozen=True, slots=True)
class MnistImages:
    """Handwritten digits, with their augmentation."""

    kind: Literal["mnist"]
    examples: int
    """Number of training images, from the first; 0: all."""
    evaluate_on: Literal["test", "validation"]
    """The 10,000 test images, or the last 10,000 of the training file, which are then held out."""
    shift_pixels: float
    rotation_degrees: float
    stretch: float
    """Largest relative change of a digit's size."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The ten digits."""
        return mnist.CLASSES

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns; the delta code reads rows as time."""
        return (mnist.SIDE, mnist.SIDE)


@dataclass(frozen=True, slots=True)
class SoundImages:
    """Clips as images of cepstra over time, with their augmentation."""

    kind: Literal["mfcc"]
    manifest: str
    """CSV of clips (path,label,fold) in models/recipes, or an absolute path."""
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
    """Largest number of consecutive frames set to the mean; 0: none."""
    mask_coefficients: int

    @property
    def shape(self) -> tuple[int, int]:
        """Coefficients and frames."""
        samples = round(self.seconds * self.features.sample_rate_hz)
        frames = 1 + -(-max(0, samples - self.features.frame_length) // self.features.hop_length)
        return (self.features.n_mfcc, frames)


@dataclass(frozen=True, slots=True)
class ImageRecipe:
    """Everything that determines a training run except the data and the seed."""

    kind: Literal["image"]
    name: str
    images: MnistImages | SoundImages
    network: ImageNetworkSpec
    rate_term: RateTerm
    schedule: ImageSchedule

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Planes, rows and columns of the network's input at one step."""
        rows, columns = self.images.shape
        if self.network.encoding != "delta":
            return (1, rows, columns)
        return (DELTA_PLANES, 1, rows if isinstance(self.images, SoundImages) else columns)


def load_image_recipe(path: Path) -> ImageRecipe:
    """Read a recipe; raises ConfigError that names the file and the key."""
    return parse_image_recipe(read_toml(path), str(path))


def parse_image_recipe(data: dict[str, Any], where: str) -> ImageRecipe:
    """Turn parsed TOML into a recipe and check it against itself; ``where`` names the file in errors."""
    if data.get("kind") != "image":
        raise ConfigError(f"{where}: kind must be 'image', not {data.get('kind')!r}: name a recipe for still images")
    if old := [f"{name} is now {new}" for name, new in _renamed_keys(data)]:
        raise ConfigError(f"{where}: {old[0]}; rename it")
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
    """Return each convolution's pooled output shape (channels, rows, columns); raises ConfigError where it is empty.

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


def _renamed_keys(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield earlier names of keys in the recipe, with their present names."""
    if "pictures" in data:
        yield "[pictures]", "[images]"
    if isinstance(images := data.get("images"), dict) and "judge_on" in images:
        yield "images.judge_on", "images.evaluate_on"


def _contradictions(recipe: ImageRecipe) -> list[tuple[bool, str]]:
    n, s, cnn = recipe.network, recipe.schedule, recipe.network.kind == "cnn"
    sizes = [v for c in n.convs for v in (c.channels, c.size, c.pool)]
    height, width = recipe.images.shape
    frames = width if isinstance(recipe.images, SoundImages) else height
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
