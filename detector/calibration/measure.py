"""Measuring scores of files or of live sound, and keeping them on disk.

Only scores are kept, never sound, and all but the last minute whenever a run ends.
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from detector.audio.files import sounds_below
from detector.audio.live_source import (
    MEAN,
    AudioBlock,
    AudioGap,
    AudioSource,
    Mixing,
    SourceCondition,
    SourceEvent,
    drain,
)
from detector.audio.sources import FileSource
from detector.errors import ConfigError, SourceError, unknown_label
from detector.messages import AudioChunk, Scores
from detector.pipeline import Detector
from detector.system import FileKind

if TYPE_CHECKING:
    from detector.service.process import SignalHandler

Advance = Callable[[float, float], None]
"""Called with the share of the sound that has been processed, and its level in dBFS."""

SCORES: Final = FileKind("a file of scores", re.compile(rb"SQLite format 3\0"))
_APPLICATION: Final = 0x534E4E63
"""SQLite's application id of such a file."""
_VERSION: Final = 1
_STEPS: Final = 65535
"""Scores are stored as multiples of 1 / 65535, which is finer than the steps between thresholds."""
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
    f"PRAGMA application_id = {_APPLICATION}",
    f"PRAGMA user_version = {_VERSION}",
)


@dataclass(frozen=True, slots=True)
class Segment:
    """Scores of sound without a gap, from a detector with fresh state at its start."""

    number: int
    label: str | None
    """Class of a target recording; None for background, in which every event is a false alarm."""
    source: str
    device: str | None
    frames: int


