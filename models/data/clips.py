"""Clips: where a recording is, its class, source and fold; and the CSV tables that list clips."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.errors import SourceError


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording, or a part of it."""

    path: Path
    label: str | None
    """None: out of class."""
    source: str
    """A source of ``models.data.household.SOURCES``, or the name of another data set."""
    fold: int
    """1 to 5; 0 for rendered and gathered material."""
    recording: str = ""
    """Name that clips of one recording, player or instrument share; "": a recording of its own."""


def read_rows(table: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line number and the row, by column, of a CSV file; missing fields are "".

    Raises SourceError where the file is missing, not text, or lacks a column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="", delimiter=delimiter)
            found = [name.strip() for name in reader.fieldnames or ()]
            if missing := [name for name in columns if name not in found]:
                raise SourceError(
                    f"{table}: no column {', '.join(missing)}; the first line must name {','.join(columns)}, "
                    f"and names {','.join(found) or 'nothing'}"
                )
            reader.fieldnames = found
            for row in reader:
                yield reader.line_num, {k: v.strip() for k, v in row.items() if isinstance(v, str)}
    except OSError as error:
        raise SourceError(f"{table}: cannot be read ({error.strerror}); name a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{table}: no CSV file in UTF-8 ({error}); save it again as such") from error
