"""Drum-kit phrases on the General MIDI percussion map."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.rendering.chance import Rng
from models.rendering.score import REVERBERATION, Control, Note, Phrase, begin_at

KICKS, SNARES, HATS = (35, 36), (37, 38, 40), (42, 44, 46)
TOMS, CYMBALS, RIDES = (41, 43, 45, 47, 48, 50), (49, 52, 55, 57), (51, 53, 59)
_HIT_S = 0.1
ORCHESTRA_KIT = 48


def compose_drums(rng: Rng, kit: int) -> Phrase:
    """Write a drum phrase of 4 to 6 s."""
    length_s, first_s = rng.uniform(4, 6), rng.uniform(0.0, 0.2)
    last_s = length_s - (rng.uniform(0.5, 1.5) if rng.random() < 0.3 else 0.05)
    # An orchestra's kit has timpani where the others have hats and toms.
    styles = (_roll, _kicks) if kit == ORCHESTRA_KIT else _ALL
    notes = styles[rng.integers(len(styles))](rng, first_s, last_s)
    return Phrase(length_s, tuple(begin_at(notes, first_s)), (Control(0.0, REVERBERATION, int(rng.integers(0, 90))),))


def _groove(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    step_s = 60 / rng.uniform(60, 180) / 4
    kick, snare, top = rng.choice(KICKS), rng.choice(SNARES), rng.choice([*HATS, *RIDES])
    kicks = rng.random(16) < 0.18
    kicks[[0, 8]] = True
    ghosts = rng.random(16) < rng.choice([0.0, 0.15])
    every = int(rng.choice([1, 2, 2, 4]))
    notes = []
    for k, t in enumerate(np.arange(first_s, last_s, step_s)):
        place = k % 16
        if kicks[place]:
            notes.append(_hit(rng, t, kick, 105))
        if place in (4, 12) or ghosts[place]:
            notes.append(_hit(rng, t, snare, 105 if place in (4, 12) else 45))
        if k % every == 0:
            notes.append(_hit(rng, t, 46 if top == 42 and rng.random() < 0.06 else top, 80))
    return notes


def _fill(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    step_s = 60 / rng.uniform(70, 160) / rng.choice([2, 3, 4])
    drums = [*SNARES[1:], *TOMS]
    drum, notes = int(rng.choice(drums)), []
    for k, t in enumerate(np.arange(first_s, last_s, step_s)):
        if k % 4 == 0:
            drum = int(rng.choice(drums))
        if k % 16 == 0 and rng.random() < 0.5:
            notes += [_hit(rng, t, rng.choice(CYMBALS), 100), _hit(rng, t, 36, 100)]
        if rng.random() < 0.85:
            notes.append(_hit(rng, t, drum, 95))
    return notes


def _single(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    drum = int(rng.choice([*KICKS, *KICKS, *SNARES, *SNARES, *TOMS, *CYMBALS, *HATS]))
    step_s = rng.uniform(0.3, 1.6)
    return [_hit(rng, t, drum, 95) for t in np.arange(first_s, last_s, step_s)]


def _hats(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    step_s = 60 / rng.uniform(60, 160) / rng.choice([2, 4])
    bar = rng.choice([42, 42, 42, 44, 46], 16)
    return [
        _hit(rng, t, bar[k % 16], 100 if k % 4 == 0 else 70) for k, t in enumerate(np.arange(first_s, last_s, step_s))
    ]


def _roll(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    """Roll on the snare, swelling and falling, in one or several bursts."""
    step_s, snare = rng.uniform(0.045, 0.09), int(rng.choice(SNARES[1:]))
    times = np.arange(first_s, last_s, step_s)
    swell = 70 + 35 * np.sin(2 * np.pi * rng.uniform(0.15, 0.6) * (times - first_s))
    silent_s = rng.choice([0.0, 0.0, 0.5])
    kept = (times - first_s) % 1.8 >= silent_s if silent_s else np.ones(times.size, bool)
    kept[0] = True
    return [_hit(rng, t, snare, v) for t, v in zip(times[kept], swell[kept], strict=True)]


def _kicks(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    step_s = 60 / rng.uniform(60, 150) / 2
    bar, kick = rng.random(8) < 0.5, int(rng.choice(KICKS))
    bar[0] = True
    return [_hit(rng, t, kick, 105) for k, t in enumerate(np.arange(first_s, last_s, step_s)) if bar[k % 8]]


def _hit(rng: Rng, time_s: float, pitch: int, velocity: float) -> Note:
    start_s = max(0.0, time_s + rng.normal(0, 0.004))
    return Note(float(start_s), _HIT_S, int(pitch), int(np.clip(velocity + rng.normal(0, 9), 15, 127)))


_Style = Callable[[Rng, float, float], list[Note]]
_ALL: tuple[_Style, ...] = (_groove, _groove, _groove, _fill, _fill, _single, _single, _hats, _roll, _kicks)
