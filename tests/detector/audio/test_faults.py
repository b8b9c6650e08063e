"""Faults of a device while it is heard: each is told once, positions stay positions in time, and it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.audio import capture
from detector.audio import capture as supervisor
from detector.audio import microphone as timeline
from detector.audio.live_source import AudioBlock, SourceCondition
from tests.detector.audio.fake_device import RATE, FakeDevice, listening

WAITING = [("waiting", True), ("waiting", False)]


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for nothing as long as in earnest."""
    monkeypatch.setattr(capture, "_PAUSE_S", (0.1, 0.4))
    monkeypatch.setattr(capture, "_NO_FRAMES_S", 0.6)
    monkeypatch.setattr(supervisor, "_HUNG_S", 0.6)
    monkeypatch.setattr(timeline, "_SPAN_S", 1.0)


@pytest.fixture(autouse=True)
def nothing_is_left_over() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 10
    while captures() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert captures() == 0


def captures() -> int:
    return sum(thread.name == "capture" for thread in threading.enumerate())


def test_sound_comes_whole_and_in_order() -> None:
    device = FakeDevice()
    with listening(device) as ear:
        ear.record(1.0)
        stats = ear.microphone.stats
        heard = np.concatenate([n.chunk.samples for n in ear.source_events if isinstance(n, AudioBlock)])
    np.testing.assert_array_equal(heard, device.value(np.arange(heard.size)).astype(np.float32))
    assert ear.lost == []
    assert ear.conditions == []
    assert (stats.device, stats.device_rate_hz, stats.is_open, stats.conditions) == ("fake", RATE, True, ())
    assert ear.microphone.take(0.1) is None
    assert (device.opened, device.closed) == (1, 1)


def test_when_the_sound_was_heard() -> None:
    device = FakeDevice(48000, 2)
    with listening(device) as ear:
        ear.record(1.5)
        for sound in [n for n in ear.source_events if isinstance(n, AudioBlock)][5:]:
            end_s = (sound.chunk.first_sample + sound.chunk.samples.size) / RATE
            assert sound.received_at_s - device.began_s == pytest.approx(end_s, abs=0.05)


def test_a_consumer_that_stalls_loses_the_oldest_sound() -> None:
    with listening(FakeDevice(), buffer_s=0.5) as ear:
        ear.record(0.3)
        time.sleep(2.0)
        assert ear.microphone.stats.queue_depth == pytest.approx(1.0, abs=0.1)
        ear.record(1.0)
        stats = ear.microphone.stats
    assert [lost.cause for lost in ear.lost] == ["queue"]
    lost_s = ear.lost[0].samples / RATE
    assert lost_s > 1.2
    assert ear.skew_s == pytest.approx(0, abs=0.1)
    assert stats.lost_s == pytest.approx(lost_s, abs=1e-3)
    assert stats.overruns == 1
    # What follows the gap is what was said at its position: the ramp counts the device's frames.
    after = ear.after(ear.lost[0])
    expected = FakeDevice().value(np.arange(after.chunk.first_sample, after.chunk.first_sample + 10))
    np.testing.assert_array_equal(after.chunk.samples[:10], expected.astype(np.float32))


def test_an_overrun_of_the_device_is_a_gap() -> None:
    device = FakeDevice()
    with listening(device) as ear:
        ear.record(0.5)
        device.is_frozen = True
        time.sleep(0.4)
        device.overrun, device.is_frozen = True, False
        ear.record(0.5)
        stats = ear.microphone.stats
    assert [lost.cause for lost in ear.lost] == ["overrun"]
    assert ear.lost[0].samples / RATE > 0.3
    assert ear.skew_s == pytest.approx(0, abs=0.1)
    assert (stats.overruns, ear.conditions) == (1, [])


def test_a_device_that_is_absent_at_first_is_waited_for() -> None:
    device = FakeDevice()
    device.is_there = False
    with listening(device) as ear:
        ear.until(lambda: ear.conditions)
        for _ in range(10):
            ear.take(0.1)
        assert ear.microphone.stats.conditions == ("waiting",)
        assert not ear.microphone.stats.is_open
        assert not ear.microphone.stats.is_stuck
        assert ear.microphone.stats.device == "fake"
        device.is_there = True
        ear.record(0.5)
    assert ear.conditions == WAITING
    assert ear.lost == []  # a stream begins with its first sound
    assert isinstance(ear.source_events[2], AudioBlock)


def test_a_device_that_goes_and_comes_back() -> None:
    device = FakeDevice()
    with listening(device) as ear:
        ear.record(0.5)
        device.is_there = False
        ear.until(lambda: ear.conditions)
        assert not ear.microphone.stats.is_open
        time.sleep(0.5)
        device.is_there = True
        ear.record(0.3)
        stats = ear.microphone.stats
    assert ear.conditions == WAITING
    assert [lost.cause for lost in ear.lost] == ["device"]
    assert ear.lost[0].samples / RATE > 0.5
    assert ear.skew_s == pytest.approx(0, abs=0.1)
    assert stats.reopens == 1
    kinds = [type(n).__name__ for n in ear.source_events]
    assert kinds.index("AudioGap") == len(kinds) - 1 - kinds[::-1].index("AudioGap") > kinds.index("SourceCondition")


