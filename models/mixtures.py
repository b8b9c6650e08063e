"""Examples that mix whole clips of two classes: the network learns how much of each it hears.

Between-class learning (Y. Tokozume, Y. Ushiku and T. Harada, "Learning from between-class examples
for deep sound recognition", ICLR 2018): the ratio is drawn evenly, and the gains are such that the
clips are heard in that ratio although one was recorded louder than the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models import augment
from models.augment import Wave
from models.datasets import Clip
from models.examples import ACTIVE_DB, HOLD_S, Example, frame_rms, held
from models.front_end import FrontEnd
from models.recipe import Mixtures, Recipe

SILENT = 1e-4
"""Samples below it at a clip's ends are the data set's padding."""
_LOUDNESS_WINDOW, _LOUDNESS_STRIDE = 400, 4


class MixtureMaker:
    """Draw examples: a class, one of its clips, often a second of another class, and what rooms and microphones do."""

    def __init__(self, clips: Sequence[Clip], waves: Sequence[Wave], recipe: Recipe, params: Mixtures) -> None:
        features = recipe.features
        self._params, self._classes = params, len(recipe.classes)
        self._rate_hz, self._frames = features.sample_rate_hz, params.frames
        self._hop, self._length = features.hop_length, features.frame_length
        self._samples = self._length + (params.frames - 1) * self._hop
        self._front = FrontEnd(recipe)
        pools: list[list[Wave]] = [[] for _ in recipe.classes]
        for clip, wave in zip(clips, waves, strict=True):
            if clip.label is not None:
                pools[recipe.labels.index(clip.label)].append(_without_padding(wave))
        self._pools = pools
        self._filled = [label for label, pool in enumerate(pools) if pool]
        self._places = augment.Places(self._samples, self._rate_hz, np.random.default_rng(0))

    def draw(self, rng: np.random.Generator) -> Example:
        """Return one example; a frame's target is each class's share of what is heard in it."""
        label = int(rng.choice(self._filled))
        wave, target = self._heard(label, rng), np.zeros((self._frames, self._classes), np.float32)
        target[:, label] = self._audible(wave)
        if len(self._filled) > 1 and rng.random() < self._params.mixed:
            other = int(rng.choice([c for c in self._filled if c != label]))
            ratio, second = float(rng.uniform(0, 1)), self._heard(other, rng)
            target[:, label] *= ratio
            target[:, other] = (1 - ratio) * self._audible(second)
            # Where one of the two is silent, the other is all there is to hear.
            target /= np.maximum(target.sum(1, keepdims=True), np.float32(1e-6))
            wave = mix(wave, second, ratio)
        spikes = self._front.encode(self._capture(wave, rng))
        idle = np.asarray(target.max(axis=1) == 0, np.uint8)
        return Example(spikes, target, np.ones_like(target, np.uint8), idle)

    def _audible(self, wave: Wave) -> NDArray[np.bool_]:
        """Mark the frames in which a sound goes on: silence is evidence for no class, wherever a clip is padded."""
        rms = frame_rms(wave, self._hop, self._length)
        reference = float(np.quantile(rms[rms > SILENT / 10], 0.95)) if (rms > SILENT / 10).any() else 0.0
        loud = rms > max(reference * 10 ** (ACTIVE_DB / 20), SILENT / 10)
        if self._params.remembered:
            return np.logical_or.accumulate(loud)
        return held(loud, round(HOLD_S * self._rate_hz / self._hop))

    def _heard(self, label: int, rng: np.random.Generator) -> Wave:
        """Return one clip of a class as it arrives: at another speed, somewhere in the example, through a room."""
        pool = self._pools[label]
        wave = pool[int(rng.integers(len(pool)))]
        if self._params.speed:
            wave = augment.change_speed(wave, rng, self._rate_hz, self._params.speed)
        placed = self._place(wave, rng)
        if rng.random() < self._params.equalised:
            placed = self._places.filter_and_reverberate(placed, rng, reverberation=self._params.reverberated)
        return placed

    def _place(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Cut a long clip; put a short one somewhere, once (as ESC pads it) or again and again."""
        out, room = np.zeros(self._samples, np.float32), self._samples - wave.size
        if room <= 0:
            start = int(rng.integers(0, 1 - room))
            return wave[start : start + self._samples]
        once = rng.random() < 0.5
        at = 0 if once and rng.random() < 0.3 else int(rng.integers(0, room + 1 if once else room // 2 + 1))
        while at < self._samples:
            piece = wave[: self._samples - at]
            out[at : at + piece.size] += piece
            at += self._samples if once else wave.size + int(rng.uniform(0.02, 2.0) * self._rate_hz)
        return out

    def _capture(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Add the noise of the place and set the level."""
        wave = wave / (np.abs(wave).max() + 1e-9)
        if rng.random() < self._params.noisy:
            wave = wave + loudness(wave) * 10 ** (-rng.uniform(8, 50) / 20) * self._places.noise(rng)
        if rng.random() < self._params.rumbling:
            wave = wave + loudness(wave) * 10 ** (rng.uniform(-20, 8) / 20) * self._places.rumble(rng)
        peak_db = rng.uniform(self._params.level_db[0], self._params.level_db[1])
        return np.asarray(wave * (10 ** (peak_db / 20) / (np.abs(wave).max() + 1e-9)), np.float32)


def mix(first: Wave, second: Wave, ratio: float) -> Wave:
    """Mix two waves so that ``ratio`` of what is heard is the first, by their loudness; the power stays level."""
    if ratio <= 0:
        return second
    share = 1 / (1 + loudness(first) / loudness(second) * (1 - ratio) / ratio)
    mixed = (share * first + (1 - share) * second) / np.sqrt(share**2 + (1 - share) ** 2)
    return np.asarray(mixed, np.float32)


def loudness(wave: Wave) -> float:
    """Return the RMS of the loudest tenth of a second at 16 kHz; never zero."""
    total = np.cumsum(np.pad(wave[::_LOUDNESS_STRIDE].astype(np.float64), (_LOUDNESS_WINDOW, 0)) ** 2)
    loudest = float((total[_LOUDNESS_WINDOW:] - total[:-_LOUDNESS_WINDOW]).max())
    return max(1e-6, float(np.sqrt(max(0.0, loudest) / _LOUDNESS_WINDOW)))


def _without_padding(wave: Wave) -> Wave:
    loud = np.flatnonzero(np.abs(wave) > SILENT)
    return wave[loud[0] : loud[-1] + 1] if loud.size else wave
