"""Guitar phrases: what fingers do on six strings tuned E A D G B E."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from models.rendering.chance import Rng, beat_s, near, scale, velocity, with_rest
from models.rendering.score import PITCH_BEND, REVERBERATION, VIBRATO, Control, Note, Phrase, begin_at

Shape = tuple[int | None, ...]
"""Frets of a chord from the lowest string up; None is a string that is not played."""

_FASTEST_GUITAR = 180
STRINGS = (40, 45, 50, 55, 59, 64)
OPEN_CHORDS: tuple[Shape, ...] = (
    (None, 3, 2, 0, 1, 0),
    (3, 2, 0, 0, 0, 3),
    (None, None, 0, 2, 3, 2),
    (None, 0, 2, 2, 2, 0),
    (0, 2, 2, 1, 0, 0),
    (None, 0, 2, 2, 1, 0),
    (0, 2, 2, 0, 0, 0),
    (None, None, 0, 2, 3, 1),
    (1, 3, 3, 2, 1, 1),
    (None, 2, 1, 2, 0, 2),
    (None, 0, 2, 0, 1, 0),
    (3, 2, 0, 0, 0, 1),
)
_BARRE: tuple[Shape, ...] = ((0, 2, 2, 1, 0, 0), (0, 2, 2, 0, 0, 0), (None, 0, 2, 2, 2, 0), (None, 0, 2, 2, 1, 0))
_POWER: tuple[Shape, ...] = ((0, 2, 2, None, None, None), (None, 0, 2, 2, None, None))
_GUITAR_SCALES = (
    (0, 2, 4, 5, 7, 9, 11),
    (0, 2, 3, 5, 7, 8, 10),
    (0, 3, 5, 7, 10),
    (0, 2, 4, 7, 9),
    (0, 1, 4, 5, 7, 8, 10),
)
_PICKING = ((0, 3, 4, 5, 4, 3), (0, 2, 3, 4), (0, 3, 1, 4, 2, 5), (0, 5, 4, 3, 2, 3), (0, 2, 4, 3, 5, 4, 3, 2))


def compose_guitar(rng: Rng, program: int) -> Phrase:
    """Write a guitar phrase of 4 to 6 s in one of the styles that suit the program."""
    length_s, first_s = rng.uniform(4, 6), rng.uniform(0.0, 0.2)
    # Some players stop early and let the strings ring; the others are cut while playing.
    last_s = length_s - (rng.uniform(0.8, 2.0) if rng.random() < 0.5 else 0.1)
    styles = _STYLES_OF.get(program, _ACOUSTIC)
    notes = begin_at(styles[rng.integers(len(styles))](rng, first_s, last_s), first_s)
    if rng.random() < 0.2:
        notes = with_rest(rng, notes, (1.2, 2.2), (0.8, 1.5))
    controls = [Control(0.0, REVERBERATION, int(rng.integers(0, 90)))]
    if rng.random() < 0.3:
        controls += _bends(rng, notes)
    return Phrase(length_s, tuple(notes), tuple(controls))


def fret(shape: Shape, up: int = 0) -> list[int]:
    """Return the pitches of a chord from the lowest string up, moved by ``up`` frets."""
    return [string + place + up for string, place in zip(STRINGS, shape, strict=True) if place is not None]


def strum(pitches: list[int], start_s: float, length_s: float, spread_s: float, loud: int) -> list[Note]:
    """Brush over the strings within ``spread_s``, in the order given."""
    step_s = spread_s / max(1, len(pitches) - 1)
    return [
        Note(start_s + i * step_s, max(0.03, length_s - i * step_s), pitch, loud) for i, pitch in enumerate(pitches)
    ]


def _slow_notes(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    now_s, notes = first_s, []
    while now_s < last_s:
        step_s = rng.uniform(0.5, 2.2)
        rings_s = step_s * rng.uniform(0.9, 2.0)
        notes.append(Note(now_s, rings_s, int(rng.integers(40, 87)), velocity(rng)))
        now_s += step_s
    return notes


def _melody(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    pitches = scale(rng, _GUITAR_SCALES, 48, 86)
    place, now_s, notes = int(rng.integers(len(pitches))), first_s, []
    beat, loud = beat_s(rng, _FASTEST_GUITAR), velocity(rng)
    while now_s < last_s:
        step_s = beat * rng.choice([0.25, 0.5, 0.5, 1.0, 1.0, 1.5])
        if rng.random() < 0.92:
            notes.append(Note(now_s, step_s * rng.uniform(0.7, 1.3), pitches[place], near(rng, loud)))
        place = int(np.clip(place + rng.integers(-3, 4), 0, len(pitches) - 1))
        now_s += max(0.09, step_s)
    return notes


def _fingerpicked(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    pattern = _PICKING[rng.integers(len(_PICKING))]
    step_s, loud = max(0.1, beat_s(rng, _FASTEST_GUITAR) / rng.choice([2, 2, 3])), velocity(rng)
    now_s, notes, strings, count = first_s, [], _chord(rng), 0
    while now_s < last_s:
        if count % (2 * len(pattern)) == 0:
            strings = _chord(rng)
        finger = pattern[count % len(pattern)]
        start_s = max(0.0, now_s + rng.normal(0, 0.006))
        notes.append(Note(start_s, step_s * rng.uniform(2, 5), strings[finger % len(strings)], near(rng, loud)))
        if count % len(pattern) == 0 and rng.random() < 0.4:
            notes.append(Note(start_s, step_s * 2, strings[-1], near(rng, loud)))
        now_s, count = now_s + step_s, count + 1
    return notes


def _strummed(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    step_s, loud = beat_s(rng, _FASTEST_GUITAR) / 2, velocity(rng)
    rhythm = rng.random(8) < rng.uniform(0.4, 0.9)
    rhythm[0] = True
    strokes = first_s + step_s * np.arange(max(1, int((last_s - first_s) / step_s)))
    played = [(k, t) for k, t in enumerate(strokes) if rhythm[k % 8]]
    notes, strings, spread_s = [], _chord(rng), rng.uniform(0.01, 0.06)
    for (k, t), (_, after) in zip(played, [*played[1:], (0, last_s + 3)], strict=True):
        if k % 8 == 0:
            strings = _chord(rng)
        # Up strokes fall between the beats and catch the high strings only.
        stroke = strings if k % 2 == 0 else strings[: -5 if rng.random() < 0.5 else -4 : -1]
        notes += strum(stroke, t, after - t, spread_s * rng.uniform(0.7, 1.3), near(rng, loud - 12 * (k % 2)))
    return notes


def _slow_chords(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    now_s, notes = first_s, []
    while now_s < last_s:
        step_s = rng.uniform(1.0, 2.5)
        notes += strum(_chord(rng), now_s, step_s, rng.uniform(0.01, 0.12), velocity(rng))
        now_s += step_s
    return notes


def _riff(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    pitches = scale(rng, _GUITAR_SCALES, 40, 57)
    step_s, loud = max(0.09, beat_s(rng, _FASTEST_GUITAR) / 2), velocity(rng)
    riff = rng.choice(pitches, 8)
    rests = rng.random(8) < 0.2
    times = np.arange(first_s, last_s, step_s)
    return [
        Note(t, step_s * rng.uniform(0.6, 1.1), int(riff[k % 8]), near(rng, loud))
        for k, t in enumerate(times)
        if not rests[k % 8]
    ]


def _power_chords(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    step_s, loud = max(0.11, beat_s(rng, _FASTEST_GUITAR) / 2), velocity(rng)
    muted = rng.random(8) < rng.uniform(0.2, 0.9)
    notes, strings = [], fret(_POWER[0])
    for k, t in enumerate(np.arange(first_s, last_s, step_s)):
        if k % 4 == 0:
            strings = fret(_POWER[rng.integers(2)], int(rng.integers(0, 9)))
        length_s = rng.uniform(0.04, 0.08) if muted[k % 8] else step_s
        notes += strum(strings, t, length_s, 0.008, near(rng, loud))
    return notes


def _palm_muted(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    pitches = scale(rng, _GUITAR_SCALES, 40, 64)
    step_s, loud = max(0.1, beat_s(rng, _FASTEST_GUITAR) / rng.choice([2, 4])), velocity(rng)
    line = rng.choice(pitches, 16)
    times = np.arange(first_s, last_s, step_s)
    lengths = rng.uniform(0.05, 0.12, times.size)
    return [
        Note(t, lengths[k], int(line[k // 2 % 16]), near(rng, loud)) for k, t in enumerate(times) if rng.random() < 0.9
    ]


def _bends(rng: Rng, notes: list[Note]) -> list[Control]:
    """Push a string up and back after some of the notes began, within 0.25 s, and shake it a little throughout."""
    controls = []
    for note in notes[:: int(rng.integers(2, 5))]:
        depth = int(rng.choice([1500, 4096, 8000]))
        times = note.start_s + 0.08 + np.linspace(0, 0.25, 12)
        curve = depth * np.sin(np.linspace(0, np.pi, 12)) ** 2
        controls += [Control(float(t), PITCH_BEND, int(v)) for t, v in zip(times, curve, strict=True)]
    return [*controls, Control(0.0, VIBRATO, int(rng.integers(0, 60)))]


def _chord(rng: Rng) -> list[int]:
    if rng.random() < 0.6:
        return fret(OPEN_CHORDS[rng.integers(len(OPEN_CHORDS))], int(rng.choice([0, 0, 0, 2, 5])))
    return fret(_BARRE[rng.integers(len(_BARRE))], int(rng.integers(1, 10)))


_Style = Callable[[Rng, float, float], list[Note]]
_ACOUSTIC: tuple[_Style, ...] = (_slow_notes, _melody, _fingerpicked, _fingerpicked)
_ACOUSTIC = (*_ACOUSTIC, _strummed, _strummed, _slow_chords, _riff)
_DRIVEN: tuple[_Style, ...] = (_power_chords, _power_chords, _melody, _riff, _slow_notes)
_STYLES_OF: dict[int, tuple[_Style, ...]] = {
    28: (_palm_muted, _palm_muted, _power_chords, _riff, _melody),
    29: _DRIVEN,
    30: _DRIVEN,
    31: (_slow_notes, _fingerpicked),
}
