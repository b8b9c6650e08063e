"""The service: its loop, with requests of signals, systemd's watchdog and health records."""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Callable
from typing import Final, Protocol

from detector.audio.live_source import TURN_S
from detector.config.settings import Settings
from detector.errors import DetectorError, DeviceError
from detector.manifest import Sensitivity
from detector.service.process import Notifier, SignalHandler
from detector.service.runtime import ServiceRuntime, Totals
from detector.service.source import FaultPolicy, Mode, RunOptions
from detector.system import Backoff, LastingChoice, LastingFlag

_PATIENCE_S: Final = 20.0
"""Seconds without a device after which the service counts as started."""
_STATUS_S: Final = 10.0
_CLOCK_S: Final = 1.0
_END_S: Final = 1.5
_RESUME_S: Final = (0.5, 2.0)
"""Shortest and longest time between switching listening off and on again: a device is not opened more often."""
_CALM_S: Final = 60.0
_BROKEN_PIPE: Final = 128 + signal.SIGPIPE
_SENSITIVITY_S: Final = 1.0
"""Shortest time between two changes of the sensitivity."""


class Work(Protocol):
    """Counts of the work that is done."""

    @property
    def frames(self) -> int:
        """Frames that the network has evaluated."""

    @property
    def heard_s(self) -> float:
        """Seconds of sound that were processed."""


class WatchdogPolicy:
    """Feeds systemd's watchdog for work that is done, not for a loop that runs.

    A service whose capture has silently ended is not alive: while it listens, only sound that has arrived and was
    evaluated since the last turn counts. While the device is absent, or listening is switched off, a turn of the
    loop is enough.
    """

    def __init__(self, notifier: Notifier, counters: Work) -> None:
        """Notify through ``notifier``, by the work that ``counters`` count."""
        self._notifier, self._counters = notifier, counters
        self._began_s = time.monotonic()
        self.is_ready = False
        """Whether systemd has been notified that the service has started."""
        self._frames, self._processed_s = counters.frames, counters.heard_s
        self._status_at_s = self._began_s
        self._mode: Mode | None = None

    def after_turn(self, mode: Mode, line: Callable[[], str]) -> None:
        """Process a turn of the service; ``line`` returns its state in one line."""
        now = time.monotonic()
        has_new = self._counters.frames > self._frames and self._counters.heard_s > self._processed_s
        worked = has_new and mode != "stuck"  # the rest of the sound from before does not count
        self._frames, self._processed_s = max(self._frames, self._counters.frames), self._counters.heard_s
        is_idle = mode in {"waiting", "paused"}
        if not self.is_ready and (worked or mode == "paused" or (is_idle and now - self._began_s >= _PATIENCE_S)):
            self.is_ready, self._mode = True, None
            self._notifier.ready()
        if worked or is_idle:
            self._notifier.watchdog()
        if (self.is_ready or mode != "listening") and (mode != self._mode or now >= self._status_at_s + _STATUS_S):
            self._status_at_s, self._mode = now, mode
            self._notifier.status(line())


