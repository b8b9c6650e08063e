"""Waveform augmentation: reverberation, noise, microphones and speed, before the features."""

from __future__ import annotations

import functools

import numpy as np
import scipy.fft
import scipy.signal
import soxr

from detector.messages import Samples

_EQUALISER_POINTS = 2048


def change_speed(wave: Samples, rng: np.random.Generator, rate_hz: int, limit: float) -> Samples:
    """Resample by a random factor whose natural logarithm is at most ``limit`` (pitch and tempo together)."""
    factor = float(np.exp(rng.uniform(-limit, limit)))
    return np.asarray(soxr.resample(wave, rate_hz, rate_hz / factor, quality="LQ"), np.float32)


class AcousticConditions:
    """Precomputed room impulse responses and noises for waves of one length, which are expensive to draw."""

    def __init__(self, samples: int, rate_hz: int, rng: np.random.Generator, rooms: int = 96, noises: int = 96) -> None:
        self._samples, self._rate_hz = samples, rate_hz
        self._size = scipy.fft.next_fast_len(samples + rate_hz // 2, real=True)
        self._rooms = [scipy.fft.rfft(room(rng, rate_hz), self._size) for _ in range(rooms)]
        self._noises = [sloped_noise(4 * samples, rng) for _ in range(noises)]
        self._rumbles = [rumble(4 * samples, rng, rate_hz) for _ in range(max(1, noises // 4))]

    def filter_and_reverberate(self, wave: Samples, rng: np.random.Generator, *, reverberation: float) -> Samples:
        """Apply a random equaliser, sometimes a band limit and (with that probability) a room, in one FFT."""
        spectrum = scipy.fft.rfft(wave, self._size)
        spectrum *= _equaliser(spectrum.size, rng, self._rate_hz)
        if rng.random() < reverberation:
            spectrum *= self._rooms[rng.integers(len(self._rooms))]
        return np.asarray(scipy.fft.irfft(spectrum, self._size)[: wave.size], np.float32)

    def noise(self, rng: np.random.Generator) -> Samples:
        """Return a segment of noise of about unit RMS."""
        return self.noise_and_slope(rng)[0]

    def noise_and_slope(self, rng: np.random.Generator) -> tuple[Samples, float]:
        """Return such a segment and its slope: the amplitude is proportional to 1 / frequency ** slope."""
        wave, slope = self._noises[rng.integers(len(self._noises))]
        return self._segment(wave, rng), slope

    def rumble(self, rng: np.random.Generator) -> Samples:
        """Return a segment of low rumble of about unit RMS."""
        return self._segment(self._rumbles[rng.integers(len(self._rumbles))], rng)

    def _segment(self, wave: Samples, rng: np.random.Generator) -> Samples:
        start = rng.integers(wave.size - self._samples)
        return wave[start : start + self._samples]


@functools.lru_cache(maxsize=1)
def conditions_of(samples: int, rate_hz: int) -> AcousticConditions:
    """Return the conditions for waves of a length, always the same; they take seconds, so the last ones are kept."""
    return AcousticConditions(samples, rate_hz, np.random.default_rng(0))


def cut_off(wave: Samples, end: int, rate_hz: int) -> Samples:
    """Return a wave that is silent from the sample ``end`` on, after a fade of 10 ms."""
    if end >= wave.size:
        return wave
    fade = min(end, rate_hz // 100)
    out = wave.copy()
    out[end - fade : end] *= np.linspace(1, 0, fade, dtype=out.dtype)
    out[end:] = 0
    return out


def faded(wave: Samples, fade: int) -> Samples:
    """Return a wave that rises over its first ``fade`` samples and falls over its last."""
    out = wave.copy()
    ramp = np.linspace(0, 1, min(fade, wave.size // 2), dtype=np.float32)
    out[: ramp.size] *= ramp
    out[wave.size - ramp.size :] *= ramp[::-1]
    return out


def noise(size: int, rng: np.random.Generator) -> Samples:
    """Return coloured noise of unit RMS: white to brown, sometimes with a slowly varying level."""
    return sloped_noise(size, rng)[0]


def sloped_noise(size: int, rng: np.random.Generator) -> tuple[Samples, float]:
    """Return such noise and its slope: the amplitude is proportional to 1 / frequency ** slope (white: 0, brown: 1)."""
    longer = scipy.fft.next_fast_len(size, real=True)  # a large prime factor takes twice as long
    spectrum = scipy.fft.rfft(rng.standard_normal(longer).astype(np.float32))
    bins = np.maximum(np.arange(spectrum.size), longer / 400.0)
    slope = float(rng.uniform(0.0, 1.2))
    wave = scipy.fft.irfft(spectrum * bins**-slope, longer)[:size]
    if rng.random() < 0.5:
        knots = rng.uniform(0.3, 1.0, 8)
        wave *= np.interp(np.linspace(0, 7, size), np.arange(8), knots)
    return np.asarray(wave / (np.sqrt(np.mean(wave**2)) + 1e-12), np.float32), slope


def rumble(size: int, rng: np.random.Generator, rate_hz: int) -> Samples:
    """Return rumble of unit RMS, as wind and handling noise: below 50 to 300 Hz, in slow gusts."""
    longer = scipy.fft.next_fast_len(size, real=True)
    spectrum = scipy.fft.rfft(rng.standard_normal(longer).astype(np.float32))
    hz = np.arange(spectrum.size) * rate_hz / longer
    corner_hz = float(np.exp(rng.uniform(np.log(50), np.log(300))))
    shape = np.minimum(1, (np.maximum(hz, 10.0) / corner_hz) ** -rng.uniform(2, 6)) * (hz > 10.0)
    wave = scipy.fft.irfft(spectrum * shape, longer)[:size]
    gusts = rng.uniform(0.05, 1.0, max(2, int(size / rate_hz * rng.uniform(0.3, 3))))
    wave *= np.interp(np.linspace(0, gusts.size - 1, size), np.arange(gusts.size), gusts)
    return np.asarray(wave / (np.sqrt(np.mean(wave**2)) + 1e-12), np.float32)


def hum(size: int, rng: np.random.Generator, rate_hz: int) -> Samples:
    """Return mains hum of unit RMS: 50 or 60 Hz with harmonics."""
    t = np.arange(size) / rate_hz
    f0 = rng.choice([50.0, 60.0])
    wave = sum(rng.uniform(0, 1) / k * np.sin(2 * np.pi * f0 * k * t + rng.uniform(0, 2 * np.pi)) for k in range(1, 9))
    return np.asarray(wave / (np.sqrt(np.mean(np.square(wave))) + 1e-12), np.float32)


def drone(size: int, rng: np.random.Generator, rate_hz: int) -> Samples:
    """Return a machine's steady tone of unit RMS: mains or a motor, with up to 30 slightly wavering harmonics."""
    f0 = float(rng.choice([50.0, 60.0]) if rng.random() < 0.5 else np.exp(rng.uniform(np.log(35), np.log(220))))
    drift = 1 + 0.003 * np.interp(np.linspace(0, 7, size), np.arange(8), rng.uniform(-1, 1, 8)) * (rng.random() < 0.5)
    phase = np.cumsum(2 * np.pi * f0 / rate_hz * drift)
    falling = rng.uniform(0.3, 2.0)
    wave = np.zeros(size)
    for k in range(1, int(rng.integers(1, 31)) + 1):
        wave += rng.uniform(0, 1) * k**-falling * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
    wave *= np.interp(np.linspace(0, 15, size), np.arange(16), rng.uniform(0.8, 1.0, 16))
    return np.asarray(wave / (np.sqrt(np.mean(wave**2)) + 1e-12), np.float32)


def clip_hard(wave: Samples, rng: np.random.Generator) -> Samples:
    """Clip the loudest samples: one in a thousand to one in ten."""
    limit = float(np.quantile(np.abs(wave), 1 - 10 ** rng.uniform(-3, -1)))
    return np.clip(wave, -limit, limit) if limit > 0 else wave


def band_limit(wave: Samples, cut_hz: float, rate_hz: int) -> Samples:
    """Remove everything above ``cut_hz``, as a microphone sampled at twice that rate does."""
    size = scipy.fft.next_fast_len(wave.size, real=True)
    spectrum = scipy.fft.rfft(wave, size)
    spectrum[int(cut_hz / rate_hz * size) :] = 0
    return np.asarray(scipy.fft.irfft(spectrum, size)[: wave.size], np.float32)


def _equaliser(bins: int, rng: np.random.Generator, rate_hz: int) -> Samples:
    """Return a smooth random gain over frequency: a few decibels a band, sometimes a band limit."""
    # A coarse grid is smooth enough, and fast.
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


def room(rng: np.random.Generator, rate_hz: int) -> Samples:
    """Return an impulse response: the direct sound and a tail of noise that decays by 60 dB in 0.1 to 0.9 s."""
    rt60 = float(np.exp(rng.uniform(np.log(0.1), np.log(0.9))))
    size = min(int(rt60 * rate_hz), rate_hz // 2)
    tail = rng.standard_normal(size) * 10 ** (-3 * np.arange(size) / (rt60 * rate_hz))
    tail = scipy.signal.lfilter([1 - 0.4], [1, -0.4], tail)
    tail[: int(rng.uniform(0.002, 0.02) * rate_hz)] = 0
    tail *= 10 ** (rng.uniform(-15, 3) / 20) / (np.sqrt(np.sum(tail**2)) + 1e-12)
    tail[0] = 1.0
    return np.asarray(tail, np.float32)
