"""Records in SQLite: kept in memory for some seconds, then written to the disk in one transaction."""

from __future__ import annotations

import contextlib
import logging
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from pydantic import Field

from detector.config.paths import database_file
from detector.config.sections import UserPath
from detector.records import Record
from detector.sinks.base import LiveSink, RetryableError, SinkContext, SinkSection, SinkSpec, describe_oserror

if TYPE_CHECKING:  # imported with the first database
    import sqlite3

    from detector.events_db import Change, EventStore

_log = logging.getLogger(__name__)
_MAX_PENDING: Final = 500
_TICK_S: Final = 1.0
"""Interval of ticks: what is due before the next one is committed at this one."""
_HOUR_S: Final = 3600.0
_DELETE_S: Final = 0.2
_BESIDE: Final = ("", "-wal", "-shm")
"""What SQLite adds to the file's name."""


class Database(SinkSection):
    """Events in an SQLite file, for `snn-detect events`. Without this section: none."""

    in_example: ClassVar[bool] = True
    path: UserPath | None = Field(
        None,
        description="The file. Left out: events.db in the state directory, /var/lib/snn-detect for the system's "
        "service.",
        examples=["/var/lib/snn-detect/events.db"],
    )
    commit_s: float = Field(
        5.0,
        ge=0,
        le=300,
        description="Longest time in seconds between an event and its commit to disk: longer is kinder to SD cards.",
    )
    retention_days: float | None = Field(
        None, gt=0, description="Days after which an event is deleted. Left out: never.", examples=[365.0]
    )

    @property
    def file(self) -> Path:
        """The file, the default one where none is named."""
        return self.path or database_file()

    def build(self, _context: SinkContext, /) -> SinkSpec:
        """Return the sink."""
        return SinkSpec.of(DatabaseSink, self, self.file)


class DatabaseSink(LiveSink):
    """Store events and gaps; nothing is written to the disk while nothing happens.

    What could not be committed is kept here, and later records wait in the worker's queue: a disk that is full for a
    while loses nothing.
    """

    types = frozenset({"onset", "offset", "gap", "clip", "health"})  # health for its time of day alone

    def __init__(self, settings: Database, path: Path) -> None:
        """Prepare; ``path`` is the database file; its folder is created only where the settings name none."""
        self._settings, self._path = settings, path
        self._store: EventStore | None = None
        self._pending: list[Change] = []
        self._due = 0.0
        self._now: datetime | None = None
        self._delete_at = 0.0
        self._deleted = 0

    def open(self) -> None:
        """Open or create the file; raises RetryableError where that is not possible now."""
        self._guarded()

    def write(self, record: Record) -> None:
        """Keep a record until the next commit; raises RetryableError, without the record, where that is overdue."""
        if record.clock_synced and record.time:
            self._now = datetime.fromisoformat(record.time)
        from detector.events_db import change_of

        change = change_of(record)
        if change is None:
            return
        if not self._pending:
            self._due = time.monotonic() + self._settings.commit_s
        self._pending.append(change)
        try:
            self._commit_if_due()
        except BaseException:
            self._pending.pop()  # the worker keeps it
            raise

    def tick(self) -> None:
        """Commit what is due, and delete what is old."""
        self._commit_if_due()
        if self._settings.retention_days and self._now and time.monotonic() >= self._delete_at:
            self._guarded(self._now - timedelta(days=self._settings.retention_days))

    def close(self) -> None:
        """Commit what is left; raises RetryableError where that is not possible, and it is lost."""
        try:
            if self._pending:
                self._guarded()
        except RetryableError as error:
            raise RetryableError(f"{error}; {len(self._pending)} records are lost") from error
        finally:
            self._release()

    def _commit_if_due(self) -> None:
        if self._pending and (time.monotonic() + _TICK_S > self._due or len(self._pending) >= _MAX_PENDING):
            self._guarded()

    def _guarded(self, delete_before: datetime | None = None) -> None:
        """Open the file, write what is pending and delete what is older than ``delete_before``.

        A damaged file is renamed, once, and a new one started. Raises RetryableError.
        """
        import sqlite3

        from detector.events_db import is_damage

        try:
            try:
                self._work(delete_before)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                self._put_aside(error)
                self._work(delete_before)
        except sqlite3.Error as error:
            self._prepare_next_try(_code(error))
            raise RetryableError(f"{self._path}: cannot be written ({error}); records wait") from error
        except OSError as error:
            self._release()
            raise RetryableError(f"{describe_oserror(self._path, error)}; records wait") from error

    def _work(self, delete_before: datetime | None) -> None:
        from detector.events_db import EventStore

        if self._store is not None and not self._store.is_in_place():
            _log.warning("%s: was removed or replaced while in use; a new one is started", self._path)
            self._release()
        if self._store is None:
            if self._settings.path is None:
                self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._store = EventStore(self._path)
        if self._pending:
            self._store.apply(self._pending)
            self._pending.clear()
        if delete_before is not None:
            self._delete(self._store, delete_before)

    def _delete(self, store: EventStore, before: datetime) -> None:
        """Delete what is old in steps, some now and the rest with the next tick, so that records do not wait."""
        from detector.events_db import MAX_FORGOTTEN

        until_s = time.monotonic() + _DELETE_S
        while (count := store.forget(before)) and time.monotonic() < until_s:
            self._deleted += count
        self._deleted += count
        if count >= MAX_FORGOTTEN:
            return
        self._delete_at = time.monotonic() + _HOUR_S
        if self._deleted:
            _log.info("%s: %d old records deleted", self._path, self._deleted)
        self._deleted = 0

    def _prepare_next_try(self, code: int) -> None:
        import sqlite3

        if self._store is not None and code == sqlite3.SQLITE_FULL:
            self._store.shrink()
        elif code not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            self._release()  # a disk may have been removed and attached again: reopen the file

    def _put_aside(self, error: sqlite3.Error) -> None:
        """Rename a damaged file, so that a new one can be started and the old one be examined."""
        self._release()
        aside = self._path.with_name(f"{self._path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        for ending in _BESIDE:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{ending}").rename(f"{aside}{ending}")
        _log.error("%s: the database is damaged (%s); it is now %s, and a new one is started", self._path, error, aside)

    def _release(self) -> None:
        import sqlite3

        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(sqlite3.Error):  # has been reported
                store.close()


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary code of an error, 0 where it has none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
