"""Checks of the machine: temperature, power, clock, speed, the service under systemd, disks."""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from pwd import getpwnam
from typing import Final

import detector
from detector.bench import bench_sound, push_timed
from detector.config.paths import listening_flag, state_directory
from detector.config.settings import Settings
from detector.doctor.result import (
    SETTINGS,
    UNAVAILABLE,
    CheckResult,
    SystemPaths,
    ok,
    output_of,
    problem,
    skipped,
    text_of,
    user_name,
    warning,
)
from detector.pipeline import Detector
from detector.service.engine import is_under_voltage, temperature_c
from detector.service.process import Notifier
from detector.system import LastingFlag

TEMPERATURE: Final = "temperature"
POWER: Final = "power"
CLOCK: Final = "clock"
SPEED: Final = "speed"
SERVICE: Final = "service"
SWITCH: Final = "switch"
DISK: Final = "disk"

_HOT_C: Final = 80.0
"""A Raspberry Pi lowers its clock from here on."""
_THROTTLED: Final = re.compile(r"0x([0-9a-fA-F]+)")
_LOW_NOW, _SLOWED_NOW, _LOW_BEFORE, _SLOWED_BEFORE = 0x1, 0xE, 0x10000, 0xE0000
"""Bits of ``vcgencmd get_throttled``: under-voltage; a lower clock for that or for heat; both in the past."""
_SUPPLY: Final = "use the power supply made for the board, with a short thick cable, and USB devices on a powered hub"
_CLOCK_MARGIN: Final = timedelta(days=1)

_SPEED_S: Final = 5
"""Seconds of sound that the speed is measured on."""
_CHUNK_S: Final = 0.04
_BUSY, _TOO_SLOW = 0.5, 0.9
"""Seconds of computing per second of sound."""

_SERVICE: Final = "snn-detect"
"""Name of the unit and of its user."""
_PROPERTIES: Final = "LoadState,ActiveState,SubState,Type,WatchdogUSec,NRestarts,StatusText"
_MIN_WATCHDOG_S: Final = 10.0
_MANY_RESTARTS: Final = 5
_JOURNAL: Final = f"journalctl -u {_SERVICE} -n 50 shows why"
_UNIT_ADVICE: Final = "use the unit that ships: Type=notify, WatchdogSec=30"

_MIN_BYTES: Final = 10_000_000
_FEW_BYTES: Final = 200_000_000
_FEW_FILES: Final = 100
_GB: Final = 1e9


def check_temperature(paths: SystemPaths) -> CheckResult:
    """Check the highest temperature of the board."""
    hottest = temperature_c(paths.thermal)
    if hottest is None:
        return skipped(TEMPERATURE, "there is no temperature sensor here")
    if hottest >= _HOT_C:
        return warning(TEMPERATURE, f"{hottest:.0f} °C", "cool it: heat lowers the clock, and audio is lost")
    return ok(TEMPERATURE, f"{hottest:.0f} °C")


def check_power(paths: SystemPaths) -> CheckResult:
    """Check for under-voltage and throttling, now and since the start; Raspberry Pi only."""
    model = text_of(paths.proc / "device-tree/model").strip("\0\n ")
    if "Raspberry Pi" not in model:
        return skipped(POWER, "only a Raspberry Pi reports it")
    answer = _THROTTLED.search(output_of("vcgencmd", "get_throttled") or "")
    if answer is None:
        return _check_voltage_sensor(paths, model)
    bits = int(answer[1], 16)
    found = f"{model}, throttled={bits:#x}"
    if bits & _LOW_NOW:
        return problem(POWER, f"{found}: the voltage is too low now, which breaks USB audio", _SUPPLY, UNAVAILABLE)
    if bits & _LOW_BEFORE:
        return warning(POWER, f"{found}: the voltage was too low since the machine started", _SUPPLY)
    if bits & (_SLOWED_NOW | _SLOWED_BEFORE):
        when = "is" if bits & _SLOWED_NOW else "was"
        return warning(POWER, f"{found}: it {when} slowed down for heat", "cool it with a heat sink or a fan")
    return ok(POWER, f"{found}: no under-voltage since the machine started")


def _check_voltage_sensor(paths: SystemPaths, model: str) -> CheckResult:
    is_low = is_under_voltage(paths.hwmon)
    if is_low is None:
        return skipped(POWER, f"{model}: neither vcgencmd (which needs the group video) nor a sensor reports it")
    if is_low:
        return problem(POWER, f"{model}: the voltage is too low, which breaks USB audio", _SUPPLY, UNAVAILABLE)
    return ok(POWER, f"{model}: no under-voltage")


