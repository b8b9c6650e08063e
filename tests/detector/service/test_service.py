"""The service as a real process: systemd, signals, and readers that stall."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from detector.messages import Samples
from tests.detector.service.conftest import lively, scene, sound  # noqa: F401 - fixtures
from tests.service import COMMAND, DEADLINE_S, Child, NotifySocket, Record, service, wait_until
from tests.web_service import url_of

Lively = tuple[Samples, dict[str, float]]
QUIET = np.zeros(16000, np.float32)
ALL_RECORDS = ("[stdout]", 'types = ["onset", "offset", "gap", "status", "health"]')
PAUSE = np.zeros(3 * 16000, np.float32)


@pytest.fixture
def notify(tmp_path: Path) -> Iterator[NotifySocket]:
    with NotifySocket(tmp_path) as found:
        yield found


@pytest.fixture
def config(tmp_path: Path, lively: Lively) -> Path:  # noqa: F811
    path = tmp_path / "config.toml"
    write_config(path, lively)
    return path


def write_config(path: Path, lively: Lively, *extra: str) -> None:  # noqa: F811
    thresholds = ", ".join(f"{label} = {value}" for label, value in lively[1].items())
    database = path.with_name("events.db")
    text = [
        *("[audio]", 'device = "-"', "[listening]", f"thresholds = {{ {thresholds} }}", "[health]", "interval_s = 1"),
        *("[database]", f'path = "{database}"', *extra),
    ]
    path.write_text("\n".join(text) + "\n")


def stored(path: Path) -> list[tuple[str, str, str | None]]:
    """Return id, label and reason of the events in the database."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        try:
            return connection.execute("SELECT id, label, reason FROM events ORDER BY id").fetchall()
        except sqlite3.OperationalError:  # nothing has been written yet
            return []


def has_onset(records: list[Record]) -> bool:
    return any(r["type"] == "onset" for r in records)


def test_systemd_is_notified_from_start_to_end(config: Path, lively: Lively, notify: NotifySocket) -> None:  # noqa: F811
    with service(config, notify=notify) as child:
        child.play(lively[0])
        child.wait_for_records(has_onset, "an onset")
        notify.wait_for("READY=1")
        child.signal(signal.SIGTERM)
        assert child.wait() == 0
    reported = [m for m in notify.messages if not m.startswith("STATUS=mic")]
    assert reported[:3] == ["STATUS=loading the model", "STATUS=opening -", "READY=1"]
    assert reported[-1] == "STOPPING=1"
    assert child.states() == [("listening", True), ("stopping", True)]
    onsets, offsets = child.of("onset"), child.of("offset")
    assert sorted(r["id"] for r in onsets) == sorted(r["id"] for r in offsets)
    assert offsets[-1]["reason"] == "shutdown"
    assert [(i, reason) for i, _, reason in stored(config.with_name("events.db"))] == sorted(
        (r["id"], r["reason"]) for r in offsets
    )
    assert not any("Traceback" in line or "error" in line for line in child.errors)


def test_ready_waits_for_the_first_inference(config: Path, notify: NotifySocket) -> None:
    with service(config, notify=notify) as child:
        notify.wait_for("STATUS=opening -")
        time.sleep(1)
        assert notify.count("READY=1") == 0
        child.play(QUIET)
        notify.wait_for("READY=1")


def test_watchdog_is_fed_by_sound_alone(config: Path, notify: NotifySocket) -> None:
    """A process whose capture has silently ended is not alive."""
    with service(config, notify=notify, watchdog_s=0.4) as child:
        child.play(QUIET)
        notify.wait_for("READY=1")

        def is_fed() -> bool:
            child.play(QUIET[:640])  # a little every time: a message soon after the last one is not sent
            return notify.count("WATCHDOG=1") >= 4

        wait_until(is_fed, "the fourth WATCHDOG=1")
        # From here on no sound arrives; messages of a timer would not end.
        wait_until(lambda: not _grows_in(3, notify), "the end of WATCHDOG=1")
        assert child.process.poll() is None


