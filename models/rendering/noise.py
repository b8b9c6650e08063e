"""Sounds without a class, computed: noises, hums, tones, clicks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.fft
import scipy.signal

from models.rendering.chance import Rng
from models.rendering.synthesis import RATE_HZ, Wave


def coloured(rng: Rng, size: int, slope: float) -> Wave:
    """Return noise of unit RMS whose amplitude falls as 1 / frequency ** slope: 0 white, 0.5 pink, 1 brown."""
    spectrum = scipy.fft.rfft(rng.standard_normal(size))
    # Below 30 Hz the slope stops: otherwise a brown noise is mostly a slow drift.
    bins = np.maximum(np.arange(spectrum.size), 30 * size / RATE_HZ)
    wave = scipy.fft.irfft(spectrum * bins**-slope, size)
    return np.asarray(wave / np.sqrt(np.mean(wave**2)), np.float32)


def hum(rng: Rng, size: int, base_hz: float) -> Wave:
    """Return mains hum of about unit level: the base and its harmonics, each at random phase."""
    t, wave = np.arange(size) / RATE_HZ, np.zeros(size)
    for k in range(1, int(rng.integers(4, 20))):
        level = rng.uniform(0.2, 1.0) / k
        wave += level * np.sin(2 * np.pi * base_hz * k * t + rng.uniform(0, 2 * np.pi))
    return np.asarray(wave, np.float32)


def compose_noise(rng: Rng, kind: str) -> Wave:
    """Return 4 to 6 s of one of NOISES."""
    return _KINDS[kind](rng, round(rng.uniform(4, 6) * RATE_HZ))


def _band(rng: Rng, size: int) -> Wave:
    low_hz = float(np.exp(rng.uniform(np.log(80), np.log(3000))))
    high_hz = min(7500.0, low_hz * rng.uniform(1.2, 3))
    sections = scipy.signal.butter(2, [low_hz, high_hz], "bandpass", fs=RATE_HZ, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, rng.standard_normal(size)), np.float32)


def _hum(rng: Rng, size: int) -> Wave:
    wave = hum(rng, size, float(rng.choice([50.0, 60.0])))
    return np.asarray(wave + rng.uniform(0, 0.1) * coloured(rng, size, 0.5), np.float32)


def _tone(rng: Rng, size: int) -> Wave:
    """Return a steady sine, or beeps of one."""
    t, hz = np.arange(size) / RATE_HZ, np.exp(rng.uniform(np.log(100), np.log(5000)))
    wave = np.sin(2 * np.pi * hz * t)
    if rng.random() < 0.5:
        period_s, share = rng.uniform(0.3, 1.5), rng.uniform(0.2, 0.7)
        gate = (t % period_s < share * period_s).astype(float)
        wave *= np.convolve(gate, np.full(80, 1 / 80), "same")
    return np.asarray(wave, np.float32)


def _sweep(rng: Rng, size: int) -> Wave:
    t = np.arange(size) / RATE_HZ
    low, high = rng.uniform(60, 800), rng.uniform(900, 7000)
    ends = (low, high) if rng.random() < 0.5 else (high, low)
    return np.asarray(scipy.signal.chirp(t, ends[0], t[-1], ends[1], method="logarithmic"), np.float32)


def _clicks(rng: Rng, size: int) -> Wave:
    """Return short decaying knocks at irregular times."""
    wave = np.zeros(size + RATE_HZ)
    for _ in range(int(rng.integers(4, 40))):
        length = int(rng.integers(16, 800))
        knock = rng.standard_normal(length) * np.exp(-5 * np.arange(length) / length)
        first = int(rng.integers(size))
        wave[first : first + length] += knock * rng.uniform(0.2, 1.0)
    return np.asarray(wave[:size], np.float32)


def _wind(rng: Rng, size: int) -> Wave:
    knots = rng.uniform(0.05, 1.0, int(rng.integers(5, 12)))
    level = np.interp(np.linspace(0, knots.size - 1, size), np.arange(knots.size), knots)
    return np.asarray(coloured(rng, size, rng.uniform(0.5, 1.0)) * level, np.float32)


def _fan(rng: Rng, size: int) -> Wave:
    """Return pink noise with the hum of blades."""
    t, blades_hz = np.arange(size) / RATE_HZ, rng.uniform(20, 180)
    wave = coloured(rng, size, rng.uniform(0.4, 0.9)).astype(np.float64)
    wave *= 1 + rng.uniform(0.05, 0.3) * np.sin(2 * np.pi * blades_hz * t)
    wave += rng.uniform(0.1, 0.5) * hum(rng, size, blades_hz)
    return np.asarray(wave, np.float32)


_KINDS: dict[str, Callable[[Rng, int], Wave]] = {
    "white": lambda rng, size: coloured(rng, size, 0.0),
    "pink": lambda rng, size: coloured(rng, size, 0.5),
    "brown": lambda rng, size: coloured(rng, size, 1.0),
    "band": _band,
    "hum": _hum,
    "tone": _tone,
    "sweep": _sweep,
    "clicks": _clicks,
    "wind": _wind,
    "fan": _fan,
}
NOISES = tuple(_KINDS)
