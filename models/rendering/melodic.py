"""Phrases for instruments that sing (bowed strings, winds, organs) or are struck (keys, bells)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.rendering.chance import Rng, beat_s, near, scale, velocity, with_rest
from models.rendering.score import EXPRESSION, REVERBERATION, VIBRATO, Control, Note, Phrase, begin_at

_MELODY_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 2, 3, 5, 7, 8, 11))
_FASTEST_MELODY = 170
_STEADY = 100
"""Expression where nothing swells."""


@dataclass(frozen=True, slots=True)
class Player:
    """What an instrument can do: its pitches, and the styles it plays in."""

    low: int
    high: int
    styles: tuple[str, ...]
    swells: bool = True
    """Whether a sounding note can grow and fade."""


def compose_melody(rng: Rng, player: Player) -> Phrase:
    """Write a phrase of 4 to 6 s for the player."""
    length_s, first_s = rng.uniform(4, 6), rng.uniform(0.0, 0.2)
    last_s = length_s - (rng.uniform(0.5, 1.5) if rng.random() < 0.4 else 0.1)
    style = player.styles[rng.integers(len(player.styles))]
    notes = begin_at(_STYLES[style](rng, player, first_s, last_s), first_s)
    if rng.random() < 0.2:
        notes = with_rest(rng, notes, (1.0, 2.5), (0.6, 1.5))
    controls = [Control(0.0, REVERBERATION, int(rng.integers(0, 90))), Control(0.0, EXPRESSION, _STEADY)]
    if player.swells:
        controls.append(Control(0.0, VIBRATO, int(rng.choice([0, 20, 50, 90]))))
        controls += _swells(rng, notes) if rng.random() < 0.6 else []
    return Phrase(length_s, tuple(notes), tuple(controls))


def _long(rng: Rng, player: Player, first_s: float, last_s: float) -> list[Note]:
    now_s, notes, pitches = first_s, [], scale(rng, _MELODY_SCALES, player.low, player.high)
    place, loud = int(rng.integers(len(pitches))), velocity(rng)
    while now_s < last_s:
        step_s = min(rng.uniform(1.0, 3.0), max(0.6, last_s - now_s))
        notes.append(Note(now_s, step_s * 0.98, pitches[place], near(rng, loud)))
        place = _walk(rng, place, 4, len(pitches))
        now_s += step_s
    return notes


def _legato(rng: Rng, player: Player, first_s: float, last_s: float) -> list[Note]:
    return _line(rng, player, (first_s, last_s), (0.98, 1.06))


def _detached(rng: Rng, player: Player, first_s: float, last_s: float) -> list[Note]:
    return _line(rng, player, (first_s, last_s), (0.35, 0.75))


def _line(rng: Rng, player: Player, span_s: tuple[float, float], held: tuple[float, float]) -> list[Note]:
    """Walk along a scale; ``held`` is the share of its step that a note sounds, from and to."""
    now_s, notes, pitches = span_s[0], [], scale(rng, _MELODY_SCALES, player.low, player.high)
    place, loud = int(rng.integers(len(pitches))), velocity(rng)
    beat = beat_s(rng, _FASTEST_MELODY)
    while now_s < span_s[1]:
        step_s = max(0.12, beat * rng.choice([0.25, 0.5, 0.5, 1.0, 1.0, 2.0]))
        notes.append(Note(now_s, step_s * rng.uniform(*held), pitches[place], near(rng, loud)))
        place = _walk(rng, place, 3, len(pitches))
        now_s += step_s
    return notes


def _double(rng: Rng, player: Player, first_s: float, last_s: float) -> list[Note]:
    notes = _long(rng, player, first_s, last_s)
    above = rng.choice([3, 4, 7, 8, 9, 12], len(notes))
    second = [Note(n.start_s, n.length_s, n.pitch + int(up), n.velocity) for n, up in zip(notes, above, strict=True)]
    return notes + [n for n in second if n.pitch <= player.high]


def _trill(rng: Rng, player: Player, first_s: float, last_s: float) -> list[Note]:
    notes = []
    for note in _long(rng, player, first_s, last_s):
        if rng.random() < 0.5:
            notes.append(note)
            continue
        step_s, up = rng.uniform(0.08, 0.13), int(rng.integers(1, 3))
        times = note.start_s + step_s * np.arange(int(note.length_s / step_s))
        notes += [Note(float(t), step_s, note.pitch + up * (k % 2), note.velocity) for k, t in enumerate(times)]
    return notes


def _chords(rng: Rng, player: Player, first_s: float, last_s: float) -> list[Note]:
    step_s, notes = max(0.25, beat_s(rng, _FASTEST_MELODY)), list[Note]()
    pitches = scale(rng, _MELODY_SCALES, player.low, player.high)
    loud, broken = velocity(rng), rng.random() < 0.4
    for now_s in np.arange(first_s, last_s, step_s):
        place = int(rng.integers(max(1, len(pitches) - 7)))
        chord = [pitches[min(place + k, len(pitches) - 1)] for k in (0, 2, 4, 7)[: int(rng.integers(3, 5))]]
        late_s = step_s / len(chord) if broken else 0.004
        notes += [Note(now_s + k * late_s, step_s, p, near(rng, loud)) for k, p in enumerate(dict.fromkeys(chord))]
    return notes


def _swells(rng: Rng, notes: list[Note]) -> list[Control]:
    """Let each note of half a second or more grow and fade."""
    controls = []
    for note in notes:
        if note.length_s < 0.5:
            controls.append(Control(note.start_s, EXPRESSION, _STEADY))
            continue
        low, top = rng.integers(35, 80), rng.uniform(0.2, 0.8)
        points = np.linspace(0, 1, max(8, int(note.length_s / 0.06)))
        values = np.interp(points, [0, top, 1], [low, rng.integers(95, 127), rng.integers(45, 100)])
        times = note.start_s + points * note.length_s
        controls += [Control(float(t), EXPRESSION, int(v)) for t, v in zip(times, values, strict=True)]
    return controls


def _walk(rng: Rng, place: int, most: int, size: int) -> int:
    return int(np.clip(place + rng.integers(-most, most + 1), 0, size - 1))


_STYLES: dict[str, Callable[[Rng, Player, float, float], list[Note]]] = {
    "long": _long,
    "legato": _legato,
    "detached": _detached,
    "double": _double,
    "trill": _trill,
    "chords": _chords,
}
