"""Training examples: a few seconds of mixed, augmented sound as spikes, with frame-wise targets.

``ExampleMaker`` composes scenes for a detector. ``MixtureMaker`` mixes whole clips of two classes (between-class
learning: Y. Tokozume, Y. Ushiku and T. Harada, "Learning from between-class examples for deep sound recognition",
ICLR 2018): the ratio is uniform, and the gains compensate for the recordings' levels, so that both are perceived in
that ratio.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.messages import Samples
from models.data.clips import Clip
from models.data.segments import ACTIVE_DB, HOLD_S, IGNORE_S, frame_rms, held
from models.recipe import MixtureExamples, Recipe, SceneExamples
from models.training import augment
from models.training.frontend import FrontEnd

END_HOLD_S, END_IGNORE_S = 0.2, 0.5
"""``HOLD_S`` and ``IGNORE_S`` where a sound is cut off for good: no next bark is to be expected."""
EARLY_S: Final = 0.4
"""Length of the onset part of a sound, which ``early_weight`` weighs."""
SILENT: Final = 1e-4
"""Samples below this magnitude at a clip's ends are padding of the data set."""
_BACKGROUND_ONLY_DB: Final = (-105.0, -6.0)
"""RMS of background-only examples, in dBFS; below some -90 dB quantisation to 16 bits leaves nothing."""
_DRONE_CHANCE, _BACKDROP_DB = 0.6, (-12.0, 30.0)
"""Probability of a machine hum in background-only examples; level of hum or backdrop above the noise, in dB."""
_LATEST_START, _BRIEF_S = 0.75, (0.4, 2.5)
"""Latest onset of a brief sound, as a share of the example, and its length in seconds."""
_MAX_BACKGROUND: Final = (3, 6)
"""Classes and sounds in a backdrop."""
_SPEED, _NEGATIVE_SPEED = 0.18, 0.35
"""Largest change of speed, as a natural logarithm: of sounds of a class, and of out-of-class sounds."""
_BAND_LIMIT_HZ: Final = (3000.0, 5000.0)
_BACKGROUND_DB: Final = (-3.0, 25.0)
"""Level of the foreground's loud frames above the backdrop, in dB."""
_MASKING, _MASKING_NOISE = 6.0, 4.0
"""A sound is ignore-masked where other sounds, or broadband noise, have so many times its RMS."""
_MIN_PEAK: Final = 1e-3
"""Smallest peak that the level is set by, for a mixture normalised to a peak of 1 before band limiting."""
_FEW: Final = 16
"""A source with n < 16 clips of a class is drawn n / 16 times as often as a larger one."""
_BRIGHT_SLOPE: Final = 0.35
"""Noise whose amplitude falls less than 1 / frequency ** 0.35 is bright, as rain is: from white to halfway to pink."""
_STEP: Final = np.float32(2.0**-15)
_LOUDNESS_WINDOW, _LOUDNESS_STRIDE = 400, 4


@dataclass(frozen=True, slots=True)
class Example:
    """Input and target of one training example."""

    spikes: NDArray[Any]
    """(frames, planes, n_mfcc); features (frames, n_mfcc) for a network without spikes, and where examples continue one
    another, which their encoder has to do as well."""
    target: NDArray[Any]
    """(frames, classes): 1 where the class is present, or its share of a mixture."""
    weight: NDArray[np.uint8]
    """(frames, classes): 0 where the target is ignore-masked."""
    background_frames: NDArray[np.uint8]
    """(frames,): 1 in background frames: those without any sound, in class or out of class."""


@dataclass(frozen=True, slots=True)
class PlacedSound:
    """One source placed in the example, with the frames in which it is present."""

    wave: Samples
    label: int | None
    active: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    """Frames that are ignore-masked: after the sound, or where too little of it is left."""


