"""Recordings of packages as clips in a folder, with an index that says of each what it is and where it is from.

Instruments of the catalogue: phrases played with recordings of single notes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from detector.errors import SourceError
from models.data.catalogue import Entry, Gathered, rows, write_index
from models.data.datasets import read_or_reason
from models.files import new_folder
from models.rendering import material
from models.rendering.instruments import Player, compose_guitar, compose_melody
from models.rendering.midi import Phrase, Rng
from models.rendering.synthesis import RATE_HZ, Sampler, Wave, read_notes, read_patch, set_peak

_PROGRAMS = (24, 25, 28)
"""General MIDI's guitars whose styles a guitar is played in: nylon, steel, muted."""
_LEAST_RANGE = 19
"""Semitones that a melody and its chords need."""
_STYLES = {"bowed": material.BOW, "blown": material.BLOWN, "keys": material.KEYS}


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument of the catalogue."""

    package: str
    label: str
    """A class, or "none"."""
    clips: int
    styles: str
    """guitar, or a group of the styles of ``melodic``."""
    licence: str
    patch: str | None = None
    """A Debian package's patch file; without one, the notes are the files of a package of npm."""

    @property
    def notes(self) -> str:
        """Return where its notes are, below the root that packages are unpacked to."""
        return f"npm/{self.package}/package" if self.patch is None else self.patch

    def play(self, root: Path, seed: int = 0) -> Iterator[Wave]:
        """Yield its phrases; raises SourceError where its notes are missing."""
        notes = read_notes(root / self.notes) if self.patch is None else read_patch(root / self.patch)
        name = self.package if self.patch is None else self.patch
        sampler, rng = Sampler(notes), np.random.default_rng([seed, *name.encode()])
        for n in range(self.clips):
            yield sampler.play(self._composer(n, *_range(notes))(rng))

    def _composer(self, number: int, low: int, high: int) -> Callable[[Rng], Phrase]:
        if self.styles == "guitar":
            return partial(compose_guitar, program=_PROGRAMS[number % len(_PROGRAMS)])
        player = Player(low, high, _STYLES[self.styles], swells=False)
        return partial(compose_melody, player=player)


def _range(notes: Mapping[int, Wave]) -> tuple[int, int]:
    """Return the lowest and the highest pitch to compose for: those of the notes, and further where these are close."""
    low, high = min(notes), max(notes)
    further = max(0, _LEAST_RANGE - (high - low))
    return low - further // 2, high + further - further // 2


def read_instruments() -> list[Instrument]:
    """Return the catalogue's instruments; all are there to train with."""
    return [
        Instrument(r["package"], r["class"], r["clips"], r["styles"], r["licence"], r.get("patch"))
        for r in rows("instruments")
    ]


def check_instruments(instruments: list[Instrument], root: Path) -> None:
    """Raise SourceError that names the packages of npm which are not there, or where all are, those of Debian."""
    missing = [i for i in instruments if not (root / i.notes).exists()]
    if npm := [i.package for i in missing if i.patch is None]:
        raise SourceError(f"{root}: no notes of {' '.join(npm)} there; npm pack each, unpack it to npm/PACKAGE")
    if debian := sorted({i.package for i in missing}):
        names = " ".join(debian)
        raise SourceError(f"{root}: not all notes of {names} there; apt-get download {names}; dpkg -x ...")


_PEAK_DB = -3.0
_SHORTEST_S, _LONGEST_S = 0.08, 30.0
_LOUD = 1e-3


class _Listed(NamedTuple):
    """A recording of the catalogue, and where it is from."""

    entry: Entry
    path: Path
    origin: str


@dataclass(frozen=True, slots=True)
class _Made:
    """A sound before it is written."""

    label: str
    package: str
    file: str
    licence: str
    wave: Wave | str
    """Samples, or why there are none."""


