"""The catalogue of recordings in Debian and npm packages, and the index of clips collected from them."""

from __future__ import annotations

import csv
import fnmatch
import tempfile
import tomllib
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

from detector.audio.files import is_sound_name
from detector.errors import SourceError

INDEX: Final = "gathered.csv"
COLUMNS: Final = ("path", "class", "package", "file", "licence")
Use = Literal["train", "evaluate"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder of a package, and which of its files belong to a class."""

    package: str
    folder: str
    """Below the root to which packages are unpacked, or in the archive."""
    label: str
    """A class, or "none"."""
    licence: str
    excepted: tuple[str, ...] = ()
    """Patterns of paths below the folder that are left out."""
    only: tuple[str, ...] = ("*",)
    """Patterns of which one has to match."""
    limit: int | None = None
    """Largest number of files, evenly over the sorted names."""
    archive: str | None = None
    """A zip file below the root that contains the folder."""

    @contextmanager
    def opened(self, root: Path) -> Iterator[Path]:
        """Provide the folder that contains the entry's own: the root, or a temporary one with the archive's sounds.

        Where the archive is missing, that folder is empty.
        """
        if self.archive is None:
            yield root
            return
        with tempfile.TemporaryDirectory() as unpacked:
            if (root / self.archive).is_file():
                self._unpack(root / self.archive, Path(unpacked))
            yield Path(unpacked)

    def paths(self, root: Path) -> list[Path]:
        """Return the entry's sound files, sorted, below the folder that ``opened`` provides."""
        folder = root / self.folder
        found = sorted(p for p in folder.rglob("[!.]*") if p.is_file() and is_sound_name(p))
        kept = [p for p in found if self._takes(p.relative_to(folder).as_posix())]
        if self.limit is None or len(kept) <= self.limit:
            return kept
        return [kept[i * len(kept) // self.limit] for i in range(self.limit)]

    def origin(self, path: Path, root: Path) -> str:
        """Return the origin of a file of the opened entry: its path below the root, or in its archive."""
        name = path.relative_to(root).as_posix()
        return name if self.archive is None else f"{self.archive}/{name}"

    def _unpack(self, archive: Path, folder: Path) -> None:
        try:
            with zipfile.ZipFile(archive) as file:
                names = [n for n in file.namelist() if n.startswith(f"{self.folder}/") and is_sound_name(Path(n))]
                file.extractall(folder, names)
        except OSError as error:
            raise SourceError(f"{archive}: cannot be unpacked to {folder} ({error.strerror or error})") from error
        except (EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            raise SourceError(f"{archive}: no zip file that can be read ({error}); unpack the package again") from error

    def _takes(self, name: str) -> bool:
        fits = any(fnmatch.fnmatchcase(name, pattern) for pattern in self.only)
        return fits and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.excepted)


def read_catalogue(use: Use) -> list[Entry]:
    """Return the entries for training or for evaluation; no package is in both."""
    return [
        Entry(
            package=row["package"],
            folder=row["folder"],
            label=row["class"],
            licence=row["licence"],
            excepted=tuple(row.get("except", ())),
            only=tuple(row.get("only", ("*",))),
            limit=row.get("limit"),
            archive=row.get("archive"),
        )
        for row in rows("sounds")
        if row["use"] == use
    ]


def rows(table: str) -> list[dict[str, Any]]:
    """Return the rows of a table of the catalogue: sounds or instruments."""
    text = resources.files("models.data").joinpath("catalogue.toml").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = tomllib.loads(text)[table]
    return found


@dataclass(frozen=True, slots=True)
class Gathered:
    """One clip of the folder, with its origin and licence."""

    path: str
    label: str
    package: str
    file: str
    licence: str


def write_index(folder: Path, clips: Iterable[Gathered]) -> None:
    """Write the index into the folder of the clips."""
    with (folder / INDEX).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *map(astuple, clips)])


def read_index(folder: Path) -> Iterator[Gathered]:
    """Yield the clips of a folder that ``snn-train gather`` made; raises SourceError for another folder."""
    try:
        with (folder / INDEX).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield Gathered(row["path"], row["class"], row["package"], row["file"], row["licence"])
    except (OSError, KeyError) as error:
        raise SourceError(
            f"{folder}: no gathered recordings ({error}); make them: snn-train gather {folder}"
        ) from error
