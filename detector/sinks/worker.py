"""One thread and one bounded queue per sink: what fails or stalls there is felt nowhere else."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Final, Literal

from detector.errors import DetectorError
from detector.sinks.sink import LiveSink, Record, TryAgainError

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
        except TryAgainError as error:
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
    if sink.types is not None and record["type"] not in sink.types:
        return False
    return sink.labels is None or "label" not in record or record["label"] in sink.labels


def _words(error: Exception) -> str:
    """Say in one line what went wrong; a mistake in here by its kind, too."""
    text = " ".join(str(error).splitlines())
    return text if isinstance(error, TryAgainError | DetectorError | OSError) else f"{type(error).__name__}: {text}"