def gather(
    entries: Sequence[Entry], instruments: Sequence[Instrument], root: Path, out: Path
) -> tuple[list[Gathered], list[str]]:
    """Write the recordings below ``root``, and what is played with notes, as 16-bit FLAC to a new folder; list them.

    Return the clips, and a line for each file that was left out. Raises SourceError where an entry
    of the catalogue finds nothing, and ConfigError where the folder is or cannot be made.
    """
    with ExitStack() as stack:
        opened = [(entry, stack.enter_context(entry.opened(root))) for entry in entries]
        listed = [_Listed(entry, path, entry.origin(path, at)) for entry, at in opened for path in entry.paths(at)]
        full = {one.entry for one in listed}
        _check_found([(entry, at) for entry, at in opened if entry not in full], root)
        check_instruments(list(instruments), root)
        total = len(listed) + sum(i.clips for i in instruments)
        made = tqdm(_made(listed, instruments, root), total=total, unit="clip", desc="gather", disable=None)
        return _write_all(stack.enter_context(new_folder(out)), made)


def _check_found(empty: Sequence[tuple[Entry, Path]], root: Path) -> None:
    """Raise SourceError where entries found nothing: their packages are missing, or hold other files."""
    if missing := sorted({entry.package for entry, at in empty if not (at / entry.folder).is_dir()}):
        names = " ".join(missing)
        raise SourceError(f"{root}: no sounds of {names} there; unpack them: apt-get download {names}; dpkg -x ...")
    if empty:
        told = "; ".join(f"in {entry.folder} of {entry.package} ({', '.join(entry.only)})" for entry, _ in empty)
        raise SourceError(f"{root}: nothing to take {told}; the catalogue is for Debian 12: unpack its packages")


def _made(listed: Sequence[_Listed], instruments: Sequence[Instrument], root: Path) -> Iterator[_Made]:
    with ThreadPoolExecutor() as pool:
        waves = pool.map(_cut_or_reason, (one.path for one in listed))
        for (entry, path, origin), found in zip(listed, waves, strict=True):
            # What is wrong with it is told of where it is from, not of where it was unpacked to for a while.
            wave = found.replace(str(path), str(root / origin)) if isinstance(found, str) else found
            yield _Made(entry.label, entry.package, origin, entry.licence, wave)
    for instrument in instruments:
        for played in instrument.play(root):
            wave = set_peak(played, _PEAK_DB)
            yield _Made(instrument.label, instrument.package, instrument.notes, instrument.licence, wave)


def _write_all(out: Path, made: Iterator[_Made]) -> tuple[list[Gathered], list[str]]:
    clips, problems = list[Gathered](), list[str]()
    counts: dict[tuple[str, str], int] = {}
    for sound in made:
        if isinstance(sound.wave, str):
            problems.append(f"{sound.wave}; left out")
            continue
        key = (sound.label, sound.package)
        counts[key] = counts.get(key, 0) + 1
        name = f"{sound.label}/{sound.package}-{counts[key]:03d}.flac"
        (out / sound.label).mkdir(exist_ok=True)
        soundfile.write(out / name, sound.wave, RATE_HZ, subtype="PCM_16")
        clips.append(Gathered(name, sound.label, sound.package, sound.file, sound.licence))
    write_index(out, clips)
    return clips, problems


def _cut_or_reason(path: Path) -> Wave | str:
    """Return a recording from where it is loud to where it ends being so, or why there is none."""
    wave = read_or_reason(path, RATE_HZ)
    if isinstance(wave, str):
        return wave
    wave = set_peak(wave, _PEAK_DB)
    loud = np.flatnonzero(np.abs(wave) > _LOUD)
    if loud.size == 0 or loud[-1] - loud[0] < _SHORTEST_S * RATE_HZ:
        return f"{path}: shorter than {_SHORTEST_S:g} s"
    return wave[loud[0] : loud[-1] + 1][: round(_LONGEST_S * RATE_HZ)]
