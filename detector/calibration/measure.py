"""Listening for scores: to files, or to a microphone for a wanted time.

Scores on the disk, never sound: compact, and whole up to the last minute however a run ends.
"""

from __future__ import annotations

import math
import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from detector.audio.files import sounds_below
from detector.audio.levels import FLOOR_DBFS
from detector.audio.live_source import AudioBlock, LiveSource, SourceCondition
from detector.audio.sources import FileSource, read_ahead
from detector.errors import ConfigError, SourceError
from detector.messages import Samples, Scores
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
class Segment:
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
        with self._notified():
            self._connection = sqlite3.connect("" if path is None else path, timeout=1, isolation_level=None)
            try:
                self._prepare(detector)
            except BaseException:
                self._connection.close()
                raise

    @property
    def background_hours(self) -> float:
        """Length of the background."""
        with self._notified():
            (frames,) = self._connection.execute(
                "SELECT coalesce(sum(frames), 0) FROM stretches WHERE label IS NULL"
            ).fetchone()
        return (int(frames) + sum(map(len, self._pending))) * self._frame_s / 3600

    @property
    def devices(self) -> tuple[str | None, ...]:
        """The devices that the background was heard by; None is a file."""
        with self._notified():
            rows = self._connection.execute(
                "SELECT DISTINCT device FROM stretches WHERE label IS NULL AND frames > 0 ORDER BY device"
            ).fetchall()
        return tuple(row[0] for row in rows)

    def measured_to(self, source: str) -> int | None:
        """Return the sample of a source that is the next to hear; None where it was heard to its end."""
        with self._notified():
            end, is_end = self._connection.execute(
                "SELECT coalesce(max(end_sample), 0), coalesce(max(is_end), 0) FROM stretches WHERE source = ?",
                (source,),
            ).fetchone()
        return None if is_end else int(end)

    def begin(self, source: str, label: str | None = None, device: str | None = None) -> None:
        """Begin a stretch: what is pushed from now on belongs to it."""
        self.end()
        with self._notified():
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
        with self._notified():
            if is_end:
                self._connection.execute("UPDATE stretches SET is_end = 1 WHERE number = ?", (self._current,))
            self._connection.execute("DELETE FROM stretches WHERE frames = 0 AND is_end = 0")
        self._current = None

    def stretches(self) -> list[Segment]:
        """Return all stretches that hold scores, in the order in which they were heard."""
        with self._notified():
            rows = self._connection.execute(
                "SELECT number, label, source, device, frames FROM stretches WHERE frames > 0 ORDER BY number"
            ).fetchall()
        return [Segment(*row) for row in rows]

    def scores(self, stretch: Segment) -> Iterator[Scores]:
        """Yield the scores (frames, classes) of a stretch, about a minute at a time."""
        with self._notified():
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
        with self._notified():
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
    def _notified(self) -> Iterator[None]:
        """Turn what SQLite refuses into a line."""
        try:
            yield
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
            reason = "another run is using it" if busy else str(error)
            raise ConfigError(f"{self._where}: scores cannot be kept there ({reason})") from error
        except (sqlite3.DatabaseError, zlib.error) as error:
            raise ConfigError(f"{self._where}: is no file of scores, or damaged ({error}); name another one") from error


if TYPE_CHECKING:
    from detector.service.signals import StopOnSignal

_TURN_S: Final = 0.2
Advance = Callable[[float, float], None]
"""Told what share of the sound has been heard, and how loud it is, in dBFS."""


def sound_files(places: Iterable[Path]) -> list[Path]:
    """Return files and the sounds below folders, each once; raises SourceError for a folder without any."""
    found: dict[Path, None] = {}
    for place in places:
        files = list(sounds_below(place)) if place.is_dir() else [place]
        if not files:
            raise SourceError(f"{place}: no sound files in this folder; name one with WAV, FLAC, OGG or MP3 files")
        found |= dict.fromkeys(files)
    return list(found)


class Measurement:
    """Takes sound through a detector and keeps the scores."""

    def __init__(self, detector: Detector, store: ScoreStore, stop: StopOnSignal) -> None:
        """Take a detector with a fresh state; signals end a measurement by ``Stopped``, with the scores so far kept."""
        self._detector, self._store, self._stop = detector, store, stop
        self._rate_hz = detector.sample_rate_hz

    def is_measured(self, path: Path) -> bool:
        """Tell whether a file was heard to its end."""
        return self._store.measured_to(_identity(path)) is None

    def measure_file(self, path: Path, label: str | None, advance: Advance) -> None:
        """Hear a file from where it was left; ``label``: it is a recording of that class.

        Raises SourceError, behind all that could be heard, where the file is missing or damaged.
        """
        source_id = _identity(path)
        begin = self._store.measured_to(source_id)
        if begin is None:
            return
        with closing(FileSource(path, self._rate_hz, self._detector.chunk_samples)) as source:
            total = source.frames_total or math.inf
            self._store.begin(source_id, label)
            try:
                with closing(read_ahead(source, self._stop.check)) as chunks:
                    for chunk in chunks:
                        end = chunk.first_sample + len(chunk.samples)
                        samples = chunk.samples[max(0, begin - chunk.first_sample) :]
                        self._store.push(self._detector.process(samples)[0], end)
                        advance(source.frames_read / total, level_dbfs(samples))
                self._store.push(self._detector.finish()[0], 0)
                self._store.end(is_end=True)
            finally:
                self._detector.reset()
                self._store.end()

    def measure_live(self, source: LiveSource, seconds: float, advance: Advance, tell: Callable[[str], None]) -> None:
        """Hear so many seconds of a live source; what happens to it is told in lines.

        Raises SourceError, behind all that could be heard, where the sound cannot go on.
        """
        heard, wanted = 0, seconds * self._rate_hz
        try:
            while heard < wanted:
                source_events = source.take(_TURN_S)
                self._stop.check()
                if source_events is None:
                    return
                for item in source_events:
                    if isinstance(item, AudioBlock) and heard < wanted:  # a pipe gives seconds at once
                        heard += self._take(item, source.stats.device, is_first=not heard)
                    elif isinstance(item, SourceCondition):
                        tell(item.detail)
                advance(heard / wanted, source.stats.rms_dbfs)
        finally:
            self._detector.reset()
            self._store.end()

    def _take(self, sound: AudioBlock, device: str, *, is_first: bool) -> int:
        """Keep the scores of a chunk, and return its length; behind a gap the detector has begun anew."""
        chunk = sound.chunk
        if is_first or chunk.gap:
            self._store.begin("live", device=device)
        scores, _ = self._detector.process_chunk(chunk)
        self._store.push(scores, chunk.first_sample + len(chunk.samples))
        return len(chunk.samples)


def level_dbfs(samples: Samples) -> float:
    """Return the RMS level of samples; that of none, or of silence, is the floor of all levels."""
    power = float(np.dot(samples, samples)) / len(samples) if len(samples) else 0.0
    return max(FLOOR_DBFS, 10 * math.log10(power)) if power > 0 else FLOOR_DBFS


def _identity(path: Path) -> str:
    """Return what tells a file's content from others: where it is, how large, and when it was written."""
    try:
        status = path.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SourceError(f"{path}: cannot be opened ({reason}); check the name and the permissions") from error
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def check_labels(labels: Iterable[str], detector: Detector, option: str) -> None:
    """Raise ConfigError for a label that the model does not know."""
    for label in labels:
        if label not in detector.labels:
            raise ConfigError(f"{option}: unknown label {label!r}; the model knows {', '.join(detector.labels)}")
