"""Records in SQLite: in memory for a few seconds, then on the disk all at once."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from detector.config.settings import Database
from detector.events_db import Change, EventStore, change_of, is_damage
from detector.records import Record
from detector.sinks.base import LiveSink, RetryableError, describe_oserror

_log = logging.getLogger(__name__)
_MOST_PENDING: Final = 500
_TICK_S: Final = 1.0
"""How far apart ticks are: what is due before the next one is committed at this one."""
_HOUR_S: Final = 3600.0
_BESIDE: Final = ("", "-wal", "-shm")
"""What SQLite adds to the file's name."""


class DatabaseSink(LiveSink):
    """Store events and gaps; nothing is written to the disk while nothing happens.

    What has not been committed is kept here, and what comes then waits in the worker's queue: a disk
    that is full for a while costs nothing.
    """

    types = frozenset({"onset", "offset", "gap", "clip", "health"})  # health only tells the time

    def __init__(self, settings: Database, path: Path) -> None:
        """Prepare; ``path`` is the database file, its folder is made only where the settings name no path."""
        self._settings, self._path = settings, path
        self._store: EventStore | None = None
        self._pending: list[Change] = []
        self._due = 0.0
        self._now: datetime | None = None
        self._forget_at = 0.0

    def open(self) -> None:
        """Open or make the file; raises RetryableError where that cannot be now."""
        self._guarded()

    def write(self, record: Record) -> None:
        """Keep a record until the next commit; raises RetryableError, without the record, where that is overdue."""
        if record.clock_synced and record.time:
            self._now = datetime.fromisoformat(record.time)
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
        """Commit what is due, and forget what is old."""
        self._commit_if_due()
        if self._settings.retention_days and self._now and time.monotonic() >= self._forget_at:
            self._guarded(self._now - timedelta(days=self._settings.retention_days))
            self._forget_at = time.monotonic() + _HOUR_S

    def close(self) -> None:
        """Commit what is left; raises RetryableError where that cannot be, and it is lost."""
        try:
            if self._pending:
                self._guarded()
        except RetryableError as error:
            raise RetryableError(f"{error}; {len(self._pending)} records are lost") from error
        finally:
            self._release()

    def _commit_if_due(self) -> None:
        if self._pending and (time.monotonic() + _TICK_S > self._due or len(self._pending) >= _MOST_PENDING):
            self._guarded()

    def _guarded(self, forget: datetime | None = None) -> None:
        """Open the file if need be, write what is pending and forget what is older; put a damaged file aside, once."""
        try:
            try:
                self._work(forget)
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                self._put_aside(error)
                self._work(forget)
        except sqlite3.Error as error:
            self._prepare_next_try(_code(error))
            raise RetryableError(f"{self._path}: cannot be written ({error}); records wait") from error
        except OSError as error:
            self._release()
            raise RetryableError(f"{describe_oserror(self._path, error)}; records wait") from error

    def _work(self, forget: datetime | None) -> None:
        if self._store is not None and not self._store.is_in_place():
            _log.warning("%s: was removed or replaced while in use; a new one is begun", self._path)
            self._release()
        if self._store is None:
            if self._settings.path is None:
                self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            self._store = EventStore(self._path)
        if self._pending:
            self._store.apply(self._pending)
            self._pending.clear()
        if forget is not None and (count := self._store.forget(forget)):
            _log.info("%s: %d old records deleted", self._path, count)

    def _prepare_next_try(self, code: int) -> None:
        if self._store is not None and code == sqlite3.SQLITE_FULL:
            self._store.shrink()
        elif code not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            self._release()  # whatever it is (a disk pulled out and put in again), a fresh start may help

    def _put_aside(self, error: sqlite3.Error) -> None:
        """Give a damaged file another name, so that a new one can be begun and the old one be looked into."""
        self._release()
        aside = self._path.with_name(f"{self._path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        for ending in _BESIDE:
            with contextlib.suppress(FileNotFoundError):
                Path(f"{self._path}{ending}").rename(f"{aside}{ending}")
        _log.error("%s: the database is damaged (%s); it is now %s, and a new one is begun", self._path, error, aside)

    def _release(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with contextlib.suppress(sqlite3.Error):  # what could not be kept has been told
                store.close()


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary code of an error, 0 where it has none."""
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
