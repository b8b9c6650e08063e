"""Listening as a service: for months, and as systemd, signals and switches want it.

What systemd is told: that the service is ready, and alive as long as sound is worked off.
"""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Callable
from typing import Final, Literal, TypeAlias

from detector.config.settings import Settings
from detector.errors import DetectorError, DeviceError
from detector.service.engine import Counters
from detector.service.runtime import RunOptions, ServiceRuntime
from detector.service.signals import Requests
from detector.service.systemd import Notifier

Mode: TypeAlias = Literal["listening", "waiting", "paused", "stuck"]
"""Stuck: no sound comes though the device is not away."""
_PATIENCE_S: Final = 20.0
"""Seconds of knowing that there is no device after which the service counts as started."""
_STATUS_S: Final = 10.0


class WatchdogPolicy:
    """Feeds systemd's watchdog by what has been done, not by being there.

    A service whose capture has died in silence is not alive: while it listens, only sound that has
    arrived and was judged since the last time counts. While it knows that there is no device, or that
    nobody wants it to listen, its own turning is all that can be asked for.
    """

    def __init__(self, notifier: Notifier, counters: Counters) -> None:
        """Tell by ``notifier``."""
        self._notifier, self._counters = notifier, counters
        self._began_s = time.monotonic()
        self.is_ready = False
        """Whether systemd has been told that the service has started."""
        self._frames, self._heard_s = counters.frames, counters.heard_s
        self._status_at_s = self._began_s
        self._mode: Mode | None = None

    def turned(self, mode: Mode, line: Callable[[], str]) -> None:
        """Take notice of a turn of the service; ``line`` says in words how it is."""
        now = time.monotonic()
        has_new = self._counters.frames > self._frames and self._counters.heard_s > self._heard_s
        worked = has_new and mode != "stuck"  # the rest of the sound from before is no sign of life
        self._frames, self._heard_s = max(self._frames, self._counters.frames), self._counters.heard_s
        is_idle = mode in {"waiting", "paused"}
        if not self.is_ready and (worked or (is_idle and now - self._began_s >= _PATIENCE_S)):
            self.is_ready, self._mode = True, None
            self._notifier.ready()
        if worked or is_idle:
            self._notifier.watchdog()
        if (self.is_ready or mode != "listening") and (mode != self._mode or now >= self._status_at_s + _STATUS_S):
            self._status_at_s, self._mode = now, mode
            self._notifier.status(line())


_TURN_S: Final = 0.2
_CLOCK_S: Final = 1.0
_END_S: Final = 1.5
_WAITING: Final = "waiting for the microphone: "
_BROKEN_PIPE: Final = 128 + signal.SIGPIPE


