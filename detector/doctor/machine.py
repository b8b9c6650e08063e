"""The board itself: is it too hot, and does it get the power that it needs.

The machine's clock, which gives events their time of day.

Whether this machine computes as fast as sound comes.

The service under systemd: is it there, does it run, and is it watched.

The folders that the service writes to: are they there, may it write, is there room.
"""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from pwd import getpwnam, getpwuid
from typing import Final

import detector
from detector.bench import bench_sound
from detector.config.paths import state_directory
from detector.config.settings import Settings
from detector.doctor.result import (
    SETTINGS,
    UNAVAILABLE,
    CheckResult,
    SystemPaths,
    answer,
    ok,
    problem,
    skipped,
    warning,
)
from detector.pipeline import Detector
from detector.service.health import is_under_voltage, temperature_c
from detector.service.systemd import Notifier

TEMPERATURE: Final = "temperature"
POWER: Final = "power"
_HOT_C: Final = 80.0
"""From here on a Raspberry Pi computes more slowly."""
_THROTTLED: Final = re.compile(r"0x([0-9a-fA-F]+)")
_LOW_NOW, _SLOWED_NOW, _LOW_BEFORE, _SLOWED_BEFORE = 0x1, 0xE, 0x10000, 0xE0000
"""Bits of ``vcgencmd get_throttled``: too little voltage; a lower clock for that or for heat; both in the past."""
_SUPPLY: Final = "use the power supply that is made for the board, with a short thick cable, and USB devices on a hub"


def check_temperature(paths: SystemPaths) -> CheckResult:
    """Look at the hottest thermometer."""
    hottest = temperature_c(paths.thermal)
    if hottest is None:
        return skipped(TEMPERATURE, "there is no thermometer here")
    if hottest >= _HOT_C:
        advice = "give it air or a heat sink; heat makes it slow, and sound gets lost"
        return warning(TEMPERATURE, f"{hottest:.0f} °C", advice)
    return ok(TEMPERATURE, f"{hottest:.0f} °C")


def check_power(paths: SystemPaths) -> CheckResult:
    """Look whether the voltage is, or was, too low, and whether the board is slowed down; Raspberry Pi only."""
    model = _text(paths, "device-tree/model").strip("\0\n ")
    if "Raspberry Pi" not in model:
        return skipped(POWER, "only a Raspberry Pi tells of it")
    bits = _throttled()
    if bits is None:
        return _by_sensor(paths, model)
    found = f"{model}, throttled={bits:#x}"
    if bits & _LOW_NOW:
        found = f"{found}: the voltage is too low now, which breaks USB sound"
        return problem(POWER, found, _SUPPLY, UNAVAILABLE)
    if bits & _LOW_BEFORE:
        return warning(POWER, f"{found}: the voltage was too low since the machine started", _SUPPLY)
    if bits & (_SLOWED_NOW | _SLOWED_BEFORE):
        when = "is" if bits & _SLOWED_NOW else "was"
        return warning(POWER, f"{found}: it {when} slowed down for its heat", "give it air or a heat sink")
    return ok(POWER, f"{found}: no lack of voltage since the machine started")


def _throttled() -> int | None:
    """Return what the firmware says; None where nobody can ask it."""
    found = _THROTTLED.search(answer("vcgencmd", "get_throttled") or "")
    return int(found[1], 16) if found else None


def _by_sensor(paths: SystemPaths, model: str) -> CheckResult:
    is_low = is_under_voltage(paths.hwmon)
    if is_low:
        return problem(POWER, f"{model}: the voltage is too low, which breaks USB sound", _SUPPLY, UNAVAILABLE)
    if is_low is not None:
        return ok(POWER, f"{model}: no lack of voltage")
    return skipped(POWER, f"{model}: neither vcgencmd (which takes the group video) nor a sensor tells of it")


