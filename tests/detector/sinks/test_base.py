"""The sinks' worker: what fails or stalls behind it is felt nowhere else, and every record is accounted for."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator

import pytest

from detector.errors import DetectorError
from detector.records import Record
from detector.sinks import base as worker_module
from detector.sinks.base import LiveSink, RetryableError, SinkWorker
from tests.detector.sinks.live_records import gap, offset, onset
from tests.resources import left_open, resources
from tests.service import wait_until


class Sink(LiveSink):
    """Keep the records, and raise the errors that a test asks for."""

    def __init__(self, types: set[str] | None = None, labels: set[str] | None = None) -> None:
        self.types = frozenset(types) if types else None
        self.labels = frozenset(labels) if labels else None
        self.written: list[int] = []
        self.troubles: list[Exception] = []
        """What the next calls of ``write`` raise, one by one."""
        self.open_troubles: list[Exception] = []
        self.tick_trouble: Exception | None = None
        self.ticks = 0
        self.gate = threading.Event()
        """While it is not set, ``write`` waits."""
        self.gate.set()
        self.entered = threading.Event()
        self.closed = False

    def open(self) -> None:
        if self.open_troubles:
            raise self.open_troubles.pop(0)

    def write(self, record: Record) -> None:
        self.entered.set()
        self.gate.wait()
        if self.troubles:
            raise self.troubles.pop(0)
        self.written.append(record.seq)

    def tick(self) -> None:
        self.ticks += 1
        if self.tick_trouble:
            raise self.tick_trouble

    def close(self) -> None:
        self.closed = True


@pytest.fixture(autouse=True)
def _quick_and_quiet(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Try again soon, and leave no thread behind."""
    monkeypatch.setattr(worker_module, "_PAUSE_S", (0.01, 0.05))
    monkeypatch.setattr(worker_module, "_TICK_S", 0.05)
    caplog.set_level(logging.INFO)
    before = resources()
    yield
    wait_until(lambda: not left_open(before), "the end of all threads")


def record(seq: int, label: str = "guitar") -> Record:
    return onset(label, seq=seq)


def submit(worker: SinkWorker, *numbers: int) -> None:
    for number in numbers:
        worker.submit(record(number))


def close(worker: SinkWorker, timeout_s: float = 20.0) -> None:
    worker.begin_close(timeout_s)
    assert worker.join()


def logged_as_dropped(caplog: pytest.LogCaptureFixture) -> int:
    return sum(int(n) for n in re.findall(r"(\d+) records? (?:was|were) dropped", caplog.text))


def test_records_arrive_in_order_and_are_counted() -> None:
    sink = Sink()
    worker = SinkWorker("test", sink)
    submit(worker, *range(100))
    close(worker)
    assert sink.written == list(range(100))
    assert sink.closed
    counts = worker.counts
    assert (counts.written, counts.dropped, counts.failed, counts.waiting, counts.working) == (100, 0, 0, 0, True)


def test_a_sink_is_given_what_it_wants() -> None:
    sink = Sink({"onset", "gap"}, {"guitar"})
    worker = SinkWorker("test", sink)
    worker.submit(record(1))
    worker.submit(record(2, label="speech"))
    worker.submit(offset(seq=3))
    worker.submit(gap(seq=4))
    close(worker)
    assert sink.written == [1, 4]
    assert worker.counts.written == 2