class ScoreStore:
    """Scores by segment, in an SQLite file."""

    def __init__(self, path: Path | None, detector: Detector) -> None:
        """Open or create a file; None for a temporary one.

        Raises ConfigError for a file of another kind or model, or one that cannot be written.
        """
        self._name = "scores" if path is None else str(path)
        manifest = detector.manifest
        self._classes, rate_hz = len(manifest.classes), manifest.features.sample_rate_hz
        self._frame_s = manifest.features.hop_length / rate_hz
        self._block_frames = round(_BLOCK_S / self._frame_s)
        self._current: int | None = None
        self._end_sample = 0
        self._pending: list[Scores] = []
        with self._errors():
            self._connection = sqlite3.connect("" if path is None else path, timeout=1, isolation_level=None)
            try:
                self._prepare(detector)
            except BaseException:
                self._connection.close()
                raise

    @property
    def background_hours(self) -> float:
        """Length of the background."""
        ((frames,),) = self._rows("SELECT coalesce(sum(frames), 0) FROM stretches WHERE label IS NULL")
        return (int(frames) + sum(map(len, self._pending))) * self._frame_s / 3600

    @property
    def devices(self) -> tuple[str | None, ...]:
        """The devices that recorded the background; None for files."""
        query = "SELECT DISTINCT device FROM stretches WHERE label IS NULL AND frames > 0 ORDER BY device"
        return tuple(row[0] for row in self._rows(query))

    def measured_to(self, source: str) -> int | None:
        """Return the next sample of a source to be measured; None if it was measured to its end."""
        query = "SELECT coalesce(max(end_sample), 0), coalesce(max(is_end), 0) FROM stretches WHERE source = ?"
        ((end, is_end),) = self._rows(query, source)
        return None if is_end else int(end)

    def begin(self, source: str, label: str | None = None, device: str | None = None) -> None:
        """Begin a segment, to which scores belong from now on."""
        self.end()
        with self._errors():
            row = "INSERT INTO stretches (source, label, device) VALUES (?, ?, ?)"
            self._current = self._connection.execute(row, (source, label, device)).lastrowid

    def push(self, scores: Scores, end_sample: int) -> None:
        """Append scores (frames, classes); ``end_sample`` follows the last sample that they cover."""
        if not len(scores):
            return
        self._pending.append(scores)
        self._end_sample = end_sample
        if sum(map(len, self._pending)) >= self._block_frames:
            self._write()

    def end(self, *, is_end: bool = False) -> None:
        """End the current segment, if any; ``is_end``: its source has no more sound."""
        if self._current is None:
            return
        self._write()
        if is_end:
            self._rows("UPDATE stretches SET is_end = 1 WHERE number = ?", self._current)
        self._rows("DELETE FROM stretches WHERE frames = 0 AND is_end = 0")
        self._current = None

    def segments(self) -> list[Segment]:
        """Return all segments with scores, in the order in which they were measured."""
        query = "SELECT number, label, source, device, frames FROM stretches WHERE frames > 0 ORDER BY number"
        return [Segment(*row) for row in self._rows(query)]

    def scores(self, segment: Segment) -> Iterator[Scores]:
        """Yield the scores (frames, classes) of a segment, about a minute at a time."""
        with self._errors():
            query = "SELECT scores FROM blocks WHERE stretch = ? ORDER BY number"
            for (blob,) in self._connection.execute(query, (segment.number,)):
                steps = np.frombuffer(zlib.decompress(blob), "<u2").reshape(-1, self._classes)
                yield steps.astype(np.float32) / np.float32(_STEPS)

    def close(self) -> None:
        """Write pending scores and close the file."""
        try:
            self.end()
        finally:
            self._connection.close()

    def _write(self) -> None:
        if not self._pending:
            return
        scores = np.concatenate(self._pending)
        steps = np.rint(np.nan_to_num(scores).clip(0, 1) * _STEPS).astype("<u2")
        blob = zlib.compress(steps.tobytes(), 6)
        run = self._connection.execute
        with self._errors():
            run("BEGIN")
            try:
                run("INSERT INTO blocks (stretch, scores) VALUES (?, ?)", (self._current, blob))
                update = "UPDATE stretches SET frames = frames + ?, end_sample = ? WHERE number = ?"
                run(update, (len(scores), self._end_sample, self._current))
                run("COMMIT")
            finally:
                if self._connection.in_transaction:
                    run("ROLLBACK")
        self._pending = []

    def _prepare(self, detector: Detector) -> None:
        """Lock the file, create its tables if it is new, and check that it is of this model."""
        run = self._connection.execute
        run("PRAGMA locking_mode = EXCLUSIVE")
        run("BEGIN EXCLUSIVE")
        (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
        if tables == 0:
            for statement in _TABLES:
                run(statement)
            name = f"{detector.manifest.name}-{detector.manifest.version}"
            run("INSERT INTO model VALUES (?, ?, ?)", (detector.sha256, name, self._classes))
        elif run("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise ConfigError(f"{self._name}: is not a file of scores; choose another one")
        elif (version := run("PRAGMA user_version").fetchone()[0]) != _VERSION:
            raise ConfigError(f"{self._name}: holds scores in version {version}, not {_VERSION}; choose another file")
        run("COMMIT")
        sha256, name = run("SELECT sha256, name FROM model").fetchone()
        if sha256 != detector.sha256:
            raise ConfigError(
                f"{self._name}: holds scores of the model {name} ({sha256[:12]}), not of {detector.path} "
                f"({detector.sha256[:12]}); choose another file, or that model"
            )

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise errors of SQLite as ConfigError, in one line."""
        try:
            yield
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
            reason = "another run is using it" if busy else str(error)
            raise ConfigError(f"{self._name}: scores cannot be kept there ({reason})") from error
        except (sqlite3.DatabaseError, zlib.error) as error:
            raise ConfigError(f"{self._name}: is not a file of scores, or damaged ({error}); choose another") from error


class Measurement:
    """Passes sound to a detector and stores the scores."""

    def __init__(self, detector: Detector, store: ScoreStore, signals: SignalHandler, mixing: Mixing = MEAN) -> None:
        """Take a detector with a fresh state; a signal ends a measurement, with the scores so far stored.

        ``mixing`` is that of files.
        """
        self._detector, self._store, self._signals, self._mixing = detector, store, signals, mixing
        self._rate_hz = detector.sample_rate_hz

    def is_measured(self, path: Path) -> bool:
        """Return whether a file was measured to its end."""
        return self._store.measured_to(_identity(path, self._mixing)) is None

    def measure_file(self, path: Path, label: str | None, advance: Advance) -> None:
        """Measure a file from where it was left; ``label``: it is a recording of that class.

        Raises SourceError, after all usable sound, if the file is missing or damaged.
        """
        source_id = _identity(path, self._mixing)
        begin = self._store.measured_to(source_id)
        if begin is None:
            return
        self._store.begin(source_id, label)
        length = self._detector.chunk_samples
        with closing(FileSource(path, self._rate_hz, length, mixing=self._mixing)) as source:

            def process(event: SourceEvent, begin: int = begin) -> None:
                if isinstance(event, AudioBlock):
                    chunk = event.chunk
                    skipped = max(0, begin - chunk.first_sample)
                    self._push(AudioChunk(chunk.samples[skipped:], chunk.first_sample + skipped))
                    advance(source.frames_read / (source.frames_total or math.inf), source.stats.rms_dbfs)

            try:
                if drain(source, process, self._signals.goes_on):
                    self._store.push(self._detector.finish()[0], 0)
                    self._store.end(is_end=True)
            finally:
                self._detector.reset()
                self._store.end()

    def measure_live(
        self, source: AudioSource, seconds: float, advance: Advance, notify: Callable[[str], None]
    ) -> None:
        """Measure so many seconds of a live source; its conditions are reported by ``notify``.

        Raises SourceError, after all usable sound, if it cannot go on.
        """
        measured, wanted, is_new = 0, seconds * self._rate_hz, True

        def process(event: SourceEvent) -> None:
            nonlocal measured, is_new
            if isinstance(event, SourceCondition):
                notify(event.detail)
            elif isinstance(event, AudioGap):
                self._detector.process_chunk(event.chunk())
                is_new = True
            elif measured < wanted:  # a pipe gives seconds at once
                if is_new:
                    self._store.begin("live", device=source.stats.device)
                is_new = False
                self._push(event.chunk)
                measured += len(event.chunk.samples)

        def goes_on() -> bool:
            advance(measured / wanted, source.stats.rms_dbfs)
            return measured < wanted and self._signals.goes_on()

        try:
            drain(source, process, goes_on)
        finally:
            self._detector.reset()
            self._store.end()

    def _push(self, chunk: AudioChunk) -> None:
        scores, _ = self._detector.process_chunk(chunk)
        self._store.push(scores, chunk.first_sample + len(chunk.samples))


def sound_files(places: Iterable[Path]) -> list[Path]:
    """Return files, and the sound files below folders, each once.

    Raises SourceError for a folder without any, and for a file that is missing or cannot be read.
    """
    found: dict[Path, None] = {}
    for place in places:
        files = list(sounds_below(place)) if place.is_dir() else [place]
        if not files:
            raise SourceError(f"{place}: no sound files in this folder; name one with WAV, FLAC, OGG or MP3 files")
        for file in files:
            _status(file)
            if not os.access(file, os.R_OK):
                raise SourceError(f"{file}: cannot be opened (permission denied); check the permissions")
        found |= dict.fromkeys(files)
    return list(found)


def check_labels(labels: Iterable[str], detector: Detector, option: str) -> None:
    """Raise ConfigError for a label that the model does not know."""
    for label in labels:
        if label not in detector.labels:
            raise ConfigError(f"{option}: {unknown_label(label, detector.labels)}")


def _identity(path: Path, mixing: Mixing) -> str:
    """Return a key of a file's content: its path, size and time of change, and the channel and track of a choice."""
    status = _status(path)
    channel = "" if mixing.column is None else f" channel {mixing.column + 1}"
    track = "" if mixing.track is None else f" track {mixing.track}"
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}{channel}{track}"


def _status(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SourceError(f"{path}: cannot be opened ({reason}); check the name and the permissions") from error
