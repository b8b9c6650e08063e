"""What workers leave of their work: the tables of an archive, in a log for each attempt at a unit.

A log is a sequence of frames, each with its length and a checksum. The results of a stream are whole with the frame of
its files: they count from then on, however the worker ends, and those that it was writing do not. The data are on the
disk at the end of the unit, not behind each file: a power failure may cost the units in progress, a kill does not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
import uuid
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from detector.errors import ConfigError
from detector.system import install_command

if TYPE_CHECKING:
    from typing import Self

    import pyarrow as pa

SUFFIX: Final = ".arrows"
_FRAME: Final = struct.Struct("<cQI")
"""Kind, length, and checksum of both and of what follows."""
_HEAD, _SCORES, _EVENTS, _FILES = (bytes([letter]) for letter in b"HSEF")


def arrow() -> tuple[Any, Any]:
    """Return pyarrow and pyarrow.parquet; raises ConfigError where they are not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise ConfigError(f"the archive needs pyarrow: {install_command('archive')}") from error
    return pa, pq


def schema(kind: str, labels: Sequence[str] = ()) -> pa.Schema:
    """Return the columns of a kind of table; ``scores`` has one for each of the model's ``labels``."""
    pa, _ = arrow()
    text, number, moment = pa.string(), pa.float64(), pa.timestamp("us", "UTC")
    place = [("source", text), ("date", pa.date32()), ("time", moment), ("local_time", pa.timestamp("us"))]
    columns: dict[str, list[tuple[str, Any]]] = {
        "events": [
            ("id", text),
            *place,
            *(("label", text), ("category", text), ("onset_s", number), ("offset_s", number), ("duration_s", number)),
            *(("score", number), ("threshold", number), ("peak", number), ("mean", number), ("reason", text)),
            *(("path", text), ("in_file_s", number), ("stream", text)),
        ],
        "scores": [
            *place,
            *(("path", text), ("in_file_s", number), ("stream", text), ("second", pa.int32())),
            *((f"score_{label}", pa.float32()) for label in labels),
        ],
        "files": [
            *(("path", text), *place, ("start_from", text), ("metadata", text), ("size_bytes", pa.int64())),
            *(("seconds", number), ("stream", text), ("events", pa.int32()), ("error", text), ("warning", text)),
        ],
    }
    return pa.schema(columns[kind])


def moments(start: datetime | None, offset_s: float) -> dict[str, Any]:
    """Return the columns of a time ``offset_s`` seconds behind a start: UTC, and date and clock at the recorder."""
    if start is None:
        return {"date": None, "time": None, "local_time": None}
    moment = start + timedelta(seconds=offset_s)
    local = moment.replace(tzinfo=None)
    return {"date": local.date(), "time": moment, "local_time": local}


