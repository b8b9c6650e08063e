"""Records on standard output, whose reader may stall for ever or go away."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Final, Literal, NoReturn, Protocol

from pydantic import Field

from detector.config.sections import RECORD_TYPES, RecordType
from detector.errors import DetectorError
from detector.records import Record
from detector.sinks.base import LiveSink, RetryableError
from detector.sinks.lines import TextSink, json_line
from detector.sinks.section import SinkContext, SinkSection, SinkSpec

_PATIENCE_S: Final = 0.5
"""How long one try waits for the reader; the worker goes on trying."""
_SURE_BYTES: Final = 4096
"""What a pipe takes at once, without waiting, when it says that it takes anything (PIPE_BUF)."""

_STALLED: Final = "its reader has stalled; records wait, the oldest are dropped when it takes too long"


class Stdout(SinkSection):
    """Records on standard output, which under systemd is the journal."""

    enabled: bool = Field(True, description="Whether records are written there.")
    format: Literal["auto", "json", "text"] = Field(
        "auto", description='"json", "text" for people, or "auto": text on a terminal, JSON elsewhere.'
    )
    types: tuple[RecordType, ...] = Field(
        ("onset", "offset", "gap", "status"), description=f"Types of records to write, {RECORD_TYPES}."
    )

    def build(self, _context: SinkContext, /) -> SinkSpec | None:
        """Return the sink, None where it is not enabled."""
        return SinkSpec.of(StandardOutput, self) if self.enabled else None


class StandardOutput(LiveSink):
    """Write a line a record, JSON or text, and never wait in a write that nobody can end.

    The descriptor is written to directly and only when it says that it has room: a lock of Python's
    streams, held by a thread that waits, would keep the interpreter from ending. It is not made
    non-blocking, since whoever shares the terminal would find it so.
    """

    longest_pause_s = 2.0
    """A try costs nothing, and whoever reads again wants to see at once what has waited."""

    def __init__(self, settings: Stdout, descriptor: int | None = None) -> None:
        """Write to ``descriptor``; left out: that of ``sys.stdout``."""
        self.types = frozenset(settings.types)
        self._format = settings.format
        self._descriptor = sys.stdout.fileno() if descriptor is None else descriptor
        self._lines: _Lines = _JsonLines()
        self._tried: Record | None = None
        self._line = self._rest = b""
        self.reader_has_gone = False
        """Whether nobody can read what is written any more; a filter in a pipeline then has no reason to go on."""

    def open(self) -> None:
        """Choose the format."""
        if self._format == "text" or (self._format == "auto" and os.isatty(self._descriptor)):
            self._lines = _TextLines(is_terminal=os.isatty(self._descriptor))

    def write(self, record: Record) -> None:
        """Write one line.

        Raises RetryableError where the reader takes none of it for a while or the disk is full, and
        DetectorError where it has gone. A line of which some has been taken counts as written; the
        rest of it goes before anything else.
        """
        if trouble := self._send(_PATIENCE_S):
            raise RetryableError(trouble)
        if record is not self._tried:  # a heading that the first try has made is made only once
            self._tried, self._line = record, self._lines.of(record)
        self._rest = self._line
        trouble = self._send(_PATIENCE_S)
        if trouble and len(self._rest) == len(self._line):
            self._rest = b""
            raise RetryableError(trouble)

    def tick(self) -> None:
        """Look whether the reader is still there, and send what is left of a line."""
        self._send(0)
        self._is_ready(0)

    def close(self) -> None:
        """Send what is left of a line, if the reader takes it."""
        self._send(_PATIENCE_S)

    def _send(self, patience_s: float) -> str | None:
        """Send the rest until it is out, or return why some of it is left."""
        while self._rest:
            if not self._is_ready(patience_s):
                return _STALLED
            try:
                sent = os.write(self._descriptor, self._rest[:_SURE_BYTES])
            except BlockingIOError:  # somebody else has made it non-blocking
                return _STALLED
            except (BrokenPipeError, ConnectionResetError):
                self._report_closed()
            except OSError as error:
                return f"cannot be written to ({error.strerror}); records wait"
            self._rest = self._rest[sent:]
        return None

    def _is_ready(self, patience_s: float) -> bool:
        """Wait until the descriptor takes something; raises DetectorError where its reader has gone."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        events = [event for _, event in poll.poll(1000 * patience_s)]
        if any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for event in events):
            self._report_closed()
        return bool(events)

    def _report_closed(self) -> NoReturn:
        self.reader_has_gone = True
        self._rest = b""
        raise DetectorError("its reader has gone; what comes now is not written there")


class _Lines(Protocol):
    def of(self, record: Record) -> bytes:
        """Return the line or lines of a record."""


class _JsonLines:
    def of(self, record: Record) -> bytes:
        return json_line(record).encode()


class _TextLines:
    def __init__(self, *, is_terminal: bool) -> None:
        from rich.console import Console

        self._text = io.StringIO()
        self._sink = TextSink(Console(file=self._text, force_terminal=is_terminal or None))

    def of(self, record: Record) -> bytes:
        self._sink.write(record)
        lines = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return lines.encode(errors="replace")
