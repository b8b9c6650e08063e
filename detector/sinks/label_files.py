"""The sounds of files as labels for other tools: Audacity's label tracks, and the tables of DCASE."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from detector.errors import ConfigError
from detector.sinks.sink import Record

TABLE_HEAD: Final = ("filename", "onset", "offset", "event_label")
"""Columns of DCASE's strong labels, as sed_eval and psds_eval read them."""


def audacity_rows(records: Iterable[Record]) -> list[tuple[str, ...]]:
    """Return onset, offset and label of each offset among the records, in seconds, the earliest first."""
    return sorted(
        ((f"{r['onset_s']:.6f}", f"{r['offset_s']:.6f}", str(r["label"])) for r in records if r["type"] == "offset"),
        key=lambda row: (float(row[0]), float(row[1]), row[2]),
    )


def table_rows(name: str, records: Iterable[Record]) -> list[tuple[str, ...]]:
    """Return the rows of DCASE's table for the file ``name``; its folder is left out."""
    return [(Path(name).name, *row) for row in audacity_rows(records)]


def check_place(path: Path, option: str) -> None:
    """Raise ConfigError where a file cannot be written there."""
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a directory; name the file to write")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{option} {path}: nothing can be written to {path.parent}; name another folder")


def write_rows(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Write rows with tabs between, whole or not at all; raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines("\t".join(" ".join(cell.split()) for cell in row) + "\n" for row in rows)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