def check_clock(now: datetime, installed: datetime, *, is_synced: bool) -> CheckResult:
    """Check that the time of day is plausible (after ``installed``) and synchronised."""
    found = f"{now.isoformat(timespec='seconds')} ({now.tzname()})"
    if now < installed - _CLOCK_MARGIN:
        advice = "connect the machine to a network with a time server, or set it: sudo date -s '2030-01-31 12:00'"
        found = f"{found}, which is before this program was installed ({installed.date()})"
        return problem(CLOCK, found, advice, UNAVAILABLE)
    if not is_synced:
        advice = "sudo timedatectl set-ntp true, or install chrony; until then events have clock_synced: false"
        return warning(CLOCK, f"{found}, not synchronised with a time server, as far as is known", advice)
    return ok(CLOCK, f"{found}, synchronised with a time server")


def install_time() -> datetime:
    """Return when the newest module of this program was written here."""
    folder = Path(detector.__file__).parent
    newest = max((path.stat().st_mtime for path in folder.rglob("*.py")), default=0.0)
    return datetime.fromtimestamp(newest).astimezone()


def check_speed(detector: Detector) -> CheckResult:
    """Measure how long some seconds of sound take, in chunks of the size that a microphone gives."""
    rate_hz = detector.sample_rate_hz
    detector.reset()
    busy, cpu = push_timed(detector, bench_sound(rate_hz)[: _SPEED_S * rate_hz], round(_CHUNK_S * rate_hz))
    detector.reset()
    return speed_result(busy, cpu)


def speed_result(busy: float, cpu: float) -> CheckResult:
    """Return the result for so many seconds of computing, and of one core, per second of sound."""
    found = f"a second of sound takes {busy:.3f} s, {cpu:.3f} s of them CPU time: {1 / busy:.0f} times real time"
    if busy > _TOO_SLOW:
        advice = "the machine is too slow or too busy: end other programs (top names them), or use a smaller model"
        return problem(SPEED, found, advice, SETTINGS)
    if busy > _BUSY:
        return warning(SPEED, found, "little is left for other programs: top shows what else is running")
    return ok(SPEED, found)


def check_service(paths: SystemPaths, environment: Mapping[str, str] = os.environ) -> CheckResult:
    """Check the socket and watchdog that systemd gives this process, else the unit of the service."""
    if environment.get("NOTIFY_SOCKET"):
        return _check_notify_socket(environment)
    if not (paths.run / "systemd/system").is_dir():
        return skipped(SERVICE, "this machine was not started by systemd")
    text = output_of("systemctl", "show", _SERVICE, f"--property={_PROPERTIES}") or ""
    unit = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if unit.get("LoadState") != "loaded":
        return skipped(SERVICE, f"there is no unit {_SERVICE}; make install, or the Debian package, installs it")
    return _unit_result(unit)


def _unit_result(unit: Mapping[str, str]) -> CheckResult:
    active, watchdog, restarts = unit.get("ActiveState"), unit.get("WatchdogUSec"), int(unit.get("NRestarts") or 0)
    found = f"{active} ({unit.get('SubState')}), {restarts} restarts, watchdog {watchdog}"
    if unit.get("StatusText"):
        found = f"{found}: {unit['StatusText']}"
    if active == "failed":
        return problem(SERVICE, found, _JOURNAL, UNAVAILABLE)
    if unit.get("Type") not in {"notify", "notify-reload"} or watchdog in {None, "0", "infinity"}:
        return warning(SERVICE, f"{found}; systemd does not watch it", _UNIT_ADVICE)
    if restarts >= _MANY_RESTARTS:
        return warning(SERVICE, found, _JOURNAL)
    return ok(SERVICE, found, "" if active == "active" else f"sudo systemctl enable --now {_SERVICE} starts it")


