"""Still pictures to learn from, and the codes that turn them into a network's input over the steps.

Sounds as still pictures: each clip's cepstra over time, cut or filled to one length.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from snntorch import spikegen
from torch import Tensor
from torch.nn import functional

from detector.errors import ConfigError, SourceError
from detector.features import MfccExtractor
from detector.messages import Samples
from models import RECIPES
from models.console import report_problems
from models.data.datasets import load_good_clips, read_manifest
from models.data.household import TEST_FOLD, Clip
from models.images.mnist import load_mnist
from models.images.recipe import ImageRecipe, MnistPictures, SoundPictures
from models.training.augment import change_speed, noise

VALIDATION = 10_000
"""Training pictures at the end of the file that are kept for comparing settings."""
_DARK = 0.01
"""Values below it have no latency: they never fire."""
_SNR_DB = (5.0, 30.0)


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
        return open_sounds(recipe.pictures, data, leave_out)
    if leave_out is not None:
        raise ConfigError(f"{recipe.name}: MNIST has no folds to leave out; leave --leave-out away")
    return _open_digits(recipe.pictures, data)


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


def open_sounds(spec: SoundPictures, data: Path, leave_out: int | None) -> tuple[Sounds, Sounds]:
    """Return (every other fold, the fold left out): without one, the test fold is left out.

    Clips that cannot be used are told and left out. Raises SourceError where a part is left without any.
    """
    listing = read_manifest(RECIPES / spec.manifest, data, spec.labels)
    good, waves, problems = load_good_clips(listing.clips, spec.features.sample_rate_hz)
    report_problems([*listing.problems, *problems])
    fold = TEST_FOLD if leave_out is None else leave_out
    parts: list[tuple[list[Clip], list[Samples]]] = [([], []), ([], [])]
    for clip, wave in zip(good, waves, strict=True):
        clips, kept = parts[clip.fold == fold]
        clips.append(clip)
        kept.append(fill(wave, spec))
    for name, (clips, _) in zip(("other folds", f"fold {fold}"), parts, strict=True):
        if not clips:
            raise SourceError(f"{spec.manifest}: has no clips in {name}")
    train = Sounds(*parts[0], spec)
    return train, Sounds(*parts[1], spec, train.statistics)


def fill(wave: Samples, spec: SoundPictures) -> Samples:
    """Cut a wave to the recipe's seconds, or fill it up: with silence, or by playing it again."""
    samples = round(spec.seconds * spec.features.sample_rate_hz)
    if wave.size >= samples or wave.size == 0 or spec.short_clips == "pad":
        return np.pad(wave[:samples], (0, max(0, samples - wave.size)))
    return np.resize(wave, samples)


class Sounds:
    """Clips in memory, their pictures standardised per coefficient by the training clips."""

    def __init__(
        self,
        clips: Sequence[Clip],
        waves: Sequence[Samples],
        spec: SoundPictures,
        statistics: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Take waves of one length; without statistics (mean, deviation), each (rows, 1), these clips give them."""
        self._waves, self._spec = waves, spec
        self._extractor = MfccExtractor(spec.features)
        self.labels = torch.tensor([spec.labels.index(str(c.label)) for c in clips])
        self._plain = torch.stack([self._cepstra(w) for w in waves])
        if statistics is None:
            statistics = (self._plain.mean((0, 2)).unsqueeze(1), self._plain.std((0, 2)).unsqueeze(1) + 1e-6)
        self.statistics = statistics

    def draw(self, index: Tensor, *, alter: bool) -> Tensor:
        """Return pictures (batch, 1, coefficients, frames)."""
        mean, deviation = self.statistics
        if not alter or not self._alters:
            return ((self._plain[index] - mean) / deviation).unsqueeze(1)
        # numpy's dice are thrown by torch's, so that one seed decides all.
        rng = np.random.default_rng(int(torch.randint(2**31, (1,))))
        cepstra = torch.stack([self._cepstra(self._altered(self._waves[i], rng)) for i in index.tolist()])
        pictures = (cepstra - mean) / deviation
        for picture in pictures:
            self._mask(picture, rng)
        return pictures.unsqueeze(1)

    @property
    def _alters(self) -> bool:
        s = self._spec
        return max(s.shift_s, s.speed, s.noise_chance, s.mask_frames, s.mask_coefficients) > 0

    def _cepstra(self, wave: Samples) -> Tensor:
        frames = np.concatenate([self._extractor.push(wave), self._extractor.flush()])
        return torch.from_numpy(np.ascontiguousarray(frames.T))

    def _altered(self, wave: Samples, rng: np.random.Generator) -> Samples:
        """Play at another speed, begin elsewhere (what falls off one end comes in at the other), add noise."""
        s, rate_hz = self._spec, self._spec.features.sample_rate_hz
        if s.speed > 0:
            wave = np.resize(change_speed(wave, rng, rate_hz, s.speed), wave.size)
        if s.shift_s > 0:
            wave = np.roll(wave, int(rng.uniform(-s.shift_s, s.shift_s) * rate_hz))
        if rng.random() < s.noise_chance:
            level = float(np.sqrt(np.mean(wave**2))) * 10 ** (-rng.uniform(*_SNR_DB) / 20)
            wave = wave + level * noise(wave.size, rng)
        return np.asarray(wave, np.float32)

    def _mask(self, picture: Tensor, rng: np.random.Generator) -> None:
        """Set a stretch of frames and one of coefficients to the mean (D. Park et al., "SpecAugment", 2019)."""
        for axis, longest in ((0, self._spec.mask_coefficients), (1, self._spec.mask_frames)):
            length = int(rng.integers(0, longest + 1))
            start = int(rng.integers(0, max(1, picture.shape[axis] - length)))
            picture.narrow(axis, start, min(length, picture.shape[axis] - start)).zero_()


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


def _deltas(pictures: Tensor, threshold: float, *, frames_are_columns: bool) -> Tensor:
    """Return up and down spikes (batch, frames, 2, 1, width)."""
    frames = pictures[:, 0].permute(2, 0, 1) if frames_are_columns else pictures[:, 0].permute(1, 0, 2)
    signed = torch.as_tensor(spikegen.delta(frames, threshold=threshold, off_spike=True)).transpose(0, 1)
    return torch.stack((signed > 0, signed < 0), 2).float().unsqueeze(3)
