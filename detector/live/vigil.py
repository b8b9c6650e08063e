"""What systemd is told: that the service is ready, and alive as long as sound is worked off."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from detector.live.tally import Tally
from detector.notify import Notifier

Mode: TypeAlias = Literal["listening", "waiting", "paused", "stuck"]
"""Stuck: no sound comes though the device is not away."""
_PATIENCE_S: Final = 20.0
"""Seconds of knowing that there is no device after which the service counts as started."""
_STATUS_S: Final = 10.0


class Vigil:
    """Feeds systemd's watchdog by what has been done, not by being there.

    A service whose capture has died in silence is not alive: while it listens, only sound that has
    arrived and was judged since the last time counts. While it knows that there is no device, or that
    nobody wants it to listen, its own turning is all that can be asked for.
    """

    def __init__(self, notifier: Notifier, tally: Tally) -> None:
        """Tell by ``notifier``."""
        self._notifier, self._tally = notifier, tally
        self._began_s = time.monotonic()
        self.is_ready = False
        """Whether systemd has been told that the service has started."""
        self._frames, self._heard_s = tally.frames, tally.heard_s
        self._status_at_s = self._began_s
        self._mode: Mode | None = None

    def turned(self, mode: Mode, line: Callable[[], str]) -> None:
        """Take notice of a turn of the service; ``line`` says in words how it is."""
        now = time.monotonic()
        has_new = self._tally.frames > self._frames and self._tally.heard_s > self._heard_s
        worked = has_new and mode != "stuck"  # the rest of the sound from before is no sign of life
        self._frames, self._heard_s = max(self._frames, self._tally.frames), self._tally.heard_s
        is_idle = mode in {"waiting", "paused"}
        if not self.is_ready and (worked or (is_idle and now - self._began_s >= _PATIENCE_S)):
            self.is_ready, self._mode = True, None
            self._notifier.ready()
        if worked or is_idle:
            self._notifier.watchdog()
        if (self.is_ready or mode != "listening") and (mode != self._mode or now >= self._status_at_s + _STATUS_S):
            self._status_at_s, self._mode = now, mode
            self._notifier.status(line())