def _grows_in(seconds: float, notify: NotifySocket) -> bool:
    before = notify.count("WATCHDOG=1")
    time.sleep(seconds)
    return notify.count("WATCHDOG=1") > before


def test_a_reload_changes_the_sinks(config: Path, lively: Lively, notify: NotifySocket, tmp_path: Path) -> None:  # noqa: F811
    with service(config, notify=notify) as child:
        child.play(lively[0])
        child.wait_for_records(has_onset, "an onset")
        notify.wait_for("READY=1")
        target = tmp_path / "more.jsonl"
        write_config(config, lively, "[[file]]", f'path = "{target}"')
        child.signal(signal.SIGHUP)
        notify.wait_for("READY=1", times=2)
        reloading = next(m for m in notify.messages if m.startswith("RELOADING=1"))
        assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", reloading)
        child.wait_for_records(lambda _: ("reloaded", True) in child.states(), "reloaded")
        child.play(np.concatenate([PAUSE, lively[0]]))
        child.wait_for_records(lambda _: len(child.of("onset")) >= 2, "another onset")
        child.signal(signal.SIGTERM)
        assert child.wait() == 0
    assert child.of("offset")[0]["reason"] == "ended"  # the reload closed nothing
    in_file = [line for line in target.read_text().splitlines() if '"type":"onset"' in line]
    assert 1 <= len(in_file) < len(child.of("onset"))
    assert len(stored(config.with_name("events.db"))) == len(child.of("onset"))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ("[metrics]\nadress = 'x'", "did you mean metrics.address"),
        ("[listening.thresholds]\nharp = 0.5", "Cannot declare"),
        ("[[mqtt]]\nhost = 'x'\nusername = 'u'\npassword_file = '/nowhere'", "/nowhere"),
        ("[[webhook]]\nurl = 'ftp://x'", "webhook"),
    ],
)
def test_a_reload_that_fails_changes_nothing(
    config: Path,
    lively: Lively,  # noqa: F811
    notify: NotifySocket,
    extra: str,
    words: str,
) -> None:
    with service(config, notify=notify) as child:
        child.play(QUIET)
        notify.wait_for("READY=1")
        write_config(config, lively, extra)
        child.signal(signal.SIGHUP)
        notify.wait_for("READY=1", times=2)
        child.wait_for_records(lambda _: ("reloaded", False) in child.states(), "the refusal")
        child.play(lively[0])
        child.wait_for_records(has_onset, "an onset")
        child.signal(signal.SIGTERM)
        assert child.wait() == 0
    (line,) = [line for line in child.errors if "the settings in force stay" in line]
    assert words in line
    (status,) = [r for r in child.of("status") if r["state"] == "reloaded"]
    assert words in status["detail"]


def test_a_service_reloads_under_nohup_too(config: Path, notify: NotifySocket) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does, and children inherit
    try:
        with service(config, notify=notify) as child:
            child.play(QUIET)
            notify.wait_for("READY=1")
            child.signal(signal.SIGHUP)
            child.wait_for_records(lambda _: ("reloaded", True) in child.states(), "reloaded")
            child.signal(signal.SIGTERM)
            assert child.wait() == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_reload_of_the_model_closes_events_and_continues(config: Path, lively: Lively, notify: NotifySocket) -> None:  # noqa: F811
    clip, thresholds = lively
    with service(config, notify=notify) as child:
        child.play(clip)
        child.wait_for_records(has_onset, "an onset")
        write_config(config, (clip, {label: value * 0.9 for label, value in thresholds.items()}))
        child.signal(signal.SIGHUP)
        child.wait_for_records(lambda _: ("reloaded", True) in child.states(), "reloaded")
        child.play(clip)
        child.wait_for_records(lambda _: len(child.of("onset")) >= 2, "another onset")
        child.signal(signal.SIGTERM)
        assert child.wait() == 0
    offsets = child.of("offset")
    assert sorted(r["id"] for r in child.of("onset")) == sorted(r["id"] for r in offsets)
    assert [r["reason"] for r in offsets].count("shutdown") >= 2
    assert child.of("onset")[-1]["onset_s"] > child.of("onset")[0]["onset_s"]


