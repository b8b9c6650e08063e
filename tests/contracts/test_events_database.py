"""The database of events: its tables, what a row holds, and that files of this version can be read."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.contracts.live import Live
from tests.contracts.programs import output
from tests.contracts.snapshots import EXPECTED, check


def read(path: Path, statement: str) -> list[sqlite3.Row]:
    """Return what the database answers."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(statement).fetchall()


def columns(path: Path, table: str) -> list[str]:
    return [row["name"] for row in read(path, f"PRAGMA table_info({table})")]


def laid_out(statement: str) -> str:
    """Return a statement with a column a line, however the program wraps it."""
    text = " ".join(statement.split()).replace("( ", "(").replace(" )", ")")
    return re.sub(r" ?, (?=\w+ [A-Z(])", ",\n    ", text)


def test_tables(running: Live) -> None:
    parts = read(running.database, "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY type DESC, name")
    version = read(running.database, "PRAGMA user_version")[0][0]
    statements = [laid_out(row["sql"]) for row in parts] + [f"PRAGMA user_version = {version}"]
    check("events-database.sql", "\n\n".join(f"{statement};" for statement in statements))


def test_the_file_is_in_wal_mode(running: Live) -> None:
    assert read(running.database, "PRAGMA journal_mode")[0][0] == "wal"


def test_what_a_row_holds(running: Live) -> None:
    names = columns(running.database, "events")
    kinds = ", ".join(f"typeof({name}) AS {name}" for name in names)
    (row, *_) = read(running.database, f"SELECT {kinds} FROM events WHERE clip IS NOT NULL")  # noqa: S608 - own names
    check("events-database-row.json", dict(row))


def test_rows_are_the_records(running: Live) -> None:
    rows = {row["id"]: row for row in read(running.database, "SELECT * FROM events")}
    clips = {r["id"]: r["path"] for r in running.of("clip")}
    offsets = {r["id"]: r for r in running.of("offset")}
    assert rows.keys() == {r["id"] for r in running.of("onset")}
    for onset in running.of("onset"):
        row, offset = rows[onset["id"]], offsets[onset["id"]]
        for name in ("source", "device", "label", "category", "onset_s", "score", "threshold", "level_dbfs", "model"):
            assert row[name] == onset[name], name
        for name in ("offset_s", "peak", "mean", "reason"):
            assert row[name] == offset[name], name
        assert row["clip"] == clips.get(onset["id"])
        assert row["clock_synced"] == int(onset["clock_synced"])
        assert datetime.fromisoformat(row["onset_utc"]) == datetime.fromisoformat(onset["time"])
        assert datetime.fromisoformat(row["offset_utc"]) == datetime.fromisoformat(offset["time"])


def test_a_file_of_this_version_is_read(tmp_path: Path) -> None:
    """The tables as they are pinned, with an event as this version writes it, for every later version to read."""
    path = tmp_path / "events.db"
    event: dict[str, Any] = {
        "id": "8988a560-c62f-5f99-a4e8-63ca4526339b",
        "source": "mic",
        "device": "usb-id:0d8c:0014",
        "label": "guitar",
        "category": "music",
        "onset_s": 4.325,
        "offset_s": 12.125,
        "onset_utc": "2026-11-29T23:24:15.699Z",
        "offset_utc": "2026-11-29T23:24:23.499Z",
        "clock_synced": 1,
        "score": 0.9415,
        "threshold": 0.94,
        "peak": 0.9947,
        "mean": 0.8905,
        "reason": "ended",
        "model": "household-0.6.0",
        "model_sha256": "f796c0d3fc0c",
        "clip": "/clips/guitar.flac",
        "level_dbfs": -28.0,
    }
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((EXPECTED / "events-database.sql").read_text(encoding="utf-8"))
        names, marks = ", ".join(event), ", ".join("?" for _ in event)
        connection.execute(f"INSERT INTO events ({names}) VALUES ({marks})", tuple(event.values()))  # noqa: S608 - own names
        connection.commit()
    options = ("--database", path)
    found = json.loads(output("events", "query", *options, "--label", "guitar", TZ="UTC"))
    check("events-query.json", found)
    assert json.loads(output("events", "tail", *options, "-n", "1", TZ="UTC")) == found
    assert json.loads(output("events", "export", "--format", "json", *options, TZ="UTC")) == found
    header, row = csv.reader(io.StringIO(output("events", "export", *options, TZ="UTC")))
    assert header == list(found)
    assert row == ["true" if value is True else str(value) for value in found.values()]
