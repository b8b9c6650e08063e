"""The hours of the day in which sound is processed, what happens outside them, and how fast a source runs."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from pydantic import ValidationError

from detector.audio.capture import Block, BlockQueue, StreamFormat
from detector.audio.captured_source import Schedule, Timeline, sun_times
from detector.config.sections import Audio
from tests.detector.audio.fake_device import FakeDevice, listening

RATE = 16000
FORMAT = StreamFormat("camera", RATE, 1, None)
EAST = timezone(timedelta(hours=2))


def block(arrived_s: float, seconds: float = 0.1, **values: object) -> Block:
    frames = round(seconds * RATE)
    made = Block(memoryview(bytes(4 * frames)), frames, FORMAT, arrived_s)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def at(hour: int, minute: int = 0, day: int = 21) -> datetime:
    return datetime(2026, 6, day, hour, minute, tzinfo=EAST)


@pytest.mark.parametrize(
    ("hours", "inside", "outside"),
    [
        (["06:30 to 22:00"], [at(6, 30), at(21, 59)], [at(6, 29), at(22)]),
        (["22:00 to 06:30"], [at(22), at(0), at(6, 29)], [at(6, 30), at(21, 59)]),
        (["18:00 to 24:00"], [at(18), at(23, 59)], [at(0), at(17, 59)]),
        (["05:00 to 07:00", "19:00 to 21:00"], [at(6), at(20)], [at(8), at(22)]),
    ],
)
def test_hours_begin_and_end_on_the_minute(hours: list[str], inside: list[datetime], outside: list[datetime]) -> None:
    schedule = Schedule(Audio(hours=hours))
    assert all(map(schedule.contains, inside))
    assert not any(map(schedule.contains, outside))


# Times of astral 3.2, another implementation.
@pytest.mark.parametrize(
    ("day", "place", "rises", "sets"),
    [
        (date(2026, 6, 21), (52.52, 13.405), "2026-06-21T02:43:28+00:00", "2026-06-21T19:32:54+00:00"),
        (date(2026, 12, 21), (52.52, 13.405), "2026-12-21T07:15:16+00:00", "2026-12-21T14:53:35+00:00"),
        (date(2026, 3, 20), (-33.87, 151.21), "2026-03-19T19:58:09+00:00", "2026-03-20T08:06:43+00:00"),
        (date(2026, 11, 3), (37.77, -122.42), "2026-11-03T14:37:31+00:00", "2026-11-04T01:08:23+00:00"),
        (date(2027, 1, 15), (64.15, -21.94), "2027-01-15T10:56:07+00:00", "2027-01-15T16:18:40+00:00"),
        (date(2026, 9, 1), (0.0, -0.5), "2026-09-01T05:58:54+00:00", "2026-09-01T18:05:07+00:00"),
    ],
)
def test_sunrise_and_sunset_are_those_of_another_implementation(
    day: date, place: tuple[float, float], rises: str, sets: str
) -> None:
    for found, expected in zip(sun_times(day, *place), (rises, sets), strict=True):
        assert abs(found - datetime.fromisoformat(expected)) < timedelta(minutes=2)


def test_hours_by_the_sun_follow_the_day() -> None:
    schedule = Schedule(Audio(hours=["sunrise-00:30 to sunset+00:30"], latitude=52.52, longitude=13.405))
    rises, sets = sun_times(date(2026, 6, 21), 52.52, 13.405)
    for moment, expected in ((rises, -31), (sets, 31)):
        assert not schedule.contains(moment + timedelta(minutes=expected))
        assert schedule.contains(moment + timedelta(minutes=expected * 29 / 31))
    night = Schedule(Audio(hours=["sunset to sunrise"], latitude=52.52, longitude=13.405))
    assert night.contains(rises - timedelta(minutes=1))
    assert not night.contains(rises + timedelta(minutes=1))


@pytest.mark.parametrize(("day", "sun_is_up"), [(date(2026, 6, 21), True), (date(2026, 12, 21), False)])
def test_the_polar_day_has_all_hours_and_the_polar_night_none(day: date, *, sun_is_up: bool) -> None:
    place = {"latitude": 78.2, "longitude": 15.6}
    by_day = Schedule(Audio(hours=["sunrise to sunset"], **place))
    by_night = Schedule(Audio(hours=["sunset to sunrise"], **place))
    moments = [datetime(day.year, day.month, day.day, hour, 30, tzinfo=UTC) for hour in range(24)]
    assert {by_day.contains(moment) for moment in moments} == {sun_is_up}
    if not sun_is_up:
        assert {by_night.contains(moment) for moment in moments} == {True}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"hours": ["25:00 to 26:00"]}, "must be such as"),
        ({"hours": ["06:00-22:00"]}, "must be such as"),
        ({"hours": ["06:00 to 06:00"]}, "begins where it ends"),
        ({"hours": ["sunrise to 12:00"]}, "audio.latitude and audio.longitude"),
        ({"hours": ["06:00 to 22:00"], "latitude": 91}, "latitude"),
    ],
)
def test_hours_that_cannot_be_are_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Audio(**values)


def test_outside_its_hours_a_source_stays_open_and_its_sound_is_dropped() -> None:
    with listening(FakeDevice()) as consumer:
        microphone, hours = consumer.microphone, {"open": True}
        microphone._schedule.is_open = lambda: hours["open"]  # type: ignore[method-assign]
        consumer.record(0.5)
        hours["open"] = False
        consumer.until(lambda: ("off_hours", True) in consumer.conditions)
        recorded_s = consumer.recorded_s
        until = time.monotonic() + 0.8
        consumer.until(lambda: time.monotonic() >= until)
        assert consumer.recorded_s == recorded_s
        assert microphone.stats.is_open
        assert microphone.stats.conditions == ("off_hours",)
        hours["open"] = True
        consumer.record(0.5)
        assert consumer.conditions == [("off_hours", True), ("off_hours", False)]
        assert [gap.cause for gap in consumer.lost] == ["off_hours"]
        assert consumer.lost[0].samples > 0.5 * RATE
        assert abs(consumer.skew_s) < 0.1
        assert microphone.stats.lost_s == 0


def feed(line: Timeline, seconds: float, ppm: float, jitter_s: float) -> None:
    """Place blocks of a source whose clock is off, and that arrive late by some time each."""
    delays = np.random.default_rng(3).exponential(jitter_s, round(seconds * 10)) if jitter_s else None
    for number in range(round(seconds * 10)):
        arrived_s = 1000 + (number + 1) * 0.1 / (1 + ppm * 1e-6)
        line.place(block(arrived_s + (0.0 if delays is None else float(delays[number]))))


@pytest.mark.parametrize("ppm", [-20000, -100, 0, 100, 20000])
def test_the_drift_of_a_source_is_measured(ppm: float) -> None:
    line = Timeline(20.0)
    feed(line, 55, ppm, 0.0)
    assert line.drift_ppm is None
    feed(line := Timeline(20.0), 600, ppm, 0.005)
    assert line.drift_ppm == pytest.approx(ppm, abs=max(3, abs(ppm) * 0.03))


def test_timestamps_give_the_length_of_a_gap_whatever_the_clock_says() -> None:
    line = Timeline()
    feed(line, 10, 0, 0.0)
    lost_s, recorded_s = line.place(block(1010.1 + 0.5, cause="network", lost=RATE // 4))
    assert lost_s == pytest.approx(0.25)
    assert recorded_s == pytest.approx(1010.1 + 0.25)


def test_a_full_queue_adds_what_timestamps_have_counted_to_what_it_drops() -> None:
    queue = BlockQueue(0.25)
    for made in (block(1.0), block(1.1, cause="network", lost=800), block(1.2), block(1.3)):
        queue.put(made)
    first, *_ = queue.take(0)
    assert isinstance(first, Block)
    assert (first.dropped, first.lost, first.cause) == (2 * 1600 + 800, 0, "network")
    assert not first.is_placed_by_clock
    queue.put(block(2.0, cause="device"))
    for made in (block(2.1, cause="network", lost=800), block(2.2), block(2.3)):
        queue.put(made)
    first, *_ = queue.take(0)
    assert isinstance(first, Block)
    assert first.is_placed_by_clock
    assert first.cause == "network"


def test_hours_are_checked_by_the_clock_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime.now().astimezone()
    before, after = ((now + timedelta(minutes=m)).strftime("%H:%M") for m in (-2, 2))
    assert Schedule(Audio(hours=[f"{before} to {after}"])).is_open()
    schedule = Schedule(Audio(hours=[f"{after} to {before}"]))
    assert not schedule.is_open()
    later = time.monotonic() + 300
    monkeypatch.setattr(time, "monotonic", lambda: later)
    monkeypatch.setattr(schedule, "contains", lambda _moment: True)
    assert schedule.is_open()
