"""From the index of a sample to the time of day, and whether the machine's clock is synchronised."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

_STEP_S: Final = 0.25
"""A change of the wall clock between two checks beyond which it was set, not only adjusted in rate."""
_JUMP_S: Final = 0.25
"""Sound so far from its expected time was not only delivered late: the anchor is wrong."""
_SHORT_S: Final = 5.0
_LONG_S: Final = 60.0
_GAIN: Final = 0.5
_MOST_SPREAD_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class Reading:
    """The machine's clocks at one moment, in seconds."""

    monotonic_s: float
    """Never steps, and stops while the machine is suspended."""
    boot_s: float
    """As above, but continues while the machine is suspended."""
    wall_s: float
    """Since 1970, UTC; it may be set."""


def read_clocks() -> Reading:
    """Read the clocks, together to within a millisecond unless the machine is very busy."""
    for _ in range(5):
        before = time.monotonic()
        boot, wall = time.clock_gettime(time.CLOCK_BOOTTIME), time.time()
        after = time.monotonic()
        if after - before < _MOST_SPREAD_S:
            break
    return Reading((before + after) / 2, boot, wall)


class SampleClock:
    """The time of day of samples, in streams that last for months.

    The time of a sample is that of an anchor plus its distance from it at the nominal rate. The crystal of a
    sound card is up to some 100 ppm off (50 ppm are 4.3 s a day), so the anchor moves to a new sample every
    minute, by half of the deviation in that minute. Sound can arrive late, for any reason, but not early, so the
    deviation is the least delay.

    The wall clock is checked often and independently of this: where it is set, times are right from the next
    check on, and durations, which are counted in samples, never change.
    """

    def __init__(self, rate_hz: int, read: Callable[[], Reading] = read_clocks) -> None:
        """Take the sample rate, and what reads the clocks."""
        self._rate_hz, self._read = rate_hz, read
        reading = read()
        self._anchor_sample, self._anchor_s = 0, reading.monotonic_s
        self._is_anchored = False
        self._settled_at_s = math.inf
        self._short, self._long = _Least(_SHORT_S), _Least(_LONG_S)
        self._check(reading)

    def update(self, sample: int, received_at_s: float) -> None:
        """Process that the sample before ``sample`` was recorded at ``received_at_s`` by ``time.monotonic()``."""
        late_s = received_at_s - self.monotonic_s(sample)
        is_settling = received_at_s < self._settled_at_s
        if not self._is_anchored or late_s < -_JUMP_S or (is_settling and late_s < 0):
            if not self._is_anchored or late_s < -_JUMP_S:
                self._settled_at_s = received_at_s + _LONG_S
            self._is_anchored = True
            self._move(sample, late_s, received_at_s)
            return
        least = self._short.push(late_s, received_at_s)
        if least is not None and least > _JUMP_S:
            self._move(sample, least, received_at_s)
            return
        least = self._long.push(late_s, received_at_s)
        if least is not None:
            self._move(sample, _GAIN * least, received_at_s)

    def lose(self) -> None:
        """Process a gap: the next sound is the new anchor."""
        self._is_anchored = False

    def check(self) -> float | None:
        """Check the wall clock; return by how many seconds it was set since the last check, None where it was not."""
        before = self._wall_minus_boot_s
        self._check(self._read())
        step_s = self._wall_minus_boot_s - before
        return step_s if abs(step_s) > _STEP_S else None

    def monotonic_s(self, sample: int) -> float:
        """Return when a sample was recorded, by ``time.monotonic()``."""
        return self._anchor_s + (sample - self._anchor_sample) / self._rate_hz

    def time_of(self, sample: int) -> datetime:
        """Return when a sample was recorded, as local time with its offset from UTC."""
        return _local(self._wall_minus_monotonic_s + self.monotonic_s(sample))

    def _check(self, reading: Reading) -> None:
        self._wall_minus_boot_s = reading.wall_s - reading.boot_s
        self._wall_minus_monotonic_s = reading.wall_s - reading.monotonic_s

    def _move(self, sample: int, later_s: float, now_s: float) -> None:
        """Make a sample the anchor, recorded so much later than by the last anchor."""
        self._anchor_s = self.monotonic_s(sample) + later_s
        self._anchor_sample = sample
        self._short.begin(now_s)
        self._long.begin(now_s)


class _Least:
    """The minimum of the values in each span of time."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self.begin(-math.inf)

    def begin(self, now_s: float) -> None:
        """Discard the values; a new span begins now."""
        self._until_s, self._least = now_s + self._span_s, math.inf

    def push(self, value: float, now_s: float) -> float | None:
        """Process a value; return the minimum where a span ends with it."""
        self._least = min(self._least, value)
        if now_s < self._until_s:
            return None
        least = self._least
        self.begin(now_s)
        return least


def local_now() -> datetime:
    """Return the local time with its offset from UTC."""
    return _local(time.time())


def rfc3339(moment: datetime) -> str:
    """Return a moment as text, to the millisecond and with its offset from UTC."""
    return moment.isoformat(timespec="milliseconds")


def _local(wall_s: float) -> datetime:
    return datetime.fromtimestamp(wall_s, UTC).astimezone()


_TIME_ERROR: Final = 5
_STRUCT_TIMEX_BYTES: Final = 1024
"""More than any machine's ``struct timex``, whose first field, ``modes``, is 0: change nothing."""
_TIMESYNCD: Final = Path("/run/systemd/timesync/synchronized")


def clock_is_synced() -> bool:
    """Return whether the kernel's clock is synchronised by a time server; False where that is unknown.

    The kernel is asked first, which every time service informs. Where that is forbidden (a unit with
    ``ProtectClock=``, some containers), the mark of systemd-timesyncd counts.
    """
    state = _kernel_state()
    return _TIMESYNCD.exists() if state is None else state != _TIME_ERROR


def _kernel_state() -> int | None:
    """Return the clock's state by adjtimex; None where the call is not permitted."""
    call = _adjtimex()
    state = -1 if call is None else int(call(ctypes.create_string_buffer(_STRUCT_TIMEX_BYTES)))
    return None if state < 0 else state


@cache
def _adjtimex() -> Any:
    try:
        return ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
