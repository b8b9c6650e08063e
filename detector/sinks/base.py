"""What every sink is made of: its section of the settings, its thread and queue, and what it knows of the service."""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeVar

from detector.config.sections import Section, ServerSection
from detector.errors import DetectorError
from detector.system import Backoff

if TYPE_CHECKING:
    from detector.manifest import Sensitivity
    from detector.messages import AudioChunk, Observer
    from detector.pipeline import Detector
    from detector.records import Record, ServiceState

_SectionT = TypeVar("_SectionT", bound=Section)


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What sinks need beside their settings."""

    sources: tuple[SourceContext, ...]
    """The sources, one or more, in the order of the settings."""
    on_listening: Callable[[bool], None] | None
    """Called when a user turns listening on or off; None: that is not possible."""
    on_clip: Callable[[SavedClip], None]
    """Called for each clip that has been written."""
    sensitivity: SensitivityControl | None = None
    """The operating point, for sinks by which a user can choose another one; None: that is not possible."""
    sections: tuple[Section, ...] = ()
    """All sections of the settings."""

    @property
    def node_infos(self) -> tuple[NodeInfo, ...]:
        """What runs for each source."""
        return tuple(source.node_info for source in self.sources)

    @property
    def page_url(self) -> str | None:
        """Address of the page for other machines; None where none can reach one."""
        urls = (section.public_url for section in self.sections if isinstance(section, SinkSection))
        return next((url for url in urls if url is not None), None)

    def find(self, kind: type[_SectionT]) -> _SectionT | None:
        """Return the first section of a kind, for sinks that depend on another one; None without."""
        return next((section for section in self.sections if isinstance(section, kind)), None)


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What sinks know of one source."""

    node_info: NodeInfo
    detector: Detector
    """The detector in use, for sinks that show its inner state."""


@dataclass(frozen=True, slots=True)
class SensitivityControl:
    """The operating points of the model, for a sink by which users choose one."""

    choices: tuple[Sensitivity, ...]
    current: Callable[[], Sensitivity]
    """Returns the one in force, or about to be."""
    choose: Callable[[Sensitivity], None] = field(compare=False)
    """Takes a choice of a user, from any thread, without blocking."""


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """A sink to be made."""

    identity: tuple[object, ...] = field(repr=False)
    """All that the sink depends on: one with an equal identity can stay as it is. Not shown: it may hold a secret."""
    make: Callable[[], LiveSink]
    """Raises ConfigError for settings that the sink cannot have."""

    @classmethod
    def of(cls, sink: Callable[..., LiveSink], *arguments: object) -> SinkSpec:
        """Return the specification of a sink that depends on nothing but these arguments."""
        return cls((sink, *arguments), lambda: sink(*arguments))


class SinkSection(Section):
    """The section of a sink; a field of ``Settings`` with such a type is all that the program needs to know of it."""

    def build(self, context: SinkContext, /) -> SinkSpec | None:
        """Return the sink to be made, None where the settings ask for none.

        Raises ConfigError for a secret that cannot be read.
        """
        raise NotImplementedError

    @property
    def public_url(self) -> str | None:
        """Address at which people on other machines see what this sink shows; None where it shows them nothing."""
        return None


class ServerSinkSection(SinkSection, ServerSection):
    """The section of a sink that listens for connections."""


_log = logging.getLogger(__name__)
_TICK_S: Final = 1.0
_PAUSE_S: Final = (0.5, 60.0)
"""Shortest and longest pause before another attempt."""
_REPORT_S: Final = 60.0
"""Between two messages that records were dropped."""
_CLOSING_PAUSE_S: Final = 0.05
"""The pause while closing."""
_WRITING_SHARE: Final = 0.7
"""Share of the time to close that writing may take; the rest is for the sink's own close."""


@dataclass(frozen=True, slots=True)
class SavedClip:
    """A file with the sound of an event."""

    source: str
    id: str
    """That of the event."""
    label: str
    path: str
    bytes: int


class AudioTap(Protocol):
    """A receiver of the sound of a source itself."""

    def on_chunk(self, chunk: AudioChunk) -> None:
        """Process a chunk at the model's rate, without blocking; after a gap comes an empty one with ``gap`` set."""


class Sink(Protocol):
    """Receives records one by one, as they are made."""

    def write(self, record: Record) -> None:
        """Write a record before returning; raises BrokenPipeError where the reader has gone."""


class RetryableError(Exception):
    """A sink cannot write this record now, but will later: a full disk, a server that is away. Its text says why."""


