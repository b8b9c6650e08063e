"""The plan of a scene, drawn from a seed: sounds, bursts, overlaps, gaps, rooms, levels and backgrounds.

Backgrounds are composed here, too: of unit RMS and any length.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detector.errors import ConfigError
from detector.messages import Samples
from models.data.segments import JOIN_S
from models.rendering.midi import Rng
from models.rendering.synthesis import coloured
from models.scenes.sounds import Sound
from models.training import augment

MUSIC = ("bowed_strings", "winds", "drums")
"""Classes that the music is composed of; never a guitar."""
_FADE_S = 0.1
_SPEAKERS, _PLAYERS, _CLOUDS = 6, 3, 2
_Pools = dict[str | None, tuple[float, dict[str, list[int]]]]
"""By class (None: out of class): sampling weight, and indices of its sounds by source."""
_MARGIN_S = 1.0
"""Margin without sounds at the ends of a segment."""
_GAP_S, _LONG_GAP_S, _BURST_GAP_S = (1.0, 9.0), (20.0, 50.0), (0.8, 4.0)
_LONG_GAP_CHANCE, _BURST_CHANCE, _OVERLAP_CHANCE, _ROOM_CHANCE = 0.08, 0.12, 0.15, 0.5
"""Probabilities; the last one is that of reverberation."""
_BURST = (2, 5)
_APART_S = JOIN_S + 0.6
"""Distance between sounds of one class, except in bursts: more than ``JOIN_S`` and a room's tail."""


@dataclass(frozen=True, slots=True)
class Background:
    """One kind of background."""

    contains: tuple[str, ...]
    """Classes it contains: none of their sounds is placed on it, and they are not evaluated there."""
    compose: Callable[[Rng, int, int, Sequence[Sound]], Samples]
    """Composes a wave from generator, size, rate and sounds."""
    needs: tuple[str, ...] = ()
    """Classes of which at least one is needed to compose it."""


def compose(name: str, rng: Rng, size: int, rate_hz: int, bank: Sequence[Sound]) -> Samples:
    """Return a background of KINDS with unit RMS, composed of the given sounds where needed; silence is zeros."""
    wave = KINDS[name].compose(rng, size, rate_hz, bank)
    rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    return np.asarray(wave / rms, np.float32) if rms else wave


