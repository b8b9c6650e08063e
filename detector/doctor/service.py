"""The service under systemd: is it there, does it run, and is it watched."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from detector.doctor.finding import UNAVAILABLE, Finding, ok, problem, skipped, warning
from detector.doctor.programs import answer
from detector.doctor.roots import Roots
from detector.notify import Notifier

SERVICE: Final = "service"
_UNIT: Final = "snn-detect"
_ASKED: Final = "LoadState,ActiveState,SubState,Type,WatchdogUSec,NRestarts,StatusText"
_SHORTEST_S: Final = 10.0
_MANY: Final = 5
_JOURNAL: Final = f"journalctl -u {_UNIT} -n 50 says why"
_UNIT_ADVICE: Final = "take over the unit that ships: Type=notify, WatchdogSec=30"


def check_service(roots: Roots, environment: Mapping[str, str] = os.environ) -> Finding:
    """Look at the socket and the watchdog that systemd gives this process, else at the unit of the service."""
    if environment.get("NOTIFY_SOCKET"):
        return _own(environment)
    if not (roots.run / "systemd/system").is_dir():
        return skipped(SERVICE, "this machine was not started by systemd")
    text = answer("systemctl", "show", _UNIT, f"--property={_ASKED}")
    unit = dict(line.split("=", 1) for line in (text or "").splitlines() if "=" in line)
    if unit.get("LoadState") != "loaded":
        return skipped(SERVICE, f"there is no unit {_UNIT}; make install, or the Debian package, brings it")
    return _judge(unit)


def _judge(unit: Mapping[str, str]) -> Finding:
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


def _own(environment: Mapping[str, str]) -> Finding:
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