class LiveSink:
    """A sink of the service; a ``SinkWorker`` calls all its methods in one thread of its own.

    ``write`` may take long: records wait in the worker's queue, which drops the oldest where it is full. It
    raises RetryableError to be called with the same record again after a pause; after any other exception
    the record is lost, which is counted and logged.
    """

    types: frozenset[str] | None = None
    """Types of records to write; None: all."""
    labels: frozenset[str] | None = None
    """Labels of sounds to write; None: all. Records without a label are always written."""
    longest_pause_s: float = math.inf
    """The longest pause between two attempts, where the sink needs a shorter one than the worker's."""
    shows_states: bool = False
    """Whether the sink shows the present states, and is given them when it begins during a run."""
    makes_records: bool = False
    """Whether closing the sink makes records for the others, so that it is closed before them."""
    reader_has_gone: bool = False
    """Whether what the sink writes is no longer read; a filter then ends."""

    @property
    def stats(self) -> Mapping[str, float]:
        """Return what else health records report of this sink, by key; may be read from any thread."""
        return {}

    @property
    def wants_state(self) -> bool:
        """Whether the sink asks for the state of the service; read often, from the main thread."""
        return False

    def show(self, states: Sequence[ServiceState]) -> None:
        """Take the state that was asked for, of each source, without blocking; called from the main thread."""

    def taps(self, rates_hz: Mapping[str, int]) -> Mapping[str, AudioTap]:
        """Return what takes the sound of sources, each in the thread of that source, by their names.

        ``rates_hz``: the rates of all sources by their names; called again whenever these change.
        """
        del rates_hz
        return {}

    def observers(self) -> Mapping[str, Observer]:
        """Return what takes the traces of the detectors, each in the thread of its source, by names of sources."""
        return {}

    def open(self) -> None:
        """Prepare to write; raises RetryableError to be called again after a pause."""

    def write(self, record: Record) -> None:
        """Write a record."""
        raise NotImplementedError

    def reopen(self) -> None:
        """Reopen files, after a rotation has renamed them; called from another thread."""

    def tick(self) -> None:
        """Do what is due by now; called about once a second, also while nothing is written."""

    def close(self) -> None:
        """Complete what has been written, and release everything."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What runs where: machine, sound source and model, for sinks that report more than records."""

    node: str
    """Name of this machine: letters, digits, ``_`` and ``-``."""
    source: str
    """Short name of the sound source, in the same characters; the ``source`` of each record."""
    device: str
    """The device's stable id, or the name in the settings where it has none."""
    classes: tuple[tuple[str, str], ...]
    """Label and category of each sound that is reported."""
    model: str
    """Name and version of the model."""
    model_sha256: str
    version: str
    """Version of snn-detect."""


@dataclass(slots=True)
class Counts:
    """Counts of the records of one sink."""

    written: int = 0
    dropped: int = 0
    """Dropped because the queue was full, or because the time to close was over."""
    failed: int = 0
    """Lost by an error."""
    working: bool = True
    """Whether the last attempt succeeded."""
    waiting: int = 0


