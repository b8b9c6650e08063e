"""Training examples: a few seconds of mixed, augmented sound as spikes, with targets frame by frame.

Examples that mix whole clips of two classes: the network learns how much of each it hears.

Between-class learning (Y. Tokozume, Y. Ushiku and T. Harada, "Learning from between-class examples
for deep sound recognition", ICLR 2018): the ratio is drawn evenly, and the gains are such that the
clips are heard in that ratio although one was recorded louder than the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.household import Clip
from models.recipe import Mixtures, Recipe, Scenes
from models.training import augment
from models.training.augment import Wave
from models.training.frontend import FrontEnd

HOLD_S = 0.5
"""A sound counts as going on for this long after its last loud frame: between two barks or ticks."""
DOUBT_S = 1.5
"""For so long after that, silence and sound are both right."""
END_HOLD_S, END_DOUBT_S = 0.2, 0.5
"""The same two where a sound is cut off for good: no next bark is waited for."""
EARLY_S = 0.4
"""The first part of a sound, in which a detector has to make up its mind."""
_BARE_DB = (-105.0, -6.0)
"""RMS of all that is heard there; below some -90 dB nothing is left of it in 16 bits."""
_DRONING, _BEHIND_BARE_DB = 0.6, (-12.0, 30.0)
"""Chance that a machine hums there, and how far above the noise it or what else goes on is."""
_LATEST_START, _BRIEF_S = 0.75, (0.4, 2.5)
"""Where a brief sound begins, as a share of the example, and how long it lasts."""
_MOST_BEHIND = (3, 6)
"""Classes, and sounds."""
_SPEED, _STRANGER_SPEED = 0.18, 0.35
"""Largest change of speed, as a natural logarithm; sounds of no class need not stay what they are."""
_NARROW_HZ = (3000.0, 5000.0)
_BACKGROUND_DB = (-3.0, 25.0)
"""How far below the loud frames of what lies upon it."""
_MASKING, _MASKING_NOISE = 6.0, 4.0
"""A sound is in doubt where other sounds, or noise of all pitches, are so many times louder."""
_LEAST_PEAK = 1e-3
"""Of a mixture whose own peak was 1."""
_FEW = 16
"""A source with n clips of a class, fewer than so many, is drawn n / so many times as often."""
_STEP = np.float32(2.0**-15)
ACTIVE_DB = -28.0
"""Frames quieter than this, against the clip's loud frames, are not the sound."""


@dataclass(frozen=True, slots=True)
class Example:
    """What the network sees and what it should say."""

    spikes: NDArray[Any]
    """(frames, planes, n_mfcc); features (frames, n_mfcc) for a network without spikes."""
    target: NDArray[Any]
    """(frames, classes): 1 where the class is heard, or its share of a mixture."""
    weight: NDArray[np.uint8]
    """(frames, classes): 0 where the target is in doubt."""
    idle: NDArray[np.uint8]
    """(frames,): 1 where nothing sounds, neither a class nor a stranger, but the noise of the place."""


@dataclass(frozen=True, slots=True)
class PlacedSound:
    """One source placed in the segment: its wave and where it is heard."""

    wave: Wave
    label: int | None
    active: NDArray[np.bool_]
    doubt: NDArray[np.bool_]


