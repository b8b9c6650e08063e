"""Composers of random phrases: guitar (six strings, E A D G B E), melodic and keyboard instruments, and drum kits.

Drums use the General MIDI percussion map.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.rendering.midi import (
    EXPRESSION,
    PITCH_BEND,
    REVERBERATION,
    VIBRATO,
    Control,
    Note,
    Phrase,
    Rng,
    beat_s,
    begin_at,
    near,
    scale,
    velocity,
    with_rest,
)

Shape = tuple[int | None, ...]
"""Frets of a chord from the lowest string up; None: not played."""
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
_Style = Callable[[Rng, float, float], list[Note]]
_MELODY_SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 2, 3, 5, 7, 8, 11))
_FASTEST_MELODY = 170
_STEADY = 100
"""Expression without swells."""
KICKS, SNARES, HATS = (35, 36), (37, 38, 40), (42, 44, 46)
TOMS, CYMBALS, RIDES = (41, 43, 45, 47, 48, 50), (49, 52, 55, 57), (51, 53, 59)
_HIT_S = 0.1
ORCHESTRA_KIT = 48


def compose_guitar(rng: Rng, program: int) -> Phrase:
    """Compose a guitar phrase of 4 to 6 s in one of the program's styles."""
    length_s, first_s = rng.uniform(4, 6), rng.uniform(0.0, 0.2)
    # Some phrases end early with ringing strings; the others are cut while playing.
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
    """Return the pitches of a chord from the lowest string up, shifted by ``up`` frets."""
    return [string + place + up for string, place in zip(STRINGS, shape, strict=True) if place is not None]


def strum(pitches: list[int], start_s: float, length_s: float, spread_s: float, loud: int) -> list[Note]:
    """Return a strum over the strings within ``spread_s``, in the given order."""
    step_s = spread_s / max(1, len(pitches) - 1)
    return [
        Note(start_s + i * step_s, max(0.03, length_s - i * step_s), pitch, loud) for i, pitch in enumerate(pitches)
    ]


@dataclass(frozen=True, slots=True)
class Player:
    """An instrument's range and styles."""

    low: int
    high: int
    styles: tuple[str, ...]
    swells: bool = True
    """Whether a held note can change in level."""


def compose_melody(rng: Rng, player: Player) -> Phrase:
    """Compose a phrase of 4 to 6 s for an instrument."""
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


def compose_drums(rng: Rng, kit: int) -> Phrase:
    """Compose a drum phrase of 4 to 6 s."""
    length_s, first_s = rng.uniform(4, 6), rng.uniform(0.0, 0.2)
    last_s = length_s - (rng.uniform(0.5, 1.5) if rng.random() < 0.3 else 0.05)
    # The orchestra kit has timpani in place of hats and toms.
    styles = (_roll, _kicks) if kit == ORCHESTRA_KIT else _ALL
    notes = styles[rng.integers(len(styles))](rng, first_s, last_s)
    return Phrase(length_s, tuple(begin_at(notes, first_s)), (Control(0.0, REVERBERATION, int(rng.integers(0, 90))),))


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
    """Return pitch bends of 0.25 s in some of the notes, and a slight vibrato throughout."""
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
    """Return a random walk on a scale; ``held`` is the range of a note's length relative to its step."""
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
    """Return a crescendo and decrescendo for each note of at least half a second."""
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


def _walk(rng: Rng, place: int, limit: int, size: int) -> int:
    return int(np.clip(place + rng.integers(-limit, limit + 1), 0, size - 1))


def _groove(rng: Rng, first_s: float, last_s: float) -> list[Note]:
    step_s = 60 / rng.uniform(60, 180) / 4
    kick, snare, top = (int(rng.choice(drums)) for drums in (KICKS, SNARES, [*HATS, *RIDES]))
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
            notes += [_hit(rng, t, int(rng.choice(CYMBALS)), 100), _hit(rng, t, 36, 100)]
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
    """Return a snare roll of varying level, in one or several bursts."""
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


_ACOUSTIC: tuple[_Style, ...] = (_slow_notes, _melody, _fingerpicked, _fingerpicked)


_ACOUSTIC = (*_ACOUSTIC, _strummed, _strummed, _slow_chords, _riff)


_DRIVEN: tuple[_Style, ...] = (_power_chords, _power_chords, _melody, _riff, _slow_notes)


_STYLES_OF: dict[int, tuple[_Style, ...]] = {
    28: (_palm_muted, _palm_muted, _power_chords, _riff, _melody),
    29: _DRIVEN,
    30: _DRIVEN,
    31: (_slow_notes, _fingerpicked),
}


_STYLES: dict[str, Callable[[Rng, Player, float, float], list[Note]]] = {
    "long": _long,
    "legato": _legato,
    "detached": _detached,
    "double": _double,
    "trill": _trill,
    "chords": _chords,
}


_ALL: tuple[_Style, ...] = (_groove, _groove, _groove, _fill, _fill, _single, _single, _hats, _roll, _kicks)
