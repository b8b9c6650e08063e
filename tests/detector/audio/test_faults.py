"""Faults of a device during capture: each is reported once, positions stay positions in time, capture continues."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.audio import capture
from detector.audio import capture as supervisor
from detector.audio import captured_source as timeline
from detector.audio.live_source import AudioBlock, SourceCondition
from tests.detector.audio.fake_device import RATE, FakeDevice, listening

WAITING = [("waiting", True), ("waiting", False)]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all waiting times."""
    monkeypatch.setattr(capture, "_PAUSE_S", (0.1, 0.4))
    monkeypatch.setattr(capture, "_NO_FRAMES_S", 0.6)
    monkeypatch.setattr(supervisor, "_HUNG_S", 0.6)
    monkeypatch.setattr(timeline, "_SPAN_S", 1.0)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10
    while captures() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert captures() == 0


def captures() -> int:
    return sum(thread.name == "capture" for thread in threading.enumerate())


def test_sound_arrives_complete_and_in_order() -> None:
    device = FakeDevice()
    with listening(device) as consumer:
        consumer.record(1.0)
        stats = consumer.microphone.stats
        received = np.concatenate([n.chunk.samples for n in consumer.source_events if isinstance(n, AudioBlock)])
    np.testing.assert_array_equal(received, device.value(np.arange(received.size)).astype(np.float32))
    assert consumer.lost == []
    assert consumer.conditions == []
    assert (stats.device, stats.device_rate_hz, stats.is_open, stats.conditions) == ("fake", RATE, True, ())
    assert consumer.microphone.take(0.1) is None
    assert (device.opened, device.closed) == (1, 1)


def test_blocks_have_the_time_of_their_last_sample() -> None:
    device = FakeDevice(48000, 2)
    with listening(device) as consumer:
        consumer.record(1.5)
        for sound in [n for n in consumer.source_events if isinstance(n, AudioBlock)][5:]:
            end_s = (sound.chunk.first_sample + sound.chunk.samples.size) / RATE
            assert sound.received_at_s - device.began_s == pytest.approx(end_s, abs=0.05)


@pytest.mark.parametrize("period_s", [0.0, 0.02])
def test_the_thread_checks_the_device_once_for_each_block(period_s: float) -> None:
    """Waking up is most of what listening costs."""
    device = FakeDevice(48000, 2)
    device.period_s = period_s
    with listening(device) as consumer:
        consumer.record(0.5)
        begin, checked = len(consumer.source_events), device.checked
        consumer.record(3.0)
        blocks, checks = len(consumer.source_events) - begin, device.checked - checked
    assert checks <= 1.2 * blocks + 1
    assert 25 <= blocks <= 40


def test_a_consumer_that_stalls_loses_the_oldest_sound() -> None:
    with listening(FakeDevice(), buffer_s=1.25) as consumer:
        consumer.record(0.3)
        time.sleep(2.75)
        assert consumer.microphone.stats.queue_depth == pytest.approx(1.0, abs=0.1)
        consumer.record(1.0)
        stats = consumer.microphone.stats
    assert [lost.cause for lost in consumer.lost] == ["queue"]
    lost_s = consumer.lost[0].samples / RATE
    assert lost_s > 1.2
    assert consumer.skew_s == pytest.approx(0, abs=0.1)
    assert stats.lost_s == pytest.approx(lost_s, abs=1e-3)
    assert stats.overruns == 1
    # The block behind the gap has the samples of its position: the ramp counts the device's frames.
    after = consumer.after(consumer.lost[0])
    expected = FakeDevice().value(np.arange(after.chunk.first_sample, after.chunk.first_sample + 10))
    np.testing.assert_array_equal(after.chunk.samples[:10], expected.astype(np.float32))


def test_an_overrun_of_the_device_is_a_gap() -> None:
    device = FakeDevice()
    with listening(device) as consumer:
        consumer.record(0.5)
        device.is_frozen = True
        time.sleep(0.4)
        device.overrun, device.is_frozen = True, False
        consumer.record(0.5)
        stats = consumer.microphone.stats
    assert [lost.cause for lost in consumer.lost] == ["overrun"]
    assert consumer.lost[0].samples / RATE > 0.3
    assert consumer.skew_s == pytest.approx(0, abs=0.1)
    assert (stats.overruns, consumer.conditions) == (1, [])


def test_a_device_that_is_absent_at_first_is_waited_for() -> None:
    device = FakeDevice()
    device.is_present = False
    with listening(device) as consumer:
        consumer.until(lambda: consumer.conditions)
        for _ in range(10):
            consumer.take(0.1)
        assert consumer.microphone.stats.conditions == ("waiting",)
        assert not consumer.microphone.stats.is_open
        assert not consumer.microphone.stats.is_stuck
        assert consumer.microphone.stats.device == "fake"
        device.is_present = True
        consumer.record(0.5)
    assert consumer.conditions == WAITING
    assert consumer.lost == []  # a stream begins with its first sound
    assert isinstance(consumer.source_events[2], AudioBlock)


def test_a_device_that_is_lost_is_opened_again_behind_a_gap() -> None:
    device = FakeDevice()
    with listening(device) as consumer:
        consumer.record(0.5)
        device.is_present = False
        consumer.until(lambda: consumer.conditions)
        assert not consumer.microphone.stats.is_open
        time.sleep(0.5)
        device.is_present = True
        consumer.record(0.3)
        stats = consumer.microphone.stats
    assert consumer.conditions == WAITING
    assert [lost.cause for lost in consumer.lost] == ["device"]
    assert consumer.lost[0].samples / RATE > 0.5
    assert consumer.skew_s == pytest.approx(0, abs=0.1)
    assert stats.reopens == 1
    kinds = [type(n).__name__ for n in consumer.source_events]
    assert kinds.index("AudioGap") == len(kinds) - 1 - kinds[::-1].index("AudioGap") > kinds.index("SourceCondition")


