"""The machine's clock, which gives events their time of day."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import detector
from detector.doctor.finding import UNAVAILABLE, Finding, ok, problem, warning

CLOCK: Final = "clock"
_SLACK: Final = timedelta(days=1)


def check_clock(now: datetime, installed: datetime, *, is_synced: bool) -> Finding:
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
