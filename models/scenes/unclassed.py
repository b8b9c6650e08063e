"""Animals and machines of no class, computed: what a household detector must not take for anything it knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import scipy.signal

from models.augment import Wave
from models.rendering.chance import Rng
from models.rendering.noise import coloured
from models.rendering.synthesis import RATE_HZ
from models.scenes.sounds import Sound, cut_sounds

_EACH = 4
"""Sounds of each kind."""
_LENGTH_S = (1.0, 6.0)


def unclassed_sounds(seed: int) -> list[Sound]:
    """Return sounds of every kind here, each with its own dice."""
    return list(_sounds(seed))


def _sounds(seed: int) -> Iterator[Sound]:
    for name, compose in KINDS.items():
        rng = np.random.default_rng([seed, *name.encode()])
        for n in range(_EACH):
            wave = np.asarray(compose(rng, round(rng.uniform(*_LENGTH_S) * RATE_HZ)), np.float32)
            yield from cut_sounds(None, "computed", f"{name}-{n}", wave / np.abs(wave).max(), RATE_HZ)


def _crickets(rng: Rng, size: int) -> Wave:
    """Chirps of a few pulses of a high tone."""
    t, hz = np.arange(size) / RATE_HZ, rng.uniform(3800, 5200)
    pulses, chirps = rng.uniform(25, 45), rng.uniform(1.5, 3.5)
    gate = np.maximum(0, np.sin(2 * np.pi * pulses * t)) * ((t * chirps) % 1 < rng.uniform(0.3, 0.6))
    return np.asarray(np.sin(2 * np.pi * hz * t) * gate, np.float32)


def _songbird(rng: Rng, size: int) -> Wave:
    """Short notes that glide between 2 and 6 kHz."""
    wave = np.zeros(size)
    at = 0
    while at < size:
        length = int(rng.uniform(0.05, 0.25) * RATE_HZ)
        hz = np.geomspace(rng.uniform(2000, 6000), rng.uniform(2000, 6000), length)
        trill = 1 + 0.04 * np.sin(2 * np.pi * rng.uniform(15, 40) * np.arange(length) / RATE_HZ)
        note = np.sin(2 * np.pi * np.cumsum(hz * trill) / RATE_HZ) * np.hanning(length)
        wave[at : at + length] += note[: size - at] * rng.uniform(0.3, 1)
        at += length + int(rng.uniform(0.02, 0.5) * RATE_HZ)
    return np.asarray(wave, np.float32)


def _frogs(rng: Rng, size: int) -> Wave:
    """Croaks: a band of noise gated some thirty times a second, in calls."""
    t, low_hz = np.arange(size) / RATE_HZ, rng.uniform(500, 1500)
    band = _band(rng.standard_normal(size), low_hz, low_hz * 1.6)
    gate = np.maximum(0, np.sin(2 * np.pi * rng.uniform(20, 45) * t)) ** 2
    return np.asarray(band * gate * ((t * rng.uniform(0.8, 2)) % 1 < 0.5), np.float32)


def _cat(rng: Rng, size: int) -> Wave:
    """Meows: a gliding harmonic tone through a moving resonance."""
    wave, at = np.zeros(size), 0
    while at < size:
        length = int(rng.uniform(0.5, 1.1) * RATE_HZ)
        shape = np.sin(np.linspace(0, np.pi, length))
        phase = 2 * np.pi * np.cumsum(rng.uniform(380, 620) * (1 + 0.45 * shape)) / RATE_HZ
        vowel = 1 + 6 * shape
        call = sum(np.sin(k * phase) * np.exp(-(((k - vowel) / 2.5) ** 2)) for k in range(1, 11)) * shape
        wave[at : at + length] += call[: size - at]
        at += length + int(rng.uniform(0.4, 1.5) * RATE_HZ)
    return np.asarray(wave, np.float32)


def _vacuum_cleaner(rng: Rng, size: int) -> Wave:
    """Rushing air with the whine of a motor that runs up."""
    t = np.arange(size) / RATE_HZ
    turns = rng.uniform(180, 320) * (1 - np.exp(-t / 0.3))
    phase = 2 * np.pi * np.cumsum(turns) / RATE_HZ
    whine = sum(np.sin(k * phase) / k for k in (1, 2, 3, 6, 12))
    return np.asarray(_band(rng.standard_normal(size), 300, 5000) * 2 + rng.uniform(0.2, 0.6) * whine, np.float32)


def _washing_machine(rng: Rng, size: int) -> Wave:
    """Turn a drum: low rumble and sloshing, once a second."""
    t = np.arange(size) / RATE_HZ
    turning = 1 + 0.7 * np.sin(2 * np.pi * rng.uniform(0.6, 1.4) * t)
    slosh = _band(rng.standard_normal(size), 200, 1200) * np.maximum(0, turning - 0.8)
    return np.asarray(coloured(rng, size, 1.0) * turning + 3 * slosh, np.float32)


def _keyboard(rng: Rng, size: int) -> Wave:
    """Typing: clicks of a few milliseconds with a resonance, press and release."""
    wave = np.zeros(size + RATE_HZ)
    at = 0
    while at < size:
        for late_s, level in ((0.0, 1.0), (rng.uniform(0.06, 0.12), 0.4)):
            length, first = int(rng.uniform(0.004, 0.02) * RATE_HZ), at + int(late_s * RATE_HZ)
            decay = np.exp(-6 * np.arange(length) / length)
            wave[first : first + length] += level * rng.uniform(0.5, 1) * decay * rng.standard_normal(length)
        at += int(rng.uniform(0.08, 0.35) * RATE_HZ)
    return np.asarray(_band(wave[:size], 400, 6000), np.float32)


def _alarm(rng: Rng, size: int) -> Wave:
    """Beeps of an appliance: square-like tones in groups."""
    t, hz = np.arange(size) / RATE_HZ, rng.uniform(900, 3200)
    tone = np.sin(2 * np.pi * hz * t) + np.sin(6 * np.pi * hz * t) / 3
    period_s, beeps = rng.uniform(0.8, 1.6), int(rng.integers(1, 5))
    inside = (t % period_s) * 8
    return np.asarray(tone * ((inside < beeps) & (inside % 1 < 0.5)), np.float32)


def _kettle(rng: Rng, size: int) -> Wave:
    """Water that comes to the boil: noise that rises, with bubbling."""
    t = np.linspace(0, 1, size)
    bubbling = 1 + 0.5 * scipy.signal.sawtooth(2 * np.pi * np.cumsum(rng.uniform(5, 25, size)) / RATE_HZ)
    return np.asarray(_band(rng.standard_normal(size), 150, 2500) * bubbling * (0.2 + t), np.float32)


def _footsteps(rng: Rng, size: int) -> Wave:
    """Thuds at a walking pace, each a low knock and a scrape."""
    wave, step_s = np.zeros(size + RATE_HZ), rng.uniform(0.45, 0.65)
    for at in np.arange(0, size, step_s * RATE_HZ).astype(int):
        length = int(rng.uniform(0.05, 0.12) * RATE_HZ)
        thud = np.sin(2 * np.pi * rng.uniform(60, 140) * np.arange(length) / RATE_HZ)
        knock = (thud + 0.3 * rng.standard_normal(length)) * np.exp(-5 * np.arange(length) / length)
        wave[at : at + length] += knock * rng.uniform(0.6, 1)
    return np.asarray(wave[:size], np.float32)


def _band(wave: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    sections = scipy.signal.butter(2, [low_hz, high_hz], "bandpass", fs=RATE_HZ, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, wave))


KINDS: dict[str, Callable[[Rng, int], Wave]] = {
    "crickets": _crickets,
    "songbird": _songbird,
    "frogs": _frogs,
    "cat": _cat,
    "vacuum_cleaner": _vacuum_cleaner,
    "washing_machine": _washing_machine,
    "keyboard": _keyboard,
    "alarm": _alarm,
    "kettle": _kettle,
    "footsteps": _footsteps,
}
