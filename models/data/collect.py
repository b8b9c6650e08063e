"""Clips collected from Debian and npm packages: recordings, and phrases played with samples of instruments.

Clips are written to a folder with an index that names the class, package, file and licence of each.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from detector.errors import SourceError
from detector.messages import Samples
from models.console import progress
from models.data.catalogue import Entry, Gathered, rows, write_index
from models.data.datasets import read_or_reason
from models.files import new_folder
from models.rendering import material
from models.rendering.instruments import Player, compose_guitar, compose_melody
from models.rendering.midi import Phrase, Rng
from models.rendering.synthesis import RATE_HZ, Sampler, read_notes, read_patch, set_peak

_PROGRAMS = (24, 25, 28)
"""General MIDI programs whose styles are used for guitars: nylon, steel, muted."""
_MIN_RANGE = 19
"""Range in semitones that melodies and chords need."""
_PEAK_DB = -3.0
_MIN_S, _MAX_S = 0.08, 30.0
_ACTIVE = 1e-3
"""Magnitude above which a sample counts as sound."""
STYLES = {"bowed": material.BOW, "blown": material.BLOWN, "keys": material.KEYS}
"""Styles of melodies, by group of instruments."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument of the catalogue."""

    package: str
    label: str
    """A class, or "none" for out-of-class sounds."""
    clips: int
    styles: str
    """guitar, bowed, blown or keys: the composer to use."""
    licence: str
    patch: str | None = None
    """Patch file of a Debian package; None where the notes are files of an npm package."""

    @property
    def notes(self) -> str:
        """Path of its notes below the root to which packages are unpacked."""
        return f"npm/{self.package}/package" if self.patch is None else self.patch

    def play(self, root: Path, seed: int = 0) -> Iterator[Samples]:
        """Yield its phrases; raises SourceError where its notes are missing."""
        notes = read_notes(root / self.notes) if self.patch is None else read_patch(root / self.patch)
        name = self.package if self.patch is None else self.patch
        sampler, rng = Sampler(notes), np.random.default_rng([seed, *name.encode()])
        for n in range(self.clips):
            yield sampler.play(self._composer(n, *playing_range(notes))(rng))

    def _composer(self, number: int, low: int, high: int) -> Callable[[Rng], Phrase]:
        if self.styles == "guitar":
            return partial(compose_guitar, program=_PROGRAMS[number % len(_PROGRAMS)])
        player = Player(low, high, STYLES[self.styles], swells=False)
        return partial(compose_melody, player=player)


def read_instruments() -> list[Instrument]:
    """Return the catalogue's instruments, all of them for training."""
    return [
        Instrument(r["package"], r["class"], r["clips"], r["styles"], r["licence"], r.get("patch"))
        for r in rows("instruments")
    ]


def playing_range(notes: Collection[int]) -> tuple[int, int]:
    """Return the lowest and highest pitch to compose for: those of the notes, extended to 19 semitones."""
    low, high = min(notes), max(notes)
    further = max(0, _MIN_RANGE - (high - low))
    return low - further // 2, high + further - further // 2


def check_instruments(instruments: list[Instrument], root: Path) -> None:
    """Raise SourceError that names the missing npm packages or, where none is missing, the Debian ones."""
    missing = [i for i in instruments if not (root / i.notes).exists()]
    if npm := [i.package for i in missing if i.patch is None]:
        raise SourceError(f"{root}: no notes of {' '.join(npm)} there; npm pack each, unpack it to npm/PACKAGE")
    if debian := sorted({i.package for i in missing}):
        names = " ".join(debian)
        raise SourceError(f"{root}: not all notes of {names} there; apt-get download {names}; dpkg -x ...")


def gather(
    entries: Sequence[Entry], instruments: Sequence[Instrument], root: Path, out: Path
) -> tuple[list[Gathered], list[str]]:
    """Write the recordings below ``root`` and the played phrases as 16-bit FLAC to a new folder, with an index.

    Return the clips, and a line for each file that was left out. Raises SourceError where an entry of the
    catalogue matches nothing, ConfigError where the folder exists or cannot be created.
    """
    with ExitStack() as stack:
        opened = [(entry, stack.enter_context(entry.opened(root))) for entry in entries]
        listed = [_Listed(entry, path, entry.origin(path, at)) for entry, at in opened for path in entry.paths(at)]
        full = {one.entry for one in listed}
        _check_found([(entry, at) for entry, at in opened if entry not in full], root)
        check_instruments(list(instruments), root)
        total = len(listed) + sum(i.clips for i in instruments)
        made = progress(_made(listed, instruments, root), "gather", "clips", total)
        return _write_all(stack.enter_context(new_folder(out)), made)


class _Listed(NamedTuple):
    """A recording of the catalogue with its origin."""

    entry: Entry
    path: Path
    origin: str


@dataclass(frozen=True, slots=True)
class _Made:
    """A clip before it is written."""

    label: str
    package: str
    file: str
    licence: str
    wave: Samples | str
    """Samples, or the reason why there are none."""


def _check_found(empty: Sequence[tuple[Entry, Path]], root: Path) -> None:
    """Raise SourceError for entries without files: their packages are missing, or of another version."""
    if missing := sorted({entry.package for entry, at in empty if not (at / entry.folder).is_dir()}):
        names = " ".join(missing)
        raise SourceError(f"{root}: no sounds of {names}; unpack them: apt-get download {names}; dpkg -x ...")
    if empty:
        missing_files = "; ".join(
            f"in {entry.folder} of {entry.package} ({', '.join(entry.only)})" for entry, _ in empty
        )
        raise SourceError(
            f"{root}: nothing to take {missing_files}; the catalogue is for Debian 12: unpack its packages"
        )


def _made(listed: Sequence[_Listed], instruments: Sequence[Instrument], root: Path) -> Iterator[_Made]:
    with ThreadPoolExecutor() as pool:
        waves = pool.map(_cut_or_reason, (one.path for one in listed))
        for (entry, path, origin), found in zip(listed, waves, strict=True):
            # A problem is reported with the origin, not with the temporary path of an unpacked file.
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


def _cut_or_reason(path: Path) -> Samples | str:
    """Return a recording trimmed to its active part, or the reason why it cannot be used."""
    wave = read_or_reason(path, RATE_HZ)
    if isinstance(wave, str):
        return wave
    wave = set_peak(wave, _PEAK_DB)
    active = np.flatnonzero(np.abs(wave) > _ACTIVE)
    if active.size == 0 or active[-1] - active[0] < _MIN_S * RATE_HZ:
        return f"{path}: shorter than {_MIN_S:g} s"
    return wave[active[0] : active[-1] + 1][: round(_MAX_S * RATE_HZ)]
