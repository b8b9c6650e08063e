"""Instruments of the catalogue: phrases played with recordings of single notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from detector.errors import SourceError
from models.gathering.catalogue import rows
from models.rendering import material
from models.rendering.chance import Rng
from models.rendering.guitar import compose_guitar
from models.rendering.melodic import Player, compose_melody
from models.rendering.patch import read_patch
from models.rendering.sampler import Sampler, read_notes
from models.rendering.score import Phrase
from models.rendering.synthesis import Wave

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
