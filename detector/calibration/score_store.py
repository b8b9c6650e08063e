"""Scores on the disk, never sound: compact, and whole up to the last minute however a run ends."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from detector.errors import ConfigError
from detector.messages import Scores
from detector.pipeline import Detector

_APPLICATION: Final = 0x534E4E63
"""Tells such a file from any other of SQLite."""
_VERSION: Final = 1
_STEPS: Final = 65535
"""A score is kept as a multiple of 1 / 65535: nearer than what tells one threshold of the table from the next."""
_BLOCK_S: Final = 60.0
_TABLES: Final = (
    "CREATE TABLE model (sha256 TEXT NOT NULL, name TEXT NOT NULL, classes INTEGER NOT NULL)",
    """CREATE TABLE stretches (
        number INTEGER PRIMARY KEY,
        label TEXT,
        source TEXT NOT NULL,
        device TEXT,
        end_sample INTEGER NOT NULL DEFAULT 0,
        frames INTEGER NOT NULL DEFAULT 0,
        is_end INTEGER NOT NULL DEFAULT 0
    )""",
    "CREATE INDEX stretches_by_source ON stretches (source)",
    """CREATE TABLE blocks (
        number INTEGER PRIMARY KEY,
        stretch INTEGER NOT NULL REFERENCES stretches (number),
        scores BLOB NOT NULL
    )""",
    "CREATE INDEX blocks_by_stretch ON blocks (stretch, number)",
)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Scores of sound without a gap: the detector had forgotten everything before it."""

    number: int
    label: str | None
    """What was recorded on purpose; None is background, in which every event is a false alarm."""
    source: str
    device: str | None
    frames: int


