"""The Parquet data set of an archive: events, scores and files, by day and source, complete at any moment.

Workers leave the results of each stream in logs, where a restart finds them. From these the one process that leads
writes parts, and commits them: parts are written aside, a record names them all, and only then they are moved to their
places and the logs removed. Each step can be repeated, so that a commit that was interrupted is finished at the next
start.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from detector.archive.staging import SUFFIX, Results, arrow, schema, taken
from detector.errors import ConfigError
from detector.system import ProcessLock, replace_file, sync, write_text

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY: Final = b"snn_detect"
KINDS: Final = ("events", "scores", "files")
_UNKNOWN: Final = "unknown"
_NO_WORDS: Final = frozenset({"nan", "inf", "infinity", "null", "none", "na", "true", "false", "epoch", "today", "now"})
"""Names that readers take for another type than text."""
_LONGEST_NAME: Final = 100
_COMPRESSION: Final = "zstd"


def folder_name(source: str) -> str:
    """Return the name of a source in the name of a folder: plain characters, never read as a number, date or null."""
    plain = re.sub(r"[^A-Za-z0-9._-]", lambda m: "".join(f"~{byte:02X}" for byte in m[0].encode()), source)
    if not plain[:1].isalpha() or plain.lower() in _NO_WORDS:
        plain = f"_{plain}"
    if len(plain) > _LONGEST_NAME:
        digest = hashlib.sha256(source.encode("utf-8", "surrogatepass")).hexdigest()
        plain = f"{plain[:_LONGEST_NAME]}~{digest[:12]}"
    return plain


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
