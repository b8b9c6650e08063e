"""Notifications to systemd, lines for the journal, and health records."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.audio.live_source import SourceCondition
from detector.errors import DeviceError
from detector.service import process
from detector.service.engine import (
    NO_SOURCE,
    Counters,
    Health,
    RateLimitedLog,
    RecordPublisher,
    is_under_voltage,
    rss_bytes,
    temperature_c,
)
from detector.service.process import Notifier
from detector.service.service import WatchdogPolicy
from detector.service.source import FaultPolicy
from detector.sinks.base import NodeInfo
from tests.detector.sinks.live_records import onset
from tests.service import NotifySocket

STATION = NodeInfo("pi", "mic", "mic", (("guitar", "music"),), "household-1", "ab12", "0.1.0")


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[NotifySocket]:
    with NotifySocket(tmp_path) as found:
        yield found


def watchdog(notify: NotifySocket, counters: Counters) -> WatchdogPolicy:
    return WatchdogPolicy(Notifier({"NOTIFY_SOCKET": str(notify.path), "WATCHDOG_USEC": "1"}), counters)


def test_only_evaluated_sound_feeds_the_watchdog(notify: NotifySocket) -> None:
    counters = Counters()
    watch = watchdog(notify, counters)
    watch.after_turn("listening", lambda: "mic ok")
    counters.add(640, 16000, 0, 1000)  # arrived, but not evaluated
    watch.after_turn("listening", lambda: "mic ok")
    assert notify.messages == []
    counters.add(640, 16000, 2, 1000)
    watch.after_turn("listening", lambda: "mic ok")
    notify.wait_for("STATUS=mic ok")
    assert notify.messages == ["READY=1", "WATCHDOG=1", "STATUS=mic ok"]
    watch.after_turn("listening", lambda: "mic ok")
    watch.after_turn("listening", lambda: "mic ok")
    counters.add(640, 16000, 1, 1000)
    watch.after_turn("listening", lambda: "mic ok")
    notify.wait_for("WATCHDOG=1", times=2)
    assert len(notify.messages) == 4


def test_a_stuck_device_does_not_feed_the_watchdog_by_its_remaining_sound(notify: NotifySocket) -> None:
    counters = Counters()
    watch = watchdog(notify, counters)
    counters.add(800, 16000, 1, 1000)
    watch.after_turn("listening", lambda: "mic ok")
    notify.wait_for("WATCHDOG=1")
    counters.add(100, 16000, 1, 1000)
    watch.after_turn("stuck", lambda: "no sound arrives")
    notify.wait_for("STATUS=no sound arrives")
    assert notify.count("WATCHDOG=1") == 1


def test_a_service_that_starts_switched_off_is_ready_at_once(notify: NotifySocket) -> None:
    watch = watchdog(notify, Counters())
    watch.after_turn("paused", lambda: "paused")
    notify.wait_for("READY=1")
    notify.wait_for("WATCHDOG=1")


def test_a_service_without_a_device_feeds_the_watchdog_and_is_ready_after_a_while(
    notify: NotifySocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = watchdog(notify, Counters())
    watch.after_turn("waiting", lambda: "waiting for usb-id:1234")
    notify.wait_for("STATUS=waiting for usb-id:1234")
    assert notify.count("WATCHDOG=1") == 1
    assert notify.count("READY=1") == 0
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 21)
    watch.after_turn("waiting", lambda: "waiting for usb-id:1234")
    monkeypatch.undo()
    notify.wait_for("READY=1")
    notify.wait_for("WATCHDOG=1", times=2)


def test_health_adds_up_over_sources_and_is_json() -> None:
    counters = Counters()
    health = Health(counters)
    stats = dataclasses.replace(NO_SOURCE, lost_s=1.5, overruns=2, reopens=1, clipped_samples=7, is_open=True)
    health.retire(stats)
    counters.add(32000, 16000, 80, 20_000_000)
    found = health.fields(stats, {"stdout": {"written": 3, "dropped": 0}}, STATION)
    assert (found.lost_s, found.overruns, found.reopens, found.clipped_samples) == (3.0, 4, 2, 14)
    assert found.heard_s == 2
    assert found.realtime_factor == 0.01
    assert found.frames == 80
    assert found.inference.counts[-1] == 1
    assert found.model_sha256 == "ab12"
    json.dumps(found.as_dict(), allow_nan=False)
    assert health.fields(stats, {}, STATION).realtime_factor == 0


def test_silence_has_a_finite_level_in_json() -> None:
    stats = dataclasses.replace(NO_SOURCE, rms_dbfs=float("-inf"), peak_dbfs=float("-inf"))
    assert Health(Counters()).fields(stats, {}, STATION).rms_dbfs == -120


def test_the_line_for_systemctl_status() -> None:
    counters = Counters()
    health = Health(counters)
    counters.add(16000, 16000, 40, 110_000_000)
    assert health.line("mic", NO_SOURCE, ()) == "mic ok, RTF 0.110, 0 xruns"
    counters.last_onset = onset(score=0.914)
    assert health.line("mic", NO_SOURCE, ()) == "mic ok, RTF 0.110, 0 xruns, last guitar 0.91 @18:04:05"
    silent = SourceCondition("silent", active=True, detail="nothing but zeros")
    assert health.line("mic", NO_SOURCE, (silent,)).startswith("mic silent, RTF")
    waiting = SourceCondition("waiting", active=True, detail="waiting for usb-id:1234")
    assert health.line("mic", NO_SOURCE, (silent, waiting)) == "waiting for usb-id:1234"


def test_the_memory_of_this_process_is_known() -> None:
    assert rss_bytes() > 1_000_000


def test_the_hottest_zone_counts_and_one_that_is_off_does_not(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    for n, text in enumerate(("41500\n", "55250\n", "nonsense")):
        zone = tmp_path / f"thermal_zone{n}"
        zone.mkdir()
        (zone / "temp").write_text(text)
    assert temperature_c(tmp_path) == 55.25


def test_only_a_raspberry_pi_reports_its_voltage(tmp_path: Path) -> None:
    for n, name in enumerate(("cpu_thermal", "rpi_volt")):
        assert is_under_voltage(tmp_path) is None
        sensor = tmp_path / f"hwmon{n}"
        sensor.mkdir()
        (sensor / "name").write_text(f"{name}\n")
    alarm = tmp_path / "hwmon1" / "in0_lcrit_alarm"
    for text, expected in (("0\n", False), ("1\n", True)):
        alarm.write_text(text)
        assert is_under_voltage(tmp_path) is expected


def test_many_warnings_are_a_line_a_minute_with_their_number(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = RateLimitedLog(logging.getLogger("detector.test"))
    for n in range(5):
        limited.warning("lost %d", n)
    real = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: real() + 61)
    limited.warning("lost %d", 5)
    assert [r.getMessage() for r in caplog.records] == ["lost 0", "lost 5 (and 4 like it since the last such line)"]


@pytest.fixture
def _logging_as_before() -> Iterator[None]:
    root, package = logging.getLogger(), logging.getLogger("detector")
    before = root.handlers[:], root.level, package.level
    hook = threading.excepthook
    yield
    threading.excepthook = hook
    root.handlers[:], _, _ = before
    root.setLevel(before[1])
    package.setLevel(before[2])


@pytest.mark.usefixtures("_logging_as_before")
def test_a_log_without_a_reader_does_not_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe of standard error is full: messages are dropped, and their number is logged later."""
    reader, writer = os.pipe()
    monkeypatch.setattr(process, "standard_error", lambda: writer)
    process.configure_logs()
    log = logging.getLogger("detector.test")
    for number in range(2000):
        log.warning(f"{number:04d}{'x' * 96}")  # noqa: G004 - texts that are not alike
    taken = b""
    while not taken.endswith(b"lost)\n"):
        taken += os.read(reader, 65536)
        if len(taken) > 60000:
            log.warning("again\nhere")
    os.close(reader)
    os.close(writer)
    lines = taken.decode().splitlines()
    assert lines[0] == f"snn-detect: warning: 0000{'x' * 96}"
    assert "again here" in lines[-1]


