"""Records as readable lines, for people at a terminal."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

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

    def write(self, record: Mapping[str, Any]) -> None:
        """Write one line, under a heading of its own where the source is another than before."""
        from rich.text import Text

        if record["source"] != self._source:
            self._source = record["source"]
            self._print(Text(_printable(str(self._source)), style="bold"))
        time = f"  {record['time']}" if record["time"] else ""
        self._print(Text.assemble(*_PARTS.get(str(record["type"]), _other)(record), (time, "dim")))

    def _print(self, text: object) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)


def _onset(record: Mapping[str, Any]) -> list[_Part]:
    text = f"onset   score {record['score']:.2f}"
    return [_at(record["onset_s"]), _label(record, "bold "), text, _latency(record)]


def _offset(record: Mapping[str, Any]) -> list[_Part]:
    why = _REASONS.get(str(record["reason"]))
    peak = "" if record["peak"] is None else f"  peak {record['peak']:.2f}"
    text = f"offset  after {record['duration_s']:.2f} s{peak}{f'  ({why})' if why else ''}"
    return [_at(record["offset_s"]), _label(record), text, _latency(record)]


def _gap(record: Mapping[str, Any]) -> list[_Part]:
    cause = _CAUSES.get(str(record["cause"]), str(record["cause"]))
    return [_at(record["at_s"]), (f"{'sound lost':<{_LABEL_WIDTH}}  ", "yellow"), f"{record['lost_s']:.2f} s ({cause})"]


def _status(record: Mapping[str, Any]) -> list[_Part]:
    state = str(record["state"]).replace("_", " ")
    heading = f"{state if record['active'] else f'not {state}':<{_LABEL_WIDTH}}  "
    return [_NOWHERE, (heading, "yellow"), _printable(str(record["detail"]))]


def _clip(record: Mapping[str, Any]) -> list[_Part]:
    return [_NOWHERE, _label(record), f"clip    {_printable(str(record['path']))}"]


def _other(record: Mapping[str, Any]) -> list[_Part]:
    """Show what has no words of its own as it is: its numbers, texts and flags."""
    plain = {k: v for k, v in record.items() if k not in _HEAD and isinstance(v, bool | int | float | str)}
    text = "  ".join(f"{key} {_printable(str(value))}" for key, value in plain.items())
    return [_NOWHERE, f"{_printable(str(record['type'])):<{_LABEL_WIDTH}}  ", text]


_PARTS: Final[dict[str, Callable[[Mapping[str, Any]], list[_Part]]]] = {
    "onset": _onset,
    "offset": _offset,
    "gap": _gap,
    "status": _status,
    "clip": _clip,
}


def _at(position_s: float) -> _Part:
    return (f"{position_s:10.2f} s  ", "dim")


def _label(record: Mapping[str, Any], weight: str = "") -> _Part:
    label = str(record["label"])
    return (f"{label:<{_LABEL_WIDTH}}  ", f"{weight}{_colour(label)}")


def _latency(record: Mapping[str, Any]) -> _Part:
    return (f"  known +{record['latency_s']:.2f} s", "dim")


def _colour(label: str) -> str:
    """Return a colour that a label keeps from run to run."""
    return _COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]


def _printable(name: str) -> str:
    """Return a file's name with what a terminal cannot show, or would obey, replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