def test_files_are_reopened(config: Path, lively: Lively, tmp_path: Path) -> None:  # noqa: F811
    log = tmp_path / "log.jsonl"
    write_config(config, lively, "[[file]]", f'path = "{log}"', 'types = ["health"]')
    with service(config) as child:
        child.play(QUIET)
        wait_until(lambda: log.exists() and log.stat().st_size, "a line in the file")
        log.rename(tmp_path / "log.jsonl.1")
        child.signal(signal.SIGUSR1)
        wait_until(lambda: log.exists() and log.stat().st_size, "a line in the file")
        child.signal(signal.SIGINT)
        assert child.wait() == 0


def test_a_stalled_reader_stops_neither_the_sinks_nor_the_end(config: Path, lively: Lively) -> None:  # noqa: F811
    """Standard output is not read: its pipe fills, and everything else continues."""
    write_config(config, lively, "[stdout]", 'types = ["onset", "offset", "gap", "status", "health"]')
    clip = lively[0]
    database = config.with_name("events.db")
    with service(config, reads_stdout=False) as child:
        for _ in range(60):  # health records of an hour would fill the pipe, too
            child.play(np.concatenate([clip, np.zeros(64000, np.float32)]))
        wait_until(lambda: database.exists() and len(stored(database)) >= 60, "60 events in the database")
        child.signal(signal.SIGTERM)
        begin = time.monotonic()
        child.process.wait(60)
        took = time.monotonic() - begin
    assert child.process.returncode == 0
    assert took < 20  # two seconds, on a machine that has time for them
    events = stored(database)
    assert len(events) >= 60
    assert all(reason for _, _, reason in events)


def test_a_sink_that_hangs_does_not_delay_the_end(config: Path, lively: Lively) -> None:  # noqa: F811
    write_config(config, lively, "[[command]]", 'argv = ["sleep", "120"]', "timeout_s = 300")
    with service(config) as child:
        child.play(lively[0])
        child.wait_for_records(has_onset, "an onset")
        time.sleep(0.5)
        child.signal(signal.SIGTERM)
        begin = time.monotonic()
        child.process.wait(60)
        assert time.monotonic() - begin < 20
    assert child.process.returncode == 0
    assert all(reason for _, _, reason in stored(config.with_name("events.db")))


def test_health_is_published_at_its_interval(config: Path, lively: Lively) -> None:  # noqa: F811
    write_config(config, lively, "[stdout]", 'types = ["health"]')
    with service(config) as child:
        for _ in range(3):
            child.play(QUIET)
        child.wait_for_records(lambda r: len(r) >= 3, "three of them")
        child.signal(signal.SIGTERM)
        child.wait()
    last = child.records[-1]
    agreed = (
        *("uptime_s", "heard_s", "realtime_factor", "lost_s", "overruns", "reopens", "rms_dbfs", "peak_dbfs", "dc"),
        *("clipped_samples", "silent", "up", "queue_depth", "rss_bytes", "temperature_c", "under_voltage", "resets"),
        *("sinks", "model", "model_sha256", "version"),
    )
    assert set(agreed) <= set(last)
    assert last["heard_s"] == 3
    assert last["up"] is True
    assert last["rss_bytes"] > 1_000_000
    assert set(last["sinks"]) == {"stdout", "database"}
    assert last["sinks"]["stdout"]["written"] >= 2