def _check_notify_socket(environment: Mapping[str, str]) -> CheckResult:
    """Check what systemd gave this process; nothing is sent."""
    address = environment["NOTIFY_SOCKET"]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    except OSError as error:
        found = f"NOTIFY_SOCKET={address}: {(error.strerror or str(error)).lower()}"
        return problem(SERVICE, found, f"{_UNIT_ADVICE}, with NotifyAccess=main", UNAVAILABLE)
    watchdog_s = Notifier(environment).watchdog_s
    if watchdog_s is None:
        return warning(SERVICE, "systemd receives the state of the service, but does not watch it", _UNIT_ADVICE)
    if watchdog_s < _MIN_WATCHDOG_S:
        return warning(SERVICE, f"watchdog {watchdog_s:g} s, less than a device may block", _UNIT_ADVICE)
    return ok(SERVICE, f"systemd receives the state of the service, and watches it: watchdog {watchdog_s:g} s")


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder that the service writes."""

    what: str
    path: Path
    is_made: bool
    """Whether the service creates the folders above it."""
    min_bytes: int = _MIN_BYTES
    """Free space below which it is not written."""


@dataclass(frozen=True, slots=True)
class User:
    """The user that the service runs as."""

    name: str
    uid: int
    groups: frozenset[int]


def places(settings: Settings) -> Iterator[Place]:
    """Yield everything that the settings have the service write."""
    if (database := settings.database) is not None:
        yield Place("database", database.file, is_made=database.path is None)
    if (clips := settings.clips) is not None:
        yield Place("clips", clips.folder, clips.directory is None, clips.min_free_bytes)
    yield from (Place("file", file.path, is_made=False) for file in settings.file)


def check_disks(settings: Settings, user: User) -> list[CheckResult]:
    """Check each place that the service writes to; nothing is written here."""
    return [check_place(place, user) for place in places(settings)] or [ok(DISK, "nothing is written to any disk")]


def check_place(place: Place, user: User) -> CheckResult:
    """Check that a place exists or can be created, that the user may write there, and the free space."""
    name = f"{DISK}: {place.what}"
    nearest = next(p for p in (place.path, *place.path.parents) if _is_visible(p))
    if not place.is_made and nearest not in (place.path, place.path.parent):
        return problem(name, f"{place.path}: there is no folder {place.path.parent}", "create it", SETTINGS)
    # systemd creates the folder of the service's state when it starts the first time.
    is_to_be_made = place.is_made and user.name == _SERVICE and not state_directory().exists()
    if not (is_to_be_made or may_write(nearest, user)):
        return _not_writable(name, nearest, user)
    space = os.statvfs(nearest)
    free = space.f_bavail * space.f_frsize
    size = f"{free / _GB:.1f} GB" if free >= _GB else f"{free / 1e6:.0f} MB"
    found = f"{place.path}: {size} free"
    if free < place.min_bytes or (space.f_files and space.f_favail < _FEW_FILES):
        advice = "delete what is not needed (du -xh / | sort -h | tail), or configure a path on another disk"
        return problem(name, f"{found}, too little to write", advice, UNAVAILABLE)
    if free < _FEW_BYTES:
        return warning(name, found, "free some space soon; database.retention_days and clips.max_bytes limit growth")
    return ok(name, found)


def _not_writable(name: str, nearest: Path, user: User) -> CheckResult:
    owner = user_name(nearest.stat().st_uid)
    if owner == _SERVICE:
        return skipped(name, f"{nearest} belongs to the service, not to {user.name}; root can check it")
    advice = f"sudo chown -R {user.name} {nearest}, or configure another path"
    return problem(name, f"{user.name} may not write to {nearest}, which belongs to {owner}", advice, SETTINGS)


def check_switch() -> CheckResult:
    """Check whether listening is switched off, by MQTT, which outlasts a restart."""
    switch = LastingFlag(listening_flag())
    if not switch.is_set:
        return ok(SWITCH, "listening is switched on")
    advice = "publish ON to the topic .../listening/set, or remove that file while the service is stopped"
    return warning(SWITCH, f"listening is switched off since {switch.since} ({listening_flag()})", advice)


def writer() -> User:
    """Return the user that the service runs as: for root the system's user of that name, if any; else this user."""
    if os.geteuid() == 0:
        try:
            entry = getpwnam(_SERVICE)
            return User(_SERVICE, entry.pw_uid, frozenset(os.getgrouplist(_SERVICE, entry.pw_gid)))
        except KeyError:
            pass
    return User(user_name(os.geteuid()), os.geteuid(), frozenset((*os.getgroups(), os.getegid())))


def may_write(path: Path, user: User) -> bool:
    """Return whether a user may write to a file or into a folder."""
    if user.uid == os.geteuid():
        return os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0))
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return False
    return all(_is_permitted(p, user, os.X_OK) for p in path.parents) and _is_permitted(path, user, os.W_OK)


def _is_permitted(path: Path, user: User, access: int) -> bool:
    """Return whether the mode permits access, as the kernel does for users other than root."""
    found = path.stat()
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid in user.groups else 0
    return bool(stat.S_IMODE(found.st_mode) >> shift & access)


def _is_visible(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return False
