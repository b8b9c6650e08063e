"""The board itself: is it too hot, and does it get the power that it needs."""

from __future__ import annotations

import re
from typing import Final

from detector.doctor.finding import UNAVAILABLE, Finding, ok, problem, skipped, warning
from detector.doctor.programs import answer
from detector.doctor.roots import Roots
from detector.live.machine import is_under_voltage, temperature_c

TEMPERATURE: Final = "temperature"
POWER: Final = "power"
_HOT_C: Final = 80.0
"""From here on a Raspberry Pi computes more slowly."""
_THROTTLED: Final = re.compile(r"0x([0-9a-fA-F]+)")
_LOW_NOW, _SLOWED_NOW, _LOW_BEFORE, _SLOWED_BEFORE = 0x1, 0xE, 0x10000, 0xE0000
"""Bits of ``vcgencmd get_throttled``: too little voltage; a lower clock for that or for heat; both in the past."""
_SUPPLY: Final = "use the power supply that is made for the board, with a short thick cable, and USB devices on a hub"


def check_temperature(roots: Roots) -> Finding:
    """Look at the hottest thermometer."""
    hottest = temperature_c(roots.thermal)
    if hottest is None:
        return skipped(TEMPERATURE, "there is no thermometer here")
    if hottest >= _HOT_C:
        advice = "give it air or a heat sink; heat makes it slow, and sound gets lost"
        return warning(TEMPERATURE, f"{hottest:.0f} °C", advice)
    return ok(TEMPERATURE, f"{hottest:.0f} °C")


def check_power(roots: Roots) -> Finding:
    """Look whether the voltage is, or was, too low, and whether the board is slowed down; Raspberry Pi only."""
    model = _text(roots, "device-tree/model").strip("\0\n ")
    if "Raspberry Pi" not in model:
        return skipped(POWER, "only a Raspberry Pi tells of it")
    bits = _throttled()
    if bits is None:
        return _by_sensor(roots, model)
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


def _by_sensor(roots: Roots, model: str) -> Finding:
    is_low = is_under_voltage(roots.hwmon)
    if is_low:
        return problem(POWER, f"{model}: the voltage is too low, which breaks USB sound", _SUPPLY, UNAVAILABLE)
    if is_low is not None:
        return ok(POWER, f"{model}: no lack of voltage")
    return skipped(POWER, f"{model}: neither vcgencmd (which takes the group video) nor a sensor tells of it")


def _text(roots: Roots, name: str) -> str:
    try:
        return (roots.proc / name).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
