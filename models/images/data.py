"""Still images and their encodings: MNIST digits, and clips as images of cepstra over time, of one length."""

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
from models.data.clips import Clip
from models.data.datasets import load_good_clips, read_manifest
from models.data.household import TEST_FOLD
from models.images.mnist import load_mnist
from models.images.recipe import ImageRecipe, MnistImages, SoundImages
from models.training.augment import change_speed, noise

VALIDATION = 10_000
"""Training images at the end of the file that are held out for comparing settings."""
_DARK = 0.01
"""Values below it never fire in the latency code."""
_SNR_DB = (5.0, 30.0)


class ImageSet(Protocol):
    """Images with their classes."""

    labels: Tensor
    """(n,) class numbers."""

    def draw(self, index: Tensor, *, augment: bool) -> Tensor:
        """Return images (batch, 1, rows, columns) by index; ``augment`` applies the recipe's augmentation."""


def open_images(recipe: ImageRecipe, data: Path, leave_out: int | None) -> tuple[ImageSet, ImageSet]:
    """Return (training set, evaluation set).

    Raises SourceError where data is missing, ConfigError where a fold is to be left out of images without folds.
    """
    if isinstance(recipe.images, SoundImages):
        return open_sounds(recipe.images, data, leave_out)
    if leave_out is not None:
        raise ConfigError(f"{recipe.name}: MNIST has no folds; remove --leave-out")
    return _open_digits(recipe.images, data)


class Digits:
    """MNIST in memory; pixels in [0, 1]."""

    def __init__(self, images: Tensor, labels: Tensor, spec: MnistImages) -> None:
        """Take images (n, 28, 28) and labels (n,), both of bytes."""
        self._images, self.labels, self._spec = images, labels.long(), spec

    def draw(self, index: Tensor, *, augment: bool) -> Tensor:
        """Return images (batch, 1, 28, 28)."""
        images = self._images[index].unsqueeze(1).float() / 255
        return self._transformed(images) if augment else images

    def _transformed(self, images: Tensor) -> Tensor:
        """Rotate, stretch and shift each image at random, in one resampling."""
        batch, spec = len(images), self._spec
        turn, *stretch = (torch.rand(3, batch) * 2 - 1).unbind()
        turn = torch.deg2rad(turn * spec.rotation_degrees)
        wide, high = (torch.exp(s * spec.stretch) for s in stretch)
        # The grid's unit is half an image.
        shift = (torch.rand(2, batch) * 2 - 1) * spec.shift_pixels * 2 / images.shape[3]
        rows = [turn.cos() * wide, -turn.sin() * high, shift[0], turn.sin() * wide, turn.cos() * high, shift[1]]
        grid = functional.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
        return functional.grid_sample(images, grid, align_corners=False)


class Subset:
    """The first images of a set."""

    def __init__(self, images: ImageSet, count: int) -> None:
        self._images, self.labels = images, images.labels[:count]

    def draw(self, index: Tensor, *, augment: bool) -> Tensor:
        """Return the images of the whole set."""
        return self._images.draw(index, augment=augment)


def encode(images: Tensor, recipe: ImageRecipe) -> Tensor:
    """Return a network's input (batch, steps, planes, rows, columns) of images (batch, 1, rows, columns).

    "direct" has one step, which stands for all: the values as currents. "rate" draws a spike at each step with
    the value as probability. "latency" encodes each value above 0.01 as one spike, earlier for larger values.
    "delta" reads one row of a digit, or one frame of a sound, per step, and sends an up or down spike (two planes)
    where a value changed by the threshold since the row before; the first is compared with zero.
    """
    spec, sound = recipe.network, isinstance(recipe.images, SoundImages)
    if spec.encoding == "direct":
        return images.unsqueeze(1)
    if spec.encoding == "delta":
        return _deltas(images, spec.delta_threshold, frames_are_columns=sound)
    # Standardised cepstra are mapped to [0, 1]: three standard deviations either way fill the range.
    shares = (images / 6 + 0.5).clamp(0, 1) if sound else images.clamp(0, 1)
    if spec.encoding == "rate":
        spikes = spikegen.rate(shares, num_steps=spec.steps)
    elif spec.steps == 1:
        spikes = (shares > _DARK).float().unsqueeze(0)
    else:
        spikes = spikegen.latency(shares, num_steps=spec.steps, threshold=_DARK, normalize=True, linear=True, clip=True)
    return torch.as_tensor(spikes).transpose(0, 1)


