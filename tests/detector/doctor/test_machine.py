"""Temperature, power, clock, disks and the service."""

from __future__ import annotations

import os
import socket
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from detector.config.paths import listening_flag
from detector.config.settings import Settings
from detector.doctor.machine import (
    Place,
    User,
    check_clock,
    check_disks,
    check_place,
    check_power,
    check_service,
    check_switch,
    check_temperature,
    install_time,
    may_write,
    places,
    writer,
)
from detector.doctor.result import SystemPaths
from detector.sinks.clips import Clips
from detector.sinks.database import Database
from detector.sinks.json_file import JsonFile
from detector.system import LastingFlag
from tests.detector.doctor.conftest import Program, write

NOW = datetime(2026, 11, 23, 18, 4, 5, tzinfo=UTC)
OTHER = User("other", 54321, frozenset({54321}))


def raspberry(paths: SystemPaths) -> None:
    write(paths.proc / "device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0")


def test_the_highest_temperature_counts(paths: SystemPaths) -> None:
    assert check_temperature(paths).state == "skipped"
    write(paths.thermal / "thermal_zone0/temp", "52300\n")
    assert (check_temperature(paths).state, check_temperature(paths).found) == ("ok", "52 °C")
    write(paths.thermal / "thermal_zone1/temp", "84100\n")
    assert (check_temperature(paths).state, check_temperature(paths).found) == ("warning", "84 °C")


@pytest.mark.parametrize(
    ("bits", "state", "words"),
    [
        (0x0, "ok", "no under-voltage"),
        (0x50005, "problem", "too low now"),
        (0x50000, "warning", "was too low"),
        (0x4, "warning", "is slowed down"),
        (0x80008, "warning", "is slowed down"),
        (0x80000, "warning", "was slowed down"),
    ],
)
def test_the_firmware_reports_voltage_and_heat(
    paths: SystemPaths, program: Program, bits: int, state: str, words: str
) -> None:
    raspberry(paths)
    program("vcgencmd", f'[ "$1" = get_throttled ] && echo throttled={bits:#x}')
    found = check_power(paths)
    assert (found.state, words in found.found) == (state, True), found
    assert bool(found.advice) == (state != "ok")


def test_without_the_firmware_a_sensor_reports_the_voltage(paths: SystemPaths, program: Program) -> None:
    raspberry(paths)
    program("vcgencmd", "echo 'VCHI initialization failed' >&2; exit 1")
    assert check_power(paths).state == "skipped"
    write(paths.hwmon / "hwmon0/name", "cpu_thermal\n")
    write(paths.hwmon / "hwmon1/name", "rpi_volt\n")
    alarm = write(paths.hwmon / "hwmon1/in0_lcrit_alarm", "0\n")
    assert check_power(paths).state == "ok"
    alarm.write_text("1\n", encoding="ascii")
    assert check_power(paths).state == "problem"


def test_other_machines_skip_the_power_check(paths: SystemPaths, program: Program) -> None:
    program("vcgencmd", "echo throttled=0x50005")
    assert check_power(paths).state == "skipped"


def test_the_clock_is_synchronised_or_not_or_implausible() -> None:
    before = NOW - timedelta(days=30)
    assert check_clock(NOW, before, is_synced=True).state == "ok"
    unsynced = check_clock(NOW, before, is_synced=False)
    assert (unsynced.state, "clock_synced: false" in unsynced.advice) == ("warning", True)
    past = check_clock(datetime(1970, 1, 1, 0, 3, tzinfo=UTC), before, is_synced=False)
    assert (past.state, past.exit_code, "1970" in past.found) == ("problem", 69, True)


def test_the_program_was_installed_in_the_past() -> None:
    assert datetime(2020, 1, 1, tzinfo=UTC) < install_time() < datetime.now(UTC) + timedelta(minutes=1)


def test_everything_that_is_written_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    settings = Settings(database=Database(), clips=Clips(), file=(JsonFile(path=tmp_path / "a.jsonl"),))
    assert [(p.what, p.path) for p in places(settings)] == [
        ("database", tmp_path / "state/events.db"),
        ("clips", tmp_path / "state/clips"),
        ("file", tmp_path / "a.jsonl"),
    ]
    assert [f.state for f in check_disks(settings, writer())] == ["ok"] * 3
    assert not (tmp_path / "state").exists(), "a check creates nothing"
    assert [f.state for f in check_disks(Settings(), writer())] == ["ok"]


