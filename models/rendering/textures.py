"""Rain, sea, fire, clocks, helicopters and chainsaws, computed from what makes them sound, no two alike.

Of such sounds there are few free recordings, and a network soon knows those by heart. The parts that each is made of
are those that A. Farnell names ("Designing Sound", MIT Press, 2010): drops and hiss; swells that break; crackles, hiss
and lapping flames; the strokes of an escapement in a case; blades that chop noise; explosions of a two-stroke engine.
How bright, rough and restless they are lies where it does for ESC-10's folds 1 to 4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.signal
from numpy.typing import NDArray

from models.rendering.chance import Rng
from models.rendering.noise import coloured
from models.rendering.synthesis import RATE_HZ, Wave

_LENGTH_S = (5.0, 9.0)
_HIGHEST_HZ = 7600.0

Samples = NDArray[np.float64]


def compose(rng: Rng, label: str) -> Wave:
    """Return 5 to 9 s of one of LABELS."""
    wave = _KINDS[label](rng, round(rng.uniform(*_LENGTH_S) * RATE_HZ))
    return np.asarray(wave / (np.abs(wave).max() + 1e-9), np.float32)


def _rain(rng: Rng, size: int) -> Samples:
    """Return drops on a surface or several, some that ring, and the hiss of all that are far away."""
    wave = _level(rng, -20, 0) * _unit(coloured(rng, size, rng.uniform(-0.1, 0.6)))
    wave += _level(rng, -30, 3) * _unit(coloured(rng, size, 1.0))
    for _ in range(int(rng.integers(1, 4))):
        drops = _strokes(rng, size, _log(rng, 300, 8000), spread_db=8)
        wave += _level(rng, -12, 0) * _unit(_rung(rng, drops, (300, 5000), (0.0004, 0.006), int(rng.integers(2, 6))))
    if rng.random() < 0.5:
        drips = _strokes(rng, size, _log(rng, 1, 30), spread_db=8)
        wave += _level(rng, -20, -3) * _unit(_rung(rng, drops=drips, hz=(500, 4000), decay_s=(0.004, 0.03), count=3))
    return wave * _slow(rng, size, 2.0, depth=0.25)


def _sea(rng: Rng, size: int) -> Samples:
    """Return swells that rise, break with a hiss and run out, over the murmur of the others."""
    near, far = _unit(coloured(rng, size, rng.uniform(0.5, 0.9))), _unit(coloured(rng, size, rng.uniform(0.5, 0.9)))
    hiss = _unit(_band(rng.standard_normal(size), rng.uniform(300, 1500), rng.uniform(1800, 5000)))
    t, wave = np.arange(size) / RATE_HZ, _level(rng, -25, -8) * far
    at = rng.uniform(-4, 1)
    while at < size / RATE_HZ:
        rise, fall = rng.uniform(0.6, 2.5), rng.uniform(1.0, 4.0)
        since = t - at
        swell = np.exp(-np.square(since / np.where(since < 0, rise, fall)) * 2)
        late = np.exp(-np.square((since - 0.4 * fall) / fall) * 2)
        wave += rng.uniform(0.4, 1) * (swell * near + _level(rng, -15, -2) * late * hiss)
        at += rng.uniform(2.5, 8)
    return _band(wave, _log(rng, 40, 250), _HIGHEST_HZ)


def _fire(rng: Rng, size: int) -> Samples:
    """Return crackles that come in bursts, hissing gas and the lapping of flames."""
    wave = np.zeros(size)
    for _ in range(int(rng.integers(1, 3))):
        crackles = _strokes(rng, size, _log(rng, 3, 80), spread_db=14) * _bursts(rng, size)
        wave += _unit(_rung(rng, crackles, (300, _HIGHEST_HZ), (0.0003, 0.004), int(rng.integers(2, 6))))
    hiss = _band(rng.standard_normal(size), rng.uniform(1000, 4000), _HIGHEST_HZ) * _slow(rng, size, 8.0) ** 2
    flames = _band(rng.standard_normal(size), 25, rng.uniform(60, 400)) * _slow(rng, size, 12.0)
    return wave + _level(rng, -35, -6) * _unit(hiss) + _level(rng, -12, 14) * _unit(flames)


def _clock(rng: Rng, size: int) -> Samples:
    """Return strokes of an escapement, tick and tock, each of a few blows, in works and a case that ring."""
    period = rng.choice([1.0, 0.5, 0.25, 0.2, _log(rng, 0.18, 1.2)]) * RATE_HZ
    blows = [(0.0, 1.0)] + [(rng.uniform(0.002, 0.03), rng.uniform(0.1, 0.9)) for _ in range(int(rng.integers(0, 3)))]
    strokes = np.zeros((2, size))
    uneven = rng.uniform(-0.06, 0.06)
    for n, at in enumerate(np.arange(rng.uniform(0, period), size - 1, period)):
        for late_s, loud in blows:
            place = int(at + (n % 2) * uneven * period + late_s * RATE_HZ)
            if 0 <= place < size:
                strokes[n % 2, place] += loud * rng.uniform(0.8, 1.2)
    tock = rng.uniform(0.3, 1.0)
    wave = np.zeros(size)
    for part, loud in zip(strokes, (1.0, tock), strict=True):
        works = _rung(rng, part, (500, 6500), (0.0006, 0.012), int(rng.integers(3, 8)))
        case = _rung(rng, part, (100, 1000), (0.003, 0.03), 3)
        wave += loud * (_peak(works) + _level(rng, -20, 6) * _peak(case))
    return _peak(wave) + _level(rng, -75, -28) * _unit(coloured(rng, size, rng.uniform(0.3, 1.2)))


def _helicopter(rng: Rng, size: int) -> Samples:
    """Return blades that chop the air, their slap, the tail's, and a turbine, nearer or further away."""
    turns = rng.uniform(9, 26) * np.cumsum(_slow(rng, size, 0.3, depth=0.06)) / RATE_HZ
    chop = np.maximum(0, np.cos(2 * np.pi * turns)) ** _log(rng, 1, 20)
    air = _band(rng.standard_normal(size), rng.uniform(40, 150), _log(rng, 300, 3000))
    thump = sum(np.cos(2 * np.pi * k * turns + rng.uniform(0, 6)) * rng.uniform(0.2, 1) / k for k in range(1, 12))
    wave = _unit(air * (chop + rng.uniform(0.05, 0.6))) + _level(rng, -15, 3) * _unit(np.asarray(thump))
    tail = np.cos(2 * np.pi * rng.uniform(3.5, 6) * turns)
    wave += _level(rng, -30, -8) * _unit(tail * (1 + 0.5 * np.cos(2 * np.pi * turns)))
    if rng.random() < 0.6:
        whine = np.cos(2 * np.pi * rng.uniform(800, 5000) * np.arange(size) / RATE_HZ)
        wave += _level(rng, -35, -15) * whine
    wave += _level(rng, -30, -10) * _unit(coloured(rng, size, 0.3))
    far = scipy.signal.butter(1, _log(rng, 400, _HIGHEST_HZ), fs=RATE_HZ, output="sos")
    return np.asarray(scipy.signal.sosfilt(far, wave)) * _slow(rng, size, 0.4)


