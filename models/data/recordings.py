"""The data set ``recordings``: clips of many free collections in one index, and phrases played with its notes.

The folder's index.csv lists label, kind, source, recording, licence and fold of each clip. The folds are used as they
are; an index with one recording (source and recording) in two folds is refused, since a network could then be
evaluated on a recording that it was trained on. Single notes (label ``notes``) are clips of the class of their
instrument; ``models.data.note_phrases`` plays phrases with them, which ``read_phrases`` lists.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from detector.errors import SourceError
from models.data.clips import Clip, read_rows

INDEX: Final = "index.csv"
PHRASES_INDEX: Final = "played.csv"
EXCLUDED: Final = "recordings_excluded.csv"
"""Beside this module: clips that are copies of recordings of another data set, found by ``snn-train find-copies``."""
SOURCE, INSTRUMENT_SOURCE, NOTE_SOURCE, PHRASE_SOURCE = (
    "recordings",
    "recordings_instruments",
    "recordings_notes",
    "recordings_played",
)
"""Sources, each with a sampling weight of its own: sounds, out-of-class instruments, single notes, phrases."""
NO_CLASS: Final = "none"
"""Label of out-of-class sounds in both indices."""
_COLUMNS: Final = ("path", "label", "kind", "recording", "source", "licence", "midi", "articulation", "fold")
_PHRASES_COLUMNS: Final = ("path", "class", "fold", "instrument", "licence")
_FOLDS: Final = frozenset("12345")
_EVALUATION_PACKAGES: Final = frozenset({"deb:scratch", "deb:tuxpaint-stamps-default"})
"""The catalogue reserves these packages for evaluation."""
_PLAYED_PACKAGES: Final = frozenset({"deb:fluid-soundfont-gm", "deb:freepats"})
"""The training material is played with instruments of these packages: their notes in fold 5 would not be unseen."""
_PERMISSIVE: Final = re.compile(
    r"(CC0\b|CC[ -]BY[ -]\d|MIT\b|Apache-2\.0|BSD-|ODbL-|Public Domain|Unlicense)", re.IGNORECASE
)
"""How the licences begin under which data made from a clip may ship. Copyleft licences of programs, CC BY-SA, -NC and
-ND, and statements that are incomplete or unusual are not among them."""
_NOTES, _MUSIC, _OTHER_INSTRUMENT = "notes", "music", "other_instrument"
_WINDS = (
    "alto_sax",
    "baritone_sax",
    "bassoon",
    "clarinet",
    "english_horn",
    "flute",
    "french_horn",
    "oboe",
    "pan_flute",
    "piccolo",
    "recorder",
    "shehnai",
    "soprano_sax",
    "tenor_sax",
    "trombone",
    "trumpet",
    "tuba",
)
_BOWED = (
    "cello",
    "cello_section",
    "double_bass_bowed",
    "string_section",
    "strings_tremolo",
    "viola",
    "violin",
    "violin_section",
)
_OUT_OF_CLASS = (
    "accordion",
    "bagpipe",
    "celesta",
    "choir",
    "clavinet",
    "dulcimer",
    "electric_piano",
    "glockenspiel",
    "harmonica",
    "harp",
    "harpsichord",
    "humming_voice",
    "kalimba",
    "marimba",
    "music_box",
    "organ",
    "piano",
    "steel_drum",
    "vibraphone",
    "xylophone",
)
LABEL_OF_KIND: Final[dict[str, str | None]] = {
    "guitar": "guitar",
    "drumkit": "drums",
    **dict.fromkeys(_WINDS, "winds"),
    **dict.fromkeys(_BOWED, "bowed_strings"),
    **dict.fromkeys(_OUT_OF_CLASS, None),
}
"""Class of single notes by instrument; None: out of class. Instruments too similar to a class to be called either
(bass guitars, banjo, shamisen, sitar, plucked double basses and strings, tabla, didgeridoo) are not listed."""
_SIMILAR_INSTRUMENTS: Final = frozenset({"bass_string", "sitar"})
"""Recordings of such instruments, by kind, among those labelled ``other_instrument``."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One row of the index."""

    path: Path
    label: str
    kind: str
    """The instrument of a note, or the kind of an out-of-class sound."""
    recording: str
    """Source and recording, player or instrument; rows that share it are in one fold."""
    source: str
    licence: str
    author: str
    """"": the index names none."""
    articulation: str
    pitch: int | None
    """MIDI pitch of a single note, where it is known."""
    fold: int


@dataclass(frozen=True, slots=True)
class NotePhrase:
    """One phrase played with the notes of an instrument."""

    path: str
    """Below the folder of the phrases."""
    label: str
    """A class, or "none"."""
    fold: int
    """Fold of the instrument's notes."""
    instrument: str
    licence: str