def test_a_missing_folder_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "nowhere/events.db"
    found = check_place(Place("database", path, is_made=False), writer())
    assert (found.state, found.exit_code, str(path.parent) in found.found) == ("problem", 2, True)
    assert check_place(Place("database", path, is_made=True), writer()).state == "ok"


def test_too_little_space_is_a_problem(tmp_path: Path) -> None:
    found = check_place(Place("clips", tmp_path, is_made=False, min_bytes=10**18), writer())
    assert (found.state, found.exit_code) == ("problem", 69)


def test_a_user_who_may_not_write_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    found = check_place(Place("database", tmp_path / "events.db", is_made=False), OTHER)
    assert (found.state, found.exit_code) == ("problem", 2)
    assert "other may not write" in found.found
    assert f"chown -R other {tmp_path}" in found.advice


def test_rights_are_those_of_owner_group_and_others(tmp_path: Path) -> None:
    gid = os.stat(tmp_path).st_gid  # noqa: PTH116 - as short as it gets
    neighbour = User("neighbour", 54321, frozenset({gid}))
    file = write(tmp_path / "events.db", "")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/") and "pytest" in str(path):
            path.chmod(0o755)
    for mode, others, neighbours in ((0o644, False, False), (0o664, False, True), (0o646, True, False)):
        file.chmod(mode)
        assert (may_write(file, OTHER), may_write(file, neighbour)) == (others, neighbours), oct(mode)
    file.chmod(0o666)
    tmp_path.chmod(0o700)
    assert not may_write(file, OTHER), "the folder above is closed"


@pytest.fixture
def systemd(paths: SystemPaths) -> SystemPaths:
    (paths.run / "systemd/system").mkdir(parents=True)
    return paths


def shows(program: Program, **changes: str) -> None:
    unit = {
        "LoadState": "loaded",
        "ActiveState": "active",
        "SubState": "running",
        "Type": "notify",
        "WatchdogUSec": "30s",
        "NRestarts": "0",
        "StatusText": "mic ok, RTF 0.110, 0 xruns",
    } | changes
    lines = "\n".join(f"{key}={value}" for key, value in unit.items())
    program("systemctl", f"[ \"$1 $2\" = 'show snn-detect' ] || exit 1\ncat <<'END'\n{lines}\nEND")


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({}, "ok", "mic ok, RTF 0.110"),
        ({"ActiveState": "failed", "SubState": "failed"}, "problem", "failed"),
        ({"NRestarts": "6091"}, "warning", "6091 restarts"),
        ({"WatchdogUSec": "0"}, "warning", "does not watch"),
        ({"WatchdogUSec": "infinity"}, "warning", "does not watch"),
        ({"Type": "simple"}, "warning", "does not watch"),
        ({"ActiveState": "inactive", "SubState": "dead", "StatusText": ""}, "ok", "inactive"),
        ({"LoadState": "not-found"}, "skipped", "no unit"),
    ],
)
def test_the_unit_is_checked(
    systemd: SystemPaths, program: Program, changes: dict[str, str], state: str, words: str
) -> None:
    shows(program, **changes)
    found = check_service(systemd, {})
    assert (found.state, words in found.found) == (state, True), found


def test_without_systemd_there_is_no_unit(paths: SystemPaths, program: Program) -> None:
    shows(program)
    assert check_service(paths, {}).state == "skipped"


def test_the_socket_of_systemd_is_tried_without_a_message(paths: SystemPaths, tmp_path: Path) -> None:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(path))
        sock.setblocking(False)
        environment = {"NOTIFY_SOCKET": str(path)}
        assert check_service(paths, environment).state == "warning"
        assert check_service(paths, environment | {"WATCHDOG_USEC": "1000000"}).state == "warning"
        found = check_service(paths, environment | {"WATCHDOG_USEC": "30000000"})
        assert (found.state, "watchdog 30 s" in found.found) == ("ok", True)
        with pytest.raises(BlockingIOError):
            sock.recv(100)
    path.unlink()
    found = check_service(paths, {"NOTIFY_SOCKET": str(path)})
    assert (found.state, found.exit_code) == ("problem", 69)


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_socket_will_do(paths: SystemPaths) -> None:
    name = f"snn-detect-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        assert check_service(paths, {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": "30000000"}).state == "ok"


def test_listening_that_is_switched_off_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    assert check_switch().state == "ok"
    LastingFlag(listening_flag()).set(wanted=True)
    found = check_switch()
    assert found.state == "warning"
    assert "listening is switched off since 20" in found.found
    assert "listening/set" in found.advice
