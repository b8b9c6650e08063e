"""Instruments from recordings of their single notes: a phrase is played with each note's nearest neighbour."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import soxr

from detector.audio.sources import read_sound
from detector.errors import SourceError
from models.rendering.score import Phrase, one_key_at_a_time
from models.rendering.synthesis import RATE_HZ, Wave

_NAME = re.compile(r"([A-G])(s?)(\d)")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_OCTAVE = 12
_RELEASE_S = 0.08
_LOUD = 0.02
"""A recording begins where it first reaches this share of its peak."""


def pitch_of(path: Path) -> int | None:
    """Return the MIDI pitch that a file is named after, such as 61 for "Cs4.mp3"; None for other names."""
    found = _NAME.fullmatch(path.stem)
    return _OCTAVE * (int(found[3]) + 1) + _STEPS[found[1]] + bool(found[2]) if found else None


def read_notes(folder: Path) -> dict[int, Wave]:
    """Return the recordings of a folder by MIDI pitch, each from its beginning; raises SourceError where none is."""
    named = {pitch: path for path in sorted(folder.glob("*")) if (pitch := pitch_of(path)) is not None}
    if not named:
        raise SourceError(f"{folder}: no recordings of notes there, such as Cs4.mp3")
    return {pitch: _from_its_beginning(read_sound(path, RATE_HZ)) for pitch, path in named.items()}


class Sampler:
    """One instrument."""

    def __init__(self, notes: Mapping[int, Wave]) -> None:
        """Take its notes by MIDI pitch; raises ValueError where there is none."""
        if not notes:
            raise ValueError("an instrument needs a note")
        self._notes = notes
        self._at = cache(self._shifted)

    def play(self, phrase: Phrase) -> Wave:
        """Play a phrase, cut to its length; what is beyond the instrument's range is played octaves nearer."""
        out = np.zeros(round(phrase.length_s * RATE_HZ), np.float32)
        for note in one_key_at_a_time(phrase.notes):
            first = round(note.start_s * RATE_HZ)
            wave = self._at(self._within(note.pitch))[: max(0, out.size - first)]
            late_s = np.maximum(0, np.arange(wave.size) / RATE_HZ - note.length_s)
            wave = wave * np.exp(-late_s * 5 / _RELEASE_S)
            out[first : first + wave.size] += wave * (note.velocity / 127) ** 1.5
        return out

    def _within(self, pitch: int) -> int:
        low, high = min(self._notes), max(self._notes)
        while pitch < low - 2 and pitch + _OCTAVE <= high + 2:
            pitch += _OCTAVE
        while pitch > high + 2 and pitch - _OCTAVE >= low - 2:
            pitch -= _OCTAVE
        return pitch

    def _shifted(self, pitch: int) -> Wave:
        nearest = min(self._notes, key=lambda p: (abs(p - pitch), p))
        factor = 2 ** ((pitch - nearest) / _OCTAVE)
        return np.asarray(soxr.resample(self._notes[nearest], RATE_HZ * factor, RATE_HZ), np.float32)


def _from_its_beginning(wave: Wave) -> Wave:
    loud = np.flatnonzero(np.abs(wave) > _LOUD * np.abs(wave).max(initial=0.0))
    return wave[loud[0] :] if loud.size else wave