def _chainsaw(rng: Rng, size: int) -> Samples:
    """Return a two-stroke engine that idles, is revved and bites into wood, with the chain's rattle."""
    knots = rng.choice([rng.uniform(35, 60), rng.uniform(80, 190), rng.uniform(80, 190)], int(rng.integers(2, 9)))
    revs = np.interp(np.arange(size), np.linspace(0, size, knots.size), knots)
    revs = np.convolve(np.pad(revs, 2000, "edge"), np.full(4001, 1 / 4001), "valid")[:size]
    turns = np.cumsum(revs * _slow(rng, size, 60.0, depth=rng.uniform(0.02, 0.25))) / RATE_HZ
    blast = (turns[1:] // 1 > turns[:-1] // 1).astype(float) * rng.uniform(0.6, 1.4, size - 1)
    engine = _rung(rng, np.append(blast, 0.0), (80, 2500), (0.001, 0.012), int(rng.integers(4, 9)))
    load = np.clip((revs - 60) / 80, 0.05, 1)
    rattle = _band(rng.standard_normal(size), rng.uniform(400, 2000), _log(rng, 2500, _HIGHEST_HZ)) * (
        1 + np.cos(2 * np.pi * turns)
    )
    quiet = rng.uniform(0.1, 0.6)
    driven = np.tanh(rng.uniform(0.5, 4) * _unit(engine))
    return np.asarray((_unit(driven) + _level(rng, -25, -5) * _unit(rattle * load)) * (quiet + (1 - quiet) * load))


def _strokes(rng: Rng, size: int, per_second: float, spread_db: float) -> Samples:
    """Return impulses at times that know nothing of each other, of either sign, loud and soft."""
    hit = rng.random(size) < per_second / RATE_HZ
    return np.asarray(hit * rng.choice([-1.0, 1.0], size) * 10 ** (rng.normal(0, spread_db, size) / 20))


def _rung(rng: Rng, drops: Samples, hz: tuple[float, float], decay_s: tuple[float, float], count: int) -> Samples:
    """Return what impulses sound like in several resonances, each of a pitch, a decay and a level of the dice."""
    wave = np.zeros(drops.size)
    for _ in range(count):
        pitch, decay = _log(rng, *hz), _log(rng, *decay_s)
        length = min(drops.size, round(6 * decay * RATE_HZ) + 1)
        t = np.arange(length) / RATE_HZ
        ring = np.cos(2 * np.pi * pitch * t + rng.uniform(0, 2 * np.pi)) * np.exp(-t / decay)
        wave += rng.uniform(0.2, 1) * scipy.signal.fftconvolve(drops, ring)[: drops.size]
    return wave


def _bursts(rng: Rng, size: int) -> Samples:
    """Return a level that mostly is low and at times high, as wood crackles."""
    knots = rng.exponential(1.0, max(4, int(size / RATE_HZ * rng.uniform(1, 6))))
    return np.interp(np.arange(size), np.linspace(0, size, knots.size), knots)


def _slow(rng: Rng, size: int, knots_per_s: float, depth: float = 0.5) -> Samples:
    """Return a level that wanders around 1 by up to ``depth``."""
    knots = rng.uniform(1 - depth, 1 + depth, max(3, int(size / RATE_HZ * knots_per_s)))
    return np.interp(np.arange(size), np.linspace(0, size, knots.size), knots)


def _band(wave: Samples, low_hz: float, high_hz: float) -> Samples:
    sections = scipy.signal.butter(2, [low_hz, max(high_hz, 1.2 * low_hz)], "bandpass", fs=RATE_HZ, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, wave))


def _unit(wave: NDArray[np.floating]) -> Samples:
    return np.asarray(wave / (np.sqrt(np.mean(np.square(wave))) + 1e-9), np.float64)


def _peak(wave: Samples) -> Samples:
    return np.asarray(wave / (np.abs(wave).max() + 1e-9))


def _level(rng: Rng, low_db: float, high_db: float) -> float:
    return float(10 ** (rng.uniform(low_db, high_db) / 20))


def _log(rng: Rng, low: float, high: float) -> float:
    """Return a value between two, as often in each octave."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


_KINDS: dict[str, Callable[[Rng, int], Samples]] = {
    "rain": _rain,
    "sea_waves": _sea,
    "fire_crackling": _fire,
    "clock_tick": _clock,
    "helicopter": _helicopter,
    "chainsaw": _chainsaw,
}
LABELS = tuple(_KINDS)
