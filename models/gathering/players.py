"""Instruments of the catalogue: phrases played with recordings of single notes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from detector.errors import SourceError
from models.gathering.catalogue import rows
from models.rendering import guitar, material, melodic
from models.rendering.chance import Rng
from models.rendering.melodic import Player
from models.rendering.sampler import Sampler, read_notes
from models.rendering.score import Phrase
from models.rendering.synthesis import Wave

LICENCE = "MIT, its samples CC BY 3.0"
_PROGRAMS = (24, 25, 28)
"""General MIDI's guitars whose styles a guitar is played in: nylon, steel, muted."""
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

    @property
    def folder(self) -> str:
        """Return where its notes are, below the root that packages are unpacked to."""
        return f"npm/{self.package}/package"

    def play(self, root: Path, seed: int = 0) -> Iterator[Wave]:
        """Yield its phrases; raises SourceError where its notes are missing."""
        notes = read_notes(root / self.folder)
        sampler, rng = Sampler(notes), np.random.default_rng([seed, *self.package.encode()])
        for n in range(self.clips):
            yield sampler.play(self._composer(n, min(notes), max(notes))(rng))

    def _composer(self, number: int, low: int, high: int) -> Callable[[Rng], Phrase]:
        if self.styles == "guitar":
            return partial(guitar.compose, program=_PROGRAMS[number % len(_PROGRAMS)])
        player = Player(low, high, _STYLES[self.styles], swells=False)
        return partial(melodic.compose, player=player)


def read_instruments() -> list[Instrument]:
    """Return the catalogue's instruments; all are there to train with."""
    return [Instrument(r["package"], r["class"], r["clips"], r["styles"]) for r in rows("instruments")]


def check_instruments(instruments: list[Instrument], root: Path) -> None:
    """Raise SourceError that names every package which is not there."""
    if missing := [i.package for i in instruments if not (root / i.folder).is_dir()]:
        raise SourceError(f"{root}: no notes of {' '.join(missing)} there; npm pack each, unpack it to npm/PACKAGE")
