"""The database of events: its schema and migrations, writing in batches, reading and following while it is written."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias
from urllib.parse import quote

from detector.errors import ConfigError
from detector.records import ClipRecord, EventRecord, GapRecord, OffsetRecord, OnsetRecord, Record

Change: TypeAlias = tuple[str, dict[str, Any]]
"""A statement and its values; doing one twice is doing it once."""
INTERRUPTED: Final = "interrupted"
"""The reason of events whose end was not detected, since the service had stopped."""
_MODE: Final = 0o640
_BUSY_S: Final = 1.0
"""How long one try waits for another program that holds the file; the records wait longer than that."""
_LOG_PAGES: Final = 64
"""Length from which on the write-ahead log is taken into the file: on a small disk it must not be what fills it."""
_CACHE_KIB: Final = 256
"""Pages of the file that are kept in memory: new events go to its end, and old ones are not read here."""
_LOG_BYTES: Final = 1_000_000
"""What the log may keep on the disk after an uncommonly large change."""
_ENVIRONMENT: Final = ("source", "device", "label", "category", "onset_s", "onset_utc", "clock_synced", "model")
_ONSET: Final = ("score", "threshold", "level_dbfs", "model_sha256")
_OFFSET: Final = ("offset_s", "offset_utc", "peak", "mean", "reason")
_GAP_COLUMNS: Final = ("source", "device", "at_s", "lost_s", "cause", "at_utc", "clock_synced")
_WAIT_S: Final = 5.0
_CHECKED_BYTES: Final = 16_000_000
"""Up to this size a whole file is checked when it is opened: some tenths of a second, also on an SD card."""
_NEWEST: Final = "ORDER BY onset_utc DESC, number DESC LIMIT ?"
_MAX_PARTS: Final = 100
"""Labels times categories times sources of which each is searched by its own index."""
_DECIMALS: Final = 6
_DAMAGED: Final = "if it is damaged, the service creates a new one at its next start"

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
    (
        "CREATE INDEX events_by_category ON events (category, onset_utc)",
        "CREATE INDEX events_by_label_category ON events (label, category, onset_utc)",
        "CREATE INDEX events_going_on ON events (number) WHERE reason IS NULL",
    ),
    (
        "CREATE INDEX events_by_source ON events (source, onset_utc)",
        "CREATE INDEX events_by_source_label ON events (source, label, onset_utc)",
        "CREATE INDEX events_by_source_category ON events (source, category, onset_utc)",
    ),
)
VERSION: Final = len(_MIGRATIONS)


def version_of(connection: sqlite3.Connection, path: object) -> int:
    """Return a file's version, 0 for an empty one.

    Raises ConfigError for a newer one than this program knows, and for a file of another program.
    """
    found = _user_version(connection)
    if not _is_own(connection):
        raise ConfigError(f"{path}: is a database of another program and stays as it is; name another file")
    if found > VERSION:
        raise ConfigError(
            f"{path}: was written by a newer snn-detect (version {found} of the tables, this one knows {VERSION}); "
            "update snn-detect, or name another database"
        )
    return found


def is_foreign(path: Path) -> bool:
    """Return whether an SQLite file has tables of another program; False where that cannot be seen.

    The file is read alone: what is still in the log beside it is not seen, and nothing is made there.
    """
    try:
        with contextlib.closing(sqlite3.connect(_uri(path, "immutable=1"), uri=True)) as connection:
            return not _is_own(connection)
    except sqlite3.Error:
        return False


def _user_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _is_own(connection: sqlite3.Connection) -> bool:
    """Return whether a file is empty, or has the table of events."""
    if set(_ENVIRONMENT) <= {row[1] for row in connection.execute("PRAGMA table_info(events)")}:
        return True
    has_tables = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
    return not has_tables and not _user_version(connection)


def _uri(path: Path, mode: str) -> str:
    return f"file:{quote(os.fsencode(path.absolute()))}?{mode}"


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


class EventStore:
    """An open database file; one program writes it, in one thread, and any number read it."""

    def __init__(self, path: Path) -> None:
        """Open a file, made if need be, and close the events that a crash has left open.

        Raises sqlite3.Error or OSError where that cannot be, ConfigError for a file of a newer version or of another
        program.
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
        """Delete the oldest thousand events and gaps that began before a moment, and return how many these were."""
        moment = {"before": utc_text(before)}
        old = [
            (table, number)
            for table, column in _TIMES.items()
            for (number,) in self._connection.execute(
                f"SELECT number FROM {table} WHERE {column} < :before ORDER BY {column} LIMIT {MAX_FORGOTTEN}",  # noqa: S608
                moment,
            )
        ]
        if old:
            self.apply((f"DELETE FROM {table} WHERE number = :number", {"number": number}) for table, number in old)  # noqa: S608
        return len(old)

    def is_in_place(self) -> bool:
        """Return whether the file still has its name: events would be lost in one that was deleted or replaced."""
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
        self._check()
        version_of(connection, self.path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        migrate(connection, self.path)
        if connection.execute("SELECT 1 FROM events WHERE reason IS NULL LIMIT 1").fetchone():
            connection.execute("UPDATE events SET reason = ? WHERE reason IS NULL", (INTERRUPTED,))

    def _check(self) -> None:
        """Look for damage: through a file of moderate size, else only where the newest events are.

        What is damaged elsewhere is found where it is read or written.
        """
        connection = self._connection
        if self.path.stat().st_size <= _CHECKED_BYTES:
            (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise _damaged(found)
        elif connection.execute("PRAGMA user_version").fetchone()[0]:
            connection.execute("SELECT * FROM events ORDER BY onset_utc DESC LIMIT 1").fetchone()


def change_of(record: Record) -> Change | None:
    """Return the statement that stores a record; None for a type that is not stored."""
    match record:
        case OnsetRecord() | OffsetRecord():
            own = _ONSET if isinstance(record, OnsetRecord) else _OFFSET
            return _UPSERTS[record.type], _columns(record, _event_times(record), ("id", *_ENVIRONMENT, *own))
        case GapRecord():
            return _GAP, _columns(record, {"at_utc": utc_text(_moment(record))}, _GAP_COLUMNS)
        case ClipRecord():
            return "UPDATE events SET clip = :path WHERE id = :id", {"id": record.id, "path": _plain(record.path)}
        case _:
            return None


def utc_text(moment: datetime | None) -> str | None:
    """Return a time as the tables hold it."""
    if moment is None:
        return None
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error means that the file itself is broken."""
    code = getattr(error, "sqlite_errorcode", None) or 0
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _columns(record: Record, times: dict[str, str | None], names: Iterable[str]) -> dict[str, Any]:
    """Return the values of columns: those in ``times``, else the record's fields of the same name."""
    return {name: times[name] if name in times else _plain(getattr(record, name)) for name in names}


def _event_times(record: EventRecord) -> dict[str, str | None]:
    """Return the columns with times; an offset gives that of its onset, too, whose record may have been dropped."""
    moment = _moment(record)
    if isinstance(record, OnsetRecord):
        return {"onset_utc": utc_text(moment)}
    began = moment and moment - timedelta(seconds=record.duration_s)
    return {"onset_utc": utc_text(began), "offset_utc": utc_text(moment)}


def _moment(record: Record) -> datetime | None:
    return datetime.fromisoformat(record.time) if record.time else None


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
_GAP: Final = (
    f"INSERT OR IGNORE INTO gaps ({', '.join(_GAP_COLUMNS)}) VALUES ({', '.join(f':{n}' for n in _GAP_COLUMNS)})"  # noqa: S608
)
_TIMES: Final = {"events": "onset_utc", "gaps": "at_utc"}
MAX_FORGOTTEN: Final = 1000
"""Events, and gaps, that are deleted at a time: records wait meanwhile."""


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
    sources: tuple[str, ...] = ()


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
        where, values = _conditions(wanted) if wanted.newest is None else _newest(wanted)
        # The plus keeps SQLite from reading all events in the order of time where some numbers are asked for.
        order = "onset_utc" if wanted.newest is None else "+onset_utc"
        rows = f"SELECT * FROM events WHERE {where} ORDER BY {order}, number"  # noqa: S608 - made of texts from here alone
        convert: Callable[[Sequence[Any]], StoredEvent] | None = None
        for row in self._rows(rows, values):
            convert = convert or _converter(row.keys())
            yield convert(row)

    def last_number(self) -> int:
        """Return the highest number there is, 0 without events."""
        return max((int(number or 0) for (number,) in self._rows("SELECT max(number) FROM events")), default=0)

    def values(self, column: Literal["label", "category", "source"]) -> list[str]:
        """Return the labels, categories or sources that there are events of."""
        return [value for (value,) in self._rows(_VALUES.format(column=column))]

    def _rows(self, statement: str, values: Sequence[Any] = ()) -> Iterator[sqlite3.Row]:
        try:
            for row in self._connection.execute(statement, values):  # noqa: UP028 - it would close the cursor, too late
                yield row
        except sqlite3.Error as error:
            raise ConfigError(f"{self.path}: cannot be read ({error}); {_DAMAGED}") from error


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
    connection = sqlite3.connect(_uri(path, mode), uri=True, timeout=_WAIT_S)
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


def _newest(wanted: Wanted) -> tuple[str, list[Any]]:
    """Return the condition for the newest events, and its values: those of each label, category and source by index."""
    each: list[list[tuple[str, ...]]] = [[(n,) for n in dict.fromkeys(names)] or [()] for names in _filters(wanted)]
    keys = list(itertools.product(*each)) if math.prod(map(len, each)) <= _MAX_PARTS else [_filters(wanted)]
    parts: list[str] = []
    values: list[Any] = []
    for labels, categories, sources in keys:
        where, part_values = _conditions(replace(wanted, labels=labels, categories=categories, sources=sources))
        limit, limit_values = _NEWEST, [wanted.newest]
        if labels and categories and sources:
            # One look into an index: where a label never had that category, its events are not gone through.
            pair, pair_values = _conditions(Wanted(labels=labels, categories=categories))
            limit = f"{_NEWEST} * EXISTS (SELECT 1 FROM events WHERE {pair})"  # noqa: S608
            limit_values = [*limit_values, *pair_values]
        parts.append(f"SELECT * FROM (SELECT number, onset_utc FROM events WHERE {where} {limit})")  # noqa: S608
        values += [*part_values, *limit_values]
    return f"number IN (SELECT number FROM ({' UNION ALL '.join(parts)}) {_NEWEST})", [*values, wanted.newest]  # noqa: S608


def _filters(wanted: Wanted) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    return wanted.labels, wanted.categories, wanted.sources


def _conditions(wanted: Wanted) -> tuple[str, list[Any]]:
    """Return the condition of WHERE, and its values."""
    parts: list[str] = ["number > ?"] if wanted.after else []
    values: list[Any] = [wanted.after] if wanted.after else []
    lists = {"label": wanted.labels or None, "category": wanted.categories or None, "source": wanted.sources or None}
    lists["id"] = wanted.ids
    for name, members in lists.items():
        if members is not None:
            # By source and label: SQLite cannot know that a label has one category.
            column = "+category" if name == "category" and wanted.labels and wanted.sources else name
            parts.append(f"{column} IN ({', '.join('?' * len(members))})")
            values += members
    for operator, moment in ((">=", wanted.since), ("<", wanted.until)):
        if moment is not None:
            parts.append(f"onset_utc {operator} ?")
            values.append(utc_text(moment))
    return " AND ".join(parts) or "1", values


_VALUES: Final = """
    WITH RECURSIVE found(value) AS (
        SELECT min({column}) FROM events
        UNION ALL
        SELECT (SELECT min({column}) FROM events WHERE {column} > found.value) FROM found WHERE value IS NOT NULL
    )
    SELECT value FROM found WHERE value IS NOT NULL
"""
"""From one to the next by their index, instead of through all events."""
_TEN_MINUTES: Final = len("2026-11-23T18:0")


def _converter(columns: Sequence[str]) -> Callable[[Sequence[Any]], StoredEvent]:
    """Return what makes an event of a row with these columns; a file of an older version lacks some."""
    own = [name for name in FIELDS if name in columns]
    at = {name: columns.index(name) for name in (*own, "number", "onset_utc", "offset_utc")}
    take = itemgetter(*(at[name] for name in own))
    local = _local_times()

    def convert(row: Sequence[Any]) -> StoredEvent:
        found: dict[str, Any] = dict.fromkeys(FIELDS)
        found.update(zip(own, take(row), strict=True))
        found["onset_time"], found["offset_time"] = local(row[at["onset_utc"]]), local(row[at["offset_utc"]])
        if found["offset_s"] is not None:
            found["duration_s"] = round(found["offset_s"] - found["onset_s"], _DECIMALS)
        if found["clock_synced"] is not None:
            found["clock_synced"] = bool(found["clock_synced"])
        return StoredEvent(row[at["number"]], found)

    return convert


def _local_times() -> Callable[[str | None], str | None]:
    """Return what makes a local time of one of the tables; the offset is looked up once for ten minutes of time."""
    offsets: dict[str, tuple[timedelta, str]] = {}

    def local(utc: str | None) -> str | None:
        if utc is None:
            return None
        known = offsets.get(utc[:_TEN_MINUTES])
        if known is None:
            moment = datetime.fromisoformat(utc).astimezone()
            known = (moment.utcoffset() or timedelta(), moment.isoformat(timespec="milliseconds")[len(utc) - 1 :])
            offsets[utc[:_TEN_MINUTES]] = known
        moment = datetime.fromisoformat(utc[:-1]) + known[0]
        return f"{moment.isoformat(timespec='milliseconds')}{known[1]}"

    return local


class Follower:
    """Remembers which events have been given, and which of them were going on then."""

    def __init__(self, wanted: Wanted) -> None:
        """Choose the events."""
        self._wanted = wanted
        self._last = 0
        self._open: set[str] = set()

    def begin(self, reader: EventReader) -> Iterator[StoredEvent]:
        """Yield the events stored so far, as many as are wanted."""
        self._last = reader.last_number()
        return self._noted(reader.events(self._wanted))

    def source_events(self, reader: EventReader) -> Iterator[StoredEvent]:
        """Yield those that have ended since they were given, then those that are new."""
        if reader.last_number() < self._last:  # another file has taken this one's place
            self._last = 0
        wanted = replace(self._wanted, newest=None)
        ended = [e for e in reader.events(replace(wanted, ids=tuple(self._open))) if not e.is_going_on]
        yield from self._noted(ended)
        yield from self._noted(reader.events(replace(wanted, after=self._last)))

    def _noted(self, events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
        for event in events:
            self._last = max(self._last, event.number)
            if event.is_going_on:
                self._open.add(event.values["id"])
            else:
                self._open.discard(event.values["id"])
            yield event
