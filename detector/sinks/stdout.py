"""Records on standard output, whose reader may stall or close it."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Sequence
from typing import Final, Literal, NoReturn, Protocol

from pydantic import Field

from detector.config.sections import RECORD_TYPES, RecordType
from detector.errors import DetectorError
from detector.records import Record, TextSink, json_line
from detector.sinks.base import LiveSink, RetryableError, SinkContext, SinkSection, SinkSpec

_TIMEOUT_S: Final = 0.5
"""How long one attempt waits for the reader; the worker retries."""
_ATOMIC_BYTES: Final = 4096
"""What a pipe that is ready accepts without blocking (PIPE_BUF)."""

_STALLED: Final = "its reader has stalled; records wait, the oldest are dropped when the queue is full"


class Stdout(SinkSection):
    """Records on standard output, which under systemd is the journal."""

    enabled: bool = Field(True, description="Whether records are written there.")
    format: Literal["auto", "json", "text"] = Field(
        "auto", description='"json", "text" for people, or "auto": text on a terminal, JSON elsewhere.'
    )
    types: tuple[RecordType, ...] = Field(
        ("onset", "offset", "gap", "status"), description=f"Types of records to write, {RECORD_TYPES}."
    )

    def build(self, context: SinkContext, /) -> SinkSpec | None:
        """Return the sink, None where it is not enabled."""
        sources = tuple(info.source for info in context.node_infos)
        return SinkSpec.of(StandardOutput, self, None, sources) if self.enabled else None


class StandardOutput(LiveSink):
    """Write a line a record, JSON or text, and never block in a write.

    The descriptor is written to directly and only when poll reports room: a lock of Python's streams, held by a
    blocked thread, would keep the interpreter from ending. It is not made non-blocking, since other processes share
    the terminal.
    """

    longest_pause_s = 2.0
    """An attempt is cheap, and a reader that continues is to get at once what has waited."""

    def __init__(self, settings: Stdout, descriptor: int | None = None, sources: tuple[str, ...] = ()) -> None:
        """Write to ``descriptor``, None: that of ``sys.stdout``; lines for people name one of several ``sources``."""
        self._sources = sources
        self.types = frozenset(settings.types)
        self._format = settings.format
        self._descriptor = sys.stdout.fileno() if descriptor is None else descriptor
        self._lines: _Lines = _JsonLines()
        self._tried: Record | None = None
        self._line = self._rest = b""
        self.reader_has_gone = False
        """Whether the reader has closed the pipe; a filter in a pipeline then ends."""

    def open(self) -> None:
        """Choose the format."""
        if self._format == "text" or (self._format == "auto" and os.isatty(self._descriptor)):
            self._lines = _TextLines(self._sources, is_terminal=os.isatty(self._descriptor))

    def write(self, record: Record) -> None:
        """Write one line.

        Raises RetryableError where the reader accepts none of it for a while or the disk is full, and
        DetectorError where it has closed the pipe. A line that was written in part counts as written; its
        rest is sent before anything else.
        """
        if trouble := self._send(_TIMEOUT_S):
            raise RetryableError(trouble)
        if record is not self._tried:  # a heading is written by the first attempt only
            self._tried, self._line = record, self._lines.of(record)
        self._rest = self._line
        trouble = self._send(_TIMEOUT_S)
        if trouble and len(self._rest) == len(self._line):
            self._rest = b""
            raise RetryableError(trouble)

    def tick(self) -> None:
        """Check whether the reader is still there, and send what is left of a line."""
        self._send(0)
        self._is_ready(0)

    def close(self) -> None:
        """Send what is left of a line, if the reader accepts it."""
        self._send(_TIMEOUT_S)

    def _send(self, timeout_s: float) -> str | None:
        """Send the rest of a line; return why some of it is left, None where none is."""
        while self._rest:
            if not self._is_ready(timeout_s):
                return _STALLED
            try:
                sent = os.write(self._descriptor, self._rest[:_ATOMIC_BYTES])
            except BlockingIOError:  # another process has made it non-blocking
                return _STALLED
            except (BrokenPipeError, ConnectionResetError):
                self._report_closed()
            except OSError as error:
                return f"cannot be written to ({error.strerror}); records wait"
            self._rest = self._rest[sent:]
        return None

    def _is_ready(self, timeout_s: float) -> bool:
        """Wait until the descriptor accepts data; raises DetectorError where its reader has closed it."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        events = [event for _, event in poll.poll(1000 * timeout_s)]
        if any(event & (select.POLLERR | select.POLLHUP | select.POLLNVAL) for event in events):
            self._report_closed()
        return bool(events)

    def _report_closed(self) -> NoReturn:
        self.reader_has_gone = True
        self._rest = b""
        raise DetectorError("its reader has closed it; further records are not written there")


class _Lines(Protocol):
    def of(self, record: Record) -> bytes:
        """Return the line or lines of a record."""


class _JsonLines:
    def of(self, record: Record) -> bytes:
        return json_line(record).encode()


class _TextLines:
    def __init__(self, sources: Sequence[str], *, is_terminal: bool) -> None:
        from rich.console import Console

        self._text = io.StringIO()
        self._sink = TextSink(Console(file=self._text, force_terminal=is_terminal or None), sources)

    def of(self, record: Record) -> bytes:
        self._sink.write(record)
        lines = self._text.getvalue()
        self._text.seek(0)
        self._text.truncate()
        return lines.encode(errors="replace")
