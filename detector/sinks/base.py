"""What a sink is: takes records one by one, and may be slow, full or broken without anybody else noticing.

One thread and one bounded queue per sink: what fails or stalls there is felt nowhere else.

What a disk refuses, in words.
"""

from __future__ import annotations

import errno
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

from detector.errors import DetectorError

if TYPE_CHECKING:
    from detector.records import Record


@dataclass(frozen=True, slots=True)
class SavedClip:
    """A file with the sound of an event."""

    id: str
    """That of the event."""
    label: str
    path: str
    bytes: int


class Sink(Protocol):
    """Takes records one by one, as they become known."""

    def write(self, record: Record) -> None:
        """Pass a record on before returning; raises BrokenPipeError where nobody reads any more."""


class RetryableError(Exception):
    """A sink cannot take this record now, but will later: a full disk, a server that is away. Its text says why."""


class LiveSink:
    """A sink of the service; a ``SinkWorker`` calls all its methods in one thread of its own.

    ``write`` may take its time: the worker's queue absorbs it, and drops the oldest records where
    it overflows. It raises RetryableError to be given the same record again after a pause; any other
    exception means that this record is lost, and is counted and told.
    """

    types: frozenset[str] | None = None
    """Types of records to be given; None for all."""
    labels: frozenset[str] | None = None
    """Labels of sounds to be given; None for all. Records without a label are not asked for it."""
    longest_pause_s: float = math.inf
    """The longest pause between two tries that this sink needs; the worker has a longest one of its own."""

    @property
    def stats(self) -> Mapping[str, float]:
        """Return what else health records say of this sink, by key; read from any thread."""
        return {}

    def open(self) -> None:
        """Prepare to write, in the worker's thread; raises RetryableError to be opened again after a pause."""

    def write(self, record: Record) -> None:
        """Pass a record on."""
        raise NotImplementedError

    def tick(self) -> None:
        """Do what is due by now; called about once a second, also while nothing is written."""

    def close(self) -> None:
        """Bring to an end what has been written, and release everything."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Who is listening, to what, with which model: what a sink may tell its readers besides records."""

    node: str
    """Name of this machine: letters, digits, ``_`` and ``-``."""
    source: str
    """Short name of the sound source, of the same letters; the ``source`` of each record."""
    device: str
    """The device's stable id, or what the user named it by where it has none."""
    classes: tuple[tuple[str, str], ...]
    """Label and category of each sound that is reported."""
    model: str
    """Name and version of the model."""
    model_sha256: str
    version: str
    """Version of snn-detect."""


_log = logging.getLogger(__name__)
_TICK_S: Final = 1.0
_PAUSE_S: Final = (0.5, 60.0)
"""Shortest and longest pause before a sink is tried again; each one doubles the last."""
_LAST_PAUSE_S: Final = 0.05
"""The pause while closing."""
_TRYING_SHARE: Final = 0.7
"""Of the time to close, what writing may take; the rest is for the sink's own close."""


@dataclass(slots=True)
class Counts:
    """What became of the records handed to one sink."""

    written: int = 0
    dropped: int = 0
    """Oldest records that had to make room, or that were left when the time to close ran out."""
    failed: int = 0
    """Records that the sink refused for good."""
    working: bool = True
    """Whether the last try went well."""
    waiting: int = 0


