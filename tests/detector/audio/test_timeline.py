"""Positions of sound in time: late blocks, gaps, and frames that arrive too fast or too slowly."""

from __future__ import annotations

import numpy as np
import pytest

from detector.audio.capture import Block, StreamFormat
from detector.audio.captured_source import Timeline
from detector.messages import GapCause

RATE = 48000
FORMAT = StreamFormat("thing", RATE, 1, None)


def block(
    arrived_s: float, frames: int = 1920, cause: GapCause | None = None, left: int = 0, dropped: int = 0
) -> Block:
    return Block(memoryview(bytes(4 * frames)), frames, FORMAT, arrived_s, left, cause, dropped)


def feed(line: Timeline, begin_s: float, seconds: float, delays: list[float], pace: float = 1.0) -> list[float]:
    """Place blocks that arrive with some delay each; return the errors of their times in s."""
    errors = []
    for i in range(round(seconds * pace / 0.04)):
        recorded_s = begin_s + (i + 1) * 0.04 / pace
        _, placed_s = line.place(block(recorded_s + delays[i % len(delays)]))
        errors.append(placed_s - recorded_s)
    return errors


def test_late_blocks_get_the_time_at_which_they_were_recorded() -> None:
    delays = [*np.random.default_rng(1).exponential(0.02, 200), 0.0]
    errors = feed(Timeline(), 100.0, 60, delays)
    assert np.abs(errors[300:]).max() < 0.002


def test_a_backlog_gets_the_time_at_which_it_was_recorded() -> None:
    """After a pause of three seconds the device delivers all that it has buffered, at once."""
    line = Timeline()
    feed(line, 0.0, 20, [0.0])
    late = [line.place(block(23.0, left=1920 * (74 - i)))[1] for i in range(75)]
    np.testing.assert_allclose(late, 20 + 0.04 * np.arange(1, 76), atol=1e-6)
    in_server = [line.place(block(26.0 + 0.001 * i))[1] for i in range(75)]  # where only the arrival shows it
    np.testing.assert_allclose(in_server, 23 + 0.04 * np.arange(1, 76), atol=1e-6)


def test_the_error_of_a_crystal_does_not_accumulate() -> None:
    errors = feed(Timeline(), 0.0, 300, [0.0], pace=1 - 100e-6)
    assert np.abs(errors).max() < 0.002


@pytest.mark.parametrize("cause", ["overrun", "device", "suspended"])
def test_the_clock_gives_the_length_of_a_gap(cause: GapCause) -> None:
    line = Timeline()
    feed(line, 0.0, 10, [0.0, 0.005])
    lost_s, recorded_s = line.place(block(13.54, cause=cause))
    assert lost_s == pytest.approx(3.5, abs=0.006)
    assert recorded_s == pytest.approx(13.54)
    assert line.place(block(13.58)) == pytest.approx((0.0, 13.58))


def test_the_length_dropped_by_the_queue_is_exact() -> None:
    line = Timeline()
    feed(line, 0.0, 10, [0.0])
    lost_s, recorded_s = line.place(block(15.0, dropped=3 * RATE))
    assert lost_s == 3.0
    assert recorded_s == pytest.approx(13.04)


def test_nothing_is_lost_before_the_first_block() -> None:
    assert Timeline().place(block(5.0, cause="device")) == (0.0, 5.0)


def test_the_length_of_a_gap_is_never_negative() -> None:
    line = Timeline()
    feed(line, 0.0, 10, [0.0])
    assert line.place(block(10.01, cause="overrun"))[0] == 0.0


@pytest.mark.parametrize("pace", [44100 / 48000, 0.5, 1.0, 2.0, 10.0])
def test_the_pace_is_measured(pace: float) -> None:
    line = Timeline()
    feed(line, 0.0, 30, [0.0, 0.01, 0.003], pace)
    assert line.pace == pytest.approx(pace, rel=0.005)


def test_a_short_stall_does_not_change_the_pace() -> None:
    line = Timeline()
    paces = []
    for i in range(1000):
        recorded_s = (i + 1) * 0.04
        stalled_s = max(0.0, 23.0 - recorded_s) if recorded_s > 20 else 0.0
        line.place(block(recorded_s + stalled_s))
        paces.append(line.pace)
    assert max(abs(p - 1) for p in paces) < 1e-6
