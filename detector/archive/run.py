"""One run of the archive: the files are divided among Dask's workers, and what they stage is committed.

A bounded number of units is with the scheduler at a time, however many there are: its memory does not grow. A unit
whose worker has vanished is given to another one, which goes on behind the files that are staged; a file that ends its
workers becomes an error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import queue
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from detector import __version__
from detector.archive import worker
from detector.archive.dataset import DataSet, as_text
from detector.archive.plan import Recording, Rules, Unit, check_inputs, find, units
from detector.errors import ConfigError, DetectorError
from detector.system import install_command

if TYPE_CHECKING:
    from detector.audio.live_source import Channel
    from detector.manifest import Sensitivity

_TURN_S: Final = 0.2
_LOOK_S: Final = 5.0
"""How often workers and their notes are looked at."""
_COMMIT_S: Final = 30.0
_COMMIT_BYTES: Final = 32 << 20
_COMMIT_UNITS: Final = 200
_PATIENCE_S: Final = 180.0
"""How long a unit may make no progress before another worker gets it."""
_ATTEMPTS: Final = 3
_AHEAD: Final = 2
"""Units for each thread of a worker that are with the scheduler at a time."""
_SCAN_FILES: Final = 200
_CONNECT_S: Final = 15
_WORKERS_S: Final = 60
_ANSWER_S: Final = 30
"""How long the scheduler may take for an answer."""
_LOST: Final = "the scheduler is lost or does not answer"
_GOES_ON: Final = "start it again, and then this command: it goes on where it was"
_LOGGERS: Final = ("distributed", "distributed.client", "tornado", "tornado.application", "asyncio")
_BROKEN: Final = 66


class SchedulerError(DetectorError):
    """The scheduler cannot be reached, or is lost."""

    exit_code = 69


class Progress(Protocol):
    """Shows how far the work has come."""

    def advance(self, done: float, detail: str = "", total: float | None = None) -> None:
        """Show it."""

    def print_line(self, line: str) -> None:
        """Print a line besides."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of ``snn-detect archive``."""

    inputs: tuple[str, ...]
    out: Path
    model: Path | None = None
    only: tuple[str, ...] = ()
    all_classes: bool = False
    sensitivity: Sensitivity | None = None
    thresholds: dict[str, float] = field(default_factory=dict)
    channel: Channel = "mean"
    track: str | None = None
    """Sound track of files that have several; None: the first."""
    scores: bool = False
    """Whether scores are kept, second by second."""
    names: tuple[str, ...] = ()
    zone: str | None = None
    scheduler: str | None = None
    """Address of a Dask scheduler; None: processes on this machine."""
    jobs: int | None = None
    """Processes on this machine; None: one for each core."""


@contextlib.contextmanager
def connect(scheduler: str | None, jobs: int) -> Iterator[Any]:
    """Yield a client of the scheduler, or of processes on this machine; raises SchedulerError or ConfigError.

    Meanwhile Dask and the libraries below it log nothing: that workers and schedulers end is handled here.
    """
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with _connect(scheduler, jobs) as client:
            yield client
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _connect(scheduler: str | None, jobs: int) -> Iterator[Any]:
    try:
        import dask

        # It is read when distributed is imported, which sets the levels again.
        dask.config.set({"logging": dict.fromkeys(_LOGGERS, "critical")})
        from distributed import Client, LocalCluster
    except ModuleNotFoundError as error:
        raise ConfigError(f"the archive needs Dask: {install_command('archive')}") from error
    # What Dask keeps for its developers would grow: of its profiler for an hour, and of its tasks with their arguments.
    dask.config.set(
        {
            "distributed.comm.timeouts.connect": f"{_CONNECT_S}s",
            "distributed.worker.profile.enabled": False,
            "distributed.admin.low-level-log-length": 100,
        }
    )
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            # Its web server has a port of any number: the default one may be in use, which would be a warning.
            address, quiet = "127.0.0.1:0", logging.CRITICAL
            local = LocalCluster(
                n_workers=jobs,
                threads_per_worker=1,
                dashboard_address=address,
                silence_logs=quiet,
                preload=["detector.archive.worker"],
            )
            client = stack.enter_context(Client(stack.enter_context(local)))
        else:
            try:
                client = stack.enter_context(Client(scheduler, timeout=_CONNECT_S))
                client.wait_for_workers(1, timeout=_WORKERS_S)
            except (OSError, ValueError, TimeoutError) as error:
                reason = "has no workers" if isinstance(error, TimeoutError) else f"does not answer ({error})"
                raise SchedulerError(f"--scheduler {scheduler}: {reason}; start it and its workers first") from error
        yield client


