"""Records as JSON lines in a file that logrotate may rotate."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

from pydantic import Field

from detector.config.sections import RECORD_TYPES, RecordType, UserPath
from detector.records import Record, json_line
from detector.sinks.base import LiveSink, RetryableError, SinkContext, SinkSection, SinkSpec, describe_oserror

_MODE: Final = 0o640


class JsonFile(SinkSection):
    """JSON lines in a file, one object a line.

    For logrotate there is systemd/snn-detect.logrotate; SIGUSR1 reopens the file.
    """

    path: UserPath = Field(description="The file.", examples=["/var/lib/snn-detect/events.jsonl"])
    types: tuple[RecordType, ...] = Field(
        ("onset", "offset", "gap", "status", "health"), description=f"Types of records to write, {RECORD_TYPES}."
    )

    def build(self, _context: SinkContext, /) -> SinkSpec:
        """Return the sink."""
        return SinkSpec.of(JsonLinesFile, self)


class JsonLinesFile(LiveSink):
    """Append a line a record to a file: complete lines only, also where the disk is full.

    Rotation by renaming needs ``reopen``; rotation by copying and truncating needs nothing, since
    each line is appended at the present end of the file.
    """

    def __init__(self, settings: JsonFile) -> None:
        """Prepare; the file is opened in the worker's thread."""
        self.types = frozenset(settings.types)
        self._path = settings.path
        self._descriptor: int | None = None
        self._stale = False

    def reopen(self) -> None:
        """Reopen the file within about a second; may be called from any thread and from a signal handler."""
        self._stale = True

    def open(self) -> None:
        """Open the file for appending; raises RetryableError where that is not possible."""
        self._current()

    def write(self, record: Record) -> None:
        """Append one line; raises RetryableError, with nothing of the line left, where it does not fit."""
        descriptor = self._current()
        try:
            _append(descriptor, json_line(record).encode())
        except OSError as error:
            self.close()
            raise RetryableError(f"{describe_oserror(self._path, error)}; records wait") from error

    def tick(self) -> None:
        """Reopen the file if that was asked for."""
        if self._stale:
            self._current()

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):  # write has reported what could not be written
                os.close(descriptor)

    def _current(self) -> int:
        """Return the open file, reopened where that was asked for."""
        if self._stale:
            self._stale = False  # before the file is opened, so that a later request is not lost
            self.close()
        if self._descriptor is None:
            try:
                self._descriptor = _open(self._path)
            except OSError as error:
                raise RetryableError(f"{describe_oserror(self._path, error)}; records wait") from error
        return self._descriptor


def _open(path: Path) -> int:
    """Open a regular file to append to; it is created where there is none."""
    # A pipe without a reader would hold an ordinary open() for ever.
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, _MODE)
    try:
        _check(descriptor)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _check(descriptor: int) -> None:
    """Raise OSError for what is no regular file; end a line that a power failure has left incomplete."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    if status.st_size and os.pread(descriptor, 1, status.st_size - 1) != b"\n":
        _append(descriptor, b"\n")


def _append(descriptor: int, line: bytes) -> None:
    """Write a complete line or nothing."""
    written = 0
    try:
        while written < len(line):
            written += os.write(descriptor, line[written:])
    except OSError:
        if written:
            os.ftruncate(descriptor, max(0, os.fstat(descriptor).st_size - written))
        raise