def test_health_is_published_although_no_sound_arrives(config: Path, lively: Lively) -> None:  # noqa: F811
    write_config(config, lively, "[stdout]", 'types = ["health"]')
    with service(config) as child:
        child.wait_for_records(lambda r: len(r) >= 2, "two of them")
        assert [r["frames"] for r in child.records] == [0] * len(child.records)


def test_a_missing_configuration_is_one_line(tmp_path: Path) -> None:
    with Child("run", "--config", tmp_path / "none.toml") as child:
        assert child.wait() == 2
    assert len(child.errors) == 1
    assert "none.toml" in child.errors[0]


def test_lines_for_the_journal_have_priorities(config: Path, tmp_path: Path) -> None:
    """Standard error is recognised as the journal by its device and inode."""
    log = tmp_path / "journal"
    with log.open("wb") as stream:
        status = os.fstat(stream.fileno())
        journal = f"{status.st_dev}:{status.st_ino}"
        environment = os.environ | {"JOURNAL_STREAM": journal, "STATE_DIRECTORY": str(tmp_path / "state")}
        command = [*COMMAND, "run", "--config", str(config)]
        sound = np.zeros(32000, "<i2").tobytes()
        subprocess.run(command, input=sound, stdout=subprocess.DEVNULL, stderr=stream, env=environment, check=True)
    lines = log.read_text().splitlines()
    assert lines
    assert all(line.startswith("<6>") for line in lines)


def test_a_calibration_of_another_model_and_device_is_reported_once(config: Path, lively: Lively) -> None:  # noqa: F811
    calibration = (
        *("[stdout]", 'types = ["status", "health"]', "[calibration]", 'date = "2026-11-24T07:00:00+01:00"'),
        *("hours = 8", "rate_per_hour = 1", "promise_per_hour = 1", 'model = "other-1.0"'),
        *(f'model_sha256 = "{64 * "a"}"', 'device = "usb-id:0d8c:0014"'),
    )
    write_config(config, lively, *calibration)
    with service(config) as child:
        for _ in range(3):
            child.play(QUIET)
        child.wait_for_records(lambda r: sum(x["type"] == "health" for x in r) >= 2, "two records of health")
        child.signal(signal.SIGTERM)
        child.wait()
    reported = [r["detail"] for r in child.of("status") if r["state"] == "calibration"]
    assert len(reported) <= 2  # the model at once, the device when it is known
    assert "other-1.0" in reported[-1]
    assert "usb-id:0d8c:0014, not for stdin" in reported[-1]
    assert sum("calibrated for" in line for line in child.errors) == len(reported)
    assert child.of("health")[-1]["calibrated"] is False


def test_silent_connections_to_the_page_end_neither_the_service_nor_the_page(config: Path, lively: Lively) -> None:  # noqa: F811
    write_config(config, lively, *ALL_RECORDS, "[web]", 'address = "127.0.0.1:0"')
    with service(config) as child, contextlib.ExitStack() as stack:
        limit_descriptors(child, 256)
        host, port = url_of(child).removeprefix("http://").split(":")
        for _ in range(600):
            stack.enter_context(socket.create_connection((host, int(port)), 30))
        written = len(child.errors)
        before = len(child.of("health"))
        child.play(np.concatenate([lively[0], PAUSE]))
        child.wait_for_records(lambda rs: any(r["type"] == "offset" for r in rs), "the sound's end")
        child.wait_for_records(lambda rs: sum(r["type"] == "health" for r in rs) >= before + 3, "health records")
        assert httpx.get(f"http://{host}:{port}/api/health", timeout=5).status_code == 200
        assert len(child.errors) - written <= 10
        child.signal(signal.SIGTERM)
        assert child.wait() == 0