class SinkWorker:
    """Write records to a sink in a thread of its own; ``submit`` never waits and never raises.

    Where the system has no thread left, records wait, and one is tried for again by later calls of ``submit``.
    """

    def __init__(self, name: str, sink: LiveSink, bound: int = 1000) -> None:
        """Start the thread; at most ``bound`` records wait."""
        self.name = name
        self.sink, self._bound = sink, bound
        self._queue: deque[Record] = deque()
        self._counts = Counts()
        self._changed = threading.Condition()
        self._closing_by: float | None = None
        self._writing_by = 0.0
        self._opened = False
        self._unreported = 0
        """Records dropped since that was last logged; negative where one that was logged has been written after all."""
        self._report_at = 0.0
        self._troubled: set[str] = set()
        self._backoff = Backoff(_PAUSE_S[0], min(_PAUSE_S[1], sink.longest_pause_s))
        self._retry_at = 0.0
        self._thread: threading.Thread | None = None
        self._start_at = 0.0
        self._start()

    @property
    def counts(self) -> Counts:
        """A copy of the present counts."""
        with self._changed:
            c = self._counts
            return Counts(c.written, c.dropped, c.failed, c.working, len(self._queue))

    def submit(self, record: Record) -> None:
        """Queue a record if the sink writes such ones; where the queue is full, the oldest is dropped and counted."""
        if not _is_for(self.sink, record):
            return
        self._start()
        with self._changed:
            if self._closing_by is not None:
                return
            if len(self._queue) >= self._bound:
                self._queue.popleft()
                self._counts.dropped += 1
                self._unreported += 1
            self._queue.append(record)
            self._changed.notify()
        self._report_drops("its queue is full")

    def begin_close(self, timeout_s: float) -> None:
        """Let the thread write what waits and end within that time; does not wait."""
        with self._changed:
            if self._closing_by is None:
                now = time.monotonic()
                self._closing_by, self._writing_by = now + timeout_s, now + _WRITING_SHARE * timeout_s
                self._retry_at = 0.0
            self._changed.notify()

    def join(self) -> bool:
        """Wait until the thread has ended or its time is over; returns False where the sink still blocks."""
        with self._changed:
            left = (self._closing_by or time.monotonic()) - time.monotonic()
        if self._thread is None:
            self._close()
            return True
        self._thread.join(max(0.0, left))
        if self._thread.is_alive():
            self._drop_rest()  # the process may end before the thread does
        return not self._thread.is_alive()

    def _start(self) -> None:
        """Start the thread where it could not be started before and another attempt is due."""
        if self._thread is not None or time.monotonic() < self._start_at:
            return
        thread = threading.Thread(target=self._run, name=f"sink-{self.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            self._start_at = time.monotonic() + self._backoff.next_s()
            self._note("record", f"{error}; records wait")
            return
        self._thread = thread

    def _run(self) -> None:
        while not self._is_over() and not self._open():
            self._sleep()
        due = time.monotonic() + _TICK_S
        while not self._is_over():
            record = self._next(due)
            if record is not None:
                self._attempt(record)
            if time.monotonic() >= due:
                self._tick()
                due = time.monotonic() + _TICK_S
        self._close()

    def _open(self) -> bool:
        try:
            self.sink.open()
        except Exception as error:  # noqa: BLE001 - no error of a sink may stop the service
            self._note("record", _describe(error))
            self._postpone()
            return False
        self._note("record", None)
        self._opened = True
        return True

    def _next(self, due: float) -> Record | None:
        """Wait for a record, the next tick or the end; leave the record in the queue."""
        with self._changed:
            while (now := time.monotonic()) < due:
                if self._queue and now >= self._retry_at:
                    return self._queue[0]
                if self._closing_by is not None and not self._queue:
                    return None
                self._changed.wait(min(due, self._retry_at if self._queue else due) - now)
            return None

    def _attempt(self, record: Record) -> None:
        try:
            self.sink.write(record)
        except RetryableError as error:
            self._note("record", _describe(error))
            self._postpone()
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._note("record", _describe(error))
            self._settle(record, written=False)
            return
        self._note("record", None)
        self._settle(record, written=True)

    def _settle(self, record: Record, *, written: bool) -> None:
        """Remove the record, unless the full queue has dropped it in the meantime, and count it."""
        with self._changed:
            if self._queue and self._queue[0] is record:
                self._queue.popleft()
            else:
                self._counts.dropped -= 1  # it was counted as dropped
                self._unreported -= 1
            if written:
                self._counts.written += 1
            else:
                self._counts.failed += 1
        self._report_drops("its queue is full")

    def _postpone(self) -> None:
        """Set the time of the next attempt: after a growing pause, or a short one while closing."""
        pause_s = self._backoff.next_s()
        with self._changed:
            closing = self._closing_by is not None
            self._retry_at = time.monotonic() + (_CLOSING_PAUSE_S if closing else pause_s)

    def _sleep(self) -> None:
        """Wait until the next attempt is due."""
        with self._changed:
            while (left := self._retry_at - time.monotonic()) > 0:
                self._changed.wait(left)

    def _tick(self) -> None:
        try:
            self.sink.tick()
        except Exception as error:  # noqa: BLE001 - as above
            self._note("tick", _describe(error))
            return
        self._note("tick", None)

    def _is_over(self) -> bool:
        with self._changed:
            return self._closing_by is not None and (not self._queue or time.monotonic() >= self._writing_by)

    def _close(self) -> None:
        self._drop_rest()
        if not self._opened:
            return
        try:
            self.sink.close()
        except Exception as error:  # noqa: BLE001 - as above
            self._note("record", _describe(error))

    def _drop_rest(self) -> None:
        """Drop what still waits, and log how many records that are, one that is being written included."""
        with self._changed:
            self._counts.dropped += len(self._queue)
            self._unreported += len(self._queue)
            self._queue.clear()
            self._report_at = 0.0
        self._report_drops("they could not be written before the end")

    def _report_drops(self, why: str) -> None:
        """Log how many records have been dropped since the last such line, where there are any and one is due."""
        with self._changed:
            now, count = time.monotonic(), self._unreported
            if count <= 0 or now < self._report_at:
                return
            self._unreported, self._report_at = 0, now + _REPORT_S
        _log.warning("%s: %d record%s dropped: %s", self.name, count, " was" if count == 1 else "s were", why)

    def _note(self, where: Literal["record", "tick"], trouble: str | None) -> None:
        """Log the beginning and the end of trouble, once each; a record written does not end the trouble of ticks."""
        if trouble is None:
            self._troubled.discard(where)
        else:
            self._troubled.add(where)
        if trouble is None and where == "record":
            self._backoff.reset()
        if self._counts.working != bool(self._troubled):
            return
        self._counts.working = not self._troubled
        if trouble is None:
            _log.info("%s: works again", self.name)
        else:
            _log.warning("%s: %s", self.name, trouble, extra={"alike": self.name})


def _is_for(sink: LiveSink, record: Record) -> bool:
    if sink.types is not None and record.type not in sink.types:
        return False
    return sink.labels is None or getattr(record, "label", None) in {None, *sink.labels}


def _describe(error: Exception) -> str:
    """Return in one line what went wrong, an unexpected error with its type."""
    text = " ".join(str(error).splitlines())
    return text if isinstance(error, RetryableError | DetectorError | OSError) else f"{type(error).__name__}: {text}"


def describe_oserror(path: Path, error: OSError) -> str:
    """Return in one line why a file cannot be written, and what to do where that is known."""
    if error.errno == errno.ENOENT:
        return f"{path}: there is no directory {path.parent}; create it, or name another path"
    return f"{path}: cannot be written ({(error.strerror or str(error)).lower()})"
