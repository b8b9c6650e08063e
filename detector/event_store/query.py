"""Reading events while the service writes them."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from detector.errors import ConfigError
from detector.event_store.schema import version_of
from detector.event_store.store import utc_text

FIELDS: Final = (
    "id",
    "label",
    "category",
    "source",
    "device",
    "onset_time",
    "offset_time",
    "duration_s",
    "onset_s",
    "offset_s",
    "score",
    "threshold",
    "peak",
    "mean",
    "level_dbfs",
    "reason",
    "clock_synced",
    "clip",
    "model",
    "model_sha256",
)
"""Keys of an event, in order; times are local, by RFC 3339. An event without a ``reason`` is going on."""
_WAIT_S: Final = 5.0
_DECIMALS: Final = 6


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events to read; what is left empty asks for nothing."""

    labels: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    """Events that began at ``since`` or later, and before ``until``."""
    newest: int | None = None
    """At most so many, the newest."""
    after: int = 0
    """Only events with a higher number than this one; the number counts the events as they were stored."""
    ids: tuple[str, ...] | None = None
    """Only these; None for all."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A row."""

    number: int
    values: Mapping[str, Any]
    """By ``FIELDS``."""

    @property
    def is_going_on(self) -> bool:
        """Whether its end has not been stored yet."""
        return self.values["reason"] is None


class EventReader:
    """An open database file, only read; closes as a context."""

    def __init__(self, path: Path) -> None:
        """Open a file; raises ConfigError where there is none, it cannot be read, or it holds no events."""
        self.path = path
        self._connection = _connect(path)
        self._connection.row_factory = sqlite3.Row

    def __enter__(self) -> EventReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def events(self, wanted: Wanted) -> Iterator[StoredEvent]:
        """Yield events, the oldest first; raises ConfigError where the file is damaged or held by another program."""
        where, values = _conditions(wanted)
        rows = f"SELECT * FROM events WHERE {where}"  # noqa: S608 - made of texts from here alone
        if wanted.newest is not None:
            rows = f"SELECT * FROM ({rows} ORDER BY onset_utc DESC, number DESC LIMIT {wanted.newest:d})"  # noqa: S608
        for row in self._rows(f"{rows} ORDER BY onset_utc, number", values):
            yield StoredEvent(row["number"], _fields(row))

    def last_number(self) -> int:
        """Return the highest number there is, 0 without events."""
        return max((int(number or 0) for (number,) in self._rows("SELECT max(number) FROM events")), default=0)

    def labels(self) -> list[str]:
        """Return the labels that there are events of."""
        return [label for (label,) in self._rows("SELECT DISTINCT label FROM events ORDER BY label")]

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[sqlite3.Row]:
        try:
            for row in self._connection.execute(statement, values):  # noqa: UP028 - it would close the cursor, too late
                yield row
        except sqlite3.Error as error:
            raise ConfigError(f"{self.path}: cannot be read ({error}); {_DAMAGED}") from error


_DAMAGED: Final = "if it is damaged, the service begins a new one when it is started the next time"


def _connect(path: Path) -> sqlite3.Connection:
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such database; [database] in the settings makes one") from error
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise ConfigError(f"{path}: cannot be opened ({why}); read it as root or as the service's user") from error
    try:
        return _open(path, "mode=ro")
    except sqlite3.OperationalError as error:
        # Without the service's log beside it the file is whole; what remains is that nothing may be made there.
        if not _has_log(path):
            return _open_alone(path)
        raise ConfigError(
            f"{path}: cannot be read beside its log ({error}); it takes the right to read {path.name}-wal and "
            f"{path.name}-shm, or to write in {path.parent}: read it as root or as the service's user"
        ) from error
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{path}: is no database of events, or a damaged one ({error}); {_DAMAGED}") from error


def _open_alone(path: Path) -> sqlite3.Connection:
    try:
        return _open(path, "immutable=1")
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"{path}: is no database of events, or cannot be read ({error})") from error


def _open(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(f"file:{quote(os.fsencode(path.absolute()))}?{mode}", uri=True, timeout=_WAIT_S)
    try:
        version_of(connection, path)
        connection.execute("SELECT 1 FROM events LIMIT 1").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _has_log(path: Path) -> bool:
    try:
        return Path(f"{path}-wal").stat().st_size > 0
    except OSError:
        return False


def _conditions(wanted: Wanted) -> tuple[str, list[Any]]:
    """Return what stands behind WHERE, and its values."""
    parts: list[str] = ["number > ?"]
    values: list[Any] = [wanted.after]
    lists = {"label": wanted.labels or None, "category": wanted.categories or None, "id": wanted.ids}
    for name, members in lists.items():
        if members is not None:
            parts.append(f"{name} IN ({', '.join('?' * len(members))})")
            values += members
    for operator, moment in ((">=", wanted.since), ("<", wanted.until)):
        if moment is not None:
            parts.append(f"onset_utc {operator} ?")
            values.append(utc_text(moment))
    return " AND ".join(parts), values


def _fields(row: sqlite3.Row) -> dict[str, Any]:
    """Return a row by ``FIELDS``; a file of an older version lacks columns."""
    found = dict(zip(row.keys(), row, strict=True))
    found["onset_time"], found["offset_time"] = _local(found["onset_utc"]), _local(found["offset_utc"])
    ended = found["offset_s"] is not None
    found["duration_s"] = round(found["offset_s"] - found["onset_s"], _DECIMALS) if ended else None
    if found["clock_synced"] is not None:
        found["clock_synced"] = bool(found["clock_synced"])
    return {name: found.get(name) for name in FIELDS}


def _local(utc: str | None) -> str | None:
    if utc is None:
        return None
    return datetime.fromisoformat(utc).astimezone().isoformat(timespec="milliseconds")