class Service:
    """One run of the engine with all its sinks, from the model's loading to the last record."""

    def __init__(
        self,
        settings: Settings,
        requests: Requests,
        run_options: RunOptions | None = None,
        load: Callable[[], Settings] | None = None,
    ) -> None:
        """Prepare; ``load`` reads the settings anew and raises ConfigError, None where they cannot change."""
        self._settings, self._requests, self._load = settings, requests, load
        self._run_options = run_options or RunOptions()
        self._notifier = Notifier()
        self.counters = Counters()
        self._watchdog = WatchdogPolicy(self._notifier, self.counters)
        self._work: ServiceRuntime | None = None
        self._clock_at_s = 0.0
        # The first record comes with the first sound; where none comes, after the interval.
        self._has_heard = False
        self._health_at_s = time.monotonic() + settings.health.interval_s

    @property
    def is_hung(self) -> bool:
        """Whether a part did not end in time: the process must not wait for it."""
        return self._work is not None and self._work.is_hung

    def run(self) -> int:
        """Listen until the sound ends or a signal comes; return the exit code.

        Raises DetectorError where it cannot begin or go on. However it ends, open events are closed
        and the sinks have had the time that there is to write.
        """
        try:
            self._notifier.status("loading the model")
            self._work = work = ServiceRuntime(self._settings, self._run_options, self._requests, self.counters)
            self._notifier.status(f"opening {self._settings.audio.device}")
            work.listen()
            gc.freeze()  # what lasts for the whole run need not be looked through again and again
            code = self._go_on(work)
        except DetectorError as error:
            self._end(str(error))
            raise
        except BaseException:
            self._end("internal error")
            raise
        self._end(None)
        return code

    def _go_on(self, work: ServiceRuntime) -> int:
        while (code := self._code(work)) is None:
            self._grant(work)
            if not work.turn(_TURN_S):
                return 0
            self._attend(work)
        return code

    def _code(self, work: ServiceRuntime) -> int | None:
        """Return the exit code if it is time to end."""
        if self._requests.stop is not None:
            return 0 if self._load else 128 + self._requests.stop
        if self._run_options.is_filter and any(getattr(s, "reader_has_gone", False) for s in work.outputs.sinks):
            return _BROKEN_PIPE
        return None

    def _grant(self, work: ServiceRuntime) -> None:
        """Do what has been asked for."""
        requests = self._requests
        if requests.reload:
            requests.reload = False
            self._reload(work)
        if requests.reopen:
            requests.reopen = False
            work.outputs.reopen()
        if requests.listening == work.is_paused:
            (work.resume if requests.listening else work.pause)()
        work.publish_clips()

    def _reload(self, work: ServiceRuntime) -> None:
        """Read the settings anew; where they are wrong, say so and keep those in force."""
        if self._load is None:
            return
        if self._watchdog.is_ready:
            self._notifier.reloading()
        try:
            work.change(self._load())
        except DetectorError as error:
            detail = f"the settings in force stay: {error}"
            work.publisher.status("reloaded", detail, active=False, level=logging.ERROR)
        else:
            work.publisher.status("reloaded", "the settings have been read anew")
        if self._watchdog.is_ready:
            self._notifier.ready()

    def _attend(self, work: ServiceRuntime) -> None:
        """Look after clocks, systemd and the record of health."""
        engine = work.engine
        waiting = [c for c in engine.conditions if c.name == "waiting"] if engine else []
        if waiting and not self._run_options.wait:
            raise DeviceError(waiting[0].detail.removeprefix(_WAITING))
        self._watchdog.turned(self._mode(work, is_waiting=bool(waiting)), lambda: self._line(work))
        now = time.monotonic()
        if engine is not None and now >= self._clock_at_s:
            self._clock_at_s = now + _CLOCK_S
            engine.check_clock()
        work.show_state()
        if self.counters.frames and not self._has_heard:
            self._has_heard, self._health_at_s = True, now
        if now >= self._health_at_s:
            self._publish_health(work)

    def _mode(self, work: ServiceRuntime, *, is_waiting: bool) -> Mode:
        if work.is_paused:
            return "paused"
        # A device that gives nothing, or a sound system that does not answer, is not away: a new process may help.
        if is_waiting:
            return "stuck" if work.stats.is_stuck else "waiting"
        return "listening"

    def _publish_health(self, work: ServiceRuntime) -> None:
        """Tell how the service is, at times that do not drift."""
        time.tzset()  # somebody may have moved the machine to another time zone
        interval_s = work.settings.health.interval_s
        now = time.monotonic()
        due = self._health_at_s + interval_s
        self._health_at_s = due if due > now else now + interval_s
        work.publish_health()

    def _line(self, work: ServiceRuntime) -> str:
        if work.is_paused:
            return "paused: listening is switched off"
        conditions = work.engine.conditions if work.engine else ()
        return work.health.line(work.settings.audio.source, work.stats, conditions)

    def _end(self, fault: str | None) -> None:
        self._notifier.stopping()
        if self._work is not None:
            asked = self._requests.stop is not None
            self._work.end("shutdown" if asked else "end_of_stream", fault, _END_S)
