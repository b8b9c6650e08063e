"""The health of service, process and machine: for the health record, and for the line that systemd shows."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detector.audio.levels import FLOOR_DBFS
from detector.audio.live_source import SourceCondition, SourceStats
from detector.manifest import Sensitivity
from detector.records import HealthState
from detector.service.engine import Counters
from detector.sinks.base import NodeInfo

_MEMORY: Final = Path("/proc/self/statm")
_THERMAL: Final = Path("/sys/class/thermal")
_HWMON: Final = Path("/sys/class/hwmon")


def rss_bytes() -> int:
    """Return the resident memory of this process; 0 where that is unknown."""
    try:
        return int(_MEMORY.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def temperature_c(folder: Path = _THERMAL) -> float | None:
    """Return the temperature of the hottest zone; None where there is no thermometer."""
    found = []
    for file in _files(folder, "thermal_zone*/temp"):
        try:
            found.append(int(file.read_text(encoding="ascii")) / 1000)
        except (OSError, ValueError):
            continue  # a zone that is switched off cannot be read
    return max(found, default=None)


def is_under_voltage(folder: Path = _HWMON) -> bool | None:
    """Return whether a Raspberry Pi gets too little voltage, or did since this was read last; None elsewhere."""
    for sensor in _files(folder, "hwmon*"):
        try:
            if (sensor / "name").read_text(encoding="ascii").strip() == "rpi_volt":
                return (sensor / "in0_lcrit_alarm").read_text(encoding="ascii").strip() == "1"
        except (OSError, ValueError):
            continue
    return None


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match, in order; none where it cannot be read."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


_COUNTED: Final = ("lost_s", "overruns", "reopens", "clipped_samples")
NO_SOURCE: Final = SourceStats("", FLOOR_DBFS, FLOOR_DBFS)
"""The stats of a source that is closed."""


@dataclass(slots=True)
class _Mark:
    heard_s: float = 0.0
    busy_s: float = 0.0


class Health:
    """Sums the counts of the sources of a process, and measures the realtime factor from record to record."""

    def __init__(self, counters: Counters) -> None:
        """Start the time."""
        self._counters = counters
        self._began_s = time.monotonic()
        self._closed: dict[str, float] = dict.fromkeys(_COUNTED, 0)
        self._mark = _Mark()
        self.realtime_factor = 0.0
        """Processing time of a second of sound, recently; 1 is the limit for live sound."""
        self.is_paused = False
        """Whether listening is switched off."""
        self.sensitivity: Sensitivity = "balanced"
        """The model's operating point in force."""

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began_s

    def retire(self, stats: SourceStats) -> None:
        """Keep the counts of a source that is closed."""
        for name in _COUNTED:
            self._closed[name] += getattr(stats, name)

    def fields(self, stats: SourceStats, sinks: Mapping[str, Mapping[str, float]], node_info: NodeInfo) -> HealthState:
        """Return what the next health record holds; the realtime factor is that since the last one."""
        self._measure()
        return self.state(stats, sinks, node_info)

    def state(self, stats: SourceStats, sinks: Mapping[str, Mapping[str, float]], node_info: NodeInfo) -> HealthState:
        """Return the same between two records."""
        return HealthState(
            uptime_s=round(self.uptime_s, 3),
            heard_s=round(self._counters.heard_s, 3),
            realtime_factor=round(self._factor(), 5),
            lost_s=round(self._closed["lost_s"] + stats.lost_s, 3),
            overruns=int(self._closed["overruns"]) + stats.overruns,
            reopens=int(self._closed["reopens"]) + stats.reopens,
            rms_dbfs=_level(stats.rms_dbfs),
            peak_dbfs=_level(stats.peak_dbfs),
            dc=round(stats.dc, 5),
            clipped_samples=int(self._closed["clipped_samples"]) + stats.clipped_samples,
            silent="silent" in stats.conditions,
            up=stats.is_open,
            paused=self.is_paused,
            queue_depth=round(stats.queue_depth, 3),
            rss_bytes=rss_bytes(),
            temperature_c=temperature_c(),
            under_voltage=is_under_voltage(),
            resets=self._counters.gaps + self._counters.repairs,
            frames=self._counters.frames,
            inference=self._counters.inference(),
            sinks={name: dict(counts) for name, counts in sinks.items()},
            drift_ppm=None if stats.drift_ppm is None else round(stats.drift_ppm, 1),
            model=node_info.model,
            model_sha256=node_info.model_sha256,
            version=node_info.version,
            sensitivity=self.sensitivity,
        )

    def line(self, source: str, stats: SourceStats, conditions: tuple[SourceCondition, ...]) -> str:
        """Return the state as a line for users."""
        waiting = [c.detail for c in conditions if c.name == "waiting"]
        if waiting:
            return waiting[0]
        factor = self._factor()
        state = "ok" if not conditions else ", ".join(c.name.replace("_", " ") for c in conditions)
        overruns = int(self._closed["overruns"]) + stats.overruns
        point = "" if self.sensitivity == "balanced" else f", {self.sensitivity} sensitivity"
        return f"{source} {state}, RTF {factor:.3f}, {overruns} xruns{point}{self._last()}"

    def _last(self) -> str:
        onset = self._counters.last_onset
        return f", last {onset.label} {onset.score:.2f} @{(onset.time or '')[11:19]}" if onset else ""

    def _measure(self) -> None:
        heard_s, busy_s = self._since_mark()
        self.realtime_factor = busy_s / heard_s if heard_s else 0.0
        self._mark = _Mark(self._counters.heard_s, self._counters.busy_s)

    def _factor(self) -> float:
        """Return the realtime factor since the last record; just after a record, the one before."""
        heard_s, busy_s = self._since_mark()
        return busy_s / heard_s if heard_s else self.realtime_factor

    def _since_mark(self) -> tuple[float, float]:
        return self._counters.heard_s - self._mark.heard_s, self._counters.busy_s - self._mark.busy_s


def _level(dbfs: float) -> float:
    """Round a level; silence gets the floor."""
    return round(max(FLOOR_DBFS, dbfs), 1)
