"""Waveform augmentation: what rooms, microphones and neighbours do to a sound, before the features."""

from __future__ import annotations

import numpy as np
import scipy.fft
import scipy.signal
import soxr
from numpy.typing import NDArray

Wave = NDArray[np.float32]
_EQUALISER_POINTS = 2048


def change_speed(wave: Wave, rng: np.random.Generator, rate_hz: int, most: float) -> Wave:
    """Play faster or slower by up to ``most``, a natural logarithm (pitch and tempo together)."""
    factor = float(np.exp(rng.uniform(-most, most)))
    return np.asarray(soxr.resample(wave, rate_hz, rate_hz / factor, quality="LQ"), np.float32)


class Places:
    """A stock of rooms and noises for waves of one length: making them anew each time would take most of the time."""

    def __init__(self, samples: int, rate_hz: int, rng: np.random.Generator, rooms: int = 96, noises: int = 96) -> None:
        self._samples, self._rate_hz = samples, rate_hz
        self._size = scipy.fft.next_fast_len(samples + rate_hz // 2, real=True)
        self._rooms = [scipy.fft.rfft(room(rng, rate_hz), self._size) for _ in range(rooms)]
        self._noises = [noise(4 * samples, rng) for _ in range(noises)]
        self._rumbles = [rumble(4 * samples, rng, rate_hz) for _ in range(max(1, noises // 4))]

    def filter_and_reverberate(self, wave: Wave, rng: np.random.Generator, *, reverberation: float) -> Wave:
        """Apply a random equaliser, sometimes a band limit and (with that probability) a room, in one transform."""
        spectrum = scipy.fft.rfft(wave, self._size)
        spectrum *= _equaliser(spectrum.size, rng, self._rate_hz)
        if rng.random() < reverberation:
            spectrum *= self._rooms[rng.integers(len(self._rooms))]
        return np.asarray(scipy.fft.irfft(spectrum, self._size)[: wave.size], np.float32)

    def noise(self, rng: np.random.Generator) -> Wave:
        """Return a stretch of noise of about unit RMS."""
        return self._stretch(self._noises, rng)

    def rumble(self, rng: np.random.Generator) -> Wave:
        """Return a stretch of low rumble of about unit RMS."""
        return self._stretch(self._rumbles, rng)

    def _stretch(self, stocks: list[Wave], rng: np.random.Generator) -> Wave:
        stock = stocks[rng.integers(len(stocks))]
        start = rng.integers(stock.size - self._samples)
        return stock[start : start + self._samples]


def cut_off(wave: Wave, end: int, rate_hz: int) -> Wave:
    """Return a wave that is silent from the sample ``end`` on, after a fade of 10 ms."""
    if end >= wave.size:
        return wave
    fade = min(end, rate_hz // 100)
    out = wave.copy()
    out[end - fade : end] *= np.linspace(1, 0, fade, dtype=out.dtype)
    out[end:] = 0
    return out


def faded(wave: Wave, fade: int) -> Wave:
    """Return a wave that rises over its first ``fade`` samples and falls over its last."""
    out = wave.copy()
    ramp = np.linspace(0, 1, min(fade, wave.size // 2), dtype=np.float32)
    out[: ramp.size] *= ramp
    out[wave.size - ramp.size :] *= ramp[::-1]
    return out


def noise(size: int, rng: np.random.Generator) -> Wave:
    """Return coloured noise of unit RMS: from white to brown, its level wandering slowly."""
    spectrum = scipy.fft.rfft(rng.standard_normal(size).astype(np.float32))
    bins = np.maximum(np.arange(spectrum.size), size / 400.0)
    wave = scipy.fft.irfft(spectrum * bins ** -rng.uniform(0.0, 1.2), size)
    if rng.random() < 0.5:
        knots = rng.uniform(0.3, 1.0, 8)
        wave *= np.interp(np.linspace(0, 7, size), np.arange(8), knots)
    return np.asarray(wave / (np.sqrt(np.mean(wave**2)) + 1e-12), np.float32)


def rumble(size: int, rng: np.random.Generator, rate_hz: int) -> Wave:
    """Return rumble of unit RMS, as of wind and hands at a microphone: below 50 to 300 Hz, in slow gusts."""
    spectrum = scipy.fft.rfft(rng.standard_normal(size).astype(np.float32))
    hz = np.arange(spectrum.size) * rate_hz / size
    corner_hz = float(np.exp(rng.uniform(np.log(50), np.log(300))))
    shape = np.minimum(1, (np.maximum(hz, 10.0) / corner_hz) ** -rng.uniform(2, 6)) * (hz > 10.0)
    wave = scipy.fft.irfft(spectrum * shape, size)
    gusts = rng.uniform(0.05, 1.0, max(2, int(size / rate_hz * rng.uniform(0.3, 3))))
    wave *= np.interp(np.linspace(0, gusts.size - 1, size), np.arange(gusts.size), gusts)
    return np.asarray(wave / (np.sqrt(np.mean(wave**2)) + 1e-12), np.float32)


def hum(size: int, rng: np.random.Generator, rate_hz: int) -> Wave:
    """Return mains hum of unit RMS: 50 or 60 Hz with harmonics."""
    t = np.arange(size) / rate_hz
    f0 = rng.choice([50.0, 60.0])
    wave = sum(rng.uniform(0, 1) / k * np.sin(2 * np.pi * f0 * k * t + rng.uniform(0, 2 * np.pi)) for k in range(1, 9))
    return np.asarray(wave / (np.sqrt(np.mean(np.square(wave))) + 1e-12), np.float32)


def drone(size: int, rng: np.random.Generator, rate_hz: int) -> Wave:
    """Return a machine's steady tone of unit RMS: mains or a motor, with up to 30 harmonics that waver a little."""
    f0 = float(rng.choice([50.0, 60.0]) if rng.random() < 0.5 else np.exp(rng.uniform(np.log(35), np.log(220))))
    drift = 1 + 0.003 * np.interp(np.linspace(0, 7, size), np.arange(8), rng.uniform(-1, 1, 8)) * (rng.random() < 0.5)
    phase = np.cumsum(2 * np.pi * f0 / rate_hz * drift)
    falling = rng.uniform(0.3, 2.0)
    wave = np.zeros(size)
    for k in range(1, int(rng.integers(1, 31)) + 1):
        wave += rng.uniform(0, 1) * k**-falling * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
    wave *= np.interp(np.linspace(0, 15, size), np.arange(16), rng.uniform(0.8, 1.0, 16))
    return np.asarray(wave / (np.sqrt(np.mean(wave**2)) + 1e-12), np.float32)


def clip_hard(wave: Wave, rng: np.random.Generator) -> Wave:
    """Overdrive the converter: flatten the loudest one in a thousand to one in ten samples."""
    limit = float(np.quantile(np.abs(wave), 1 - 10 ** rng.uniform(-3, -1)))
    return np.clip(wave, -limit, limit) if limit > 0 else wave


def narrow(wave: Wave, cut_hz: float, rate_hz: int) -> Wave:
    """Return what is left by a microphone that was sampled at twice ``cut_hz``: nothing above that."""
    size = scipy.fft.next_fast_len(wave.size, real=True)
    spectrum = scipy.fft.rfft(wave, size)
    spectrum[int(cut_hz / rate_hz * size) :] = 0
    return np.asarray(scipy.fft.irfft(spectrum, size)[: wave.size], np.float32)


def _equaliser(bins: int, rng: np.random.Generator, rate_hz: int) -> Wave:
    """Return a smooth random gain over frequency: a few decibels a band, sometimes a band limit."""
    # A coarse grid is smooth enough, and quick.
    hz = np.linspace(0, rate_hz / 2, _EQUALISER_POINTS)
    knots_hz = np.array([0, 100, 250, 600, 1500, 3500, 8000])
    gain_db = np.interp(np.log(hz + 50), np.log(knots_hz + 50), rng.normal(0, 4.0, knots_hz.size))
    if rng.random() < 0.35:
        cut = float(np.exp(rng.uniform(np.log(3000), np.log(7500))))
        gain_db -= np.maximum(0, np.log2((hz + 1) / cut)) * rng.choice([12.0, 60.0])
    if rng.random() < 0.35:
        cut = float(np.exp(rng.uniform(np.log(60), np.log(400))))
        gain_db -= np.maximum(0, np.log2(cut / (hz + 1))) * 12.0
    gain = 10 ** (np.maximum(gain_db, -80) / 20)
    return np.repeat(gain.astype(np.float32), -(-bins // _EQUALISER_POINTS))[:bins]


def room(rng: np.random.Generator, rate_hz: int) -> Wave:
    """Return an impulse response: the direct sound and a tail of noise that decays by 60 dB in 0.1 to 0.9 s."""
    rt60 = float(np.exp(rng.uniform(np.log(0.1), np.log(0.9))))
    size = min(int(rt60 * rate_hz), rate_hz // 2)
    tail = rng.standard_normal(size) * 10 ** (-3 * np.arange(size) / (rt60 * rate_hz))
    tail = scipy.signal.lfilter([1 - 0.4], [1, -0.4], tail)
    tail[: int(rng.uniform(0.002, 0.02) * rate_hz)] = 0
    tail *= 10 ** (rng.uniform(-15, 3) / 20) / (np.sqrt(np.sum(tail**2)) + 1e-12)
    tail[0] = 1.0
    return np.asarray(tail, np.float32)
