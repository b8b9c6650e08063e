"""Still pictures to learn from, and the codes that turn them into a network's input over the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from snntorch import spikegen
from torch import Tensor
from torch.nn import functional

from detector.errors import ConfigError
from models.image_recipe import ImageRecipe, MnistPictures, SoundPictures
from models.mnist import load_mnist

VALIDATION = 10_000
"""Training pictures at the end of the file that are kept for comparing settings."""
_DARK = 0.01
"""Values below it have no latency: they never fire."""


class PictureSet(Protocol):
    """Pictures with their classes."""

    labels: Tensor
    """(n,) class numbers."""

    def draw(self, index: Tensor, *, alter: bool) -> Tensor:
        """Return pictures (batch, 1, rows, columns) by number; ``alter`` moves them at random as the recipe says."""


def open_pictures(recipe: ImageRecipe, data: Path, leave_out: int | None) -> tuple[PictureSet, PictureSet]:
    """Return (to train on, to judge by).

    Raises SourceError where data is missing, ConfigError where a fold is to be left out of pictures without folds.
    """
    if isinstance(recipe.pictures, SoundPictures):
        from models.image_sounds import open_sounds

        return open_sounds(recipe.pictures, data, leave_out)
    if leave_out is not None:
        raise ConfigError(f"{recipe.name}: MNIST has no folds to leave out; leave --leave-out away")
    return _open_digits(recipe.pictures, data)


def _open_digits(spec: MnistPictures, data: Path) -> tuple[PictureSet, PictureSet]:
    images, labels = (torch.from_numpy(a.copy()) for a in load_mnist(data, train=True))
    examples = spec.examples or len(images)
    if spec.judge_on == "validation":
        judged = Digits(images[-VALIDATION:], labels[-VALIDATION:], spec)
        images, labels = images[:-VALIDATION], labels[:-VALIDATION]
    else:
        seen, classes = load_mnist(data, train=False)
        judged = Digits(torch.from_numpy(seen.copy()), torch.from_numpy(classes.copy()), spec)
    return Digits(images[:examples], labels[:examples], spec), judged


class Digits:
    """MNIST in memory; pixels in [0, 1]."""

    def __init__(self, images: Tensor, labels: Tensor, spec: MnistPictures) -> None:
        """Take images (n, 28, 28) and labels (n,), both of bytes."""
        self._images, self.labels, self._spec = images, labels.long(), spec

    def draw(self, index: Tensor, *, alter: bool) -> Tensor:
        """Return pictures (batch, 1, 28, 28)."""
        pictures = self._images[index].unsqueeze(1).float() / 255
        return self._moved(pictures) if alter else pictures

    def _moved(self, pictures: Tensor) -> Tensor:
        """Turn, stretch and shift each picture at random, in one resampling."""
        batch, spec = len(pictures), self._spec
        turn, *stretch = (torch.rand(3, batch) * 2 - 1).unbind()
        turn = torch.deg2rad(turn * spec.rotation_degrees)
        wide, high = (torch.exp(s * spec.stretch) for s in stretch)
        # The grid's unit is half a picture.
        shift = (torch.rand(2, batch) * 2 - 1) * spec.shift_pixels * 2 / pictures.shape[3]
        rows = [turn.cos() * wide, -turn.sin() * high, shift[0], turn.sin() * wide, turn.cos() * high, shift[1]]
        grid = functional.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(pictures.shape), align_corners=False)
        return functional.grid_sample(pictures, grid, align_corners=False)


class First:
    """The first pictures of a set."""

    def __init__(self, pictures: PictureSet, count: int) -> None:
        self._pictures, self.labels = pictures, pictures.labels[:count]

    def draw(self, index: Tensor, *, alter: bool) -> Tensor:
        """Return what the whole set would."""
        return self._pictures.draw(index, alter=alter)


def encode(pictures: Tensor, recipe: ImageRecipe) -> Tensor:
    """Return a network's input (batch, steps, planes, rows, columns) of pictures (batch, 1, rows, columns).

    "direct" has one step, which stands for all: the values as currents. "rate" draws a spike at
    every step with the value's probability. "latency" gives each value above 0.01 one spike, the earlier the
    larger. "delta" reads a digit's rows, or a sound's frames, one at a step, and sends a spike up or down
    (two planes) where a value changed by the threshold since the row before; the first is compared with zero.
    """
    spec, sound = recipe.network, isinstance(recipe.pictures, SoundPictures)
    if spec.encoding == "direct":
        return pictures.unsqueeze(1)
    if spec.encoding == "delta":
        return _deltas(pictures, spec.delta_threshold, frames_are_columns=sound)
    # Standardised cepstra become shares: three deviations either way fill the range.
    shares = (pictures / 6 + 0.5).clamp(0, 1) if sound else pictures.clamp(0, 1)
    if spec.encoding == "rate":
        spikes = spikegen.rate(shares, num_steps=spec.steps)
    elif spec.steps == 1:
        spikes = (shares > _DARK).float().unsqueeze(0)
    else:
        spikes = spikegen.latency(shares, num_steps=spec.steps, threshold=_DARK, normalize=True, linear=True, clip=True)
    return torch.as_tensor(spikes).transpose(0, 1)


def _deltas(pictures: Tensor, threshold: float, *, frames_are_columns: bool) -> Tensor:
    """Return up and down spikes (batch, frames, 2, 1, width)."""
    frames = pictures[:, 0].permute(2, 0, 1) if frames_are_columns else pictures[:, 0].permute(1, 0, 2)
    signed = torch.as_tensor(spikegen.delta(frames, threshold=threshold, off_spike=True)).transpose(0, 1)
    return torch.stack((signed > 0, signed < 0), 2).float().unsqueeze(3)
