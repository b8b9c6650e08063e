"""Plucked strings, computed: one loop of delay and losses per note, each instrument with a body of its own.

The extended Karplus-Strong algorithm (D. A. Jaffe and J. O. Smith, "Extensions of the Karplus-Strong
plucked-string algorithm", Computer Music Journal 7 (2), 1983): a burst of noise runs round a loop as
long as the period, loses a little of its high tones each time, and is shaped by where and how hard it
was plucked. No two instruments are alike, which no sound font can offer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.signal

from models.rendering.chance import Rng
from models.rendering.score import Note, Phrase, one_key_at_a_time
from models.rendering.synthesis import RATE_HZ, Wave

_RATE_HZ = 2 * RATE_HZ
"""The loop runs at twice the rate: the delay of a high note is then fine enough."""
_LOWEST_DECAY_S, _HIGHEST_DECAY_S = 0.6, 7.0
_RELEASE_S = 0.08
_DRIVEN = 0.35
"""Share of instruments that are played through an amplifier."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """What all notes of a phrase have in common."""

    decay_s: float
    """In which the A of 110 Hz loses 60 dB."""
    dullness: float
    """Share of the neighbouring sample in the loop's low pass, 0 to 0.5."""
    pluck_at: float
    """Place along the string, as a share of its length."""
    body: tuple[tuple[float, float, float], ...]
    """Resonances: frequency in Hz, quality, level."""
    drive: float
    """Gain into the amplifier's bend; 0 is no amplifier."""


def instrument(rng: Rng) -> Instrument:
    """Draw an instrument."""
    body = tuple(
        (float(np.exp(rng.uniform(np.log(80), np.log(1200)))), rng.uniform(4, 25), rng.uniform(0.1, 0.9))
        for _ in range(int(rng.integers(3, 8)))
    )
    return Instrument(
        decay_s=float(np.exp(rng.uniform(np.log(_LOWEST_DECAY_S), np.log(_HIGHEST_DECAY_S)))),
        dullness=rng.uniform(0.02, 0.5),
        pluck_at=rng.uniform(0.05, 0.4),
        body=body,
        drive=float(np.exp(rng.uniform(0, 4))) if rng.random() < _DRIVEN else 0.0,
    )


def play_plucked(rng: Rng, phrase: Phrase) -> Wave:
    """Play a phrase's notes on an instrument of the dice, cut to the phrase's length."""
    made, size = instrument(rng), round(phrase.length_s * _RATE_HZ)
    out = np.zeros(size)
    for note in one_key_at_a_time(phrase.notes):
        first = round(note.start_s * _RATE_HZ)
        if first < size:
            wave = _string(rng, made, note, size - first)
            out[first : first + wave.size] += wave
    if made.drive:
        out = np.tanh(made.drive * out / (np.abs(out).max() + 1e-9))
    out = out + sum(level * _resonance(out, hz, quality) for hz, quality, level in made.body)
    return np.asarray(scipy.signal.resample_poly(out, 1, _RATE_HZ // RATE_HZ), np.float32)


def _string(rng: Rng, made: Instrument, note: Note, most: int) -> Wave:
    """Return one note until it has died away or is stopped."""
    hz = 440 * 2 ** ((note.pitch - 69) / 12)
    size = min(most, round((note.length_s + _RELEASE_S) * _RATE_HZ))
    # The low pass itself delays by its share of a sample; what is left of the period is delay and a fraction.
    period = _RATE_HZ / hz - made.dullness
    whole, part = int(period), period - int(period)
    # A string loses with each turn, so high notes die sooner; not quite in proportion, as on real ones.
    gain = 10 ** (-3 / (made.decay_s * (110 / hz) ** 0.6 * hz))
    loop = np.convolve([1 - made.dullness, made.dullness], [1 - part, part])
    feedback = np.zeros(whole + 3)
    feedback[0], feedback[whole:] = 1, -gain * loop
    wave = scipy.signal.lfilter([1], feedback, _pluck(rng, made, note, whole, size))
    return np.asarray(wave * _stopped(size, note.length_s), np.float32)


def _pluck(rng: Rng, made: Instrument, note: Note, period: int, size: int) -> Wave:
    """Return a period of noise, the brighter the harder, without the tones that have a node where it is plucked."""
    burst = np.zeros(size)
    noise = rng.uniform(-1, 1, min(size, max(2, period)))
    softness = 0.75 * (1 - note.velocity / 127) + 0.1
    noise = scipy.signal.lfilter([1 - softness], [1, -softness], noise - noise.mean())
    burst[: noise.size] = noise
    late = max(1, round(made.pluck_at * period))
    burst[late:] -= 0.9 * burst[: size - late].copy()
    return np.asarray(burst * note.velocity / 127, np.float32)


def _stopped(size: int, length_s: float) -> Wave:
    """Return the gain of a string that a finger stops at the note's end."""
    late_s = np.maximum(0, np.arange(size) / _RATE_HZ - length_s)
    return np.asarray(np.exp(-late_s * 5 / _RELEASE_S), np.float32)


def _resonance(wave: np.ndarray, hz: float, quality: float) -> np.ndarray:
    return np.asarray(scipy.signal.lfilter(*scipy.signal.iirpeak(hz, quality, fs=_RATE_HZ), wave))
