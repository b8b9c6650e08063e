"""How this process and the machine under it are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PROCESS: Final = Path("/proc/self")
_THERMAL: Final = Path("/sys/class/thermal")
_HWMON: Final = Path("/sys/class/hwmon")


def rss_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not tell."""
    try:
        return int((_PROCESS / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def descriptors() -> int:
    """Return how many files and sockets this process has open; 0 where the system does not tell."""
    # The descriptor that lists them is not one of them.
    return max(0, _entries(_PROCESS / "fd") - 1)


def threads() -> int:
    """Return how many threads this process has, those of libraries included; 0 where the system does not tell."""
    return _entries(_PROCESS / "task")


def temperature_c(folder: Path = _THERMAL) -> float | None:
    """Return the temperature of the hottest zone; None where there is no thermometer."""
    found = []
    for file in folder.glob("thermal_zone*/temp"):
        try:
            found.append(int(file.read_text(encoding="ascii")) / 1000)
        except (OSError, ValueError):
            continue  # a zone that is switched off refuses to be read
    return max(found, default=None)


def is_under_voltage(folder: Path = _HWMON) -> bool | None:
    """Return whether a Raspberry Pi gets too little voltage, or did since this was read last; None elsewhere."""
    for sensor in sorted(folder.glob("hwmon*")):
        try:
            if (sensor / "name").read_text(encoding="ascii").strip() == "rpi_volt":
                return (sensor / "in0_lcrit_alarm").read_text(encoding="ascii").strip() == "1"
        except (OSError, ValueError):
            continue
    return None


def _entries(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except OSError:
        return 0