class Service:
    """One run of all sources with all sinks, from loading the models to the last record."""

    def __init__(  # noqa: PLR0913 - what a process passes to its one service
        self,
        settings: Settings,
        signals: SignalHandler,
        run_options: RunOptions | None = None,
        load: Callable[[], Settings] | None = None,
        switch: LastingFlag | None = None,
        choice: LastingChoice[Sensitivity] | None = None,
    ) -> None:
        """Prepare; ``load`` reads the settings again and raises ConfigError, None where they cannot change.

        ``switch`` keeps whether listening is switched off; None: a new process always listens. ``choice`` keeps the
        sensitivity that a user has chosen; None: a new process has that of the settings.
        """
        self._settings, self._signals, self._load = settings, signals, load
        self._switch, self._choice = switch, choice
        self._run_options = run_options or RunOptions()
        self._notifier = Notifier()
        self.counters = Totals()
        self._watchdog = WatchdogPolicy(self._notifier, self.counters)
        self._runtime: ServiceRuntime | None = None
        self._code = 0
        self._clock_at_s = self._sensitivity_at_s = 0.0
        self._faults = FaultPolicy()
        self._resume_pause, self._resume_at_s = Backoff(*_RESUME_S), 0.0
        # The first health record is published with the first sound; where there is none, after the interval.
        self._has_sound = False
        self._health_at_s = time.monotonic() + settings.health.interval_s

    @property
    def is_hung(self) -> bool:
        """Whether a part did not end in time: the process must not wait for it."""
        return self._runtime is not None and self._runtime.is_hung

    def run(self) -> int:
        """Listen until the sound ends or a signal arrives; return the exit code.

        Raises DetectorError where it cannot start or continue. In all cases open events are closed, and the sinks
        have the time that there is to write.
        """
        try:
            self._notifier.status("loading the model")
            self._runtime = runtime = ServiceRuntime(
                self._settings, self._run_options, self.counters, self._switch, self._choice
            )
            names = ", ".join(source.settings.audio.name for source in runtime.sources)
            self._notifier.status(f"opening {names}")
            runtime.listen()
            gc.freeze()  # objects that last for the whole run need not be searched at every collection
            while self._goes_on(runtime):
                runtime.wake.wait(TURN_S)
        except DetectorError as error:
            self._end(str(error))
            raise
        except BaseException:
            self._end("internal error")
            raise
        self._end(None)
        return self._code

    def _goes_on(self, runtime: ServiceRuntime) -> bool:
        """Do what is due and what was requested between two turns; return whether there is another one."""
        runtime.wake.clear()
        has_ended = runtime.has_ended  # before the last look at what was done until then
        self._after_turn(runtime)
        if self._signals.number is not None:
            self._code = 0 if self._load else self._signals.exit_code
        elif self._run_options.is_filter and any(s.reader_has_gone for s in runtime.outputs.sinks):
            self._code = _BROKEN_PIPE
        elif not has_ended:
            self._fulfil(runtime)
            return True
        return False

    def _fulfil(self, runtime: ServiceRuntime) -> None:
        """Do what signals and sinks have requested."""
        signals, attempt = self._signals, self._faults.attempt
        if signals.reload:
            signals.reload = False
            self._reload(runtime)
        if signals.reopen:
            signals.reopen = False
            attempt("reopening the files of outputs", runtime.outputs.reopen, None)
        attempt("switching listening", lambda: self._switch_listening(runtime), None)
        if runtime.is_sensitivity_changed and time.monotonic() >= self._sensitivity_at_s:
            self._sensitivity_at_s = time.monotonic() + _SENSITIVITY_S
            attempt("changing the sensitivity", runtime.change_sensitivity, None)
        attempt("opening a source", runtime.open_due, None)
        attempt("publishing clips", runtime.publish_clips, None)

    def _switch_listening(self, runtime: ServiceRuntime) -> None:
        """Switch listening off at once, and on again after a pause that grows while it is switched often."""
        now, wants_listening = time.monotonic(), runtime.wants_listening  # sinks set it from their threads
        if not wants_listening and not runtime.is_paused:
            if now >= self._resume_at_s + _CALM_S:
                self._resume_pause.reset()
            self._resume_at_s = now + self._resume_pause.next_s()
            runtime.pause()
        elif wants_listening and runtime.is_paused and now >= self._resume_at_s:
            runtime.resume()

    def _reload(self, runtime: ServiceRuntime) -> None:
        """Read the settings again; where they are wrong, publish that and keep those in force."""
        if self._load is None:
            return
        if self._watchdog.is_ready:
            self._notifier.reloading()
        try:
            runtime.change(self._load())
        except Exception as error:  # noqa: BLE001 - whatever the new settings do, those in force go on
            what = error if isinstance(error, DetectorError) else f"{type(error).__name__}: {error}"
            detail = f"the settings in force stay: {what}"
            runtime.publisher.status("reloaded", detail, active=False, level=logging.ERROR)
        else:
            runtime.publisher.status("reloaded", "the settings have been reloaded")
        if self._watchdog.is_ready:
            self._notifier.ready()

    def _after_turn(self, runtime: ServiceRuntime) -> None:
        """Settle failures, check calibration and clock, notify systemd, and publish health where it is due."""
        attempt = self._faults.attempt
        runtime.settle()
        for source in runtime.sources:
            attempt("comparing the calibration", source.check_calibration, None)
        waiting = [c for source in runtime.sources for c in source.conditions if c.name == "waiting"]
        if waiting and not self._run_options.wait:
            raise DeviceError(waiting[0].detail.partition(": ")[2])
        self._watchdog.after_turn(runtime.mode, lambda: runtime.line)
        now = time.monotonic()
        if now >= self._clock_at_s:
            self._clock_at_s = now + _CLOCK_S
            for source in runtime.sources:
                attempt("checking the clock", source.check_clock, None)
        attempt("showing the state", runtime.show_state, None)
        if self.counters.frames and not self._has_sound:
            self._has_sound, self._health_at_s = True, now
        if now >= self._health_at_s:
            attempt("the health record", lambda: self._publish_health(runtime), None)

    def _publish_health(self, runtime: ServiceRuntime) -> None:
        """Publish a health record, at times that do not drift."""
        time.tzset()  # the time zone of the machine may have changed
        interval_s = runtime.settings.health.interval_s
        now = time.monotonic()
        due = self._health_at_s + interval_s
        self._health_at_s = due if due > now else now + interval_s
        runtime.publish_health()

    def _end(self, fault: str | None) -> None:
        gc.unfreeze()  # what an error holds in a cycle is collected, or libraries print it as leaked at the exit
        self._notifier.stopping()
        if self._runtime is not None:
            self._runtime.end("end_of_stream" if self._signals.goes_on() else "shutdown", fault, _END_S)
