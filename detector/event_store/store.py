"""Writing events: whole batches or nothing of them."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias

from detector.event_store.schema import migrate, version_of

Change: TypeAlias = tuple[str, dict[str, Any]]
"""A statement and its values; doing one twice is doing it once."""
INTERRUPTED: Final = "interrupted"
"""The reason of events whose end nobody was there to hear."""
_MODE: Final = 0o640
_BUSY_S: Final = 1.0
"""How long one try waits for another program that holds the file; the records wait longer than that."""
_LOG_PAGES: Final = 64
"""Length from which on the write-ahead log is taken into the file: on a small disk it must not be what fills it."""
_CACHE_KIB: Final = 256
"""Pages of the file that are kept in memory: new events go to its end, and nobody reads old ones here."""
_LOG_BYTES: Final = 1_000_000
"""What the log may keep on the disk after an uncommonly large change."""
_ENVIRONMENT: Final = ("source", "device", "label", "category", "onset_s", "onset_utc", "clock_synced", "model")
_ONSET: Final = ("score", "threshold", "level_dbfs", "model_sha256")
_OFFSET: Final = ("offset_s", "offset_utc", "peak", "mean", "reason")


class EventStore:
    """An open database file; one program writes it, in one thread, and any number read it."""

    def __init__(self, path: Path) -> None:
        """Open a file, made if need be, and close the events that a crash has left open.

        Raises sqlite3.Error or OSError where that cannot be, ConfigError for a newer version's file.
        """
        self.path = path
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE))  # SQLite's own would be open to all
        self._inode = path.stat().st_ino
        self._connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
        try:
            self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def apply(self, changes: Iterable[Change]) -> None:
        """Write changes in one transaction; raises sqlite3.Error with nothing of them written."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in changes:
                self._connection.execute(statement, values)
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def forget(self, before: datetime) -> int:
        """Delete events and gaps that began before a moment and return how many; nothing is written for none."""
        moment = {"before": utc_text(before)}
        old = {
            table: self._connection.execute(f"SELECT count(*) FROM {where}", moment).fetchone()[0]  # noqa: S608
            for table, where in _OLD.items()
        }
        self.apply([(f"DELETE FROM {_OLD[table]}", moment) for table, count in old.items() if count])  # noqa: S608
        return sum(old.values())

    def is_in_place(self) -> bool:
        """Tell whether the file still has its name: one that was deleted or replaced would swallow events."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def shrink(self) -> None:
        """Take the write-ahead log into the file, as far as that can be: it may be what has filled the disk."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        """Close the file; the write-ahead log goes into it."""
        self._connection.close()

    def _prepare(self) -> None:
        connection = self._connection
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _damaged(found)
        version_of(connection, self.path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        migrate(connection, self.path)
        if connection.execute("SELECT 1 FROM events WHERE reason IS NULL LIMIT 1").fetchone():
            connection.execute("UPDATE events SET reason = ? WHERE reason IS NULL", (INTERRUPTED,))


def change_of(record: Mapping[str, Any]) -> Change | None:
    """Return what a record changes; None for a type that is not stored. Raises KeyError for one that lacks a key."""
    kind = record["type"]
    if kind in {"onset", "offset"}:
        values = _event_values(record)
        own = _ONSET if kind == "onset" else _OFFSET
        return _UPSERTS[kind], {name: _plain(values.get(name)) for name in ("id", *_ENVIRONMENT, *own)}
    if kind == "gap":
        values = {**record, "at_utc": utc_text(_moment(record))}
        return _GAP, {name: _plain(values.get(name)) for name in _GAP_COLUMNS}
    if kind == "clip":
        return "UPDATE events SET clip = :path WHERE id = :id", {"id": record["id"], "path": _plain(record["path"])}
    return None


def utc_text(moment: datetime | None) -> str | None:
    """Return a time as the tables hold it."""
    if moment is None:
        return None
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def is_damage(error: sqlite3.Error) -> bool:
    """Tell whether an error means that the file itself is broken."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _event_values(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of an event's columns; an offset tells of its onset too, which may have been dropped."""
    moment = _moment(record)
    if record["type"] == "onset":
        return {**record, "onset_utc": utc_text(moment)}
    began = moment and moment - timedelta(seconds=record["duration_s"])
    return {**record, "onset_utc": utc_text(began), "offset_utc": utc_text(moment)}


def _moment(record: Mapping[str, Any]) -> datetime | None:
    return datetime.fromisoformat(record["time"]) if record["time"] else None


def _plain(value: Any) -> Any:
    """Return a value as SQLite takes it; what is no text (a file's name) becomes some."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _damaged(found: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(found)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _upsert(own: tuple[str, ...]) -> str:
    columns = ("id", *_ENVIRONMENT, *own)
    updates = ", ".join(f"{name} = excluded.{name}" for name in own)
    values = ", ".join(f":{name}" for name in columns)
    return f"INSERT INTO events ({', '.join(columns)}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {updates}"  # noqa: S608 - names from here


_UPSERTS: Final = {"onset": _upsert(_ONSET), "offset": _upsert(_OFFSET)}
_GAP_COLUMNS: Final = ("source", "device", "at_s", "lost_s", "cause", "at_utc", "clock_synced")
_GAP: Final = (
    f"INSERT OR IGNORE INTO gaps ({', '.join(_GAP_COLUMNS)}) VALUES ({', '.join(f':{n}' for n in _GAP_COLUMNS)})"  # noqa: S608
)
_OLD: Final = {"events": "events WHERE onset_utc < :before", "gaps": "gaps WHERE at_utc < :before"}