def test_a_device_that_is_lost_repeatedly_is_opened_less_and_less_often() -> None:
    device = FakeDevice()
    with listening(device) as consumer:
        for _ in range(3):
            device.is_present = True
            consumer.record(0.1)
            device.is_present = False
            consumer.until(lambda: consumer.microphone.stats.conditions == ("waiting",))
        assert device.opened == 3
        begin_s = time.monotonic()
        device.is_present = True
        consumer.record(0.1)
    assert time.monotonic() - begin_s > 0.2  # it was lost three times: the pause has been doubled twice
    assert consumer.conditions == 3 * WAITING


def test_a_device_that_stops_delivering_is_lost() -> None:
    device = FakeDevice()
    with listening(device) as consumer:
        consumer.record(0.3)
        device.is_frozen = True
        consumer.until(lambda: consumer.conditions)
        for _ in range(10):  # it is opened again meanwhile, and still delivers nothing
            consumer.take(0.1)
            assert consumer.microphone.stats.is_stuck
        device.is_present = False
        consumer.until(lambda: not consumer.microphone.stats.is_stuck)  # it is absent now, which is not stuck
        device.is_present, device.is_frozen = True, False
        consumer.record(0.3)
        assert not consumer.microphone.stats.is_stuck
    assert consumer.conditions == WAITING
    assert [lost.cause for lost in consumer.lost] == ["device"]
    assert device.opened == device.closed >= 2


def test_an_unexpected_error_does_not_end_the_capture_thread(caplog: pytest.LogCaptureFixture) -> None:
    device = FakeDevice()
    sound = device.value

    def wrong(_: object) -> NDArray[np.float64]:
        raise ZeroDivisionError("unexpected")

    with listening(device) as consumer:
        consumer.record(0.3)
        device.value = wrong
        consumer.until(lambda: consumer.conditions)
        device.value = sound
        consumer.record(0.3)
        detail = next(n.detail for n in consumer.source_events if isinstance(n, SourceCondition))
    assert detail == "waiting for the microphone: ZeroDivisionError: unexpected"
    assert "Traceback" in caplog.text
    assert consumer.conditions == WAITING


@pytest.mark.parametrize("times", [1, 2])
def test_a_call_that_hangs_does_not_block_the_consumer(times: int) -> None:
    """The hanging thread is abandoned; there are never more than two."""
    device = FakeDevice()
    with listening(device) as consumer:
        consumer.record(0.3)
        for _ in range(times):
            device.hangs.set()
            consumer.until(lambda: consumer.conditions[-1:] == [("waiting", True)])
            for _ in range(20 if times == 1 else 40):
                consumer.take(0.1)
                assert captures() <= 2
                assert not consumer.microphone.stats.is_open
                assert consumer.microphone.stats.is_stuck
            device.hangs.clear()
            consumer.record(0.3)
            assert not consumer.microphone.stats.is_stuck
        deadline = time.monotonic() + 10
        while captures() > 1 and time.monotonic() < deadline:
            consumer.take(0.1)
        assert captures() == 1
    assert consumer.conditions == times * WAITING
    assert [lost.cause for lost in consumer.lost] == times * ["device"]
    assert device.opened == device.closed


def test_a_pause_of_the_whole_process_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_SUSPENDED_S", 0.3)
    device = FakeDevice()
    with listening(device) as consumer:
        consumer.record(0.3)
        device.hangs.set()  # the thread cannot distinguish what stopped it
        time.sleep(0.5)
        device.hangs.clear()
        consumer.record(0.3)
    assert consumer.conditions == []
    assert [lost.cause for lost in consumer.lost] == ["suspended"]
    assert consumer.lost[0].samples / RATE > 0.4
    assert consumer.skew_s == pytest.approx(0, abs=0.1)
    assert device.restarted == 1


def test_nan_and_infinity_become_silence() -> None:
    device = FakeDevice()
    device.value = lambda n: np.where(n % 7 == 0, np.nan, np.where(n % 11 == 0, np.inf, 0.25))
    with listening(device) as consumer:
        consumer.record(1.2)
        received = np.concatenate([n.chunk.samples for n in consumer.source_events if isinstance(n, AudioBlock)])
        stats = consumer.microphone.stats
    assert set(np.unique(received)) == {0.0, 0.25}
    assert -15 < stats.rms_dbfs < -12


def test_silence_ends_when_the_device_is_lost() -> None:
    device = FakeDevice()
    device.value = lambda n: np.zeros(n.size)
    with listening(device) as consumer:
        consumer.until(lambda: ("silent", True) in consumer.conditions)
        assert consumer.microphone.stats.conditions == ("silent",)
        device.is_present = False
        consumer.until(lambda: ("waiting", True) in consumer.conditions)
        assert consumer.microphone.stats.conditions == ("waiting",)
    assert consumer.conditions == [("silent", True), ("silent", False), ("waiting", True)]


def test_frames_that_arrive_too_fast_are_reported_as_a_wrong_rate() -> None:
    device = FakeDevice()
    device.pace = 3.0
    with listening(device, buffer_s=1.0) as consumer:
        consumer.until(lambda: ("wrong_rate", True) in consumer.conditions)
        assert consumer.conditions == [("wrong_rate", True)]