class ExampleMaker:
    """Draw examples: a class by its weight, a source, a clip, then what happens to it on the way."""

    def __init__(
        self,
        clips: Sequence[Clip],
        waves: Sequence[Wave],
        recipe: Recipe,
        params: Scenes,
        places: augment.Places | None = None,
    ) -> None:
        """Take clips with their samples; ``places`` of another maker for scenes of one length save making them anew."""
        features, self._params = recipe.features, params
        self._waves, self._classes = waves, len(recipe.classes)
        self._rate = features.sample_rate_hz
        self._hop, self._length = features.hop_length, features.frame_length
        self._frames = params.frames
        self._samples = self._length + (self._frames - 1) * self._hop
        self._front = FrontEnd(recipe)
        self._loudness = [frame_rms(w, self._hop, self._length) for w in waves]
        self._pools: list[list[list[int]]] = []
        self._shares: list[NDArray[np.float64]] = []
        weights = []
        for label in (*recipe.labels, None):
            by_source: dict[str, list[int]] = {}
            for i, clip in enumerate(clips):
                if clip.label == label:
                    by_source.setdefault(clip.source, []).append(i)
            share = np.array([_weight(source, len(found), params) for source, found in by_source.items()])
            self._pools.append(list(by_source.values()))
            self._shares.append(share / share.sum() if share.size else share)
            weights.append(params.class_weights.get(label or "none", 1.0) if by_source else 0.0)
        self._class_p = np.array(weights) / np.sum(weights)
        categories = dict.fromkeys(recipe.classes.values())
        groups = [[i for i, c in enumerate(recipe.classes.values()) if c == category] for category in categories]
        filled = [[kind for kind in group if self._pools[kind]] for group in [*groups, [self._classes]]]
        self._groups = [group for group in filled if group]
        """Kinds of sound by category; those of no class are one."""
        self.places = places or augment.Places(self._samples, self._rate, np.random.default_rng(0))

    def draw(self, rng: np.random.Generator) -> Example:
        """Return one example."""
        if rng.random() < self._params.bare:
            return self._bare(rng)
        end = self._end(rng)
        sounds = self._sounds(rng, end)
        mixture = np.sum([sound.wave for sound in sounds], axis=0)
        cut_hz = self._cut_hz(rng)
        if cut_hz is not None:
            sounds = [self._below(cut_hz, sound) for sound in sounds]
        background, inside = self._background(rng) if rng.random() < self._params.backgrounds else (None, [])
        captured, noise = self._capture(mixture, rng, end, background, cut_hz)
        target, weight = self._targets(sounds, noise)
        weight[:, inside] = 0
        idle = self._idle(sounds) if background is None else np.zeros(self._frames, np.uint8)
        return Example(self._front.encode(captured), target, weight, idle)

    def _sounds(self, rng: np.random.Generator, end: int) -> list[PlacedSound]:
        """Return one sound or several, the others somewhat louder or quieter than the first."""
        brief = rng.random() < self._params.brief
        sounds = [self._placed_sound(rng, end, brief=brief)]
        more = int(rng.random() < 0.5) + int(brief)
        if rng.random() < self._params.crowded:
            more += int(rng.integers(1, 4))
        for _ in range(more):
            other = self._placed_sound(rng, end, brief=brief)
            gain = _gain_for_ratio(sounds[0].wave, other.wave, rng.uniform(-8, 12))
            sounds.append(replace(other, wave=other.wave * gain))
        return sounds

    def _cut_hz(self, rng: np.random.Generator) -> float | None:
        """Return the frequency above which the microphone hears nothing, if it is one of those."""
        return float(rng.uniform(*_NARROW_HZ)) if rng.random() < self._params.narrow else None

    def _below(self, cut_hz: float, sound: PlacedSound) -> PlacedSound:
        """Return what such a microphone hears of a sound; where next to nothing is left, the sound is in doubt."""
        wave = augment.narrow(sound.wave, cut_hz, self._rate)
        before, after = (frame_rms(w, self._hop, self._length) for w in (sound.wave, wave))
        left = held(after > np.quantile(before, 0.95) * 10 ** (ACTIVE_DB / 20), self._seconds(HOLD_S))
        return PlacedSound(wave, sound.label, sound.active & left, sound.doubt | (sound.active & ~left))

    def _bare(self, rng: np.random.Generator) -> Example:
        """Return a place in which nothing begins: its noise, often a hum or what goes on behind, loud to silent."""
        wave = self.places.filter_and_reverberate(self.places.noise(rng), rng, reverberation=0.0)
        wave = wave / (np.sqrt(np.mean(wave**2)) + 1e-9)
        if rng.random() < self._params.rumbling:
            wave = wave + rng.uniform(0, 3) * self.places.rumble(rng)
        if rng.random() < _DRONING:
            wave = wave + 10 ** (rng.uniform(*_BEHIND_BARE_DB) / 20) * augment.drone(wave.size, rng, self._rate)
        background, inside = self._background(rng) if rng.random() < self._params.backgrounds else (None, [])
        if background is not None:
            wave = wave + 10 ** (rng.uniform(*_BEHIND_BARE_DB) / 20) * background
        wave = wave / (np.sqrt(np.mean(wave**2)) + 1e-9)
        level_db = rng.uniform(*_BARE_DB)
        wave = wave * 10 ** (level_db / 20)
        cut_hz = self._cut_hz(rng)
        if cut_hz is not None:
            wave = augment.narrow(wave, cut_hz, self._rate)
        wave = _quantised(np.asarray(wave, np.float32))
        weight = np.ones((self._frames, self._classes), np.uint8)
        weight[:, inside] = 0
        idle = np.full(self._frames, background is None, np.uint8)
        return Example(self._front.encode(wave), np.zeros_like(weight), weight, idle)

    def _end(self, rng: np.random.Generator) -> int:
        """Return the sample at which every sound is cut off: silence after a sound has to be learned, too."""
        ended = rng.random() < self._params.ended
        return int(rng.uniform(0.3, 0.8) * self._samples) if ended else self._samples

    def _placed_sound(self, rng: np.random.Generator, end: int, *, brief: bool) -> PlacedSound:
        label, clip = self._pick(rng)
        start = int(rng.uniform(0, _LATEST_START) * self._samples) if brief else 0
        if brief:
            end = min(end, start + int(rng.uniform(*_BRIEF_S) * self._rate))
        wave, loudness = self._waves[clip], self._loudness[clip]
        if label is None and rng.random() < self._params.backwards:
            wave = wave[::-1].copy()
        reference = float(np.quantile(loudness, 0.95)) if loudness.size else 0.0
        most = _SPEED if label is not None else _STRANGER_SPEED
        placed = self._place(wave, rng, math.ceil(self._samples * math.exp(most)), late=not brief)
        placed = augment.change_speed(placed, rng, self._rate, most)[: self._samples - start]
        placed = np.pad(placed, (start, self._samples - start - placed.size))
        placed = augment.cut_off(placed, end, self._rate)
        rms = frame_rms(placed, self._hop, self._length)
        loud = rms > max(reference * 10 ** (ACTIVE_DB / 20), 1e-5)
        active, doubt = held(loud, self._seconds(HOLD_S)), held(loud, self._seconds(HOLD_S + DOUBT_S))
        over = end // self._hop + self._seconds(END_HOLD_S)
        active[over:], doubt[over + self._seconds(END_DOUBT_S) :] = False, False
        placed = self.places.filter_and_reverberate(placed, rng, reverberation=0.5)
        return PlacedSound(placed / (np.abs(placed).max() + 1e-9), label, active, doubt & ~active)

    def _pick(self, rng: np.random.Generator) -> tuple[int | None, int]:
        """Choose a class, one of its sources, and one of that source's clips."""
        kind = int(rng.choice(self._class_p.size, p=self._class_p))
        return (kind if kind < self._classes else None), self._clip_of(kind, rng)

    def _clip_of(self, kind: int, rng: np.random.Generator) -> int:
        pools = self._pools[kind]
        return int(rng.choice(pools[int(rng.choice(len(pools), p=self._shares[kind]))]))

    def _background(self, rng: np.random.Generator) -> tuple[Wave, list[int]]:
        """Return what goes on behind the sounds, of unit RMS, and its classes: several sounds of one category.

        A band that plays, a room full of voices, the sea in the rain. Not all of a category are in each, so
        that those which are not can be told from the rest.
        """
        group = self._groups[int(rng.integers(len(self._groups)))]
        kinds = rng.permutation(group)[: int(rng.integers(1, _MOST_BEHIND[0] + 1))]
        wave = np.zeros(self._samples, np.float32)
        for _ in range(int(rng.integers(1, _MOST_BEHIND[1] + 1))):
            wave += self._row(self._waves[self._clip_of(int(rng.choice(kinds)), rng)], rng)
        wave = self.places.filter_and_reverberate(wave, rng, reverberation=0.5)
        rms = float(np.sqrt(np.mean(wave**2))) + 1e-9
        return np.asarray(wave / rms, np.float32), [int(kind) for kind in kinds if kind < self._classes]

    def _row(self, wave: Wave, rng: np.random.Generator) -> Wave:
        """Return a clip again and again from anywhere in it, of unit RMS where it is not silent."""
        faded = augment.faded(wave, self._rate // 100)
        row = np.resize(np.roll(faded, int(rng.integers(wave.size))), self._samples)
        return np.asarray(row / (np.sqrt(np.mean(row**2)) + 1e-6), np.float32)

    def _place(self, wave: Wave, rng: np.random.Generator, wanted: int, *, late: bool) -> Wave:
        """Cut or repeat a clip to so many samples, beginning anywhere, or at once if not ``late``."""
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
        mixture: Wave,
        rng: np.random.Generator,
        end: int,
        background: Wave | None = None,
        cut_hz: float | None = None,
    ) -> tuple[Wave, NDArray[np.float64]]:
        """Return what the microphone hears, and the RMS of its noise in every frame at the mixture's scale.

        The noise is that of the place with its background, which may end with the sound, and that of the converter.
        Hum and rumble are not counted: their pitch is below that of what they come with.
        """
        largest = float(np.abs(mixture).max()) + 1e-9
        wave = mixture / largest
        noise, lower = self._around(wave, rng, background)
        if rng.random() < 0.5:
            wave, noise, lower = (augment.cut_off(w, end, self._rate) for w in (wave, noise, lower))
        wave = wave + noise + lower
        if rng.random() < 0.1:
            wave = augment.clip_hard(wave, rng)
        if cut_hz is not None:
            wave, noise = (augment.narrow(w, cut_hz, self._rate) for w in (wave, noise))
        # Of a sound that lies above the cut nothing is left to be amplified.
        gain = 10 ** (rng.uniform(*self._params.level_db) / 20) / max(float(np.abs(wave).max()), _LEAST_PEAK)
        wave, floor = wave * gain, 0.0
        if rng.random() < 0.5:
            floor = 10 ** (-rng.uniform(70, 95) / 20)
            hiss = np.asarray(floor * rng.standard_normal(wave.size), np.float32)
            wave = wave + (hiss if cut_hz is None else augment.narrow(hiss, cut_hz, self._rate))
        if rng.random() < 0.7:
            wave, floor = _quantised(np.asarray(wave, np.float32)), math.hypot(floor, _STEP / 4)
        rms = np.hypot(frame_rms(noise, self._hop, self._length), floor / gain) * largest
        return np.asarray(wave, np.float32), rms

    def _around(self, wave: Wave, rng: np.random.Generator, background: Wave | None) -> tuple[Wave, Wave]:
        """Return the noise of the place with its background, and hum and rumble, for a wave."""
        loud = float(np.quantile(frame_rms(wave, self._hop, self._length), 0.9)) + 1e-6
        noise, lower = np.zeros(wave.size, np.float32), np.zeros(wave.size, np.float32)
        if rng.random() < 0.7:
            noise = loud * 10 ** (-rng.uniform(3, 45) / 20) * self.places.noise(rng)
        if background is not None:
            noise = noise + loud * 10 ** (-rng.uniform(*_BACKGROUND_DB) / 20) * background
        if rng.random() < 0.15:
            lower = lower + loud * 10 ** (-rng.uniform(0, 40) / 20) * augment.hum(wave.size, rng, self._rate)
        if rng.random() < self._params.rumbling:
            lower = lower + loud * 10 ** (rng.uniform(-20, 8) / 20) * self.places.rumble(rng)
        return noise, lower

    def _targets(
        self, sounds: list[PlacedSound], noise: NDArray[np.float64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Return targets and weights; what lies far below the noise or another sound is in doubt.

        A sound's own level is that of its loudest frame in the last ``HOLD_S``: so it is heard on between barks.
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
            weight[sound.doubt | masked, column] = 0
            target[sound.active, column] = 1
            weight[sound.active & ~masked, column] = 1
        early = np.logical_or.reduce([self._early(sound.active) for sound in sounds])
        weight[early] *= self._params.early_weight
        return target, weight

    def _idle(self, sounds: Sequence[PlacedSound]) -> NDArray[np.uint8]:
        heard = np.logical_or.reduce([sound.active | sound.doubt for sound in sounds])
        return np.asarray(~heard, np.uint8)

    def _early(self, active: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Mark the first frames of every stretch of sound."""
        begins = active & ~np.concatenate([[False], active[:-1]])
        return active & held(begins, self._seconds(EARLY_S))

    def _seconds(self, seconds: float) -> int:
        return round(seconds * self._rate / self._hop)


def _weight(source: str, clips: int, params: Scenes) -> float:
    """Return how often a source is drawn; few clips are drawn as much more seldom, lest they be known by heart."""
    return params.source_weights.get(source, 1.0) * min(1.0, clips / _FEW)


def frame_rms(wave: Wave, hop: int, length: int) -> NDArray[np.float64]:
    """Return the RMS of every full frame, (frames,)."""
    if wave.size < length:
        return np.empty(0)
    windows = np.lib.stride_tricks.sliding_window_view(wave, length)[::hop]
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", windows, windows) / length), np.float64)


def _loudest_of_late(rms: NDArray[np.float64], frames: int) -> NDArray[np.float64]:
    """Return the largest of every frame and the ``frames`` before it."""
    padded = np.concatenate([np.zeros(frames), rms])
    return np.asarray(np.lib.stride_tricks.sliding_window_view(padded, frames + 1).max(axis=1), np.float64)


def held(loud: NDArray[np.bool_], frames: int) -> NDArray[np.bool_]:
    """Mark frames that are loud or come at most ``frames`` after a loud one."""
    last = np.maximum.accumulate(np.where(loud, np.arange(loud.size), -frames - 1))
    return np.asarray(np.arange(loud.size) - last <= frames, np.bool_)


def _quantised(wave: Wave) -> Wave:
    """Return a wave as 16 bits hold it: what is quiet crackles, what is quieter is gone, the loudest is cut off."""
    return np.asarray(np.clip(np.rint(wave / _STEP) * _STEP, -1, 1 - _STEP), np.float32)


def _gain_for_ratio(first: Wave, second: Wave, ratio_db: float) -> float:
    """Return the gain that puts ``second`` so far below ``first``, by their RMS."""
    rms = float(np.sqrt(np.mean(second**2))) + 1e-9
    return float(np.sqrt(np.mean(first**2)) + 1e-9) / rms * 10 ** (-ratio_db / 20)


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
