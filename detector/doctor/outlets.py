"""Where events go: whether each sink can be made, and who can reach those that listen."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from detector.addresses import split_address, token_required
from detector.doctor.finding import SETTINGS, UNAVAILABLE, Finding, ok, problem, warning
from detector.doctor.processes import Process
from detector.errors import ConfigError
from detector.live.parts import make_station
from detector.live.plans import Wiring, plans
from detector.pipeline import Detector
from detector.settings import Metrics, Settings, Web

SINKS: Final = "sinks"
ADDRESSES: Final = "addresses"
_NOT_MADE: Final = frozenset({"stdout", "mqtt"})
"""The first needs nothing, the second is tried for itself."""


def check_sinks(settings: Settings, detector: Detector) -> Finding:
    """Look whether each sink has what it needs: its secrets, its libraries, its program."""
    wiring = Wiring(make_station(settings, detector), detector.sample_rate_hz, None, lambda _: None, detector)
    kinds: Counter[str] = Counter()
    try:
        for plan in plans(settings, wiring):
            kinds[plan.kind] += 1
            if plan.kind not in _NOT_MADE:
                plan.make()
    except ConfigError as error:
        advice = "mend it, or look again as root or as the service's user, who may be able to read what you cannot"
        return problem(SINKS, str(error), advice, SETTINGS)
    absent = [c.argv[0] for c in settings.command if shutil.which(c.argv[0]) is None]
    if absent:
        return problem(SINKS, f"command: there is no program {absent[0]}", "mend argv, or install it", SETTINGS)
    open_ones = [str(path) for path in _secrets(settings) if _is_open(path)]
    if open_ones:
        return warning(SINKS, f"everybody can read the secret {open_ones[0]}", f"chmod o= {' '.join(open_ones)}")
    if not kinds:
        return warning(SINKS, "there is none: events go nowhere", "add a section such as [database] or [stdout]")
    return ok(SINKS, ", ".join(kind if n == 1 else f"{n} times {kind}" for kind, n in kinds.items()))


def check_addresses(settings: Settings, services: tuple[Process, ...]) -> Finding:
    """Look who can reach what listens, and whether its port is free; ``services`` run now and may hold it."""
    listening = {"metrics": settings.metrics, "web": settings.web}
    findings = [_address(name, section, services) for name, section in listening.items() if section is not None]
    if not findings:
        return ok(ADDRESSES, "nothing listens for connections")
    bad = next((f for f in findings if f.state != "ok"), None)
    return bad or ok(ADDRESSES, "; ".join(f.found for f in findings))


def _address(name: str, section: Metrics | Web, services: tuple[Process, ...]) -> Finding:
    try:
        host, port = split_address(section.address)
        addresses = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (ConfigError, OSError) as error:
        advice = f"mend {name}.address: an address of this machine and a port"
        return problem(ADDRESSES, f"{name} on {section.address}: {error}", advice, SETTINGS)
    reached = [str(a[4][0]) for a in addresses if token_required(f"[{a[4][0]}]:{port}")]
    if reached and section.token_file is None:
        found = f"{name} on {section.address} can be reached from other machines without a token"
        return problem(ADDRESSES, found, f"set {name}.token_file, or {name}.address to 127.0.0.1", SETTINGS)
    family, _, _, _, address = addresses[0]
    where = f"{name} on {section.address}"
    return _port(where, _bind(family, address), services, is_open=bool(reached))


def _port(where: str, failure: int, services: tuple[Process, ...], *, is_open: bool) -> Finding:
    reach = "can be reached from other machines, with the token" if is_open else "can be reached from this machine only"
    found = f"{where} {reach}"
    if failure == 0:
        return ok(ADDRESSES, found)
    if failure == errno.EADDRINUSE and services:
        return ok(ADDRESSES, f"{found}; the port is taken, as it is while the service runs")
    if failure == errno.EADDRINUSE:
        found = f"{where}: another program has the port"
        return problem(ADDRESSES, found, "take another port; ss -ltnp names the program", UNAVAILABLE)
    found = f"{where}: {os.strerror(failure).lower()}"
    return problem(ADDRESSES, found, "take an address that this machine has, or 127.0.0.1", UNAVAILABLE)


def _bind(family: int, address: tuple[object, ...]) -> int:
    """Try to take an address, and return the number of the error; 0 without one."""
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(address)
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def _secrets(settings: Settings) -> Iterator[Path]:
    files = [b.password_file for b in settings.mqtt] + [b.key_file for b in settings.mqtt]
    files += [w.token_file for w in settings.webhook]
    files += [section.token_file for section in (settings.metrics, settings.web) if section]
    yield from (file for file in files if file is not None)


def _is_open(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False  # the sink that needs it has said so
