"""What a worker does: take the files of a unit through the detector, stream by stream, and stage what comes of each.

What another worker has staged of the unit, before it ended, is not processed again. The files are read and detected as
``snn-detect replay`` does it. Nothing but ``WorkerError`` is raised: an exit of the interpreter would end the worker,
and an error of one file must not cost the others.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
import traceback
from bisect import bisect_right
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.archive.dataset import Staged, as_text, logs, moments, taken
from detector.archive.plan import Recording, Rules, Unit, continues, scan
from detector.audio.files import SoundFileReader
from detector.audio.live_source import Mixing
from detector.audio.sources import join_parts, mix_blocks
from detector.errors import DetectorError, SourceError
from detector.records import OffsetRecord, OnsetRecord, StreamInfo, event_record
from detector.system import limit_heap

if TYPE_CHECKING:
    from detector.audio.live_source import Channel
    from detector.manifest import Sensitivity
    from detector.messages import Event, Samples, Scores
    from detector.pipeline import Detector

_NOTE_S: Final = 2.0
"""How often a worker notes where it is."""
_SCORE_ROWS: Final = 4096
_local = threading.local()


class WorkerError(Exception):
    """The work cannot go on, with any file: the text says why."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is the same for all units."""

    folder: str
    """Of the archive."""
    staging: str
    model: str | None
    model_sha256: str
    thresholds: tuple[tuple[str, float], ...]
    sensitivity: Sensitivity
    labels: tuple[str, ...]
    """Those to keep."""
    channel: Channel
    wants_scores: bool
    track: str | None = None
    """Sound track of files that have several."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a unit."""

    staged: tuple[str, ...]
    """Names of the logs that have its results."""
    seconds: float
    """Sound in them."""


