"""Sounds as still pictures: each clip's cepstra over time, cut or filled to one length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.errors import SourceError
from detector.features import MfccExtractor
from models.augment import change_speed, noise
from models.cli_tell import tell
from models.corpus import RECIPES
from models.datasets import TEST_FOLD, Clip
from models.image_recipe import SoundPictures
from models.layouts import load_good_clips, read_manifest

Wave = NDArray[np.float32]
_SNR_DB = (5.0, 30.0)


def open_sounds(spec: SoundPictures, data: Path, leave_out: int | None) -> tuple[Sounds, Sounds]:
    """Return (every other fold, the fold left out): without one, the test fold is left out.

    Clips that cannot be used are told and left out. Raises SourceError where a part is left without any.
    """
    listing = read_manifest(RECIPES / spec.manifest, data, spec.labels)
    good, waves, problems = load_good_clips(listing.clips, spec.features.sample_rate_hz)
    tell([*listing.problems, *problems])
    fold = TEST_FOLD if leave_out is None else leave_out
    parts: list[tuple[list[Clip], list[Wave]]] = [([], []), ([], [])]
    for clip, wave in zip(good, waves, strict=True):
        clips, kept = parts[clip.fold == fold]
        clips.append(clip)
        kept.append(fill(wave, spec))
    for name, (clips, _) in zip(("other folds", f"fold {fold}"), parts, strict=True):
        if not clips:
            raise SourceError(f"{spec.manifest}: has no clips in {name}")
    train = Sounds(*parts[0], spec)
    return train, Sounds(*parts[1], spec, train.statistics)


def fill(wave: Wave, spec: SoundPictures) -> Wave:
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
        waves: Sequence[Wave],
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

    def _cepstra(self, wave: Wave) -> Tensor:
        frames = np.concatenate([self._extractor.push(wave), self._extractor.flush()])
        return torch.from_numpy(np.ascontiguousarray(frames.T))

    def _altered(self, wave: Wave, rng: np.random.Generator) -> Wave:
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