def check(names: Sequence[str], bank: Sequence[Sound]) -> None:
    """Raise ConfigError for a background that is unknown or cannot be composed of the given sounds."""
    labels = {sound.label for sound in bank}
    for name in names:
        if name not in KINDS:
            raise ConfigError(f"background {name!r} is unknown; there are {', '.join(KINDS)}")
        if KINDS[name].needs and not labels.intersection(KINDS[name].needs):
            raise ConfigError(f"background {name!r} is made of {' or '.join(KINDS[name].needs)}, and there is none")


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """What a scene should contain."""

    hours: float
    seed: int
    snrs_db: tuple[float, ...]
    backgrounds: tuple[str, ...]
    level_db: tuple[float, float]
    """Lowest and highest peak of a sound in dBFS; slightly lower for sounds with a low crest factor."""
    weights: Mapping[str, float]
    """Relative sampling weight of each class."""
    unknown: float
    """Share of out-of-class sounds."""
    segment_s: float = 300.0
    """Length of a segment, which has one background and level."""
    stream_s: float = 3600.0
    """Length of a file, which is a stream of its own."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One sound in a segment."""

    sound: int
    """Index in the sound bank."""
    at: int
    """First sample of its wave in the segment."""
    snr_db: float
    """Ratio to the background; over silence, the level relative to the loudest sound."""
    room_seed: int | None


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a stream with one background and level."""

    stream: int
    first: int
    """First sample in the stream."""
    size: int
    background: str
    level_db: float
    seed: tuple[int, int, int]
    placements: tuple[Placement, ...]


def plan(options: PlanOptions, bank: Sequence[Sound], rate_hz: int) -> list[Segment]:
    """Return the segments of a scene, stream by stream; the same options and sounds give the same plan.

    Raises ConfigError where there is no sound of a wanted class.
    """
    pools = _pools(options, bank)
    total, per_stream = round(options.hours * 3600 * rate_hz), round(options.stream_s * rate_hz)
    segments, rng = [], np.random.default_rng([options.seed, 0])
    backgrounds = _cycle(options.backgrounds, rng)
    for stream, begin in enumerate(range(0, total, per_stream)):
        length = min(per_stream, total - begin)
        count = max(1, round(length / (options.segment_s * rate_hz)))
        edges = [length * i // count for i in range(count + 1)]
        for i, (first, end) in enumerate(itertools.pairwise(edges)):
            level_db = _level_db(options, rng)
            seed = (options.seed, stream + 1, i)
            background = next(backgrounds)
            planner = _SegmentPlanner(options, bank, _allowed(pools, background), rate_hz, seed)
            placements = planner.fill(end - first)
            segments.append(Segment(stream, first, end - first, background, level_db, seed, tuple(placements)))
    return segments


def _rain(rng: Rng, size: int, rate_hz: int, bank: Sequence[Sound]) -> Samples:
    drops = np.asarray(rng.standard_normal(size) * (rng.random(size) < 0.003), np.float32)  # noqa: PLR2004 - of samples
    fallback = coloured(rng, size, 0.3) + 4 * np.convolve(drops, np.exp(-np.arange(80) / 12), "same")
    recorded = [s for s in bank if s.label == "rain"]
    return _layers(rng, size, rate_hz, recorded, _CLOUDS) if recorded else np.asarray(fallback, np.float32)


def _room(rng: Rng, size: int, rate_hz: int, _: Sequence[Sound]) -> Samples:
    """Return the noise of a quiet room: pink to brown, with some hum."""
    wave = coloured(rng, size, float(rng.uniform(0.4, 1.0)))
    return np.asarray(wave + 0.2 * augment.hum(size, rng, rate_hz), np.float32)


def _hum(rng: Rng, size: int, rate_hz: int, _: Sequence[Sound]) -> Samples:
    return np.asarray(augment.hum(size, rng, rate_hz) + 0.05 * coloured(rng, size, 0.5), np.float32)


def _babble(rng: Rng, size: int, rate_hz: int, bank: Sequence[Sound]) -> Samples:
    return _layers(rng, size, rate_hz, [s for s in bank if s.label == "speech"], _SPEAKERS)


def _music(rng: Rng, size: int, rate_hz: int, bank: Sequence[Sound]) -> Samples:
    """Return several independent instruments, each with one phrase after the other."""
    return _layers(rng, size, rate_hz, [s for s in bank if s.label in MUSIC], _PLAYERS)


def _silence(_: Rng, size: int, __: int, ___: Sequence[Sound]) -> Samples:
    return np.zeros(size, np.float32)


def _layers(rng: Rng, size: int, rate_hz: int, sounds: Sequence[Sound], layers: int) -> Samples:
    """Return several layers of consecutive, cross-faded sounds."""
    out, fade = np.zeros(size, np.float32), round(_FADE_S * rate_hz)
    for _ in range(layers):
        at = -int(rng.integers(rate_hz))
        while at < size:
            piece = _faded(sounds[int(rng.integers(len(sounds)))].wave, fade)
            first, last = max(0, at), min(size, at + piece.size)
            if last > first:
                out[first:last] += piece[first - at : last - at]
            at += max(fade, piece.size - fade)
    return out


def _faded(wave: Samples, fade: int) -> Samples:
    """Return a wave of unit RMS with equal-power fades."""
    ramp = min(fade, wave.size // 2)
    piece = wave / (np.sqrt(np.mean(wave**2)) + 1e-9)
    rise = np.sin(np.linspace(0, np.pi / 2, ramp, dtype=np.float32))
    piece[:ramp] *= rise
    piece[piece.size - ramp :] *= rise[::-1]
    return np.asarray(piece, np.float32)


def _pools(options: PlanOptions, bank: Sequence[Sound]) -> _Pools:
    """Return the weight of each class (None: out of class) and its sounds by source."""
    known = sum(options.weights.values()) or 1.0
    weights: dict[str | None, float] = {
        k: w * (1 - options.unknown) / known for k, w in options.weights.items() if w > 0
    }
    weights |= {None: options.unknown} if options.unknown > 0 else {}
    pools: _Pools = {}
    for label, weight in weights.items():
        by_source: dict[str, list[int]] = {}
        for i, sound in enumerate(bank):
            if sound.label == label:
                by_source.setdefault(sound.source, []).append(i)
        if not by_source:
            raise ConfigError(f"no held-out sound of {label or 'no class'}; add some, or leave it out")
        if weight > 0:
            pools[label] = (weight, by_source)
    if not pools:
        raise ConfigError("nothing to place: every class has the weight 0")
    return pools


def _allowed(pools: _Pools, background: str) -> _Pools:
    """Return the classes that a background does not contain; raises ConfigError where there is none."""
    left = {label: pool for label, pool in pools.items() if label not in KINDS[background].contains}
    if not left:
        raise ConfigError(f"background {background!r} contains every class that is to be placed; leave it out")
    return left


def _level_db(options: PlanOptions, rng: Rng) -> float:
    """Draw the peak of a segment's loudest sound such that those at the lowest ratio stay in the range."""
    low, high = options.level_db
    return float(rng.uniform(min(high, low + max(options.snrs_db) - min(options.snrs_db)), high))