def dask_setup(_worker: object) -> None:
    """Leave the interrupts of a terminal to the command; Dask calls this in the workers that it starts for it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def scan_files(files: Sequence[tuple[str, str]], rules: Rules, note: str) -> list[Recording]:
    """Return what each file states, by its path and root; ``note`` is where to write which one is being read."""
    found = []
    for number, (path, root) in enumerate(files):
        _note(note, number)
        try:
            found.append(scan(path, root, rules))
        except Exception as error:  # noqa: BLE001 - one file must not cost the others
            found.append(Recording(path, root, "unknown", 0, fault=_internal(path, error)))
    return found


def process(unit: Unit, job: Job) -> Outcome:
    """Process the files of a unit that are not staged yet, and stage the results; raises WorkerError."""
    try:
        detector = _detector(job)
        before = logs(Path(job.staging), unit.name)
        done = {path: seconds for results in taken(before) for path, seconds in results.seconds.items()}
        with Staged(Path(job.staging), unit.name, detector.labels) as staged:
            work = _UnitWork(unit, job, detector, staged)
            work.run(done)
        return Outcome((*(log.stem for log in before), staged.name), work.seconds + sum(done.values()))
    except WorkerError:
        raise
    except OSError as error:
        raise WorkerError(f"{job.folder}: cannot be written by a worker ({error.strerror or error})") from error
    except DetectorError as error:
        raise WorkerError(str(error)) from error
    except BaseException as error:
        raise WorkerError(f"internal error: {type(error).__name__}: {error}") from error


def note_path(staging: str, name: str) -> str:
    """Return where a worker notes how far it has come with a unit."""
    return f"{staging}/{name}.at"


def _detector(job: Job) -> Detector:
    """Return the detector of this thread; one for each, as its stream belongs to one."""
    from detector.pipeline import Detector

    if getattr(_local, "job", None) == job:
        found: Detector = _local.detector
        return found
    if not Path(job.staging).is_dir():
        raise WorkerError(f"{job.folder}: a worker does not see this folder; it has to be on a disk that all share")
    limit_heap()
    detector = Detector.load(job.model, dict(job.thresholds), job.sensitivity)
    if detector.sha256 != job.model_sha256:
        raise WorkerError(f"{detector.path}: is another model on a worker; install the same one on all")
    _local.job, _local.detector = job, detector
    return detector


def _note(path: str, number: int, seconds: float = 0.0) -> None:
    with contextlib.suppress(OSError):
        Path(path).write_text(json.dumps([number, round(seconds, 1)]), encoding="ascii")


def _internal(path: str, error: BaseException) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" in {where[0].name}" if where else ""
    return f"{path}: internal error: {type(error).__name__}{place}: {' '.join(str(error).split())}"


@dataclass(slots=True)
class _File:
    """A file of a stream, while it is read and behind."""

    recording: Recording
    first_frame: int = 0
    """Where it begins in the stream, at the rate of its sound."""
    frames: int = 0
    error: str = ""
    warnings: list[str] = field(default_factory=list)
    events: int = 0


class _UnitWork:
    """The work on the streams of one unit."""

    def __init__(self, unit: Unit, job: Job, detector: Detector, staged: Staged) -> None:
        self.job, self.detector, self.staged = job, detector, staged
        self._unit, self._first, self._number, self._noted_s = unit, 0, 0, 0.0
        self.seconds = 0.0

    def run(self, done: Container[str]) -> None:
        """Process all streams, as far as their files are not ``done``; what comes of each counts at its end."""
        before = 0
        for stream in self._unit.streams:
            is_done = [as_text(recording.path) in done for recording in stream]
            at = 0
            while at < len(stream):
                if is_done[at]:
                    at += 1
                    continue
                end = is_done.index(True, at) if True in is_done[at:] else len(stream)
                self._first = before + at
                at += _Stream(self, stream[at:end]).run()
                self.staged.end_stream()
            before += len(stream)

    def begin(self, number: int) -> None:
        """Note which file of the stream is opened next."""
        self._number = self._first + number
        self._note()

    def go_on(self, seconds: float) -> None:
        """Note, now and then, that work goes on."""
        self.seconds += seconds
        if time.monotonic() - self._noted_s > _NOTE_S:
            self._note()

    def _note(self) -> None:
        self._noted_s = time.monotonic()
        _note(note_path(self.job.staging, self._unit.name), self._number, self.seconds)


class _Stream:
    """Files that continue one another, as one stream through the detector."""

    def __init__(self, work: _UnitWork, recordings: Sequence[Recording]) -> None:
        self._work, self._job, self._detector = work, work.job, work.detector
        self._recordings = recordings
        self._rate_hz = self._detector.sample_rate_hz
        self.files: list[_File] = []
        self._source_rate_hz = 0
        self._frames = 0
        self._pending: SoundFileReader | None = None
        self._onsets: dict[int, Event] = {}
        m = self._detector.manifest
        name = as_text(recordings[0].path)
        self._info = StreamInfo(name, recordings[0].path, self._rate_hz, f"{m.name}-{m.version}", self._detector.sha256)
        self._seconds = _SecondScores(m.features.hop_length, self._rate_hz) if self._job.wants_scores else None

    def run(self) -> int:
        """Process the first files, as far as they are one stream; return how many that were."""
        reader = self._open(self._recordings[0])
        if reader is not None:
            try:
                self._detect(reader)
            except Exception as error:  # noqa: BLE001 - becomes the error of the file
                self._detector.reset()
                self.files[-1].error = _internal(self.files[-1].recording.path, error)
        for file in self.files:
            self._stage(file)
        return len(self.files)

    def _detect(self, reader: SoundFileReader) -> None:
        self._source_rate_hz = reader.rate_hz
        chunks = join_parts(self._parts(reader), reader.rate_hz, self._rate_hz, self._detector.chunk_samples)
        for chunk in chunks:
            self._take(*self._detector.process(chunk.samples))
            self._work.go_on(len(chunk.samples) / self._rate_hz)
        self._take(*self._detector.finish())
        if self._seconds is not None:
            self._add_scores(*self._seconds.flush())

    # Reading

    def _open(self, recording: Recording) -> SoundFileReader | None:
        """Open a file of the stream; None where that is not possible, with its error noted."""
        self._work.begin(0)
        file = _File(recording, first_frame=self._frames, error=recording.fault)
        self.files.append(file)
        if recording.fault:
            return None
        try:
            return SoundFileReader(Path(recording.path), self._job.track)
        except SourceError as error:
            file.error = str(error)
        except Exception as error:  # noqa: BLE001 - one file must not cost the others
            file.error = _internal(recording.path, error)
        return None

    def _parts(self, reader: SoundFileReader | None) -> Iterator[Samples]:
        """Yield mono parts of one file after the other, until one is damaged or is not continued."""
        while reader is not None:
            file = self.files[-1]
            with closing(reader):
                yield from self._parts_of(file, reader)
            if file.error:
                return
            reader = self._next(file)

    def _parts_of(self, file: _File, reader: SoundFileReader) -> Iterator[Samples]:
        block = -(-self._detector.chunk_samples * reader.rate_hz // self._rate_hz)
        mixing = Mixing(self._job.channel, file.warnings.append)
        if reader.track_note:
            mixing.warn(reader.track_note)
        try:
            for part in mix_blocks(reader.blocks(block), reader.rate_hz, file.recording.path, mixing):
                file.frames += len(part)
                self._frames += len(part)
                yield part
        except SourceError as error:
            file.error = str(error)

    def _next(self, file: _File) -> SoundFileReader | None:
        """Open the file that continues this one; None where none does."""
        at, start = len(self.files), file.recording.start
        if at == len(self._recordings) or start is None:
            return None
        after = self._recordings[at]
        if after.fault or not continues(start, file.frames / self._source_rate_hz, after):
            return None
        self._work.begin(at)
        try:
            reader = SoundFileReader(Path(after.path), self._job.track)
        except Exception:  # noqa: BLE001 - it is opened again as the first of a stream, which notes its error
            return None
        if reader.rate_hz != self._source_rate_hz:
            reader.close()
            return None
        self.files.append(_File(after, first_frame=self._frames))
        return reader

    # Results

    def _take(self, scores: Scores, events: Iterable[Event]) -> None:
        if self._seconds is not None:
            self._seconds.push(scores)
            if self._seconds.rows >= _SCORE_ROWS:
                self._add_scores(*self._seconds.take())
        for event in events:
            if event.label not in self._job.labels:
                continue
            if event.kind == "onset":
                self._onsets[event.index] = event
            else:
                self._add_event(self._onsets.pop(event.index), event)

    def _position(self, sample: int) -> tuple[_File, float]:
        """Return the file in which a sample of the stream lies, and its position there in seconds."""
        # The sample of the model's rate that begins a file is the first one at or behind its first frame.
        firsts = [-(-file.first_frame * self._rate_hz // self._source_rate_hz) for file in self.files]
        at = max(0, bisect_right(firsts, sample) - 1)
        file = self.files[at]
        return file, round(sample / self._rate_hz - file.first_frame / self._source_rate_hz, 6)

    def _add_event(self, onset: Event, offset: Event) -> None:
        begun, ended = event_record(onset, self._info, 0), event_record(offset, self._info, 0)
        assert isinstance(begun, OnsetRecord)  # noqa: S101 - for mypy
        assert isinstance(ended, OffsetRecord)  # noqa: S101
        file, at_s = self._position(onset.onset_sample)
        file.events += 1
        row = {name: getattr(ended, name) for name in _OF_OFFSET} | {"score": begun.score, "threshold": begun.threshold}
        row |= {"source": file.recording.source, "path": as_text(file.recording.path), "in_file_s": at_s}
        row |= {"stream": self._info.source}
        self._work.staged.add("events", row | moments(file.recording.start, at_s))

    def _add_scores(self, first: int, scores: NDArray[np.float32]) -> None:
        """Stage the highest scores (seconds, classes) of seconds that begin with the stream's ``first``."""
        if not len(scores):
            return
        columns: dict[str, list[Any]] = {}
        for second in range(first, first + len(scores)):
            file, at_s = self._position(second * self._rate_hz)
            row = {"source": file.recording.source, "path": as_text(file.recording.path), "in_file_s": at_s}
            row |= {"stream": self._info.source, "second": second, **moments(file.recording.start, at_s)}
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        named = {f"score_{label}": scores[:, k] for k, label in enumerate(self._detector.labels)}
        self._work.staged.add_scores(columns | named)

    def _stage(self, file: _File) -> None:
        recording = file.recording
        row = {
            "path": as_text(recording.path),
            "source": recording.source,
            "start_from": recording.start_from or None,
            "metadata": recording.text or None,
            "size_bytes": recording.size,
            "seconds": file.frames / self._source_rate_hz if file.frames else 0.0,
            "stream": self._info.source,
            "events": file.events,
            "error": as_text(file.error) or None,
            "warning": as_text("; ".join(file.warnings)) or None,
        }
        self._work.staged.add("files", row | moments(recording.start, 0.0))


