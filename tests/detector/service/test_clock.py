"""Sample numbers and the time of day, over months, with clocks that are set and crystals that deviate."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from detector.messages import Event
from detector.records import Record, StreamInfo
from detector.service.clock import Reading, SampleClock, clock_is_synced, local_now, read_clocks, rfc3339
from detector.service.engine import RecordPublisher

RATE = 16000
DAY_S = 86400
START = datetime(2026, 11, 23, 18, 4, 5, tzinfo=UTC)


class Clocks:
    """Clocks that a test sets."""

    def __init__(self) -> None:
        self.reading = Reading(1000.0, 1000.0, START.timestamp())

    def __call__(self) -> Reading:
        return self.reading

    def go(self, seconds: float, *, asleep: bool = False, wall_step_s: float = 0.0) -> None:
        r = self.reading
        awake = 0.0 if asleep else seconds
        self.reading = Reading(r.monotonic_s + awake, r.boot_s + seconds, r.wall_s + seconds + wall_step_s)


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def _berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_sound_does_not_end_before_it_began(clocks: Clocks) -> None:
    """Samples of raw sound may come faster than in real time: a second of them moves the anchor by most of it."""
    clock, records = SampleClock(RATE, clocks), list[Record]()
    publisher = RecordPublisher("pipe", records.append)
    origin = StreamInfo("pipe", "pipe", RATE, "household-0.6.1", "ab" * 32)
    onset = Event("onset", 0, "guitar", "music", 2 * RATE, 2 * RATE, 0.9, 0.6)
    offset = Event("offset", 0, "guitar", "music", 2 * RATE, 7 * RATE, 0.2, 0.6, 7 * RATE, 0.97, 0.9, "ended")
    for seconds, event in ((2, onset), (7, offset)):
        clock.update(seconds * RATE, clocks.reading.monotonic_s)
        publisher.event(event, origin, clock, None)
    began, ended = (datetime.fromisoformat(r.time or "") for r in records)
    assert (ended - began).total_seconds() == 5


def off_s(clock: SampleClock, sample: int, true: datetime) -> float:
    return abs((clock.time_of(sample) - true).total_seconds())


@pytest.mark.parametrize("ppm", [-120, -50, 0, 50, 120])
def test_drift_of_the_sound_cards_crystal_does_not_add_up(clocks: Clocks, ppm: int) -> None:
    """Two days at 50 ppm would be 8.6 s; the time of a sample stays within 50 ms although sound arrives late."""
    rng = np.random.default_rng(0)
    clock = SampleClock(RATE, clocks)
    begin = clocks.reading.monotonic_s
    worst = 0.0
    for second in range(1, 2 * DAY_S, 7):
        sample = int(second * RATE * (1 + ppm * 1e-6))
        clock.update(sample, begin + second + rng.exponential(0.02))
        if second % 3 == 1:
            worst = max(worst, abs(clock.monotonic_s(sample) - begin - second))
    assert worst < 0.05


def test_nothing_is_lost_to_rounding_after_ten_years(clocks: Clocks) -> None:
    clock = SampleClock(RATE, clocks)
    begin, first = clocks.reading.monotonic_s, RATE * DAY_S * 3653
    for second in range(0, 600, 2):
        clock.update(first + second * RATE, begin + 3653 * DAY_S + second)
    assert clock.monotonic_s(first + 600 * RATE + 1) - begin == pytest.approx(3653 * DAY_S + 600 + 1 / RATE, abs=1e-6)


def test_sound_that_is_delivered_late_does_not_move_the_anchor(clocks: Clocks) -> None:
    clock = SampleClock(RATE, clocks)
    begin = clocks.reading.monotonic_s
    for second in range(300):
        late = 2.0 if second % 7 == 3 else 0.0
        clock.update(second * RATE, begin + second + late)
        assert clock.monotonic_s(second * RATE) == pytest.approx(begin + second, abs=1e-3)


def test_a_first_block_that_arrived_late_is_corrected_by_the_next(clocks: Clocks) -> None:
    clock = SampleClock(RATE, clocks)
    begin = clocks.reading.monotonic_s
    clock.update(0, begin + 0.2)
    clock.update(RATE, begin + 1)
    assert clock.monotonic_s(RATE) == pytest.approx(begin + 1, abs=1e-6)


@pytest.mark.parametrize("pause_s", [3.0, 40.0])
def test_a_source_that_paused_is_followed_within_seconds(clocks: Clocks, pause_s: float) -> None:
    clock = SampleClock(RATE, clocks)
    begin = clocks.reading.monotonic_s
    for second in range(100):
        clock.update(second * RATE, begin + second)
    for second in range(100, 115):
        clock.update(second * RATE, begin + second + pause_s)
    assert clock.monotonic_s(115 * RATE) == pytest.approx(begin + 115 + pause_s, abs=1e-3)


def test_sound_faster_than_real_time_has_the_time_when_it_was_read(clocks: Clocks) -> None:
    clock = SampleClock(RATE, clocks)
    begin = clocks.reading.monotonic_s
    for second in range(1000):
        clock.update(second * RATE, begin + second / 200)
        assert abs(clock.monotonic_s(second * RATE) - begin - second / 200) < 0.26


def test_lost_sound_sets_a_new_anchor(clocks: Clocks) -> None:
    clock = SampleClock(RATE, clocks)
    begin = clocks.reading.monotonic_s
    clock.update(RATE, begin + 1)
    clock.lose()
    assert clock.monotonic_s(RATE) == begin + 1  # earlier sound keeps its time
    clock.update(10 * RATE, begin + 10.1)
    assert clock.monotonic_s(10 * RATE) == pytest.approx(begin + 10.1, abs=1e-9)


@pytest.mark.parametrize("step_s", [3600.0, -3600.0, 0.4])
def test_a_wall_clock_that_is_set_is_reported_once_and_times_are_right_afterwards(
    clocks: Clocks, step_s: float
) -> None:
    clock = SampleClock(RATE, clocks)
    clock.update(0, clocks.reading.monotonic_s)
    clocks.go(1)
    assert clock.check() is None
    clocks.go(1, wall_step_s=step_s)
    assert clock.check() == pytest.approx(step_s)
    assert clock.check() is None
    assert off_s(clock, 2 * RATE, START + timedelta(seconds=2 + step_s)) < 1e-3
    # The length of a sound over the step is that of its samples.
    assert (clock.time_of(2 * RATE) - clock.time_of(0)).total_seconds() == pytest.approx(2)


def test_a_clock_that_is_adjusted_in_rate_is_followed_without_a_report(clocks: Clocks) -> None:
    clock = SampleClock(RATE, clocks)
    clock.update(0, clocks.reading.monotonic_s)
    for _ in range(1000):
        clocks.go(1, wall_step_s=0.0005)
        assert clock.check() is None
    assert off_s(clock, 1000 * RATE, START + timedelta(seconds=1000.5)) < 1e-3


def test_a_suspension_is_not_a_step_of_the_clock(clocks: Clocks) -> None:
    """The wall clock continues while the machine is suspended: times are right and nothing is reported."""
    clock = SampleClock(RATE, clocks)
    clock.update(0, clocks.reading.monotonic_s)
    clocks.go(8 * 3600, asleep=True)
    assert clock.check() is None
    clock.lose()
    clock.update(RATE, clocks.reading.monotonic_s)
    assert off_s(clock, RATE, START + timedelta(hours=8)) < 1e-3


@pytest.mark.usefixtures("_berlin")
def test_times_carry_the_offset_of_their_own_moment(clocks: Clocks) -> None:
    clock = SampleClock(RATE, clocks)
    clock.update(0, clocks.reading.monotonic_s)
    assert rfc3339(clock.time_of(0)) == "2026-11-23T19:04:05.000+01:00"
    assert rfc3339(clock.time_of(RATE // 8)) == "2026-11-23T19:04:05.125+01:00"
    clocks.reading = Reading(1000.0, 1000.0, datetime(2026, 10, 25, 0, 59, 59, tzinfo=UTC).timestamp())
    summer = SampleClock(RATE, clocks)
    summer.update(0, 1000.0)
    assert rfc3339(summer.time_of(0)) == "2026-10-25T02:59:59.000+02:00"
    assert rfc3339(summer.time_of(RATE)) == "2026-10-25T02:00:00.000+01:00"


def test_the_real_clocks_agree_with_the_time_of_day() -> None:
    reading = read_clocks()
    assert abs(reading.wall_s - time.time()) < 10
    assert reading.boot_s >= reading.monotonic_s - 1
    clock = SampleClock(RATE)
    clock.update(0, time.monotonic())
    assert abs((clock.time_of(0) - datetime.now(UTC)).total_seconds()) < 10
    assert abs((local_now() - datetime.now(UTC)).total_seconds()) < 10


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="asks the kernel of Linux")
def test_the_kernel_is_asked_whether_its_clock_is_right() -> None:
    assert clock_is_synced() in {True, False}
