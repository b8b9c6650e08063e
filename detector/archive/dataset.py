"""The Parquet data set of an archive: events, scores and files, by day and source, complete at any moment.

Workers append what comes of each stream to a log, one for each attempt at a unit, where a restart finds it. A log is a
sequence of frames, each with its length and a checksum. The results of a stream are whole with the frame of its files:
they count from then on, however the worker ends, and those that it was writing do not. The data are on the disk at the
end of the unit, not behind each file: a power failure may cost the units in progress, a kill does not.

From the logs the one process that leads writes parts, and commits them: parts are written aside, a record names them
all, and only then they are moved to their places and the logs removed. Each step can be repeated, so that a commit that
was interrupted is finished at the next start.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import struct
import uuid
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from detector.errors import ConfigError
from detector.system import ProcessLock, install_command, replace_file, sync, write_text

if TYPE_CHECKING:
    from typing import Self

    import pyarrow as pa

METADATA_KEY: Final = b"snn_detect"
KINDS: Final = ("events", "scores", "files")
_UNKNOWN: Final = "unknown"
_NO_WORDS: Final = frozenset({"nan", "inf", "infinity", "null", "none", "na", "true", "false", "epoch", "today", "now"})
"""Names that readers take for another type than text."""
_LONGEST_NAME: Final = 100
_COMPRESSION: Final = "zstd"
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


def folder_name(source: str) -> str:
    """Return the name of a source in the name of a folder: plain characters, never read as a number, date or null."""
    plain = re.sub(r"[^A-Za-z0-9._-]", lambda m: "".join(f"~{byte:02X}" for byte in m[0].encode()), source)
    if not plain[:1].isalpha() or plain.lower() in _NO_WORDS:
        plain = f"_{plain}"
    if len(plain) > _LONGEST_NAME:
        digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        plain = f"{plain[:_LONGEST_NAME]}~{digest[:12]}"
    return plain


# --- Logs of workers ---


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
        for results in read_log(log):
            paths = results.files["path"].to_pylist()
            if not any(path in seen or path in done for path in paths):
                seen.update(paths)
                yield results


def read_log(log: Path) -> Iterator[Results]:
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


# --- The data set ---


class DataSet:
    """The folder of an archive, written by one process."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Open or begin the archive, and finish a commit that was interrupted.

        Raises ConfigError where the folder is of something else or of other settings, or another process has it; and
        OSError.
        """
        arrow()
        self.folder = folder
        self._own = folder / ".archive"
        self.staging = self._own / "staged"
        self._pending, self._records = self._own / "pending", self._own / "commits"
        if folder.exists() and not self._own.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--out {folder}: holds something else; name a folder that is new or empty")
        try:
            self._lock = self._locked()
        except OSError as error:
            raise ConfigError(f"--out {folder}: cannot be written ({error.strerror}); name another folder") from error
        try:
            for own in (self.staging, self._pending, self._records):
                own.mkdir(parents=True, exist_ok=True)
            self._check_settings(settings)
            self._metadata = {METADATA_KEY: json.dumps(settings, sort_keys=True).encode()}
            self._recover()
            self.done = self._read_done()
        except BaseException:
            self.close()
            raise

    def _locked(self) -> ProcessLock:
        try:
            return ProcessLock(self._own)
        except ConfigError as error:
            user = str(error).partition(" is in use by ")[2].partition("; end it")[0]
            raise ConfigError(f"--out {self.folder}: is in use by {user}; wait for it, or end it") from error

    def close(self) -> None:
        """Release the folder."""
        self._lock.close()

    def _check_settings(self, settings: Mapping[str, Any]) -> None:
        """Write the settings, or compare them with those that the archive was begun with."""
        path = self.folder / "archive.json"
        if not path.exists():
            write_text(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")
            return
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path}: is damaged ({error}); name another --out") from error
        differs = sorted(k for k in {*begun, *settings} - {"version"} if begun.get(k) != settings.get(k))
        if differs:
            old, new = (json.dumps(of.get(differs[0])) for of in (begun, settings))
            raise ConfigError(
                f"--out {self.folder}: was begun with another {differs[0]} ({old}, now {new}); "
                "give the same options, or name another folder"
            )

    # What is done

    def _read_done(self) -> dict[str, int]:
        """Return the size of each file that is in the archive, by its path."""
        _, pq = arrow()
        done: dict[str, int] = {}
        for part in sorted((self.folder / "files").rglob("*.parquet")):
            table = pq.ParquetFile(part).read(["path", "size_bytes"])
            done.update(zip(*(table[name].to_pylist() for name in ("path", "size_bytes")), strict=True))
        return done

    def staged(self) -> list[str]:
        """Return the names of the logs that workers have left; what else is there is removed."""
        names = []
        for path in sorted(self.staging.iterdir()):
            if path.suffix == SUFFIX:
                names.append(path.stem)
            else:  # where a worker was when it was killed
                _discard(path)
        return names

    def staged_bytes(self, name: str) -> int:
        """Return the size of a log; 0 where there is none."""
        with contextlib.suppress(OSError):
            return (self.staging / f"{name}{SUFFIX}").stat().st_size
        return 0

    # Commits

    def commit(self, names: Sequence[str]) -> None:
        """Move the results in these logs into the data set, and remove the logs.

        Results that are not whole, and those of files that are in the data set already, are discarded. Raises OSError.
        """
        if not names:
            return
        pa, _ = arrow()
        results = list(taken((self.staging / f"{name}{SUFFIX}" for name in names), self.done))
        number = self._next_number()
        if results:
            shutil.rmtree(self._pending / number, ignore_errors=True)
            tables = {kind: pa.concat_tables(getattr(r, kind) for r in results) for kind in ("events", "files")}
            self._write_parts(self._pending / number, number, tables)
            self._write_scores(self._pending / number, number, results)
        record = {"staged": list(names)}
        write_text(self._records / f"{number}.json", json.dumps(record))
        self._apply(number, record)
        for of in results:
            self.done |= of.sizes

    def _next_number(self) -> str:
        numbers = [int(path.name[:8]) for path in self._records.iterdir() if path.name[:8].isdecimal()]
        last = self._own / "last"
        with contextlib.suppress(OSError, ValueError):
            numbers.append(int(last.read_text(encoding="ascii")))
        number = f"{max(numbers, default=0) + 1:08d}"
        write_text(last, number)
        return number

    def _write_parts(self, pending: Path, number: str, tables: Mapping[str, pa.Table]) -> None:
        for kind, whole in tables.items():
            for place, part in _by_partition(whole):
                by_time = [("time", "ascending"), ("stream", "ascending")]
                table = part.sort_by(by_time) if kind == "events" else part
                self._write(pending / kind / place / f"{number}.parquet", table)
        self._write_errors(pending, tables["files"])

    def _write_scores(self, pending: Path, number: str, results: Iterable[Results]) -> None:
        _, pq = arrow()
        with contextlib.ExitStack() as stack:
            writers: dict[str, Any] = {}
            for place, table in (part for of in results for rows in of.scores() for part in _by_partition(rows)):
                if place not in writers:
                    path = pending / "scores" / place / f"{number}.parquet"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    part = stack.enter_context(replace_file(path))
                    whole = table.schema.with_metadata(self._metadata)
                    writers[place] = stack.enter_context(pq.ParquetWriter(part, whole, compression=_COMPRESSION))
                writers[place].write_table(table.replace_schema_metadata(self._metadata))

    def _write_errors(self, pending: Path, files: pa.Table) -> None:
        """Write the whole of ``errors.parquet`` again, with the files of this commit that have an error."""
        pa, pq = arrow()
        import pyarrow.compute as pc

        new = files.filter(pc.is_valid(files["error"])).select(_ERROR_COLUMNS)
        place = self.folder / "errors.parquet"
        if place.exists():
            if not len(new):
                return
            new = pa.concat_tables([pq.ParquetFile(place).read().replace_schema_metadata(None), new])
        self._write(pending / "errors.parquet", new)

    def _write(self, path: Path, table: pa.Table) -> None:
        _, pq = arrow()
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as part:
            pq.write_table(table.replace_schema_metadata(self._metadata), part, compression=_COMPRESSION)

    def _apply(self, number: str, record: Mapping[str, Any]) -> None:
        """Move the parts of a commit that is recorded to their places; all of it may have been done before."""
        pending, folders = self._pending / number, {self.folder}
        for part in sorted(pending.rglob("*.parquet")):
            place = self.folder / part.relative_to(pending)
            place.parent.mkdir(parents=True, exist_ok=True)
            part.replace(place)
            folders |= {f for f in (place.parent, *place.parent.parents) if f.is_relative_to(self.folder)}
        for folder in folders:
            sync(folder)
        for name in record["staged"]:
            (self.staging / f"{name}{SUFFIX}").unlink(missing_ok=True)
        shutil.rmtree(pending, ignore_errors=True)
        (self._records / f"{number}.json").unlink(missing_ok=True)

    def _recover(self) -> None:
        """Finish commits that are recorded, and remove what was written for one that is not."""
        for path in sorted(self._records.glob("*.json")):
            if not path.name.startswith("."):
                self._apply(path.stem, json.loads(path.read_text(encoding="utf-8")))
        for left in (*self._pending.iterdir(), *self._records.iterdir()):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def finish(self) -> None:
        """Have tables to read also where nothing was found, and remove what is staged and not needed."""
        for kind in ("events", "files"):
            if not any((self.folder / kind).rglob("*.parquet")):
                place = self.folder / kind / _place(None, "") / "none.parquet"
                self._write(place, schema(kind).empty_table())
        if not (self.folder / "errors.parquet").exists():
            self._write(self.folder / "errors.parquet", schema("files").empty_table().select(_ERROR_COLUMNS))
        for path in self.staging.iterdir():
            _discard(path)

    def read(self, kind: str, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield the columns of a table, batch by batch."""
        _, pq = arrow()
        for part in sorted((self.folder / kind).rglob("*.parquet")):
            yield from pq.ParquetFile(part).iter_batches(columns=list(columns))


def _discard(path: Path) -> None:
    """Remove a file that is not needed; NFS keeps one that is open elsewhere under another name."""
    with contextlib.suppress(OSError):
        path.unlink()


_ERROR_COLUMNS: Final = ["path", "source", "date", "time", "local_time", "size_bytes", "seconds", "error"]


def _place(day: date | None, source: str) -> str:
    """Return the folder of a partition; its keys are no columns of the tables, which have their own types."""
    return f"day={_UNKNOWN if day is None else day.isoformat()}/recorder={folder_name(source)}"


def _by_partition(table: pa.Table) -> Iterable[tuple[str, pa.Table]]:
    """Yield the folder of each partition in a table, and its rows."""
    import pyarrow.compute as pc

    if not len(table):
        return
    keys = table.select(["date", "source"]).group_by(["date", "source"]).aggregate([]).to_pylist()
    for key in keys:
        is_day = pc.is_null(table["date"]) if key["date"] is None else pc.equal(table["date"], key["date"])
        yield (
            _place(key["date"], key["source"]),
            table.filter(pc.and_(is_day, pc.equal(table["source"], key["source"]))),
        )
