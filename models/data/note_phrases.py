"""Phrases, strums and chords played with the single notes of the data set ``recordings``.

An instrument's phrases are in the fold of its notes, so that no instrument is both trained on and evaluated on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from detector.audio.sources import read_sound
from detector.messages import Samples
from models.console import progress
from models.data.collect import STYLES, playing_range
from models.data.recordings import (
    LABEL_OF_KIND,
    NO_CLASS,
    NotePhrase,
    Recording,
    playable_instruments,
    read_recordings_index,
    write_phrases,
)
from models.files import new_folder
from models.rendering.instruments import Player, compose_guitar, compose_melody
from models.rendering.midi import Phrase, Rng
from models.rendering.synthesis import RATE_HZ, Sampler, from_onset, set_peak

_MIN_PITCHES: Final = 3
_PEAK_DB: Final = -3.0
_SAMPLERS: Final = 3
"""Round robin: an instrument with several recordings of a pitch has so many samplers, each with a random choice."""
_PHRASES: Final = {"guitar": 16, "bowed_strings": 12, "winds": 12}
_OTHER_PHRASES: Final = 8
_PROGRAMS: Final = {
    "distort": (29, 30),
    "overdriven": (29, 30),
    "mute": (28,),
    "electric": (26, 27),
    "jazz": (26, 27),
}
"""General MIDI programs whose styles are used for a guitar, by a word of its articulation."""
_ACOUSTIC_PROGRAMS: Final = (24, 25)
_AMPLIFIED, _DRIVE_DB = 0.3, (0.0, 24.0)
"""Probability that an amplifier saturates a guitar, and its peak level above saturation."""
_STYLE_OF: Final = {"bowed_strings": "bowed", "winds": "blown"}
_OTHER_STYLE: Final = "keys"


def play_notes(folder: Path, out: Path, seed: int = 0) -> list[NotePhrase]:
    """Play phrases with the notes of the data set in ``folder``; write 16-bit FLAC and an index to the new ``out``.

    Raises SourceError where the data set cannot be read, and ConfigError where ``out`` exists or cannot be created.
    """
    instruments = playable_instruments(read_recordings_index(folder), _MIN_PITCHES)
    phrases: list[NotePhrase] = []
    with new_folder(out) as part:
        for (name, kind), notes in progress(instruments.items(), "notes", "instruments"):
            label = LABEL_OF_KIND[kind] or NO_CLASS
            rng = np.random.default_rng([seed, *name.encode(), *kind.encode()])
            (part / label).mkdir(exist_ok=True)
            for wave in _play_instrument(notes, rng):
                path = f"{label}/{len(phrases):04d}-{kind}.flac"
                soundfile.write(part / path, set_peak(wave, _PEAK_DB), RATE_HZ, subtype="PCM_16")
                phrases.append(NotePhrase(path, label, notes[0].fold, f"{name}/{kind}", notes[0].licence))
        write_phrases(part, phrases)
    return phrases


def _play_instrument(notes: Sequence[Recording], rng: Rng) -> list[Samples]:
    """Return an instrument's phrases."""
    label = LABEL_OF_KIND[notes[0].kind]
    takes: dict[int, list[Samples]] = {}
    for note in notes:
        if note.pitch is not None:
            takes.setdefault(note.pitch, []).append(from_onset(read_sound(note.path, RATE_HZ)))
    several = max(map(len, takes.values())) > 1
    samplers = [_sampler(takes, rng) for _ in range(_SAMPLERS if several else 1)]
    composer = _composer(label, {note.articulation for note in notes}, sorted(takes))
    played = []
    for n in range(_PHRASES.get(label or "", _OTHER_PHRASES)):
        wave = samplers[n % len(samplers)].play(composer(rng, n))
        played.append(_amplified(wave, rng) if label == "guitar" and rng.random() < _AMPLIFIED else wave)
    return played


def _sampler(takes: dict[int, list[Samples]], rng: Rng) -> Sampler:
    return Sampler({pitch: waves[int(rng.integers(len(waves)))] for pitch, waves in takes.items()})


def _composer(label: str | None, articulations: set[str], pitches: list[int]) -> Callable[[Rng, int], Phrase]:
    """Return the function that composes the n-th phrase."""
    if label != "guitar":
        style = _STYLE_OF.get(label or "", _OTHER_STYLE)
        player = Player(*playing_range(pitches), STYLES[style], swells=False)
        return lambda rng, _: compose_melody(rng, player=player)
    words = " ".join(articulations)
    programs = next((found for word, found in _PROGRAMS.items() if word in words), _ACOUSTIC_PROGRAMS)
    return lambda rng, n: compose_guitar(rng, program=programs[n % len(programs)])


def _amplified(wave: Samples, rng: Rng) -> Samples:
    driven = set_peak(wave, float(rng.uniform(*_DRIVE_DB)))
    return np.asarray(np.tanh(driven), np.float32)