def open_sounds(spec: SoundImages, data: Path, leave_out: int | None) -> tuple[Sounds, Sounds]:
    """Return (all other folds, the left-out fold), by default the test fold.

    Clips that cannot be used are reported and left out. Raises SourceError where a part is empty.
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


def fill(wave: Samples, spec: SoundImages) -> Samples:
    """Cut a wave to the recipe's length, or pad it: with silence, or by repetition."""
    samples = round(spec.seconds * spec.features.sample_rate_hz)
    if wave.size >= samples or wave.size == 0 or spec.short_clips == "pad":
        return np.pad(wave[:samples], (0, max(0, samples - wave.size)))
    return np.resize(wave, samples)


class Sounds:
    """Clips in memory; their images are standardised per coefficient by the training clips."""

    def __init__(
        self,
        clips: Sequence[Clip],
        waves: Sequence[Samples],
        spec: SoundImages,
        statistics: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Take waves of one length; statistics (mean, deviation), each (rows, 1), default to those of these clips."""
        self._waves, self._spec = waves, spec
        self._extractor = MfccExtractor(spec.features)
        self.labels = torch.tensor([spec.labels.index(str(c.label)) for c in clips])
        self._plain = torch.stack([self._cepstra(w) for w in waves])
        if statistics is None:
            statistics = (self._plain.mean((0, 2)).unsqueeze(1), self._plain.std((0, 2)).unsqueeze(1) + 1e-6)
        self.statistics = statistics

    def draw(self, index: Tensor, *, augment: bool) -> Tensor:
        """Return images (batch, 1, coefficients, frames)."""
        mean, deviation = self.statistics
        if not augment or not self._augments:
            return ((self._plain[index] - mean) / deviation).unsqueeze(1)
        # numpy's generator is seeded by torch's, so that one seed determines everything.
        rng = np.random.default_rng(int(torch.randint(2**31, (1,))))
        cepstra = torch.stack([self._cepstra(self._augmented(self._waves[i], rng)) for i in index.tolist()])
        images = (cepstra - mean) / deviation
        for image in images:
            self._mask(image, rng)
        return images.unsqueeze(1)

    @property
    def _augments(self) -> bool:
        s = self._spec
        return max(s.shift_s, s.speed, s.noise_chance, s.mask_frames, s.mask_coefficients) > 0

    def _cepstra(self, wave: Samples) -> Tensor:
        frames = np.concatenate([self._extractor.push(wave), self._extractor.flush()])
        return torch.from_numpy(np.ascontiguousarray(frames.T))

    def _augmented(self, wave: Samples, rng: np.random.Generator) -> Samples:
        """Change the speed, roll the wave (circularly), add noise."""
        s, rate_hz = self._spec, self._spec.features.sample_rate_hz
        if s.speed > 0:
            wave = np.resize(change_speed(wave, rng, rate_hz, s.speed), wave.size)
        if s.shift_s > 0:
            wave = np.roll(wave, int(rng.uniform(-s.shift_s, s.shift_s) * rate_hz))
        if rng.random() < s.noise_chance:
            level = float(np.sqrt(np.mean(wave**2))) * 10 ** (-rng.uniform(*_SNR_DB) / 20)
            wave = wave + level * noise(wave.size, rng)
        return np.asarray(wave, np.float32)

    def _mask(self, image: Tensor, rng: np.random.Generator) -> None:
        """Set a range of frames and one of coefficients to the mean (D. Park et al., "SpecAugment", 2019)."""
        for axis, limit in ((0, self._spec.mask_coefficients), (1, self._spec.mask_frames)):
            length = int(rng.integers(0, limit + 1))
            start = int(rng.integers(0, max(1, image.shape[axis] - length)))
            image.narrow(axis, start, min(length, image.shape[axis] - start)).zero_()


def _open_digits(spec: MnistImages, data: Path) -> tuple[ImageSet, ImageSet]:
    images, labels = (torch.from_numpy(a.copy()) for a in load_mnist(data, train=True))
    examples = spec.examples or len(images)
    if spec.evaluate_on == "validation":
        held_out = Digits(images[-VALIDATION:], labels[-VALIDATION:], spec)
        images, labels = images[:-VALIDATION], labels[:-VALIDATION]
    else:
        seen, classes = load_mnist(data, train=False)
        held_out = Digits(torch.from_numpy(seen.copy()), torch.from_numpy(classes.copy()), spec)
    return Digits(images[:examples], labels[:examples], spec), held_out


def _deltas(images: Tensor, threshold: float, *, frames_are_columns: bool) -> Tensor:
    """Return up and down spikes (batch, frames, 2, 1, width)."""
    frames = images[:, 0].permute(2, 0, 1) if frames_are_columns else images[:, 0].permute(1, 0, 2)
    signed = torch.as_tensor(spikegen.delta(frames, threshold=threshold, off_spike=True)).transpose(0, 1)
    return torch.stack((signed > 0, signed < 0), 2).float().unsqueeze(3)