@dataclass(slots=True, eq=False)
class _Task:
    """Work that is with the scheduler."""

    call: Callable[[], tuple[Any, ...]]
    """Returns the function and its arguments, which another attempt may change."""
    done: Callable[[Any], None]
    blame: Callable[[int], bool]
    """Takes the number of the file that could not be finished; returns whether the rest is to be tried again."""
    note: str
    """Where the worker notes how far it has come."""
    attempts: int = 0
    """Those that ended at the file ``last``."""
    last: int | None = None
    noted: str = ""
    moved_s: float = 0.0
    future: Any = None

    def number(self) -> int | None:
        """Return the number of the file at which the worker is; None while it has not begun."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(json.loads(Path(self.note).read_text(encoding="ascii"))[0])
        return None


class Cluster:
    """Tasks on the workers of a scheduler, a bounded number at a time."""

    def __init__(self, client: Any, goes_on: Callable[[], bool], patience_s: float) -> None:
        """Take a connected client; ``patience_s``: how long a task may make no progress."""
        self._client, self._goes_on, self._patience_s = client, goes_on, patience_s
        self._finished: queue.Queue[tuple[_Task, Any]] = queue.Queue()
        self._running: set[_Task] = set()
        self._looked_s = -math.inf
        self._avoided: set[str] = set()
        """Workers that did not come to an end with a task."""
        self._good: list[str] = []
        self._count_workers()

    def run(self, tasks: Iterator[_Task], turn: Callable[[], object]) -> None:
        """Run tasks until there are no more, or ``goes_on`` is false; calls ``turn`` every moment.

        Raises SchedulerError where the scheduler is lost, WorkerError where a worker cannot go on.
        """
        try:
            self._run(tasks, turn)
        except DetectorError:
            raise
        except Exception:
            self._check_scheduler()  # Dask raises many errors where a connection ends in the middle of a call
            self._nthreads()  # and the client may not know yet that its scheduler is gone
            raise

    def _run(self, tasks: Iterator[_Task], turn: Callable[[], object]) -> None:
        again: deque[_Task] = deque()
        more = True
        while self._goes_on() and (more or again or self._running):
            while len(self._running) < _AHEAD * self.threads and (more or again):
                task = again.popleft() if again else next(tasks, None)
                if task is None:
                    more = False
                else:
                    self._submit(task)
            self._take(again)
            self._look(again)
            turn()

    def _submit(self, task: _Task) -> None:
        function, *arguments = task.call()
        task.noted, task.moved_s = "", time.monotonic()
        Path(task.note).unlink(missing_ok=True)  # of a run that was killed
        # A key of its own: Dask would give the result of an earlier attempt.
        task.future = self._client.submit(
            function, *arguments, pure=False, retries=0, workers=self._good if self._avoided else None
        )
        task.future.add_done_callback(lambda future: self._finished.put((task, future)))
        self._running.add(task)

    def _take(self, again: deque[_Task]) -> None:
        """Handle what has finished, waiting a moment for it."""
        wait = True
        while True:
            try:
                task, future = self._finished.get(timeout=_TURN_S) if wait else self._finished.get_nowait()
            except queue.Empty:
                return
            wait = False
            if task not in self._running or future is not task.future:
                continue
            self._running.discard(task)
            task.future = None
            self._settle(task, future, again)

    def _settle(self, task: _Task, future: Any, again: deque[_Task]) -> None:
        from distributed import KilledWorker

        if future.status == "finished":
            task.done(future.result())
            return
        if future.status in {"cancelled", "lost"}:
            self._check_scheduler()
            again.append(task)
            return
        error = future.exception()
        if isinstance(error, KilledWorker):
            self._retry(task, again)
        elif isinstance(error, worker.WorkerError):
            raise DetectorError(str(error))
        else:
            text = " ".join(f"{type(error).__name__}: {error}".split())
            raise DetectorError(f"a worker failed ({text}); install the same snn-detect[archive] on all of them")

    def _retry(self, task: _Task, again: deque[_Task]) -> None:
        """Try a task again; after some attempts without the file at which it ended."""
        number = task.number()
        task.attempts = task.attempts + 1 if number == task.last else 1
        task.last = number
        if task.attempts < _ATTEMPTS or number is None:
            again.append(task)
            return
        task.attempts = 0
        Path(task.note).unlink(missing_ok=True)
        if task.blame(number):
            again.append(task)

    def _look(self, again: deque[_Task]) -> None:
        """Look, now and then, for tasks that make no progress, and for the number of workers."""
        now = time.monotonic()
        if now - self._looked_s < min(_LOOK_S, self._patience_s / 4):
            return
        self._looked_s = now
        self._check_scheduler()
        threads = self._count_workers()
        for task in list(self._running):
            noted = ""
            with contextlib.suppress(OSError):
                noted = Path(task.note).read_text(encoding="ascii")
            if noted != task.noted or not threads:  # without workers, none can be to blame
                task.noted, task.moved_s = noted, now
            elif now - task.moved_s > self._patience_s:
                self._give_up(task, again)

    def _count_workers(self) -> int:
        """Look which workers there are, and return the number of their threads."""
        threads = self._nthreads()
        if self._avoided >= threads.keys():
            self._avoided.clear()
        self._good = [name for name in threads if name not in self._avoided]
        count = sum(threads[name] for name in self._good)
        self.threads = max(1, count)
        return count

    def _give_up(self, task: _Task, again: deque[_Task]) -> None:
        """Take a task from a worker that makes no progress; it gets no other one while there are others."""
        future, task.future = task.future, None
        self._running.discard(task)
        busy = self._client.sync(self._client.scheduler.processing, workers=None, callback_timeout=_ANSWER_S)
        self._avoided |= {name for name, keys in busy.items() if future.key in keys and task.noted}
        self._count_workers()
        self._client.cancel([future], asynchronous=False, force=True)
        if task.noted:
            self._retry(task, again)
        else:
            again.append(task)

    def _nthreads(self) -> dict[str, int]:
        """Return the threads of each worker; raises SchedulerError where the scheduler does not answer."""
        try:
            found: dict[str, int] = self._client.sync(self._client.scheduler.ncores, callback_timeout=_ANSWER_S)
        except (OSError, TimeoutError, RuntimeError) as error:
            raise SchedulerError(f"{_LOST}; {_GOES_ON}") from error
        return found

    def _check_scheduler(self) -> None:
        comm = getattr(self._client, "scheduler_comm", None)
        if self._client.status != "running" or comm is None or comm.comm.closed():
            raise SchedulerError(f"{_LOST}; {_GOES_ON}")


class Run:
    """One run: find the files, process those that are not in the archive yet, and commit."""

    def __init__(self, options: Options, progress: Progress, goes_on: Callable[[], bool]) -> None:
        """Load the model and open the archive; raises DetectorError for what cannot be."""
        from detector.pipeline import Detector, reported_labels

        self._options, self._progress, self._goes_on = options, progress, goes_on
        check_inputs(options.inputs)
        self._rules = Rules(options.names, options.zone or "UTC", options.track)
        detector = Detector.load(options.model, options.thresholds, options.sensitivity or "balanced")
        reported = reported_labels(detector.manifest, options.only, all_classes=options.all_classes)
        self.patience_s = _PATIENCE_S
        self.labels, m = detector.labels, detector.manifest
        settings = {
            "version": __version__,
            "model": f"{m.name}-{m.version}",
            "model_sha256": detector.sha256,
            "thresholds": {c.label: c.decoder.on_threshold for c in detector.classes},
            "sensitivity": detector.sensitivity,
            "labels": list(reported),
            "channel": options.channel,
            "track": options.track,
            "scores": options.scores,
            "names": list(options.names),
            "time_zone": self._rules.zone,
        }
        self.data = DataSet(options.out, settings)
        model = None if options.model is None else str(options.model.absolute())
        self._job = worker.Job(
            folder=str(options.out),
            staging=str(self.data.staging.absolute()),
            model=model,
            model_sha256=detector.sha256,
            thresholds=tuple(sorted(options.thresholds.items())),
            sensitivity=detector.sensitivity,
            labels=reported,
            channel=options.channel,
            track=options.track,
            wants_scores=options.scores,
        )
        self._staged: list[str] = []
        self._staged_bytes, self._committed_s = 0, time.monotonic()
        self._done_s, self._total_s, self._begun_s = 0.0, 0.0, time.monotonic()

    def close(self) -> None:
        """Release the folder of the archive."""
        self.data.close()

    def run(self, client: Any) -> None:
        """Process all files that are not in the archive; what is staged is kept where a signal ends it."""
        self.data.commit(self.data.staged())
        cluster = Cluster(client, self._goes_on, self.patience_s)
        files = self._new_files()
        recordings = self._scan(cluster, files)
        if self._goes_on():
            self._warn_of_zone(recordings)
            self._warn_of_tracks(recordings)
            self._process(cluster, recordings)
        self._commit()
        if self._goes_on():
            self._check_complete(recordings)

    def _new_files(self) -> list[tuple[str, str]]:
        """Return the files that are not in the archive yet."""
        files, changed = [], 0
        for path, root in find(self._options.inputs):
            size = self.data.done.get(as_text(path))
            if size is None:
                files.append((path, root))
            else:
                with contextlib.suppress(OSError):  # removed meanwhile
                    changed += Path(path).stat().st_size != size
        if changed:
            self._progress.print_line(
                f"snn-detect: warning: {changed} files have changed since they were archived, and are left as "
                "they were; name a new --out to process them again"
            )
        return files

    def _scan(self, cluster: Cluster, files: Sequence[tuple[str, str]]) -> list[Recording]:
        """Return what all files state."""
        found: list[Recording] = []

        def task(number: int, batch: list[tuple[str, str]], after: list[Recording]) -> _Task:
            note = worker.note_path(self._job.staging, f"scan-{number}")

            def blame(at: int) -> bool:
                path, root = batch.pop(at)
                after.append(Recording(path, root, Path(root).name, 0, fault=_ended(path)))
                return bool(batch)

            def done(recordings: list[Recording]) -> None:
                Path(note).unlink(missing_ok=True)
                found.extend((*recordings, *after))

            return _Task(lambda: (worker.scan_files, batch, self._rules, note), done, blame, note)

        batches = (list(files[at : at + _SCAN_FILES]) for at in range(0, len(files), _SCAN_FILES))
        tasks = (task(number, batch, []) for number, batch in enumerate(batches))
        cluster.run(tasks, lambda: self._progress.advance(0, f"{len(found)} of {len(files)} files looked at"))
        return found

    def _warn_of_zone(self, recordings: Sequence[Recording]) -> None:
        lacking = sum(r.lacks_zone for r in recordings)
        unknown = sum(r.start is None and not r.fault for r in recordings)
        if lacking and self._options.zone is None:
            self._progress.print_line(
                f"snn-detect: warning: the start times of {lacking} files have no time zone and count as UTC; "
                "give --time-zone, such as Europe/Berlin"
            )
        if unknown:
            self._progress.print_line(
                f"snn-detect: warning: {unknown} files state no start time; their events have none (day=unknown), "
                "give a pattern of their names with --name"
            )

    def _warn_of_tracks(self, recordings: Sequence[Recording]) -> None:
        several = [r.path for r in recordings if r.has_tracks]
        if several:
            self._progress.print_line(
                f"snn-detect: warning: {len(several)} files, such as {as_text(several[0])}, have several sound tracks; "
                "the first is used, choose with --track"
            )

    def _process(self, cluster: Cluster, recordings: Sequence[Recording]) -> None:
        self._total_s = sum(r.length_s for r in recordings if not r.fault)
        self._begun_s = time.monotonic()
        tasks = (self._task(unit) for unit in units(recordings, cluster.threads))
        cluster.run(tasks, self._turn)

    def _check_complete(self, recordings: Sequence[Recording]) -> None:
        """Raise DetectorError where what workers have staged has not come here, whatever the reason."""
        missing = [r.path for r in recordings if as_text(r.path) not in self.data.done]
        if missing:
            raise DetectorError(
                f"{self.data.folder}: the results of {len(missing)} files, such as {missing[0]}, have been removed or "
                "damaged on the disk; run this again to process them"
            )

    def _task(self, unit: Unit) -> _Task:
        kept = unit
        length_s = unit.length_s

        def blame(at: int) -> bool:
            nonlocal kept
            kept = kept.without(at, _ended(kept.recordings[at].path))
            return True

        def done(outcome: worker.Outcome) -> None:
            Path(note).unlink(missing_ok=True)
            self._staged += outcome.staged
            self._staged_bytes += sum(map(self.data.staged_bytes, outcome.staged))
            self._done_s += outcome.seconds
            self._total_s += outcome.seconds - length_s

        note = worker.note_path(self._job.staging, unit.name)
        return _Task(lambda: (worker.process, kept, self._job), done, blame, note)

    def _turn(self) -> None:
        """Show the progress, and commit now and then."""
        passed_s = time.monotonic() - self._begun_s
        rate = self._done_s / passed_s if passed_s else 0.0
        left_s = max(0.0, self._total_s - self._done_s)
        ready = f", ready in {_duration(left_s / rate)}" if rate else ""
        detail = f"{self._done_s / 3600:.2f} h done, {left_s / 3600:.2f} h left, {rate:.0f} x real time{ready}"
        self._progress.advance(self._done_s, detail, total=self._total_s or None)
        is_due = time.monotonic() - self._committed_s > _COMMIT_S
        if self._staged and (is_due or self._staged_bytes > _COMMIT_BYTES or len(self._staged) > _COMMIT_UNITS):
            self._commit()

    def _commit(self) -> None:
        if self._staged:
            self.data.commit(self._staged)
        self._staged, self._staged_bytes, self._committed_s = [], 0, time.monotonic()


def _ended(path: str) -> str:
    return f"{path}: the worker ended, or did not come to an end, each time it read this file; the file is damaged"


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"  # noqa: PLR2004


@dataclass(slots=True)
class Summary:
    """What is in an archive."""

    files: int = 0
    errors: int = 0
    seconds: float = 0.0
    warnings: int = 0
    events: dict[str, int] = field(default_factory=dict)
    by_hour: dict[tuple[Any, int], int] = field(default_factory=dict)
    """Events by date and hour of day, where that is known."""
    recorded_s: dict[tuple[Any, int], float] = field(default_factory=dict)
    """Seconds of sound likewise."""

    @property
    def exit_code(self) -> int:
        """66 where files are broken, else 0."""
        return _BROKEN if self.errors else 0

    def as_dict(self) -> dict[str, Any]:
        """Return the summary as a JSON object."""
        return {
            "files": self.files,
            "errors": self.errors,
            "hours": round(self.seconds / 3600, 4),
            "events": dict(sorted(self.events.items(), key=lambda item: (-item[1], item[0]))),
        }

    def lines(self) -> list[str]:
        """Return the summary for people."""
        hours = self.seconds / 3600
        lines = [
            f"{self.files} files, {hours:.2f} h of sound, {sum(self.events.values())} events, {self.errors} errors"
        ]
        for label, count in self.as_dict()["events"].items():
            rate = f"{count / hours:9.2f} an hour" if hours else ""
            lines.append(f"  {label:20} {count:9} {rate}".rstrip())
        return lines


def summarise(data: DataSet) -> Summary:
    """Return what is in an archive, part by part."""
    found = Summary()
    for batch in data.read("files", ("local_time", "seconds", "error", "warning")):
        for row in batch.to_pylist():
            found.files += 1
            found.errors += row["error"] is not None
            found.warnings += row["warning"] is not None
            found.seconds += row["seconds"]
            _spread(found.recorded_s, row["local_time"], row["seconds"])
    for batch in data.read("events", ("label", "local_time")):
        for row in batch.to_pylist():
            found.events[row["label"]] = found.events.get(row["label"], 0) + 1
            if (at := row["local_time"]) is not None:
                key = (at.date(), at.hour)
                found.by_hour[key] = found.by_hour.get(key, 0) + 1
    return found


def _spread(recorded_s: dict[tuple[Any, int], float], start: Any, seconds: float) -> None:
    """Add a recording to the hours in which it lies."""
    from datetime import timedelta

    while start is not None and seconds > 0:
        hour = start.replace(minute=0, second=0, microsecond=0)
        part = min(seconds, 3600 - (start - hour).total_seconds())
        key = (start.date(), start.hour)
        recorded_s[key] = recorded_s.get(key, 0.0) + part
        start, seconds = hour + timedelta(hours=1), seconds - part