def _cycle(names: Sequence[str], rng: Rng) -> Iterator[str]:
    """Yield the backgrounds endlessly, each once per random permutation."""
    while True:
        yield from (names[i] for i in rng.permutation(len(names)))


class _SegmentPlanner:
    """Draws sounds one after the other until a segment is full."""

    def __init__(
        self, options: PlanOptions, bank: Sequence[Sound], pools: _Pools, rate_hz: int, seed: tuple[int, int, int]
    ) -> None:
        self._options, self._bank, self._pools, self._rate_hz = options, bank, pools, rate_hz
        self._rng = np.random.default_rng(seed)
        weights = np.array([weight for weight, _ in pools.values()])
        self._labels, self._share = list(pools), weights / weights.sum()
        self._free_from: dict[str | None, int] = {}
        """End of the last sound of each class."""

    def fill(self, size: int) -> list[Placement]:
        """Return the placements of a segment in order of time."""
        rng, placements = self._rng, list[Placement]()
        at, end = self._samples(_MARGIN_S, _MARGIN_S + 3), size - self._samples(_MARGIN_S)
        while True:
            group = self._group(at)
            behind = max(p.at + self._bank[p.sound].wave.size for p in group)
            if behind >= end:
                return sorted(placements, key=lambda p: p.at)
            placements += group
            for p in group:
                label = self._bank[p.sound].label
                self._free_from[label] = p.at + self._bank[p.sound].wave.size
            gap = _LONG_GAP_S if rng.random() < _LONG_GAP_CHANCE else _GAP_S
            at = behind + self._samples(*gap)

    def _group(self, at: int) -> list[Placement]:
        """Draw one sound, a burst of one class, or an overlap of two classes."""
        kind = self._rng.random()
        label = self._label()
        first = self._place(label, at)
        if kind < _BURST_CHANCE and label is not None:
            group = [first]
            for _ in range(int(self._rng.integers(*_BURST))):
                last = group[-1]
                behind = last.at + self._bank[last.sound].wave.size + self._samples(*_BURST_GAP_S)
                group.append(Placement(self._sound(label), behind, first.snr_db, last.room_seed))
            return group
        if kind < _BURST_CHANCE + _OVERLAP_CHANCE and len(self._labels) > 1:
            other = self._label(excluding=[label])
            length = self._bank[first.sound].wave.size
            return [first, self._place(other, first.at + int(length * self._rng.uniform(0.2, 0.8)))]
        return [first]

    def _place(self, label: str | None, at: int) -> Placement:
        if label is not None:
            at = max(at, self._free_from.get(label, 0) + self._samples(_APART_S))
        rng = self._rng
        room_seed = int(rng.integers(2**31)) if rng.random() < _ROOM_CHANCE else None
        return Placement(self._sound(label), at, float(rng.choice(self._options.snrs_db)), room_seed)

    def _label(self, excluding: Sequence[str | None] = ()) -> str | None:
        """Draw a class, none of ``excluding``."""
        share = np.array([0.0 if label in excluding else p for label, p in zip(self._labels, self._share, strict=True)])
        return self._labels[int(self._rng.choice(len(self._labels), p=share / share.sum()))]

    def _sound(self, label: str | None) -> int:
        """Draw a sound of a class, with equal probability of its sources."""
        by_source = list(self._pools[label][1].values())
        sounds = by_source[int(self._rng.integers(len(by_source)))]
        return sounds[int(self._rng.integers(len(sounds)))]

    def _samples(self, low_s: float, high_s: float | None = None) -> int:
        seconds = low_s if high_s is None else self._rng.uniform(low_s, high_s)
        return round(seconds * self._rate_hz)


KINDS: Mapping[str, Background] = {
    "rain": Background(("rain",), _rain),
    "room": Background((), _room),
    "hum": Background((), _hum),
    "babble": Background(("speech",), _babble, ("speech",)),
    "music": Background(MUSIC, _music, MUSIC),
    "silence": Background((), _silence),
}
