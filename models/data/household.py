"""The household data: class, source and fold of each clip.

Folds are 1 to 5: those of ESC-10, by speaker for the spoken digits, and in turn for the other folders.
Fold 5 is never trained on; folds 1 to 4 can be left out one at a time to choose settings. The data set ``recordings``
has folds of its own, and phrases played with its notes have those of the notes. Rendered and gathered material has
fold 0 and is for training only.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from detector.errors import SourceError
from detector.manifest import DataSource
from models.data.catalogue import read_index
from models.data.clips import Clip
from models.data.recordings import (
    INSTRUMENT_SOURCE,
    NOTE_SOURCE,
    PHRASE_SOURCE,
    SOURCE,
    read_phrases,
    read_recordings,
)

TEST_FOLD = 5

ESC10 = (
    "baby_cry",
    "chainsaw",
    "clock_tick",
    "dog_bark",
    "fire_crackling",
    "helicopter",
    "person_sneeze",
    "rain",
    "rooster",
    "sea_waves",
)

INSTRUMENTS = {
    "acoustic_guitar": "guitar",
    "violin_or_fiddle": "bowed_strings",
    "cello": "bowed_strings",
    "double_bass": "bowed_strings",
    "flute": "winds",
    "clarinet": "winds",
    "saxophone": "winds",
    "bass_drum": "drums",
    "snare_drum": "drums",
    "hi_hat": "drums",
}
GATHERED = "gathered"
"""Folder below the material with the clips of snn-train gather."""
PLAYED = "played"
"""Folder below the material with the phrases of snn-train play-notes."""
RECORDINGS = "recordings"
"""Folder below the data that ``models.data.recordings`` reads; the only one that may be missing."""
RENDERED = {"guitar": "guitar", "bowed": "bowed_strings", "winds": "winds", "drums": "drums", "speech": "speech"}
_RECORDINGS_LICENCE = "CC0, CC BY, CC BY-SA, ODbL, MIT, GPL and others, per clip in its index"
SOURCES = (
    DataSource("esc10", "CC BY 3.0 (credits per clip in the data set's README)", "ESC-10, K. J. Piczak: ten classes"),
    DataSource("instruments", "CC0 or CC BY 3.0 per clip", "ten instruments of FSDKaggle2018, Freesound uploaders"),
    DataSource("guitar_notes", "CC0", "Spanish classical guitar, FreePats"),
    DataSource("speech_digits", "CC BY-SA 4.0", "Free Spoken Digit Dataset"),
    DataSource(
        "rendered",
        "MIT and public-domain sound fonts, Apache-2.0 scores",
        "FluidR3 GM, GMbank and MuseScore General by fluidsynth, espeak-ng, strings and noises by numpy",
    ),
    DataSource(
        "gathered",
        "GPL-2+, GPL-3+, CC0, CC BY 3.0 and others, per clip in its index",
        "out-of-class sounds, voices and instruments of Debian and npm packages (models/data/catalogue.toml)",
    ),
    DataSource(SOURCE, _RECORDINGS_LICENCE, "sounds of some hundred free collections, credits per clip in its index"),
    DataSource(INSTRUMENT_SOURCE, _RECORDINGS_LICENCE, "out-of-class instruments of the same collections"),
    DataSource(NOTE_SOURCE, _RECORDINGS_LICENCE, "single notes of instruments of the same collections"),
    DataSource(PHRASE_SOURCE, _RECORDINGS_LICENCE, "phrases played with these notes"),
)
"""Sources of the training data, with licences, for manifests."""
SPEAKER_FOLD = {"george": 1, "jackson": 2, "lucas": 3, "nicolas": 4, "theo": TEST_FOLD, "yweweler": TEST_FOLD}


def list_clips(data: Path, material: Path | None = None) -> list[Clip]:
    """List all clips below the data folder and, if given, of the rendered, gathered and played material.

    Raises SourceError where a folder is missing or empty, or an index cannot be used.
    """
    found = [*_esc10(data / "esc10"), *_instruments(data / "instruments")]
    found += [*_notes(data / "guitar_notes"), *_speech(data / "speech_digits")]
    if (data / RECORDINGS).is_dir():
        found += read_recordings(data / RECORDINGS)
    if material is not None:
        found += _rendered(material)
        if (material / GATHERED).is_dir():
            found += _gathered(material / GATHERED)
        if (material / PLAYED).is_dir():
            found += read_phrases(material / PLAYED)
    return found


def _esc10(folder: Path) -> Iterator[Clip]:
    for label in ESC10:
        for path in _files(folder / label, ".ogg"):
            yield Clip(path, label, "esc10", int(path.name[0]))


def _instruments(folder: Path) -> Iterator[Clip]:
    for name, label in INSTRUMENTS.items():
        for i, path in enumerate(_files(folder / name, ".flac")):
            yield Clip(path, label, "instruments", i % 5 + 1)


def _notes(folder: Path) -> Iterator[Clip]:
    for i, path in enumerate(_files(folder, ".flac")):
        yield Clip(path, "guitar", "guitar_notes", i % 5 + 1)


def _speech(folder: Path) -> Iterator[Clip]:
    for path in _files(folder, ".wav"):
        speaker = path.stem.split("_")[1]
        if speaker not in SPEAKER_FOLD:
            raise SourceError(f"{path}: speaker {speaker!r} has no fold; known are {', '.join(SPEAKER_FOLD)}")
        yield Clip(path, "speech", "speech_digits", SPEAKER_FOLD[speaker])


def _rendered(folder: Path) -> list[Clip]:
    index = folder / "index.csv"
    if not index.is_file():
        raise SourceError(f"{folder}: no index.csv; render it with: python -m models.rendering material {folder}")
    with index.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [Clip(folder / r["path"], RENDERED.get(r["class"]), "rendered", 0) for r in rows]


def _gathered(folder: Path) -> Iterator[Clip]:
    for row in read_index(folder):
        yield Clip(folder / row.path, None if row.label == "none" else row.label, "gathered", 0)


def _files(folder: Path, suffix: str) -> list[Path]:
    paths = sorted(folder.glob(f"*{suffix}"))
    if not paths:
        raise SourceError(f"{folder}: no {suffix} files there; name the folder of recordings with --data")
    return paths