@pytest.mark.usefixtures("_logging_as_before")
def test_other_libraries_are_logged_from_warnings_on(capfd: pytest.CaptureFixture[str]) -> None:
    process.configure_logs()
    logging.getLogger("elsewhere").info("chatter")
    logging.getLogger("elsewhere").warning("trouble")
    logging.getLogger("detector.x").info("started")
    logging.getLogger("detector.x").error("this failed", exc_info=OSError("no space"))
    found = capfd.readouterr().err.splitlines()
    assert found == [
        "snn-detect: warning: trouble",
        "snn-detect: started",
        "snn-detect: error: this failed (OSError: no space)",
    ]


@pytest.mark.usefixtures("_logging_as_before")
def test_messages_alike_are_bounded_for_each_text_and_each_library(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("detector.service.process.time.monotonic", lambda: now)
    process.configure_logs()
    own, other = logging.getLogger("detector.x"), logging.getLogger("asyncio")
    for number in range(5000):
        own.warning("not understood: %d", number)
        other.error(f"out of resource {number}")
    own.warning("something else")
    found = capfd.readouterr().err.splitlines()
    assert len(found) == 41
    assert found[-1] == "snn-detect: warning: something else"
    now += 60
    own.warning("not understood: %d", 7)
    assert capfd.readouterr().err == "snn-detect: warning: not understood: 7 (and 4980 like it were left out)\n"


@pytest.mark.usefixtures("_logging_as_before")
def test_a_state_that_changes_all_the_time_hides_no_other_state(capfd: pytest.CaptureFixture[str]) -> None:
    process.configure_logs()
    publisher = RecordPublisher("mic", lambda _: None)
    for _ in range(100):
        publisher.status("listening", "listening is switched off", active=False)
    publisher.status("waiting", "the microphone is gone")
    found = capfd.readouterr().err.splitlines()
    assert len(found) == 21
    assert found[-1] == "snn-detect: the microphone is gone"


@pytest.mark.usefixtures("_logging_as_before")
def test_what_others_have_written_is_not_obeyed_by_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    process.configure_logs()
    logging.getLogger("detector.x").warning("%s answers", "a\x1b]0;b\x07\x9bc")
    logging.getLogger("elsewhere").warning("x", exc_info=OSError("\x1b[2J"))
    found = capfd.readouterr().err
    assert found.replace("\n", "").isprintable()
    assert found.startswith("snn-detect: warning: a\N{REPLACEMENT CHARACTER}]0;b")


@pytest.mark.usefixtures("_logging_as_before")
def test_the_end_of_a_thread_is_a_line_and_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    process.configure_logs()
    thread = threading.Thread(target=lambda: dict[str, int]()["missing"], name="worker")
    thread.start()
    thread.join()
    assert capfd.readouterr().err == (
        "snn-detect: error: internal error: the thread worker has ended: KeyError: 'missing'\n"
    )


def test_what_cannot_be_read_of_the_machine_is_unknown(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for name in ("thermal_zone0", "hwmon0"):
        (tmp_path / name).mkdir()
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        found = temperature_c(tmp_path), is_under_voltage(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found == (None, None)


def test_an_unexpected_error_of_a_part_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    faults, errors = FaultPolicy(), [OSError("too many open files")] * 3

    def work() -> int:
        if errors:
            raise errors.pop()
        return 7

    assert [faults.attempt("the health record", work, None) for _ in range(5)] == [None, None, None, 7, 7]
    assert [r.getMessage() for r in caplog.records] == [
        "the health record has failed and will be tried again: OSError: too many open files",
        "the health record works again",
    ]


def test_errors_that_a_user_can_correct_pass() -> None:
    def work() -> None:
        raise DeviceError("no such microphone")

    with pytest.raises(DeviceError):
        FaultPolicy().attempt("x", work, None)


def test_vital_work_that_fails_for_a_minute_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    now, faults = 1000.0, FaultPolicy()
    monkeypatch.setattr("time.monotonic", lambda: now)

    def work() -> bool:
        raise MemoryError

    for now in (1000.0, 1030.0, 1059.0):  # noqa: B007 - the clock's
        assert faults.attempt("detection", work, otherwise=False, vital=True) is False
    now = 1061.0
    assert faults.attempt("the page", work, otherwise=False) is False
    with pytest.raises(MemoryError):
        faults.attempt("detection", work, otherwise=False, vital=True)