def _text(paths: SystemPaths, name: str) -> str:
    try:
        return (paths.proc / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


CLOCK: Final = "clock"
_SLACK: Final = timedelta(days=1)


def check_clock(now: datetime, installed: datetime, *, is_synced: bool) -> CheckResult:
    """Look at the time of day: is it kept right, and can it be; ``installed``: a time that is past for certain."""
    found = f"{now.isoformat(timespec='seconds')} ({now.tzname()})"
    if now < installed - _SLACK:
        advice = "connect the machine to a network with a time server, or set it: sudo date -s '2030-01-31 12:00'"
        found = f"{found}, which is before this program was installed ({installed.date()})"
        return problem(CLOCK, found, advice, UNAVAILABLE)
    if not is_synced:
        advice = "sudo timedatectl set-ntp true, or install chrony; until then events say clock_synced: false"
        return warning(CLOCK, f"{found}, which no time server keeps right, as far as can be told", advice)
    return ok(CLOCK, f"{found}, kept right by a time server")


def install_time() -> datetime:
    """Return when the newest part of this program was written here."""
    folder = Path(detector.__file__).parent
    newest = max((path.stat().st_mtime for path in folder.rglob("*.py")), default=0.0)
    return datetime.fromtimestamp(newest).astimezone()


SPEED: Final = "speed"
_WARM_S: Final = 1
_SECONDS: Final = 5
_CHUNK_S: Final = 0.04
_TIGHT: Final = 0.5
_SLOW: Final = 0.9
"""Seconds of computing for one of sound that are much, and too much."""


def check_speed(detector: Detector) -> CheckResult:
    """Measure how long some seconds of sound take, in chunks as a microphone gives them."""
    return evaluate(*_measure(detector))


def evaluate(busy: float, cpu: float) -> CheckResult:
    """Say what seconds of computing, and of one core, for each second of sound mean."""
    found = f"a second of sound takes {busy:.3f} s, {cpu:.3f} s of them computing: {1 / busy:.0f} times real time"
    if busy > _SLOW:
        advice = "the machine is too slow or too busy: end other programs (top names them), or use a smaller model"
        return problem(SPEED, found, advice, SETTINGS)
    if busy > _TIGHT:
        return warning(SPEED, found, "little is left for other programs: look with top what else is running")
    return ok(SPEED, found)


def _measure(detector: Detector) -> tuple[float, float]:
    rate_hz = detector.sample_rate_hz
    sound = bench_sound(rate_hz)[: (_WARM_S + _SECONDS) * rate_hz]
    length = round(_CHUNK_S * rate_hz)
    detector.reset()
    detector.push(sound[: _WARM_S * rate_hz])
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    for at in range(_WARM_S * rate_hz, len(sound), length):
        detector.push(sound[at : at + length])
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    detector.reset()
    return wall_s / _SECONDS, cpu_s / _SECONDS


SERVICE: Final = "service"
_UNIT: Final = "snn-detect"
_ASKED: Final = "LoadState,ActiveState,SubState,Type,WatchdogUSec,NRestarts,StatusText"
_SHORTEST_S: Final = 10.0
_MANY: Final = 5
_JOURNAL: Final = f"journalctl -u {_UNIT} -n 50 says why"
_UNIT_ADVICE: Final = "take over the unit that ships: Type=notify, WatchdogSec=30"


def check_service(paths: SystemPaths, environment: Mapping[str, str] = os.environ) -> CheckResult:
    """Look at the socket and the watchdog that systemd gives this process, else at the unit of the service."""
    if environment.get("NOTIFY_SOCKET"):
        return _own(environment)
    if not (paths.run / "systemd/system").is_dir():
        return skipped(SERVICE, "this machine was not started by systemd")
    text = answer("systemctl", "show", _UNIT, f"--property={_ASKED}")
    unit = dict(line.split("=", 1) for line in (text or "").splitlines() if "=" in line)
    if unit.get("LoadState") != "loaded":
        return skipped(SERVICE, f"there is no unit {_UNIT}; make install, or the Debian package, brings it")
    return _evaluate(unit)


def _evaluate(unit: Mapping[str, str]) -> CheckResult:
    """Say what the unit's properties mean."""
    state = f"{unit.get('ActiveState')} ({unit.get('SubState')})"
    restarts = int(unit.get("NRestarts") or 0)
    found = f"{state}, {restarts} restarts, watchdog {unit.get('WatchdogUSec')}"
    if unit.get("StatusText"):
        found = f"{found}: {unit['StatusText']}"
    if unit.get("ActiveState") == "failed":
        return problem(SERVICE, found, _JOURNAL, UNAVAILABLE)
    if unit.get("Type") not in {"notify", "notify-reload"} or unit.get("WatchdogUSec") in {None, "0", "infinity"}:
        return warning(SERVICE, f"{found}; systemd does not watch it", _UNIT_ADVICE)
    if restarts >= _MANY:
        return warning(SERVICE, found, _JOURNAL)
    if unit.get("ActiveState") != "active":
        return ok(SERVICE, found, f"sudo systemctl enable --now {_UNIT} starts it")
    return ok(SERVICE, found)


def _own(environment: Mapping[str, str]) -> CheckResult:
    """Look at what systemd gave this process; nothing is sent."""
    address = environment["NOTIFY_SOCKET"]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    except OSError as error:
        found = f"NOTIFY_SOCKET={address}: {(error.strerror or str(error)).lower()}"
        return problem(SERVICE, found, f"{_UNIT_ADVICE}, with NotifyAccess=main", UNAVAILABLE)
    watchdog_s = Notifier(environment).watchdog_s
    if watchdog_s is None:
        return warning(SERVICE, "systemd is told how the service is, but does not watch it", _UNIT_ADVICE)
    if watchdog_s < _SHORTEST_S:
        return warning(SERVICE, f"the watchdog waits {watchdog_s:g} s, less than a device may hang", _UNIT_ADVICE)
    return ok(SERVICE, f"systemd is told how the service is, and watches it: watchdog {watchdog_s:g} s")


DISK: Final = "disk"
_LEAST_BYTES: Final = 10_000_000
_FEW_BYTES: Final = 200_000_000
_FEW_FILES: Final = 100
_SERVICE: Final = "snn-detect"


@dataclass(frozen=True, slots=True)
class Place:
    """Something that the service writes."""

    what: str
    path: Path
    is_made: bool
    """Whether the service makes the folders above it."""
    least_bytes: int = _LEAST_BYTES
    """Free space below which it is not written."""


@dataclass(frozen=True, slots=True)
class User:
    """Who is to write."""

    name: str
    uid: int
    groups: frozenset[int]


def places(settings: Settings) -> Iterator[Place]:
    """Yield what the settings want to have written."""
    if settings.database is not None:
        yield Place("database", settings.database.file, is_made=settings.database.path is None)
    if settings.clips is not None:
        clips = settings.clips
        yield Place("clips", clips.folder, clips.directory is None, clips.min_free_bytes)
    yield from (Place("file", file.path, is_made=False) for file in settings.file)


def check_disks(settings: Settings, user: User) -> list[CheckResult]:
    """Look at each place that is written to; nothing is written here."""
    found = [check_place(place, user) for place in places(settings)]
    return found or [ok(DISK, "nothing is written to any disk")]


def check_place(place: Place, user: User) -> CheckResult:
    """Look at one place."""
    name = f"{DISK}: {place.what}"
    there = next(p for p in (place.path, *place.path.parents) if _is_seen(p))
    if not place.is_made and there not in (place.path, place.path.parent):
        return problem(name, f"{place.path}: there is no folder {place.path.parent}", "make it", SETTINGS)
    if not (may_write(there, user) or _is_made_by_systemd(place, user)):
        return _forbidden(name, there, user)
    space = os.statvfs(there)
    free = space.f_bavail * space.f_frsize
    found = f"{place.path}: {_size(free)} free"
    if free < place.least_bytes or (space.f_files and space.f_favail < _FEW_FILES):
        advice = "delete what is not needed (du -xh / | sort -h | tail), or name a place on another disk"
        return problem(name, f"{found}, too little to write", advice, UNAVAILABLE)
    if free < _FEW_BYTES:
        return warning(name, found, "make room soon; database.retention_days and clips.max_bytes bound what grows")
    return ok(name, found)


def _forbidden(name: str, there: Path, user: User) -> CheckResult:
    owner = _name(there.stat().st_uid)
    if owner == _SERVICE:
        return skipped(name, f"{there} is the service's own, not {user.name}'s; as root, the doctor can tell more")
    advice = f"sudo chown -R {user.name} {there}, or name another path"
    return problem(name, f"{user.name} may not write to {there}, which is {owner}'s", advice, SETTINGS)


def writer() -> User:
    """Return who the service is: for root the system's user of that name, where there is one, else this user."""
    if os.geteuid() == 0:
        try:
            entry = getpwnam(_SERVICE)
            groups = os.getgrouplist(_SERVICE, entry.pw_gid)
            return User(_SERVICE, entry.pw_uid, frozenset(groups))
        except KeyError:
            pass
    return User(_name(os.geteuid()), os.geteuid(), frozenset((*os.getgroups(), os.getegid())))


def may_write(path: Path, user: User) -> bool:
    """Tell whether a user may write to a file or into a folder."""
    if user.uid == os.geteuid():
        return os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0))
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return False
    return all(_is_open(p, user, os.X_OK) for p in path.parents) and _is_open(path, user, os.W_OK)


def _is_made_by_systemd(place: Place, user: User) -> bool:
    """Tell whether the folder of the service's state is still to be made, when it starts the first time."""
    return place.is_made and user.name == _SERVICE and not state_directory().exists()


def _is_seen(path: Path) -> bool:
    """Tell whether something is there, as far as this user may see it."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _is_open(path: Path, user: User, wanted: int) -> bool:
    """Look at the mode, as the kernel does for users other than root."""
    found = path.stat()
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid in user.groups else 0
    return bool(stat.S_IMODE(found.st_mode) >> shift & wanted)


def _name(uid: int) -> str:
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _size(free: int) -> str:
    return f"{free / 1e9:.1f} GB" if free >= 1e9 else f"{free / 1e6:.0f} MB"  # noqa: PLR2004 - a gigabyte
