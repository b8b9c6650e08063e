"""Records on standard output, whose reader may stall for ever or go away.

Records as readable lines, for people at a terminal.

Records as lines of JSON, for programs.
"""

from __future__ import annotations

import io
import json
import os
import select
import sys
import zlib
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, TextIO, TypeAlias

from detector.errors import DetectorError
from detector.records import (
    ClipRecord,
    GapRecord,
    HealthRecord,
    OffsetRecord,
    OnsetRecord,
    Record,
    StatusRecord,
    as_dict,
)
from detector.sinks.base import LiveSink, RetryableError

if TYPE_CHECKING:
    from rich.console import Console

    from detector.config.settings import Stdout

_COLOURS: Final = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")
_LABEL_WIDTH: Final = 14
_REASONS: Final = {
    "end_of_stream": "the sound ends here",
    "gap": "sound was lost here",
    "shutdown": "listening ends here",
}
_CAUSES: Final = {
    "overrun": "the device was not read in time",
    "queue": "the detector was too slow",
    "device": "the device was away",
    "suspended": "the machine slept",
}
_HEAD: Final = frozenset({"v", "type", "seq", "source", "time", "device", "clock_synced"})
_Part: TypeAlias = str | tuple[str, str]
"""A piece of a line, or one with its style."""
_NOWHERE: Final = " " * len(f"{0:10.2f} s  ")
"""In place of a position, where a record has none."""


class TextSink:
    """Readable lines for a terminal, coloured by label where the terminal can."""

    def __init__(self, console: Console) -> None:
        """Write to ``console``."""
        self._console = console
        self._source: object = None

    def write(self, record: Record) -> None:
        """Write one line, under a heading of its own where the source is another than before."""
        from rich.text import Text

        if record.source != self._source:
            self._source = record.source
            self._print(Text(_printable(str(self._source)), style="bold"))
        time = f"  {record.time}" if record.time else ""
        self._print(Text.assemble(*_parts(record), (time, "dim")))

    def _print(self, text: object) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)


def _parts(record: Record) -> list[_Part]:
    match record:
        case OnsetRecord():
            text = f"onset   score {record.score:.2f}"
            return [_at(record.onset_s), _label(record.label, "bold "), text, _latency(record.latency_s)]
        case OffsetRecord():
            return [_at(record.offset_s), _label(record.label), _offset(record), _latency(record.latency_s)]
        case GapRecord():
            lost = f"{record.lost_s:.2f} s ({_CAUSES[record.cause]})"
            return [_at(record.at_s), (f"{'sound lost':<{_LABEL_WIDTH}}  ", "yellow"), lost]
        case StatusRecord():
            state = record.state.replace("_", " ")
            heading = f"{state if record.active else f'not {state}':<{_LABEL_WIDTH}}  "
            return [_NOWHERE, (heading, "yellow"), _printable(record.detail)]
        case ClipRecord():
            return [_NOWHERE, _label(record.label), f"clip    {_printable(record.path)}"]
        case HealthRecord():
            return [_NOWHERE, f"{record.type:<{_LABEL_WIDTH}}  ", _health(record)]


def _offset(record: OffsetRecord) -> str:
    why = _REASONS.get(record.reason or "")
    peak = "" if record.peak is None else f"  peak {record.peak:.2f}"
    return f"offset  after {record.duration_s:.2f} s{peak}{f'  ({why})' if why else ''}"


def _health(record: HealthRecord) -> str:
    """Return the numbers, texts and flags of a health record, without what all records hold."""
    plain = {k: v for k, v in as_dict(record).items() if k not in _HEAD and isinstance(v, bool | int | float | str)}
    return "  ".join(f"{key} {_printable(str(value))}" for key, value in plain.items())


def _at(position_s: float) -> _Part:
    return (f"{position_s:10.2f} s  ", "dim")


def _label(label: str, weight: str = "") -> _Part:
    return (f"{label:<{_LABEL_WIDTH}}  ", f"{weight}{_colour(label)}")


def _latency(latency_s: float) -> _Part:
    return (f"  known +{latency_s:.2f} s", "dim")


def _colour(label: str) -> str:
    """Return a colour that a label keeps from run to run."""
    return _COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]


def _printable(name: str) -> str:
    """Return a file's name with what a terminal cannot show, or would obey, replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


class JsonLinesSink:
    """One JSON object a line, each line sent at once."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``, which stays open."""
        self._stream = stream

    def write(self, record: Record) -> None:
        """Write and flush one line."""
        self._stream.write(json_line(record))
        self._stream.flush()


def json_line(record: Record) -> str:
    """Return a record as a line; what is not ASCII is escaped, since names of files may be no text."""
    return json.dumps(as_dict(record), separators=(",", ":"), allow_nan=False) + "\n"


_PATIENCE_S: Final = 0.5
"""How long one try waits for the reader; the worker goes on trying."""
_SURE_BYTES: Final = 4096
"""What a pipe takes at once, without waiting, when it says that it takes anything (PIPE_BUF)."""

_STALLED: Final = "its reader has stalled; records wait, the oldest are dropped when it takes too long"


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
