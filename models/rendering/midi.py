"""Phrases of notes in seconds, the random choices that composers share, and a MIDI file of several phrases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import mido
import numpy as np

PITCH_BEND = -1
"""A control's number for the pitch wheel; its values are -8192 to 8191 (two semitones down, up)."""
VIBRATO, EXPRESSION, REVERBERATION = 1, 11, 91
DRUM_CHANNEL = 9
"""The tenth channel, counted from zero."""
TICKS_PER_S = 2000
_TAIL_S = 2.0
_SHORTEST_S = 0.01
_ALL_SOUND_OFF, _RESET_CONTROLLERS = 120, 121
Rng = np.random.Generator
Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Note:
    """A note from ``start_s`` of ``length_s`` seconds; pitch and velocity as in MIDI, 0 to 127."""

    start_s: float
    length_s: float
    pitch: int
    velocity: int


@dataclass(frozen=True, slots=True)
class Control:
    """A value of a controller (its MIDI number, or PITCH_BEND) at a time."""

    time_s: float
    number: int
    value: int


@dataclass(frozen=True, slots=True)
class Phrase:
    """The notes and controls of one clip; times are relative to its start."""

    length_s: float
    notes: tuple[Note, ...]
    controls: tuple[Control, ...] = field(default=())


def begin_at(notes: Sequence[Note], first_s: float) -> list[Note]:
    """Move notes together so that the earliest starts at ``first_s``."""
    by_s = first_s - min((note.start_s for note in notes), default=first_s)
    return [replace(note, start_s=note.start_s + by_s) for note in notes]


def one_key_at_a_time(notes: Sequence[Note]) -> list[Note]:
    """End each note where its key is pressed again: otherwise its release would stop the later note."""
    next_s: dict[int, float] = {}
    kept = []
    for note in sorted(notes, key=lambda n: (n.start_s, n.pitch), reverse=True):
        end_s = min(note.start_s + note.length_s, next_s.get(note.pitch, float("inf")))
        if end_s - note.start_s >= _SHORTEST_S:
            kept.append(replace(note, length_s=end_s - note.start_s))
            next_s[note.pitch] = note.start_s
    return kept[::-1]


def slot_starts(phrases: Sequence[Phrase]) -> list[float]:
    """Return the start of each phrase in the MIDI file, in seconds; a pause follows each."""
    starts, now_s = [], 0.0
    for phrase in phrases:
        starts.append(now_s)
        now_s += phrase.length_s + _TAIL_S
    return starts


def build_midi(phrases: Sequence[Phrase], program: int, *, drums: bool = False) -> mido.MidiFile:
    """Write phrases into one track, so that the synthesiser loads its soundfont once for all of them."""
    channel = DRUM_CHANNEL if drums else 0
    timed = [(0, 0, mido.Message("program_change", channel=channel, program=program))]
    for start_s, phrase in zip(slot_starts(phrases), phrases, strict=True):
        timed += [(_ticks(start_s + t), order, message) for t, order, message in _messages(phrase, channel)]
    track, now = mido.MidiTrack(), 0
    # Sorting is stable and by (tick, order) only: equal times keep the order in which they were written.
    for tick, _, message in sorted(timed, key=lambda item: item[:2]):
        track.append(message.copy(time=tick - now))
        now = tick
    track.append(mido.MetaMessage("end_of_track", time=0))
    # 120 beats a minute is the standard's default tempo, so half of the ticks of a second make a beat.
    return mido.MidiFile(type=0, ticks_per_beat=TICKS_PER_S // 2, tracks=[track])


def beat_s(rng: Rng, fastest: float) -> float:
    """Draw the length of a beat: 50 to ``fastest`` beats per minute, log-uniform."""
    return float(60 / np.exp(rng.uniform(np.log(50), np.log(fastest))))


def velocity(rng: Rng) -> int:
    """Draw the velocity of a phrase."""
    return int(rng.integers(45, 121))


def near(rng: Rng, loud: int) -> int:
    """Draw the velocity of one note in a phrase of velocity ``loud``."""
    return int(np.clip(loud + rng.normal(0, 8), 20, 127))


def scale(rng: Rng, scales: tuple[tuple[int, ...], ...], low: int, high: int) -> list[int]:
    """Return the pitches from low to high of one of the scales (semitones above the key), in a random key."""
    steps, key = scales[rng.integers(len(scales))], int(rng.integers(12))
    return [pitch for pitch in range(low, high + 1) if (pitch - key) % 12 in steps]


def with_rest(rng: Rng, notes: Sequence[Note], begin_s: Span, length_s: Span) -> list[Note]:
    """Insert a rest: remove notes that start in it, and stop those that still sound."""
    begin = rng.uniform(*begin_s)
    end = begin + rng.uniform(*length_s)
    return [
        note if note.start_s >= end else replace(note, length_s=min(note.length_s, begin - note.start_s))
        for note in notes
        if not begin <= note.start_s < end
    ]


def _messages(phrase: Phrase, channel: int) -> Iterator[tuple[float, int, mido.Message]]:
    """Yield (time, order among equal times, message): controls, then releases, then presses."""

    def change(number: int, value: int) -> mido.Message:
        if number == PITCH_BEND:
            return mido.Message("pitchwheel", channel=channel, pitch=value)
        return mido.Message("control_change", channel=channel, control=number, value=value)

    silent_s = phrase.length_s + _TAIL_S / 4
    yield 0.0, 0, change(_RESET_CONTROLLERS, 0)
    # Notes and controls must not extend into the next phrase, not even as a release.
    for control in phrase.controls:
        if control.time_s < silent_s:
            yield control.time_s, 1, change(control.number, control.value)
    for note in one_key_at_a_time(phrase.notes):
        if note.start_s >= phrase.length_s:
            continue
        end_s = min(note.start_s + note.length_s, silent_s)
        yield end_s, 2, mido.Message("note_off", channel=channel, note=note.pitch)
        yield note.start_s, 3, mido.Message("note_on", channel=channel, note=note.pitch, velocity=note.velocity)
    yield silent_s, 4, change(_ALL_SOUND_OFF, 0)


def _ticks(time_s: float) -> int:
    return round(time_s * TICKS_PER_S)
