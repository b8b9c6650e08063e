"""Records as readable lines, for people at a terminal."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS: Final = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")
_LABEL_WIDTH: Final = 14
_REASONS: Final = {"end_of_stream": "the sound ends here", "gap": "sound was lost here"}


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
        onset = record["type"] == "onset"
        label = str(record["label"])
        self._print(
            Text.assemble(
                (f"{record['onset_s' if onset else 'offset_s']:10.2f} s  ", "dim"),
                (f"{label:<{_LABEL_WIDTH}}  ", f"{'bold ' if onset else ''}{_colour(label)}"),
                _onset_text(record) if onset else _offset_text(record),
                (f"  known +{record['latency_s']:.2f} s", "dim"),
                (f"  {record['time']}" if record["time"] else "", "dim"),
            )
        )

    def _print(self, text: object) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)


def _onset_text(record: Mapping[str, Any]) -> str:
    return f"onset   score {record['score']:.2f}"


def _offset_text(record: Mapping[str, Any]) -> str:
    why = _REASONS.get(str(record["reason"]))
    peak = "" if record["peak"] is None else f"  peak {record['peak']:.2f}"
    return f"offset  after {record['duration_s']:.2f} s{peak}{f'  ({why})' if why else ''}"


def _colour(label: str) -> str:
    """Return a colour that a label keeps from run to run."""
    return _COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]


def _printable(name: str) -> str:
    """Return a file's name with what a terminal cannot show, or would obey, replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
