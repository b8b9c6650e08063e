"""The index of gathered recordings: of each clip what it is, and where it is from."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from detector.errors import SourceError

INDEX = "gathered.csv"
COLUMNS = ("path", "class", "package", "file", "licence")


@dataclass(frozen=True, slots=True)
class Gathered:
    """One clip of the folder."""

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
    """Yield the clips of a folder that ``gather`` made; raises SourceError where it is none."""
    try:
        with (folder / INDEX).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                yield Gathered(row["path"], row["class"], row["package"], row["file"], row["licence"])
    except (OSError, KeyError) as error:
        raise SourceError(
            f"{folder}: no gathered recordings ({error}); make them: snn-train gather {folder}"
        ) from error