def test_a_device_that_flaps_is_tried_more_and_more_seldom() -> None:
    device = FakeDevice()
    with listening(device) as ear:
        for _ in range(3):
            device.is_there = True
            ear.record(0.1)
            device.is_there = False
            ear.until(lambda: ear.microphone.stats.conditions == ("waiting",))
        assert device.opened == 3
        begin_s = time.monotonic()
        device.is_there = True
        ear.record(0.1)
    assert time.monotonic() - begin_s > 0.2  # three times it has gone: the pause has been doubled twice
    assert ear.conditions == 3 * WAITING


def test_a_device_that_gives_nothing_any_more_is_lost() -> None:
    device = FakeDevice()
    with listening(device) as ear:
        ear.record(0.3)
        device.is_frozen = True
        ear.until(lambda: ear.conditions)
        for _ in range(10):  # it is tried again meanwhile, and gives nothing still
            ear.take(0.1)
            assert ear.microphone.stats.is_stuck
        device.is_there = False
        ear.until(lambda: not ear.microphone.stats.is_stuck)  # now it is one to wait for
        device.is_there, device.is_frozen = True, False
        ear.record(0.3)
        assert not ear.microphone.stats.is_stuck
    assert ear.conditions == WAITING
    assert [lost.cause for lost in ear.lost] == ["device"]
    assert device.opened == device.closed >= 2


def test_a_mistake_in_the_thread_does_not_end_it(caplog: pytest.LogCaptureFixture) -> None:
    device = FakeDevice()
    sound = device.value

    def wrong(_: object) -> NDArray[np.float64]:
        raise ZeroDivisionError("who would have thought")

    with listening(device) as ear:
        ear.record(0.3)
        device.value = wrong
        ear.until(lambda: ear.conditions)
        device.value = sound
        ear.record(0.3)
        detail = next(n.detail for n in ear.source_events if isinstance(n, SourceCondition))
    assert detail == "waiting for the microphone: ZeroDivisionError: who would have thought"
    assert "Traceback" in caplog.text
    assert ear.conditions == WAITING


@pytest.mark.parametrize("times", [1, 2])
def test_a_call_that_hangs_does_not_hang_us(times: int) -> None:
    """The thread in it is abandoned, and no more than two of them."""
    device = FakeDevice()
    with listening(device) as ear:
        ear.record(0.3)
        for _ in range(times):
            device.hangs.set()
            ear.until(lambda: ear.conditions[-1:] == [("waiting", True)])
            for _ in range(20 if times == 1 else 40):
                ear.take(0.1)
                assert captures() <= 2
                assert not ear.microphone.stats.is_open
                assert ear.microphone.stats.is_stuck
            device.hangs.clear()
            ear.record(0.3)
            assert not ear.microphone.stats.is_stuck
        deadline = time.monotonic() + 10
        while captures() > 1 and time.monotonic() < deadline:
            ear.take(0.1)
        assert captures() == 1
    assert ear.conditions == times * WAITING
    assert [lost.cause for lost in ear.lost] == times * ["device"]
    assert device.opened == device.closed


def test_a_pause_of_the_whole_process_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "_SUSPENDED_S", 0.3)
    device = FakeDevice()
    with listening(device) as ear:
        ear.record(0.3)
        device.hangs.set()  # to the thread it makes no difference what stopped it
        time.sleep(0.5)
        device.hangs.clear()
        ear.record(0.3)
    assert ear.conditions == []
    assert [lost.cause for lost in ear.lost] == ["suspended"]
    assert ear.lost[0].samples / RATE > 0.4
    assert ear.skew_s == pytest.approx(0, abs=0.1)
    assert device.restarted == 1


def test_what_is_no_number_is_heard_as_silence() -> None:
    device = FakeDevice()
    device.value = lambda n: np.where(n % 7 == 0, np.nan, np.where(n % 11 == 0, np.inf, 0.25))
    with listening(device) as ear:
        ear.record(1.2)
        heard = np.concatenate([n.chunk.samples for n in ear.source_events if isinstance(n, AudioBlock)])
        stats = ear.microphone.stats
    assert set(np.unique(heard)) == {0.0, 0.25}
    assert -15 < stats.rms_dbfs < -12


def test_silence_ends_when_the_device_goes() -> None:
    device = FakeDevice()
    device.value = lambda n: np.zeros(n.size)
    with listening(device) as ear:
        ear.until(lambda: ("silent", True) in ear.conditions)
        assert ear.microphone.stats.conditions == ("silent",)
        device.is_there = False
        ear.until(lambda: ("waiting", True) in ear.conditions)
        assert ear.microphone.stats.conditions == ("waiting",)
    assert ear.conditions == [("silent", True), ("silent", False), ("waiting", True)]


def test_a_flood_is_told_and_bounded() -> None:
    device = FakeDevice()
    device.pace = 3.0
    with listening(device, buffer_s=1.0) as ear:
        ear.until(lambda: ("wrong_rate", True) in ear.conditions)
        assert ear.conditions == [("wrong_rate", True)]
