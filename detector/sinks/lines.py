"""Records as lines: JSON for programs, text for people at a terminal."""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Final, TextIO, TypeAlias

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
from detector.system import printable

if TYPE_CHECKING:
    from rich.console import Console

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
    "network": "the stream did not bring it",
    "off_hours": "outside the hours of processing",
}
_HEAD: Final = frozenset({"v", "type", "seq", "source", "time", "device", "clock_synced"})
_Part: TypeAlias = str | tuple[str, str]
"""A piece of a line, or one with its style."""
_NO_POSITION: Final = " " * len(f"{0:10.2f} s  ")
"""Replaces the position of a record that has none."""


class TextSink:
    """Readable lines for a terminal, coloured by label where the terminal can."""

    def __init__(self, console: Console) -> None:
        """Write to ``console``."""
        self._console = console
        self._source: object = None

    def write(self, record: Record) -> None:
        """Write one line, below a heading where the source is another than before."""
        from rich.text import Text

        if record.source != self._source:
            self._source = record.source
            self._print(Text(_line(str(self._source)), style="bold"))
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
            return [_NO_POSITION, (heading, "yellow"), _line(record.detail)]
        case ClipRecord():
            return [_NO_POSITION, _label(record.label), f"clip    {_line(record.path)}"]
        case HealthRecord():
            return [_NO_POSITION, f"{record.type:<{_LABEL_WIDTH}}  ", _health(record)]


def _offset(record: OffsetRecord) -> str:
    why = _REASONS.get(record.reason or "")
    peak = "" if record.peak is None else f"  peak {record.peak:.2f}"
    return f"offset  after {record.duration_s:.2f} s{peak}{f'  ({why})' if why else ''}"


def _health(record: HealthRecord) -> str:
    """Return the numbers, texts and flags of a health record, without what all records hold."""
    plain = {k: v for k, v in as_dict(record).items() if k not in _HEAD and isinstance(v, bool | int | float | str)}
    return "  ".join(f"{key} {_line(str(value))}" for key, value in plain.items())


def _at(position_s: float) -> _Part:
    return (f"{position_s:10.2f} s  ", "dim")


def _label(label: str, weight: str = "") -> _Part:
    return (f"{_line(label):<{_LABEL_WIDTH}}  ", f"{weight}{_colour(label)}")


def _latency(latency_s: float) -> _Part:
    return (f"  known +{latency_s:.2f} s", "dim")


def _colour(label: str) -> str:
    """Return a colour that is the same for a label in every run."""
    return _COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]


def _line(text: str) -> str:
    return printable(text).replace("\n", " ")


class JsonLinesSink:
    """One JSON object a line, each line flushed."""

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
