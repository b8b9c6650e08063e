"""Whether something keeps the machine's clock right."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, Final

_TIME_ERROR: Final = 5
_STRUCT_TIMEX_BYTES: Final = 1024
"""More than any machine's ``struct timex``, whose first field, ``modes``, is 0: change nothing."""
_TIMESYNCD: Final = Path("/run/systemd/timesync/synchronized")


def clock_is_synced() -> bool:
    """Tell whether the kernel's clock is kept right by a time server; False where nobody can tell.

    The kernel is asked first, which every time service keeps informed. Where asking is forbidden (a
    unit with ``ProtectClock=``, some containers), systemd-timesyncd's mark counts.
    """
    state = _kernel_state()
    return _TIMESYNCD.exists() if state is None else state != _TIME_ERROR


def _kernel_state() -> int | None:
    """Return what adjtimex says of the clock; None where it may not be asked."""
    call = _adjtimex()
    state = -1 if call is None else int(call(ctypes.create_string_buffer(_STRUCT_TIMEX_BYTES)))
    return None if state < 0 else state


@cache
def _adjtimex() -> Any:
    try:
        return ctypes.CDLL(None).adjtimex
    except (OSError, AttributeError):
        return None
