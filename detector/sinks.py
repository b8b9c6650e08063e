"""Where records go: lines of JSON for programs, readable lines for people, scores for tools."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, TextIO

import numpy as np

from detector.errors import ConfigError
from detector.messages import Scores

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS: Final = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")
_LABEL_WIDTH: Final = 14
_TIMES_AT_ONCE: Final = 65_536
_REASONS: Final = {"end_of_stream": "the sound ends here", "gap": "sound was lost here"}


class Sink(Protocol):
    """Takes records one by one, as they become known."""

    def write(self, record: Mapping[str, Any]) -> None:
        """Pass a record on before returning; raises BrokenPipeError where nobody reads any more."""


class JsonLinesSink:
    """One JSON object a line, each line sent at once."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``, which stays open."""
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """Write and flush one line; what is not ASCII is escaped, since names of files may be no text."""
        self._stream.write(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n")
        self._stream.flush()


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


class ScoresFile:
    """Scores of one stream in an .npz file: ``scores`` (frames, classes), ``times_s`` (frames,), ``labels``.

    ``times_s`` holds the end of each frame. The scores wait in an unnamed file on the same disk, so that memory
    does not grow with the sound, and the .npz file appears whole or not at all.
    """

    def __init__(self, path: Path, labels: tuple[str, ...]) -> None:
        """Prepare to write ``path``; raises ConfigError where it is a folder or its folder takes no files."""
        if path.is_dir():
            raise ConfigError(f"{path}: is a directory; name the .npz file to write")
        self._path = path
        self._labels = labels
        self._frames = 0
        try:
            self._spool: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - open until close()
        except OSError as error:
            raise ConfigError(f"{path.parent}: scores cannot be written there ({error.strerror})") from error

    def push(self, scores: Scores) -> None:
        """Append scores (frames, classes)."""
        self._spool.write(np.ascontiguousarray(scores, "<f4").data)
        self._frames += len(scores)

    def save(self, rate_hz: int, hop_length: int, frame_length: int) -> None:
        """Write the file; frame k ends ``k * hop_length + frame_length`` samples into the stream."""
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with part.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
                self._spool.seek(0)
                with _member(archive, "scores", "<f4", (self._frames, len(self._labels))) as out:
                    shutil.copyfileobj(self._spool, out)
                with _member(archive, "times_s", "<f8", (self._frames,)) as out:
                    for start in range(0, self._frames, _TIMES_AT_ONCE):
                        k = np.arange(start, min(start + _TIMES_AT_ONCE, self._frames))
                        out.write(((k * hop_length + frame_length) / rate_hz).astype("<f8").data)
                names = np.array(self._labels)
                with _member(archive, "labels", names.dtype.str, names.shape) as out:
                    out.write(names.tobytes())
            part.replace(self._path)
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Drop what has not been saved."""
        self._spool.close()


def _member(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]) -> IO[bytes]:
    """Open an array of the archive for its bytes to follow; the date is fixed, so that equal scores are equal files."""
    out = archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out


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