_OF_OFFSET: Final = ("id", "label", "category", "onset_s", "offset_s", "duration_s", "peak", "mean", "reason")


class _SecondScores:
    """The highest score of each class in each second of a stream; a frame belongs to the second in which it begins."""

    def __init__(self, hop_length: int, rate_hz: int) -> None:
        self._hop, self._rate_hz = hop_length, rate_hz
        self._frames = self._first = self.rows = 0
        self._kept: list[NDArray[np.float32]] = []
        self._open: NDArray[np.float32] | None = None
        """Of the second that is not over, with the number ``_second``."""
        self._second = 0

    def push(self, scores: Scores) -> None:
        """Take the scores (frames, classes) that come next."""
        if not len(scores):
            return
        seconds = (np.arange(self._frames, self._frames + len(scores)) * self._hop) // self._rate_hz
        self._frames += len(scores)
        starts = np.flatnonzero(np.diff(seconds, prepend=-1))
        for second, row in zip(seconds[starts], np.maximum.reduceat(scores, starts), strict=True):
            if self._open is not None and second == self._second:
                np.maximum(self._open, row, out=self._open)
                continue
            self._close(int(second))
            self._open, self._second = row.copy(), int(second)

    def take(self) -> tuple[int, NDArray[np.float32]]:
        """Return the number of the first second that is complete and was not taken, and the scores from there on."""
        first, rows = self._first, self._kept
        self._first, self._kept, self.rows = first + len(rows), [], 0
        return first, np.array(rows, np.float32)

    def flush(self) -> tuple[int, NDArray[np.float32]]:
        """Return all that is left, also of the second that the stream ended in."""
        self._close(self._second + 1)
        self._open = None
        return self.take()

    def _close(self, second: int) -> None:
        if self._open is None:
            return
        # A hop longer than a second leaves seconds without a frame, which have the score of the one before.
        self._kept += [self._open] * (second - self._second)
        self.rows = len(self._kept)
