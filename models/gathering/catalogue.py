"""The catalogue of recordings: which files of which package are of which class."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from detector.sound_names import is_sound_name

Use = Literal["train", "judge"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder of one package, and what of it is of a class."""

    package: str
    folder: str
    """Below the root that packages are unpacked to."""
    label: str
    """A class, or "none"."""
    licence: str
    excepted: tuple[str, ...]
    """Patterns of paths below the folder that are left out."""
    most: int | None
    """How many at most, evenly over the sorted names."""

    def paths(self, root: Path) -> list[Path]:
        """Return the sound files of the entry below the root, sorted; none where the package is missing."""
        folder = root / self.folder
        found = sorted(p for p in folder.rglob("[!.]*") if p.is_file() and is_sound_name(p))
        names = [(p.relative_to(folder).as_posix(), p) for p in found]
        kept = [p for name, p in names if not any(fnmatch.fnmatchcase(name, e) for e in self.excepted)]
        if self.most is None or len(kept) <= self.most:
            return kept
        return [kept[i * len(kept) // self.most] for i in range(self.most)]


def read_catalogue(use: Use) -> list[Entry]:
    """Return the catalogue's entries that are there to train, or to judge with; no package is in both."""
    return [
        Entry(
            package=row["package"],
            folder=row["folder"],
            label=row["class"],
            licence=row["licence"],
            excepted=tuple(row["except"]),
            most=row.get("most"),
        )
        for row in rows("sounds")
        if row["use"] == use
    ]


def rows(table: str) -> list[dict[str, Any]]:
    """Return the rows of one of the catalogue's tables: sounds or instruments."""
    text = resources.files("models.gathering").joinpath("catalogue.toml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = tomllib.loads(text)[table]
    return found