def test_overflow_drops_the_oldest_and_counts(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    sink.gate.clear()
    worker = SinkWorker("test", sink, bound=5)
    submit(worker, 0)
    assert sink.entered.wait(20)
    submit(worker, *range(1, 20))
    assert worker.counts.dropped == 15
    assert worker.counts.waiting == 5
    sink.gate.set()
    close(worker)
    # The first one was being written when it was given up: it has arrived after all, and is not counted as lost.
    assert sink.written == [0, 15, 16, 17, 18, 19]
    assert (worker.counts.written, worker.counts.dropped, worker.counts.failed) == (6, 14, 0)
    assert logged_as_dropped(caplog) == 14


def test_a_stalled_sink_delays_no_other() -> None:
    stalled, other = Sink(), Sink()
    stalled.gate.clear()
    workers = SinkWorker("stalled", stalled, bound=10), SinkWorker("other", other)
    for number in range(1000):
        for worker in workers:
            worker.submit(record(number))
    wait_until(lambda: len(other.written) == 1000, "the other sink's last record")
    assert stalled.written == []
    assert workers[0].counts.waiting == 10
    stalled.gate.set()
    for worker in workers:
        close(worker)


def test_trying_again_keeps_the_order_and_loses_nothing(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    sink.troubles = [RetryableError("the disk is full")] * 5
    worker = SinkWorker("file", sink, bound=100)
    submit(worker, *range(50))
    wait_until(lambda: len(sink.written) == 50, "the last record")
    assert sink.written == list(range(50))
    assert worker.counts.dropped == worker.counts.failed == 0
    close(worker)
    assert caplog.messages == ["file: the disk is full", "file: works again"]


def test_trying_again_drops_the_oldest_when_too_many_wait() -> None:
    sink = Sink()
    sink.troubles = [RetryableError("away")] * 1000
    worker = SinkWorker("test", sink, bound=5)
    submit(worker, *range(20))
    wait_until(lambda: not worker.counts.working, "the first failure")
    sink.troubles.clear()
    close(worker)
    assert sink.written == list(range(15, 20))
    assert worker.counts.dropped == 15


def test_what_a_sink_refuses_is_lost_alone_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    sink.troubles = [DetectorError("no\nsuch program"), DetectorError("no such program"), KeyError("label")]
    worker = SinkWorker("command", sink)
    submit(worker, *range(5))
    close(worker)
    assert sink.written == [3, 4]
    assert (worker.counts.written, worker.counts.failed) == (2, 3)
    assert caplog.messages == ["command: no such program", "command: works again"]


def test_an_exception_is_logged_with_its_type(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    sink.troubles = [KeyError("label")]
    worker = SinkWorker("test", sink)
    submit(worker, 1)
    close(worker)
    assert caplog.messages == ["test: KeyError: 'label'"]
    assert worker.counts.working is False


def test_opening_is_tried_until_it_succeeds() -> None:
    sink = Sink()
    sink.open_troubles = [RetryableError("no directory"), OSError("unexpected")]
    worker = SinkWorker("test", sink)
    submit(worker, 1, 2)
    wait_until(lambda: sink.written == [1, 2], "both records")
    assert sink.ticks >= 0
    close(worker)


def test_a_sink_that_never_opens_is_not_closed() -> None:
    sink = Sink()
    sink.open_troubles = [RetryableError("no directory")] * 10_000
    worker = SinkWorker("test", sink)
    submit(worker, 1, 2)
    close(worker, 0.3)
    assert (worker.counts.dropped, worker.counts.written, sink.closed) == (2, 0, False)


def test_ticks_come_while_nothing_does_and_between_tries() -> None:
    sink = Sink()
    worker = SinkWorker("test", sink)
    wait_until(lambda: sink.ticks >= 3, "three ticks")
    sink.troubles = [RetryableError("away")] * 10_000
    submit(worker, 1)
    wait_until(lambda: not worker.counts.working, "the first failure")
    before = sink.ticks
    wait_until(lambda: sink.ticks >= before + 3, "three ticks while a record waits")
    sink.troubles.clear()
    close(worker)
    assert sink.written == [1]


def test_ticks_come_during_a_long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_PAUSE_S", (3600.0, 3600.0))
    sink = Sink()
    sink.troubles = [RetryableError("away")]
    worker = SinkWorker("test", sink)
    submit(worker, 1)
    wait_until(lambda: not worker.counts.working, "the failure")
    before = sink.ticks
    wait_until(lambda: sink.ticks >= before + 3, "three ticks")
    assert sink.written == []
    close(worker)  # and closing ends the pause
    assert sink.written == [1]


def test_a_sink_whose_tries_cost_nothing_is_tried_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_PAUSE_S", (0.01, 3600.0))
    sink = Sink()
    sink.longest_pause_s = 0.02
    sink.troubles = [RetryableError("stalled") for _ in range(30)]  # doubled each time, the pauses would take years
    worker = SinkWorker("test", sink)
    submit(worker, 1)
    wait_until(lambda: sink.written == [1], "the record")
    close(worker)


def test_a_tick_that_fails_is_reported_until_one_succeeds(caplog: pytest.LogCaptureFixture) -> None:
    sink = Sink()
    sink.tick_trouble = RetryableError("cannot commit")
    worker = SinkWorker("database", sink)
    wait_until(lambda: sink.ticks >= 3, "three ticks")
    submit(worker, 1)
    wait_until(lambda: sink.written == [1], "the record")
    assert worker.counts.working is False  # a record written has not ended it
    sink.tick_trouble = None
    wait_until(lambda: worker.counts.working, "a tick that succeeds")
    close(worker)
    assert caplog.messages == ["database: cannot commit", "database: works again"]


def test_closing_gives_up_on_what_will_not_be_written() -> None:
    sink = Sink()
    sink.troubles = [RetryableError("away")] * 10_000
    worker = SinkWorker("test", sink)
    submit(worker, 1, 2, 3)
    close(worker, 0.3)
    assert (worker.counts.dropped, worker.counts.written, worker.counts.waiting) == (3, 0, 0)
    assert sink.closed


def test_closing_writes_what_can_be_written_in_time() -> None:
    sink = Sink()
    sink.gate.clear()
    worker = SinkWorker("test", sink)
    submit(worker, *range(20))
    worker.begin_close(20)
    submit(worker, 99)  # too late
    sink.gate.set()
    assert worker.join()
    assert sink.written == list(range(20))


def test_a_hung_sink_is_left_behind_in_time() -> None:
    sink = Sink()
    sink.gate.clear()
    worker = SinkWorker("hung", sink)
    submit(worker, 1)
    assert sink.entered.wait(20)
    begin = time.monotonic()
    worker.begin_close(0.3)
    assert not worker.join()
    assert 0.2 < time.monotonic() - begin < 10
    (thread,) = [t for t in threading.enumerate() if t.name == "sink-hung"]
    assert thread.daemon  # so the process can end all the same
    sink.gate.set()


def test_records_are_counted_once_whatever_happens() -> None:
    sink = Sink()
    sink.troubles = [RetryableError("away"), DetectorError("refused")] * 40
    worker = SinkWorker("test", sink, bound=7)
    for number in range(500):
        submit(worker, number)
        if number % 50 == 0:
            time.sleep(0.01)
    close(worker)
    counts = worker.counts
    assert counts.written + counts.dropped + counts.failed == 500
    assert counts.written == len(sink.written)
    assert sink.written == sorted(set(sink.written))
