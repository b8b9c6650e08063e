"""The tables, and how a file of an older version becomes one of this version."""

from __future__ import annotations

import sqlite3
from typing import Final

from detector.errors import ConfigError

# One entry a version, never to change once released: entry i turns a file of version i into one of
# version i + 1. Times are UTC, to the millisecond, as text that sorts; positions are seconds since
# the stream began. An event whose reason is NULL is going on.
_MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE events (
            number INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            source TEXT NOT NULL,
            device TEXT,
            label TEXT NOT NULL,
            category TEXT,
            onset_s REAL NOT NULL,
            offset_s REAL,
            onset_utc TEXT,
            offset_utc TEXT,
            clock_synced INTEGER,
            score REAL,
            threshold REAL,
            peak REAL,
            mean REAL,
            reason TEXT,
            model TEXT,
            model_sha256 TEXT,
            clip TEXT
        )""",
        "CREATE INDEX events_by_time ON events (onset_utc)",
        "CREATE INDEX events_by_label ON events (label, onset_utc)",
    ),
    (
        "ALTER TABLE events ADD COLUMN level_dbfs REAL",
        """CREATE TABLE gaps (
            number INTEGER PRIMARY KEY,
            source TEXT NOT NULL,
            device TEXT,
            at_s REAL NOT NULL,
            lost_s REAL NOT NULL,
            cause TEXT NOT NULL,
            at_utc TEXT,
            clock_synced INTEGER,
            UNIQUE (source, at_s, at_utc)
        )""",
        "CREATE INDEX gaps_by_time ON gaps (at_utc)",
    ),
)
VERSION: Final = len(_MIGRATIONS)


def version_of(connection: sqlite3.Connection, path: object) -> int:
    """Return a file's version, 0 for an empty one; raises ConfigError for a newer one than this program knows."""
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise ConfigError(
            f"{path}: was written by a newer snn-detect (version {found} of the tables, this one knows {VERSION}); "
            "update snn-detect, or name another database"
        )
    return found


def migrate(connection: sqlite3.Connection, path: object) -> None:
    """Bring a file to this version, wholly or not at all; the connection commits by itself (isolation level None)."""
    if version_of(connection, path) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in _MIGRATIONS[version_of(connection, path) :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