def test_without_a_free_descriptor_detection_goes_on_and_that_is_logged_once(config: Path, lively: Lively) -> None:  # noqa: F811
    write_config(config, lively, *ALL_RECORDS, "[web]", 'address = "127.0.0.1:0"')
    with service(config) as child:
        url = url_of(child)
        child.play(QUIET)
        child.wait_for_records(lambda rs: any(r["type"] == "health" for r in rs), "a health record")
        assert httpx.get(f"{url}/api/health", timeout=20).status_code == 200  # the page has started, and keeps its port
        written = len(child.errors)
        limit_descriptors(child, 3)  # what is open stays so, and nothing else can be opened
        child.play(np.concatenate([lively[0], PAUSE]))
        child.wait_for_records(lambda rs: any(r["type"] == "offset" for r in rs), "the sound's end")
        before = len(child.of("health"))
        child.wait_for_records(lambda rs: sum(r["type"] == "health" for r in rs) >= before + 3, "health records")
        child.signal(signal.SIGHUP)
        time.sleep(2)
        assert child.process.poll() is None
        limit_descriptors(child, 1024)
        child.signal(signal.SIGHUP)
        child.wait_for_records(lambda rs: rs[-1]["type"] == "health" and ("reloaded", True) in child.states(), "reload")
        assert httpx.get(f"{url}/api/health", timeout=20).status_code == 200
        assert len(child.errors) - written <= 10, child.errors
        assert not any("Traceback" in line for line in child.errors)


def test_without_a_free_thread_a_new_output_waits_for_one(config: Path, lively: Lively) -> None:  # noqa: F811
    write_config(config, lively, *ALL_RECORDS)
    with service(config) as child:
        child.play(QUIET)
        child.wait_for_records(lambda rs: any(r["type"] == "health" for r in rs), "a health record")
        file = config.with_name("events.jsonl")
        write_config(config, lively, *ALL_RECORDS, "[[file]]", f'path = "{file}"')
        status = Path(f"/proc/{child.process.pid}/status").read_text()
        used = int(re.search(r"VmSize:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
        # A stack is 8 MB: as at the unit's TasksMax, no thread can be started any more.
        resource.prlimit(child.process.pid, resource.RLIMIT_AS, (used + 4_000_000, resource.RLIM_INFINITY))
        child.signal(signal.SIGHUP)
        child.wait_for_records(lambda _: any("can't start new thread" in line for line in child.errors), "the warning")
        child.play(np.concatenate([lively[0], PAUSE]))
        child.wait_for_records(lambda rs: any(r["type"] == "offset" for r in rs), "the sound's end")
        resource.prlimit(child.process.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_until(lambda: file.exists() and '"type":"offset"' in file.read_text(), "what has waited for the thread")
        assert sum("can't start new thread" in line for line in child.errors) == 1
        child.signal(signal.SIGTERM)
        assert child.wait() == 0


def limit_descriptors(child: Child, limit: int) -> None:
    _, hard = resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(child.process.pid, resource.RLIMIT_NOFILE, (limit, hard))


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_requests_before_the_handlers_exist_do_not_end_the_service(config: Path, tmp_path: Path, name: str) -> None:
    """Logrotate and systemd do not know how far the start has come."""
    program = (
        "import os, signal, sys; sys.argv[1:] = ['run', '--config', sys.argv[1]]; import detector.cli; "
        f"os.kill(os.getpid(), signal.{name}); from detector.cli.main import main; main()"
    )
    environment = os.environ | {"STATE_DIRECTORY": str(tmp_path / "state")}
    command = [sys.executable, "-c", program, str(config)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:  # type: ignore[call-overload]
        late = threading.Timer(DEADLINE_S, process.kill)
        late.start()
        process.stdin.write(np.zeros(32000, "<i2").tobytes())
        process.stdin.flush()
        # A service that is asked to reload does so while there is sound, not after its end.
        lines = list(itertools.takewhile(lambda line: name == "SIGHUP" and b"reloaded" not in line, process.stderr))
        process.stdin.close()
        rest = process.stderr.read()
        late.cancel()
    assert process.returncode == 0, (lines, rest)
    assert b"reloaded" not in rest