def read_recordings_index(folder: Path) -> list[Recording]:
    """Return the rows of a folder's index that may be used for training or evaluation.

    Packages that the catalogue reserves for evaluation and copies of recordings of other data sets are left out.
    Raises SourceError where the index is missing or damaged, or a recording is in two folds.
    """
    excluded = excluded_paths()
    found: list[Recording] = []
    folds: dict[str, int] = {}
    for line, row in read_rows(folder / INDEX, _COLUMNS):
        where = f"{folder / INDEX}: line {line}"
        recording = _recording(folder, row, where)
        if folds.setdefault(recording.recording, recording.fold) != recording.fold:
            raise SourceError(
                f"{where}: {row['recording']} of {row['source']} is in fold {folds[recording.recording]} already and "
                f"in fold {recording.fold} here; give all clips of a recording one fold"
            )
        if row["source"] not in _EVALUATION_PACKAGES and row["path"] not in excluded:
            found.append(recording)
    return found


def kind_of(row: Recording) -> str:
    """Return what a recording sounds like: its class, or the kind of a note or of a sound of no class."""
    return row.kind if row.label in (NO_CLASS, _NOTES, _OTHER_INSTRUMENT) else row.label


def read_recordings(folder: Path) -> Iterator[Clip]:
    """Yield the clips of the folder, with their folds, except mixed music: it may contain any musical class.

    Raises what ``read_recordings_index`` raises.
    """
    for row in usable_rows(read_recordings_index(folder)):
        label, source = label_and_source(row)
        yield Clip(row.path, label, source, row.fold, row.recording)


def playable_instruments(rows: Sequence[Recording], min_pitches: int) -> dict[tuple[str, str], list[Recording]]:
    """Return the usable notes of each instrument with at least ``min_pitches`` different pitches.

    The keys are (recording, kind).
    """
    groups: dict[tuple[str, str], list[Recording]] = {}
    for row in rows:
        if row.label == _NOTES and row.pitch is not None and _usable_note(row):
            groups.setdefault((row.recording, row.kind), []).append(row)
    return {key: notes for key, notes in groups.items() if len({n.pitch for n in notes}) >= min_pitches}


def allows_derived_data(licence: str) -> bool:
    """Return whether data made from a clip of this licence, as the index states it, may ship with a model.

    CC0, public domain, Unlicense, CC BY with its version, MIT, Apache-2.0, BSD and ODbL do; no other licence does.
    """
    return _PERMISSIVE.match(licence) is not None


def usable_rows(rows: Iterable[Recording]) -> list[Recording]:
    """Return the rows of sounds and of usable notes, of instruments that are one of a class or clearly none.

    Mixed music is left out: it may contain any musical class.
    """
    return [row for row in rows if _usable(row)]


def excluded_paths() -> frozenset[str]:
    """Return the paths of clips that are copies of recordings of other data sets."""
    with resources.as_file(resources.files("models.data").joinpath(EXCLUDED)) as path:
        return frozenset(row["path"] for _, row in read_rows(path, ("path", "copy_of", "correlation")))


def write_phrases(folder: Path, phrases: Iterable[NotePhrase]) -> None:
    """Write the index of the phrases into their folder."""
    with (folder / PHRASES_INDEX).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([_PHRASES_COLUMNS, *map(astuple, phrases)])


def read_phrases(folder: Path) -> Iterator[Clip]:
    """Yield the phrases of a folder that ``snn-train play-notes`` made; raises SourceError for another folder."""
    for line, row in read_rows(folder / PHRASES_INDEX, _PHRASES_COLUMNS):
        if row["fold"] not in _FOLDS:
            where = f"{folder / PHRASES_INDEX}: line {line}"
            raise SourceError(f"{where}: fold {row['fold']!r} is not 1 to 5; make the phrases again")
        label = None if row["class"] == NO_CLASS else row["class"]
        yield Clip(folder / row["path"], label, PHRASE_SOURCE, int(row["fold"]), row["instrument"])


def _recording(folder: Path, row: dict[str, str], where: str) -> Recording:
    if row["fold"] not in _FOLDS:
        raise SourceError(f"{where}: fold {row['fold']!r} is not 1 to 5; give each clip its fold")
    return Recording(
        path=folder / row["path"],
        label=row["label"],
        kind=row["kind"],
        recording=f"{row['source']}/{row['recording']}",
        source=row["source"],
        licence=row["licence"],
        author=row.get("author", ""),
        articulation=row["articulation"],
        pitch=int(row["midi"]) if row["midi"].isdecimal() else None,
        fold=int(row["fold"]),
    )


def _usable(row: Recording) -> bool:
    if row.label == _NOTES:
        return _usable_note(row)
    return row.label != _MUSIC and not (row.label == _OTHER_INSTRUMENT and row.kind in _SIMILAR_INSTRUMENTS)


def _usable_note(row: Recording) -> bool:
    return row.kind in LABEL_OF_KIND and row.source not in _PLAYED_PACKAGES


def label_and_source(row: Recording) -> tuple[str | None, str]:
    """Return the class of a clip, None if out of class, and the source that it is drawn from."""
    if row.label == _NOTES:
        return LABEL_OF_KIND[row.kind], NOTE_SOURCE
    if row.label == _OTHER_INSTRUMENT:
        return None, INSTRUMENT_SOURCE
    return None if row.label == NO_CLASS else row.label, SOURCE