class ExampleMaker:
    """Draws scenes: a class by its weight, a source, a clip, then augmentation, mixing and capture."""

    def __init__(
        self,
        clips: Sequence[Clip],
        waves: Sequence[Samples],
        recipe: Recipe,
        params: SceneExamples,
        hard_negatives: Sequence[int] = (),
    ) -> None:
        """Take clips, their samples, and which of them are drawn more often by ``params.hard_negatives``."""
        features, self._params = recipe.features, params
        self._waves, self._classes = waves, len(recipe.classes)
        self._rate = features.sample_rate_hz
        self._hop, self._length = features.hop_length, features.frame_length
        self._frames = params.frames
        self._samples = self._length + (self._frames - 1) * self._hop
        self._front = FrontEnd(recipe, is_encoded=not params.continued)
        self._noise_like = [recipe.labels.index(label) for label in params.noise_like]
        self._loudness = [frame_rms(w, self._hop, self._length) for w in waves]
        self._pools: list[list[list[int]]] = []
        self._within: list[list[NDArray[np.float64] | None]] = []
        self._shares: list[NDArray[np.float64]] = []
        weights = []
        for label in (*recipe.labels, None):
            by_source: dict[str, list[int]] = {}
            for i, clip in enumerate(clips):
                if clip.label == label:
                    by_source.setdefault(clip.source, []).append(i)
            share = np.array([_weight(source, len(found), params) for source, found in by_source.items()])
            self._pools.append(list(by_source.values()))
            self._within.append([_cumulative_shares([clips[i].recording for i in p]) for p in by_source.values()])
            self._shares.append(share / share.sum() if share.size else share)
            weights.append(params.class_weights.get(label or "none", 1.0) if by_source else 0.0)
        self._class_p = np.array(weights) / np.sum(weights)
        hard: dict[str, list[int]] = {}
        for i in hard_negatives:
            hard.setdefault(clips[i].source, []).append(i)
        hard_p = np.array([_weight(source, len(found), params) for source, found in hard.items()])
        self._hard_pools, self._hard_p = list(hard.values()), hard_p / hard_p.sum() if hard else hard_p
        categories = dict.fromkeys(recipe.classes.values())
        groups = [[i for i, c in enumerate(recipe.classes.values()) if c == category] for category in categories]
        filled = [[kind for kind in group if self._pools[kind]] for group in [*groups, [self._classes]]]
        self._groups = [group for group in filled if group]
        """Class indices by category; out-of-class sounds are a category of their own."""
        self.conditions = augment.conditions_of(self._samples, self._rate)

    def draw(self, rng: np.random.Generator) -> Example:
        """Return one example."""
        if rng.random() < self._params.background_only:
            return self._background_only(rng)
        end = self._end(rng)
        sounds = self._sounds(rng, end)
        mixture = np.sum([sound.wave for sound in sounds], axis=0)
        cut_hz = self._cut_hz(rng)
        if cut_hz is not None:
            sounds = [self._limited_to(cut_hz, sound) for sound in sounds]
        background, inside = self._background(rng) if rng.random() < self._params.backgrounds else (None, [])
        captured, noise, bright = self._capture(mixture, rng, end, background, cut_hz)
        target, weight = self._targets(sounds, noise)
        weight[:, inside] = 0
        if bright:
            self._ignore_noise_like(target, weight)
        background_frames = self._background_frames(sounds) if background is None else np.zeros(self._frames, np.uint8)
        return Example(self._front.encode(captured), target, weight, background_frames)

    def _sounds(self, rng: np.random.Generator, end: int) -> list[PlacedSound]:
        """Return one sound or several, with the others at a random ratio to the first."""
        brief = rng.random() < self._params.brief
        sounds = [self._placed_sound(rng, end, brief=brief)]
        extra = int(rng.random() < 0.5) + int(brief)
        if rng.random() < self._params.polyphonic:
            extra += int(rng.integers(1, 4))
        for _ in range(extra):
            other = self._placed_sound(rng, end, brief=brief)
            gain = _gain_for_ratio(sounds[0].wave, other.wave, rng.uniform(-8, 12))
            sounds.append(replace(other, wave=other.wave * gain))
        return sounds

    def _cut_hz(self, rng: np.random.Generator) -> float | None:
        """Return the cut-off frequency of the microphone in Hz; None where it is not band-limited."""
        return float(rng.uniform(*_BAND_LIMIT_HZ)) if rng.random() < self._params.band_limited else None

    def _limited_to(self, cut_hz: float, sound: PlacedSound) -> PlacedSound:
        """Band-limit a sound; frames in which next to nothing of it is left are ignore-masked."""
        wave = augment.band_limit(sound.wave, cut_hz, self._rate)
        before, after = (frame_rms(w, self._hop, self._length) for w in (sound.wave, wave))
        left = held(after > np.quantile(before, 0.95) * 10 ** (ACTIVE_DB / 20), self._seconds(HOLD_S))
        return PlacedSound(wave, sound.label, sound.active & left, sound.ignored | (sound.active & ~left))

    def _background_only(self, rng: np.random.Generator) -> Example:
        """Return a background-only example: ambient noise, often with a hum or a backdrop, at any level."""
        noise, slope = self.conditions.noise_and_slope(rng)
        wave = self.conditions.filter_and_reverberate(noise, rng, reverberation=0.0)
        wave = wave / (np.sqrt(np.mean(wave**2)) + 1e-9)
        if rng.random() < self._params.rumbling:
            wave = wave + rng.uniform(0, 3) * self.conditions.rumble(rng)
        if rng.random() < _DRONE_CHANCE:
            wave = wave + 10 ** (rng.uniform(*_BACKDROP_DB) / 20) * augment.drone(wave.size, rng, self._rate)
        background, inside = self._background(rng) if rng.random() < self._params.backgrounds else (None, [])
        if background is not None:
            wave = wave + 10 ** (rng.uniform(*_BACKDROP_DB) / 20) * background
        wave = wave / (np.sqrt(np.mean(wave**2)) + 1e-9)
        level_db = rng.uniform(*_BACKGROUND_ONLY_DB)
        wave = wave * 10 ** (level_db / 20)
        cut_hz = self._cut_hz(rng)
        if cut_hz is not None:
            wave = augment.band_limit(wave, cut_hz, self._rate)
        wave = _quantised(np.asarray(wave, np.float32))
        weight = np.ones((self._frames, self._classes), np.uint8)
        weight[:, inside] = 0
        if slope < _BRIGHT_SLOPE:
            weight[:, self._noise_like] = 0
        background_frames = np.full(self._frames, background is None, np.uint8)
        return Example(self._front.encode(wave), np.zeros_like(weight), weight, background_frames)

    def _end(self, rng: np.random.Generator) -> int:
        """Return the sample at which all sounds are cut off: silence after a sound has to be learnt, too."""
        truncated = rng.random() < self._params.truncated
        return int(rng.uniform(0.3, 0.8) * self._samples) if truncated else self._samples

    def _placed_sound(self, rng: np.random.Generator, end: int, *, brief: bool) -> PlacedSound:
        label, clip = self._pick(rng)
        start = int(rng.uniform(0, _LATEST_START) * self._samples) if brief else 0
        if brief:
            end = min(end, start + int(rng.uniform(*_BRIEF_S) * self._rate))
        wave, loudness = self._waves[clip], self._loudness[clip]
        if label is None and rng.random() < self._params.time_reversed:
            wave = wave[::-1].copy()
        reference = float(np.quantile(loudness, 0.95)) if loudness.size else 0.0
        most = _SPEED if label is not None else _NEGATIVE_SPEED
        placed = self._place(wave, rng, math.ceil(self._samples * math.exp(most)), late=not brief)
        placed = augment.change_speed(placed, rng, self._rate, most)[: self._samples - start]
        placed = np.pad(placed, (start, self._samples - start - placed.size))
        placed = augment.cut_off(placed, end, self._rate)
        rms = frame_rms(placed, self._hop, self._length)
        loud = rms > max(reference * 10 ** (ACTIVE_DB / 20), 1e-5)
        active, ignored = held(loud, self._seconds(HOLD_S)), held(loud, self._seconds(HOLD_S + IGNORE_S))
        over = end // self._hop + self._seconds(END_HOLD_S)
        active[over:], ignored[over + self._seconds(END_IGNORE_S) :] = False, False
        placed = self.conditions.filter_and_reverberate(placed, rng, reverberation=0.5)
        return PlacedSound(placed / (np.abs(placed).max() + 1e-9), label, active, ignored & ~active)

    def _pick(self, rng: np.random.Generator) -> tuple[int | None, int]:
        """Draw a class, one of its sources, and a clip of that source; returns (label or None, clip index)."""
        kind = int(rng.choice(self._class_p.size, p=self._class_p))
        return (kind if kind < self._classes else None), self._clip_of(kind, rng)

    def _clip_of(self, kind: int, rng: np.random.Generator) -> int:
        if kind == self._classes and self._hard_pools and rng.random() < self._params.hard_negatives:
            return int(rng.choice(self._hard_pools[int(rng.choice(len(self._hard_pools), p=self._hard_p))]))
        pools = self._pools[kind]
        source = int(rng.choice(len(pools), p=self._shares[kind]))
        within = self._within[kind][source]
        if within is None:
            return int(rng.choice(pools[source]))
        return pools[source][int(np.searchsorted(within, rng.random(), side="right"))]

    def _background(self, rng: np.random.Generator) -> tuple[Samples, list[int]]:
        """Return a backdrop of unit RMS and its classes: several continuous sounds of one category.

        For example a band, a crowd of voices, the sea in the rain. A random subset of the category is used, so that
        the network learns to discriminate the classes within it.
        """
        group = self._groups[int(rng.integers(len(self._groups)))]
        kinds = rng.permutation(group)[: int(rng.integers(1, _MAX_BACKGROUND[0] + 1))]
        wave = np.zeros(self._samples, np.float32)
        for _ in range(int(rng.integers(1, _MAX_BACKGROUND[1] + 1))):
            wave += self._looped(self._waves[self._clip_of(int(rng.choice(kinds)), rng)], rng)
        wave = self.conditions.filter_and_reverberate(wave, rng, reverberation=0.5)
        rms = float(np.sqrt(np.mean(wave**2))) + 1e-9
        return np.asarray(wave / rms, np.float32), [int(kind) for kind in kinds if kind < self._classes]

    def _looped(self, wave: Samples, rng: np.random.Generator) -> Samples:
        """Loop a clip from a random position to the example's length; unit RMS unless it is silent."""
        faded = augment.faded(wave, self._rate // 100)
        row = np.resize(np.roll(faded, int(rng.integers(wave.size))), self._samples)
        return np.asarray(row / (np.sqrt(np.mean(row**2)) + 1e-6), np.float32)

    def _place(self, wave: Samples, rng: np.random.Generator, wanted: int, *, late: bool) -> Samples:
        """Cut or repeat a clip to ``wanted`` samples, from a random position, or from the start unless ``late``."""
        if wave.size > wanted:
            start = int(rng.integers(0, wave.size - wanted))
            return wave[start : start + wanted]
        out = np.zeros(wanted, np.float32)
        at = int(rng.integers(0, max(1, wanted - wave.size // 2))) if late else 0
        if late and rng.random() < 0.5:
            at = int(rng.integers(0, self._rate // 2))
        while at < wanted:
            piece = wave[: wanted - at]
            out[at : at + piece.size] += piece
            at += wave.size + int(rng.uniform(0.02, 2.0) * self._rate)
        return out

    def _capture(
        self,
        mixture: Samples,
        rng: np.random.Generator,
        end: int,
        background: Samples | None = None,
        cut_hz: float | None = None,
    ) -> tuple[Samples, NDArray[np.float64], bool]:
        """Return the captured signal, the noise RMS of every frame at the mixture's scale, and if the noise is bright.

        Noise is ambient noise with the backdrop, which may end with the sound, and converter noise. Hum and rumble
        do not count as masking noise: their frequencies lie below those of the sounds.
        """
        largest = float(np.abs(mixture).max()) + 1e-9
        wave = mixture / largest
        noise, lower, bright = self._around(wave, rng, background)
        if rng.random() < 0.5:
            wave, noise, lower = (augment.cut_off(w, end, self._rate) for w in (wave, noise, lower))
        wave = wave + noise + lower
        if rng.random() < 0.1:
            wave = augment.clip_hard(wave, rng)
        if cut_hz is not None:
            wave, noise = (augment.band_limit(w, cut_hz, self._rate) for w in (wave, noise))
        # Nothing is left to amplify of a sound above the cut-off.
        gain = 10 ** (rng.uniform(*self._params.level_db) / 20) / max(float(np.abs(wave).max()), _MIN_PEAK)
        wave, floor = wave * gain, 0.0
        if rng.random() < 0.5:
            floor = 10 ** (-rng.uniform(70, 95) / 20)
            hiss = np.asarray(floor * rng.standard_normal(wave.size), np.float32)
            wave = wave + (hiss if cut_hz is None else augment.band_limit(hiss, cut_hz, self._rate))
        if rng.random() < 0.7:
            wave, floor = _quantised(np.asarray(wave, np.float32)), math.hypot(floor, _STEP / 4)
        rms = np.hypot(frame_rms(noise, self._hop, self._length), floor / gain) * largest
        return np.asarray(wave, np.float32), rms, bright

    def _around(
        self, wave: Samples, rng: np.random.Generator, background: Samples | None
    ) -> tuple[Samples, Samples, bool]:
        """Return (ambient noise with the backdrop, hum and rumble), scaled to a wave, and if the noise is bright."""
        loud = float(np.quantile(frame_rms(wave, self._hop, self._length), 0.9)) + 1e-6
        noise, lower, bright = np.zeros(wave.size, np.float32), np.zeros(wave.size, np.float32), False
        if rng.random() < 0.7:
            level = loud * 10 ** (-rng.uniform(3, 45) / 20)
            segment, slope = self.conditions.noise_and_slope(rng)
            noise, bright = level * segment, slope < _BRIGHT_SLOPE
        if background is not None:
            noise = noise + loud * 10 ** (-rng.uniform(*_BACKGROUND_DB) / 20) * background
        if rng.random() < 0.15:
            lower = lower + loud * 10 ** (-rng.uniform(0, 40) / 20) * augment.hum(wave.size, rng, self._rate)
        if rng.random() < self._params.rumbling:
            lower = lower + loud * 10 ** (rng.uniform(-20, 8) / 20) * self.conditions.rumble(rng)
        return noise, lower, bright

    def _ignore_noise_like(self, target: NDArray[np.uint8], weight: NDArray[np.uint8]) -> None:
        """Ignore-mask classes that resemble bright noise, in frames in which they are absent."""
        for column in self._noise_like:
            weight[target[:, column] == 0, column] = 0

    def _targets(
        self, sounds: list[PlacedSound], noise: NDArray[np.float64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return targets and weights; sounds masked by noise or by other sounds are ignore-masked.

        The level of a sound is that of its loudest frame in the last ``HOLD_S``, which covers the pauses between barks.
        """
        shape = (self._frames, self._classes)
        target, weight = np.zeros(shape, np.uint8), np.ones(shape, np.uint8)
        rms = [frame_rms(sound.wave, self._hop, self._length) for sound in sounds]
        for i, sound in enumerate(sounds):
            if sound.label is None:
                continue
            others = sum((r for j, r in enumerate(rms) if j != i), np.zeros(self._frames))
            level = _loudest_of_late(rms[i], self._seconds(HOLD_S))
            masked = sound.active & ((others > _MASKING * level) | (noise > _MASKING_NOISE * level))
            column = sound.label
            weight[sound.ignored | masked, column] = 0
            target[sound.active, column] = 1
            weight[sound.active & ~masked, column] = 1
        early = np.logical_or.reduce([self._early(sound.active) for sound in sounds])
        weight[early] *= self._params.early_weight
        return target, weight

    def _background_frames(self, sounds: Sequence[PlacedSound]) -> NDArray[np.uint8]:
        audible = np.logical_or.reduce([sound.active | sound.ignored for sound in sounds])
        return np.asarray(~audible, np.uint8)

    def _early(self, active: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the first ``EARLY_S`` of every active segment."""
        begins = active & ~np.concatenate([[False], active[:-1]])
        return active & held(begins, self._seconds(EARLY_S))

    def _seconds(self, seconds: float) -> int:
        return round(seconds * self._rate / self._hop)


class MixtureMaker:
    """Draws mixtures: a clip of one class, often mixed with one of another, then augmentation and capture."""

    def __init__(
        self, clips: Sequence[Clip], waves: Sequence[Samples], recipe: Recipe, params: MixtureExamples
    ) -> None:
        features = recipe.features
        self._params, self._classes = params, len(recipe.classes)
        self._rate_hz, self._frames = features.sample_rate_hz, params.frames
        self._hop, self._length = features.hop_length, features.frame_length
        self._samples = self._length + (params.frames - 1) * self._hop
        self._front = FrontEnd(recipe)
        pools: list[list[Samples]] = [[] for _ in recipe.classes]
        for clip, wave in zip(clips, waves, strict=True):
            if clip.label is not None:
                pools[recipe.labels.index(clip.label)].append(_without_padding(wave))
        self._pools = pools
        self._filled = [label for label, pool in enumerate(pools) if pool]
        self._places = augment.conditions_of(self._samples, self._rate_hz)

    def draw(self, rng: np.random.Generator) -> Example:
        """Return one example; the target of a frame is each class's share in it."""
        label = int(rng.choice(self._filled))
        wave, target = self._augmented(label, rng), np.zeros((self._frames, self._classes), np.float32)
        target[:, label] = self._audible(wave)
        if len(self._filled) > 1 and rng.random() < self._params.mixed:
            other = int(rng.choice([c for c in self._filled if c != label]))
            ratio, second = float(rng.uniform(0, 1)), self._augmented(other, rng)
            target[:, label] *= ratio
            target[:, other] = (1 - ratio) * self._audible(second)
            # Where one of the two is silent, the other has the whole share.
            target /= np.maximum(target.sum(1, keepdims=True), np.float32(1e-6))
            wave = mix(wave, second, ratio)
        spikes = self._front.encode(self._capture(wave, rng))
        background_frames = np.asarray(target.max(axis=1) == 0, np.uint8)
        return Example(spikes, target, np.ones_like(target, np.uint8), background_frames)

    def _audible(self, wave: Samples) -> NDArray[np.bool_]:
        """Mark the frames in which a sound is present; silence, such as padding, belongs to no class."""
        rms = frame_rms(wave, self._hop, self._length)
        reference = float(np.quantile(rms[rms > SILENT / 10], 0.95)) if (rms > SILENT / 10).any() else 0.0
        loud = rms > max(reference * 10 ** (ACTIVE_DB / 20), SILENT / 10)
        if self._params.remembered:
            return np.logical_or.accumulate(loud)
        return held(loud, round(HOLD_S * self._rate_hz / self._hop))

    def _augmented(self, label: int, rng: np.random.Generator) -> Samples:
        """Return a random clip of a class with changed speed, at a random position, equalised and reverberated."""
        pool = self._pools[label]
        wave = pool[int(rng.integers(len(pool)))]
        if self._params.speed:
            wave = augment.change_speed(wave, rng, self._rate_hz, self._params.speed)
        placed = self._place(wave, rng)
        if rng.random() < self._params.equalised:
            placed = self._places.filter_and_reverberate(placed, rng, reverberation=self._params.reverberated)
        return placed

    def _place(self, wave: Samples, rng: np.random.Generator) -> Samples:
        """Cut a long clip; place a short one at random, once (as ESC pads it) or repeatedly."""
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

    def _capture(self, wave: Samples, rng: np.random.Generator) -> Samples:
        """Add ambient noise and set the peak level."""
        wave = wave / (np.abs(wave).max() + 1e-9)
        if rng.random() < self._params.noisy:
            wave = wave + loudness(wave) * 10 ** (-rng.uniform(8, 50) / 20) * self._places.noise(rng)
        if rng.random() < self._params.rumbling:
            wave = wave + loudness(wave) * 10 ** (rng.uniform(-20, 8) / 20) * self._places.rumble(rng)
        peak_db = rng.uniform(self._params.level_db[0], self._params.level_db[1])
        return np.asarray(wave * (10 ** (peak_db / 20) / (np.abs(wave).max() + 1e-9)), np.float32)


def mix(first: Samples, second: Samples, ratio: float) -> Samples:
    """Mix two waves with ``ratio`` (0 to 1) as the perceived share of the first; keeps the power."""
    if ratio <= 0:
        return second
    share = 1 / (1 + loudness(first) / loudness(second) * (1 - ratio) / ratio)
    mixed = (share * first + (1 - share) * second) / np.sqrt(share**2 + (1 - share) ** 2)
    return np.asarray(mixed, np.float32)


def loudness(wave: Samples) -> float:
    """Return the RMS of the loudest 0.1 s at 16 kHz; at least 1e-6."""
    total = np.cumsum(np.pad(wave[::_LOUDNESS_STRIDE].astype(np.float64), (_LOUDNESS_WINDOW, 0)) ** 2)
    loudest = float((total[_LOUDNESS_WINDOW:] - total[:-_LOUDNESS_WINDOW]).max())
    return max(1e-6, float(np.sqrt(max(0.0, loudest) / _LOUDNESS_WINDOW)))


def _without_padding(wave: Samples) -> Samples:
    loud = np.flatnonzero(np.abs(wave) > SILENT)
    return wave[loud[0] : loud[-1] + 1] if loud.size else wave


def _weight(source: str, clips: int, params: SceneExamples) -> float:
    """Return the sampling weight of a source; small sources are drawn less often, to avoid overfitting to them."""
    return params.source_weights.get(source, 1.0) * min(1.0, clips / _FEW)


def _cumulative_shares(recordings: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the cumulative sampling probabilities of a source's clips, (clips,); None where they are equal.

    n clips of one recording are drawn as often as sqrt(n) single ones: they are similar, but not the same.
    """
    counts = Counter(name for name in recordings if name)
    if not counts:
        return None
    share = np.cumsum([counts[name] ** -0.5 if name else 1.0 for name in recordings])
    return np.asarray(share / share[-1])


def _loudest_of_late(rms: NDArray[np.float64], frames: int) -> NDArray[np.float64]:
    """Return the running maximum over each frame and the ``frames`` before it."""
    padded = np.concatenate([np.zeros(frames), rms])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, frames + 1).max(axis=1), np.float64)


def _quantised(wave: Samples) -> Samples:
    """Quantise a wave to 16 bits, clipped at full scale."""
    return np.asarray(np.clip(np.rint(wave / _STEP) * _STEP, -1, 1 - _STEP), np.float32)


def _gain_for_ratio(first: Samples, second: Samples, ratio_db: float) -> float:
    """Return the gain that sets the RMS of ``second`` to ``ratio_db`` below that of ``first``."""
    rms = float(np.sqrt(np.mean(second**2))) + 1e-9
    return float(np.sqrt(np.mean(first**2)) + 1e-9) / rms * 10 ** (-ratio_db / 20)