class SinkWorker:
    """Hand records to a sink in a thread of its own; ``submit`` never waits and never raises."""

    def __init__(self, name: str, sink: LiveSink, bound: int = 1000) -> None:
        """Start the thread; at most ``bound`` records wait."""
        self.name = name
        self._sink, self._bound = sink, bound
        self._queue: deque[Record] = deque()
        self._counts = Counts()
        self._changed = threading.Condition()
        self._closing_by: float | None = None
        self._trying_by = 0.0
        self._opened = False
        self._troubled: set[str] = set()
        self._pause_s = _PAUSE_S[0]
        self._rests_until = 0.0
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> Counts:
        """A copy of the counts as they stand."""
        with self._changed:
            c = self._counts
            return Counts(c.written, c.dropped, c.failed, c.working, len(self._queue))

    def submit(self, record: Record) -> None:
        """Queue a record if the sink wants it; where the queue is full, the oldest one is dropped and counted."""
        if not _wants(self._sink, record):
            return
        with self._changed:
            if self._closing_by is not None:
                return
            if len(self._queue) >= self._bound:
                self._queue.popleft()
                self._counts.dropped += 1
            self._queue.append(record)
            self._changed.notify()

    def begin_close(self, timeout_s: float) -> None:
        """Ask the thread to write what waits and end within that time; does not wait."""
        with self._changed:
            if self._closing_by is None:
                now = time.monotonic()
                self._closing_by, self._trying_by = now + timeout_s, now + _TRYING_SHARE * timeout_s
                self._rests_until = 0.0
            self._changed.notify()

    def join(self) -> bool:
        """Wait until the thread has ended or its time is over; False where it still hangs in the sink."""
        with self._changed:
            left = (self._closing_by or time.monotonic()) - time.monotonic()
        self._thread.join(max(0.0, left))
        return not self._thread.is_alive()

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
            self._sink.open()
        except Exception as error:  # noqa: BLE001 - whatever a sink does, the others and the sound go on
            self._note("record", _words(error))
            self._rest()
            return False
        self._note("record", None)
        self._opened = True
        return True

    def _next(self, due: float) -> Record | None:
        """Wait for a record, the next tick, or the order to close; leave the record in the queue."""
        with self._changed:
            while (now := time.monotonic()) < due:
                if self._queue and now >= self._rests_until:
                    return self._queue[0]
                if self._closing_by is not None and not self._queue:
                    return None
                self._changed.wait(min(due, self._rests_until if self._queue else due) - now)
            return None

    def _attempt(self, record: Record) -> None:
        try:
            self._sink.write(record)
        except RetryableError as error:
            self._note("record", _words(error))
            self._rest()
            return
        except Exception as error:  # noqa: BLE001 - as above
            self._note("record", _words(error))
            self._settle(record, written=False)
            return
        self._note("record", None)
        self._settle(record, written=True)

    def _settle(self, record: Record, *, written: bool) -> None:
        """Take the record out, unless an overflow has dropped it in the meantime, and count it."""
        with self._changed:
            if self._queue and self._queue[0] is record:
                self._queue.popleft()
            else:
                self._counts.dropped -= 1  # it had been given up for lost
            if written:
                self._counts.written += 1
            else:
                self._counts.failed += 1

    def _rest(self) -> None:
        """Put the next try off: longer each time, but only a little when the time for tries is running out."""
        with self._changed:
            closing = self._closing_by is not None
            self._rests_until = time.monotonic() + (_LAST_PAUSE_S if closing else self._pause_s)
        self._pause_s = min(2 * self._pause_s, _PAUSE_S[1], self._sink.longest_pause_s)

    def _sleep(self) -> None:
        """Wait until the next try is due."""
        with self._changed:
            while (left := self._rests_until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _tick(self) -> None:
        try:
            self._sink.tick()
        except Exception as error:  # noqa: BLE001 - as above
            self._note("tick", _words(error))
            return
        self._note("tick", None)

    def _is_over(self) -> bool:
        with self._changed:
            return self._closing_by is not None and (not self._queue or time.monotonic() >= self._trying_by)

    def _close(self) -> None:
        with self._changed:
            self._counts.dropped += len(self._queue)
            self._queue.clear()
        if not self._opened:
            return
        try:
            self._sink.close()
        except Exception as error:  # noqa: BLE001 - as above
            self._note("record", _words(error))

    def _note(self, where: Literal["record", "tick"], trouble: str | None) -> None:
        """Tell of trouble when it begins and of its end, once each; a record that goes well says nothing of ticks."""
        if trouble is None:
            self._troubled.discard(where)
        else:
            self._troubled.add(where)
        if trouble is None and where == "record":
            self._pause_s = _PAUSE_S[0]
        if self._counts.working != bool(self._troubled):
            return
        self._counts.working = not self._troubled
        if trouble is None:
            _log.info("%s: works again", self.name)
        else:
            _log.warning("%s: %s", self.name, trouble)


def _wants(sink: LiveSink, record: Record) -> bool:
    if sink.types is not None and record.type not in sink.types:
        return False
    return sink.labels is None or getattr(record, "label", None) in {None, *sink.labels}


def _words(error: Exception) -> str:
    """Say in one line what went wrong; a mistake in here by its kind, too."""
    text = " ".join(str(error).splitlines())
    return text if isinstance(error, RetryableError | DetectorError | OSError) else f"{type(error).__name__}: {text}"


def describe_oserror(path: Path, error: OSError) -> str:
    """Return one line that says why a file cannot be written, and what to do where that can be told."""
    if error.errno == errno.ENOENT:
        return f"{path}: there is no directory {path.parent}; create it, or name another path"
    return f"{path}: cannot be written ({(error.strerror or str(error)).lower()})"