def as_text(path: str) -> str:
    """Return a path as text; bytes that are none are written as hexadecimal numbers."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


class Staged:
    """The log of one attempt at a unit, written by a worker: the results of a stream appear together, or not at all.

    The name is its own: a unit may be worked on twice, where a worker was given up and goes on all the same.
    """

    def __init__(self, folder: Path, unit: str, labels: Sequence[str]) -> None:
        """Prepare to write the results of a unit in ``folder``."""
        self._folder, self.name = folder, f"{unit}-{uuid.uuid4().hex[:12]}"
        self._labels = labels
        self._rows: dict[str, list[dict[str, Any]]] = {"events": [], "files": []}
        self._fault: OSError | None = None

    def __enter__(self) -> Self:
        self._file = (self._folder / f"{self.name}{SUFFIX}").open("xb")
        self._schemas = {kind: schema(kind, self._labels) for kind in ("events", "files", "scores")}
        try:
            self._write(_HEAD, _release(), self._schemas["scores"].serialize())
            self._file.flush()
        except BaseException:
            self.__exit__(OSError)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(OSError):  # the error is raised, or the reason of it
                self._file.close()
            return
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def add(self, kind: str, row: Mapping[str, Any]) -> None:
        """Append a row of ``events`` or ``files``."""
        self._rows[kind].append(dict(row))

    def add_scores(self, columns: Mapping[str, Any]) -> None:
        """Append rows of scores, by columns; raises OSError."""
        pa, _ = arrow()
        for batch in pa.Table.from_pydict(dict(columns), self._schemas["scores"]).to_batches():
            self._write(_SCORES, batch.serialize())

    def end_stream(self) -> None:
        """Have the results so far count; raises OSError where they cannot be written, or the log has been removed."""
        pa, _ = arrow()
        for frame, kind in ((_EVENTS, "events"), (_FILES, "files")):
            if rows := self._rows[kind]:
                self._write(frame, pa.RecordBatch.from_pylist(rows, self._schemas[kind]).serialize())
            self._rows[kind] = []
        if self._fault is not None:  # of scores, where it has become an error of the file
            raise self._fault
        self._file.flush()
        if not os.fstat(self._file.fileno()).st_nlink:  # another run has taken what was there, and goes on itself
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _write(self, kind: bytes, *parts: Any) -> None:
        parts = tuple(map(memoryview, parts))
        length = sum(part.nbytes for part in parts)
        check = zlib.crc32(_FRAME.pack(kind, length, 0))
        for part in parts:
            check = zlib.crc32(part, check)
        try:
            for piece in (_FRAME.pack(kind, length, check), *parts):
                self._file.write(piece)
        except OSError as error:
            self._fault = error
            raise


@dataclass(frozen=True, slots=True)
class Results:
    """Those of one stream."""

    log: Path
    events: pa.Table
    files: pa.Table
    _scores_schema: pa.Schema
    _scores_at: tuple[tuple[int, int], ...]
    """Where the scores are in the log, and their length in bytes."""

    @property
    def seconds(self) -> dict[str, float]:
        """The length of each file by its path."""
        return dict(zip(self.files["path"].to_pylist(), self.files["seconds"].to_pylist(), strict=True))

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each file by its path, in bytes."""
        return dict(zip(self.files["path"].to_pylist(), self.files["size_bytes"].to_pylist(), strict=True))

    def scores(self) -> Iterator[pa.Table]:
        """Yield the scores part by part, as those of a stream of days may be many; raises OSError."""
        if not self._scores_at:
            return
        with self.log.open("rb") as file:
            for at, length in self._scores_at:
                file.seek(at)
                yield _table(file.read(length), self._scores_schema)


def logs(folder: Path, unit: str) -> list[Path]:
    """Return the logs of a unit, in the order in which they are taken."""
    return sorted(folder.glob(f"{unit}-*{SUFFIX}"))


def taken(found: Iterable[Path], done: Container[str] = ()) -> Iterator[Results]:
    """Yield the results in these logs, each file once; those of files that are done are left out.

    Workers and the process that commits agree by this on what counts: the first results of a file. Raises OSError.
    """
    seen: set[str] = set()
    for log in found:
        for results in read(log):
            paths = results.files["path"].to_pylist()
            if not any(path in seen or path in done for path in paths):
                seen.update(paths)
                yield results


def read(log: Path) -> Iterator[Results]:
    """Yield what is whole in a log, also while it is being written; raises OSError.

    A log that is missing, or that another release has written, has nothing.
    """
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(log.open("rb"))
        except FileNotFoundError:
            return
        frames = _frames(file)
        kind, head, _ = next(frames, (b"", b"", 0))
        release = _release()
        if kind != _HEAD or not head.startswith(release):
            return
        pa, _ = arrow()
        scores_schema = pa.ipc.read_schema(pa.py_buffer(head[len(release) :]))
        scores, none, columns = [], schema("events").empty_table(), schema("files")
        events = none
        for kind, data, at in frames:
            if kind == _SCORES:
                scores.append((at, len(data)))
            elif kind == _EVENTS:
                events = _table(data, none.schema)
            elif kind == _FILES:
                yield Results(log, events, _table(data, columns), scores_schema, tuple(scores))
                scores, events = [], none


def _frames(file: BinaryIO) -> Iterator[tuple[bytes, bytes, int]]:
    """Yield kind, content and place of the frames up to the first one that is not whole."""
    size = os.fstat(file.fileno()).st_size
    while len(head := file.read(_FRAME.size)) == _FRAME.size:
        kind, length, check = _FRAME.unpack(head)
        at = file.tell()
        if length > size - at:
            return
        data = file.read(length)
        if zlib.crc32(data, zlib.crc32(_FRAME.pack(kind, length, 0))) != check:
            return
        yield kind, data, at


def _table(data: bytes, columns: pa.Schema) -> pa.Table:
    pa, _ = arrow()
    return pa.Table.from_batches([pa.ipc.read_record_batch(pa.py_buffer(data), columns)])


@cache
def _release() -> bytes:
    """Return what stands for the columns of events and files, which another release may have changed."""
    return hashlib.sha256(f"{schema('events')}\n{schema('files')}".encode()).digest()