class ScoreStore:
    """The scores of stretches of sound, each from a detector that began anew."""

    def __init__(self, path: Path | None, detector: Detector) -> None:
        """Open a file, or begin it; None is one without a name that goes with the process.

        Raises ConfigError for a file of another kind or model, or one that cannot be written.
        """
        self._where = "scores" if path is None else str(path)
        manifest = detector.manifest
        self._classes, rate_hz = len(manifest.classes), manifest.features.sample_rate_hz
        self._frame_s = manifest.features.hop_length / rate_hz
        self._block_frames = round(_BLOCK_S / self._frame_s)
        self._current: int | None = None
        self._end_sample = 0
        self._pending: list[Scores] = []
        with self._told():
            self._connection = sqlite3.connect("" if path is None else path, timeout=1, isolation_level=None)
            try:
                self._prepare(detector)
            except BaseException:
                self._connection.close()
                raise

    @property
    def background_hours(self) -> float:
        """Length of the background."""
        with self._told():
            (frames,) = self._connection.execute(
                "SELECT coalesce(sum(frames), 0) FROM stretches WHERE label IS NULL"
            ).fetchone()
        return (int(frames) + sum(map(len, self._pending))) * self._frame_s / 3600

    @property
    def devices(self) -> tuple[str | None, ...]:
        """The devices that the background was heard by; None is a file."""
        with self._told():
            rows = self._connection.execute(
                "SELECT DISTINCT device FROM stretches WHERE label IS NULL AND frames > 0 ORDER BY device"
            ).fetchall()
        return tuple(row[0] for row in rows)

    def heard_to(self, source: str) -> int | None:
        """Return the sample of a source that is the next to hear; None where it was heard to its end."""
        with self._told():
            end, is_end = self._connection.execute(
                "SELECT coalesce(max(end_sample), 0), coalesce(max(is_end), 0) FROM stretches WHERE source = ?",
                (source,),
            ).fetchone()
        return None if is_end else int(end)

    def begin(self, source: str, label: str | None = None, device: str | None = None) -> None:
        """Begin a stretch: what is pushed from now on belongs to it."""
        self.end()
        with self._told():
            row = "INSERT INTO stretches (source, label, device) VALUES (?, ?, ?)"
            self._current = self._connection.execute(row, (source, label, device)).lastrowid

    def push(self, scores: Scores, end_sample: int) -> None:
        """Append scores (frames, classes); ``end_sample`` lies behind the last sample that is in them."""
        if not len(scores):
            return
        self._pending.append(scores)
        self._end_sample = end_sample
        if sum(map(len, self._pending)) >= self._block_frames:
            self._write()

    def end(self, *, is_end: bool = False) -> None:
        """Write what is left of a stretch; ``is_end``: its source has no more sound."""
        if self._current is None:
            return
        self._write()
        with self._told():
            if is_end:
                self._connection.execute("UPDATE stretches SET is_end = 1 WHERE number = ?", (self._current,))
            self._connection.execute("DELETE FROM stretches WHERE frames = 0 AND is_end = 0")
        self._current = None

    def stretches(self) -> list[Stretch]:
        """Return all stretches that hold scores, in the order in which they were heard."""
        with self._told():
            rows = self._connection.execute(
                "SELECT number, label, source, device, frames FROM stretches WHERE frames > 0 ORDER BY number"
            ).fetchall()
        return [Stretch(*row) for row in rows]

    def scores(self, stretch: Stretch) -> Iterator[Scores]:
        """Yield the scores (frames, classes) of a stretch, about a minute at a time."""
        with self._told():
            rows = self._connection.execute(
                "SELECT scores FROM blocks WHERE stretch = ? ORDER BY number", (stretch.number,)
            )
            for (blob,) in rows:
                steps = np.frombuffer(zlib.decompress(blob), "<u2").reshape(-1, self._classes)
                yield steps.astype(np.float32) / np.float32(_STEPS)

    def close(self) -> None:
        """Write what is left and close the file."""
        try:
            self.end()
        finally:
            self._connection.close()

    def _write(self) -> None:
        if not self._pending:
            return
        scores = np.concatenate(self._pending)
        steps = np.rint(np.nan_to_num(scores).clip(0, 1) * _STEPS).astype("<u2")
        with self._told():
            self._connection.execute("BEGIN")
            try:
                blob = zlib.compress(steps.tobytes(), 6)
                self._connection.execute("INSERT INTO blocks (stretch, scores) VALUES (?, ?)", (self._current, blob))
                row = "UPDATE stretches SET frames = frames + ?, end_sample = ? WHERE number = ?"
                self._connection.execute(row, (len(scores), self._end_sample, self._current))
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
        self._pending = []

    def _prepare(self, detector: Detector) -> None:
        run = self._connection.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("BEGIN EXCLUSIVE")
        (application,), (tables,) = (
            run("PRAGMA application_id").fetchone(),
            run("SELECT count(*) FROM sqlite_master").fetchone(),
        )
        if tables == 0:
            for statement in (*_TABLES, f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {_VERSION}"):
                run(statement)
            manifest = detector.manifest
            name = f"{manifest.name}-{manifest.version}"
            run("INSERT INTO model VALUES (?, ?, ?)", (detector.sha256, name, self._classes))
        elif application != _APPLICATION:
            raise ConfigError(f"{self._where}: is no file of scores; name another one")
        elif (version := run("PRAGMA user_version").fetchone()[0]) != _VERSION:
            raise ConfigError(f"{self._where}: holds scores in version {version}, not {_VERSION}; name another file")
        run("COMMIT")
        sha256, name = run("SELECT sha256, name FROM model").fetchone()
        if sha256 != detector.sha256:
            raise ConfigError(
                f"{self._where}: holds scores of the model {name} ({sha256[:12]}), not of {detector.path} "
                f"({detector.sha256[:12]}); name another file, or that model"
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what SQLite refuses into a line."""
        try:
            yield
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
            reason = "another run is using it" if busy else str(error)
            raise ConfigError(f"{self._where}: scores cannot be kept there ({reason})") from error
        except (sqlite3.DatabaseError, zlib.error) as error:
            raise ConfigError(f"{self._where}: is no file of scores, or damaged ({error}); name another one") from error
