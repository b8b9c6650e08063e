"""The random choices that composers share: scales, tempo, loudness, rests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from models.rendering.score import Note

Rng = np.random.Generator
Span = tuple[float, float]


def beat_s(rng: Rng, fastest: float) -> float:
    """Return the length of a beat: 50 to ``fastest`` beats a minute, slow and fast alike."""
    return float(60 / np.exp(rng.uniform(np.log(50), np.log(fastest))))


def velocity(rng: Rng) -> int:
    """Return how hard a phrase is played."""
    return int(rng.integers(45, 121))


def near(rng: Rng, loud: int) -> int:
    """Return one note's velocity in a phrase of velocity ``loud``: nobody plays evenly."""
    return int(np.clip(loud + rng.normal(0, 8), 20, 127))


def scale(rng: Rng, scales: tuple[tuple[int, ...], ...], low: int, high: int) -> list[int]:
    """Return the pitches from low to high of one of the scales (semitones above the key), in a random key."""
    steps, key = scales[rng.integers(len(scales))], int(rng.integers(12))
    return [pitch for pitch in range(low, high + 1) if (pitch - key) % 12 in steps]


def with_rest(rng: Rng, notes: Sequence[Note], begin_s: Span, length_s: Span) -> list[Note]:
    """Fall silent once: leave out what starts in the rest and stop what still sounds."""
    begin = rng.uniform(*begin_s)
    end = begin + rng.uniform(*length_s)
    return [
        note if note.start_s >= end else replace(note, length_s=min(note.length_s, begin - note.start_s))
        for note in notes
        if not begin <= note.start_s < end
    ]
