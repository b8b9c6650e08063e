"""The service: the loop over the source, with requests of signals, systemd's watchdog and health records."""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias, TypeVar

from detector.audio.live_source import SourceEvent, drain
from detector.config.settings import Settings
from detector.errors import DetectorError, DeviceError
from detector.manifest import Sensitivity
from detector.service.engine import Counters
from detector.service.process import Notifier, SignalHandler
from detector.service.runtime import RunOptions, ServiceRuntime
from detector.system import Backoff, LastingChoice, LastingFlag

Mode: TypeAlias = Literal["listening", "waiting", "paused", "stuck"]
"""Stuck: no sound arrives although the device is present."""
_PATIENCE_S: Final = 20.0
"""Seconds without a device after which the service counts as started."""
_STATUS_S: Final = 10.0
_CLOCK_S: Final = 1.0
_END_S: Final = 1.5
_RESUME_S: Final = (0.5, 2.0)
"""Shortest and longest time between switching listening off and on again: a device is not opened more often."""
_CALM_S: Final = 60.0
_IDLE: Final = frozenset({"waiting", "off_hours"})
"""Conditions in which no sound is processed, as it should be."""
_BROKEN_PIPE: Final = 128 + signal.SIGPIPE
_REOPEN_S: Final = 5.0
_HOPELESS_S: Final = 60.0
_PAUSE_S: Final = 0.2
_SENSITIVITY_S: Final = 1.0
"""Shortest time between two changes of the sensitivity."""
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class FaultPolicy:
    """Keeps the service running while a part of it fails with an unexpected error, which is logged once.

    DetectorError passes, since it says what a user has to correct; so does any error of ``vital`` work that has
    failed for a minute without interruption.
    """

    def __init__(self) -> None:
        """Start without a fault."""
        self._failing: dict[str, float] = {}

    def attempt(self, part: str, work: Callable[[], _T], otherwise: _T, *, vital: bool = False) -> _T:
        """Return the result of work; where it fails unexpectedly, log that and return ``otherwise``."""
        try:
            result = work()
        except DetectorError:
            raise
        except Exception as error:
            now = time.monotonic()
            if part not in self._failing:
                _log.error("%s has failed and will be tried again: %s: %s", part, type(error).__name__, error)
            elif vital and now - self._failing[part] >= _HOPELESS_S:
                raise
            self._failing.setdefault(part, now)
            return otherwise
        if self._failing.pop(part, None) is not None:
            _log.info("%s works again", part)
        return result


class WatchdogPolicy:
    """Feeds systemd's watchdog for work that is done, not for a loop that runs.

    A service whose capture has silently ended is not alive: while it listens, only sound that has arrived and was
    evaluated since the last turn counts. While the device is absent, or listening is switched off, a turn of the
    loop is enough.
    """

    def __init__(self, notifier: Notifier, counters: Counters) -> None:
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
    """One run of the engine with all its sinks, from loading the model to the last record."""

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
        self.counters = Counters()
        self._watchdog = WatchdogPolicy(self._notifier, self.counters)
        self._runtime: ServiceRuntime | None = None
        self._code = 0
        self._clock_at_s = self._open_at_s = self._sensitivity_at_s = 0.0
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
            self._notifier.status(f"opening {self._settings.audio.name}")
            runtime.listen()
            gc.freeze()  # objects that last for the whole run need not be searched at every collection
            drain(self, self._handle, lambda: self._goes_on(runtime))
        except DetectorError as error:
            self._end(str(error))
            raise
        except BaseException:
            self._end("internal error")
            raise
        self._end(None)
        return self._code

    def take(self, timeout_s: float) -> Sequence[SourceEvent] | None:
        """Return the events of the source, see ``AudioSource.take``; none where it fails unexpectedly."""
        runtime = self._runtime
        if runtime is None:
            return None
        events = self._faults.attempt("the sound source", lambda: (runtime.take(timeout_s),), None, vital=True)
        if events is not None:
            return events[0]
        time.sleep(_PAUSE_S)
        return ()

    def _handle(self, event: SourceEvent) -> None:
        """Process an event of the source; where that fails unexpectedly, the detector starts again behind it."""
        runtime = self._runtime
        if runtime is None:
            return

        def process() -> bool:
            runtime.handle(event)
            return True

        if not self._faults.attempt("detection", process, otherwise=False, vital=True):
            self._faults.attempt("the detector's restart", runtime.recover, None)

    def _goes_on(self, runtime: ServiceRuntime) -> bool:
        """Do what is due and what was requested between two turns; return whether there is another one."""
        self._after_turn(runtime)
        if self._signals.number is not None:
            self._code = 0 if self._load else self._signals.exit_code
        elif self._run_options.is_filter and any(s.reader_has_gone for s in runtime.outputs.sinks):
            self._code = _BROKEN_PIPE
        else:
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
        if runtime.engine is None and not runtime.is_paused and time.monotonic() >= self._open_at_s:
            self._open_at_s = time.monotonic() + _REOPEN_S
            attempt("opening the source", runtime.listen, None)
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
        """Check calibration and clock, notify systemd, and publish health where it is due."""
        attempt = self._faults.attempt
        attempt("comparing the calibration", runtime.check_calibration, None)
        engine = runtime.engine
        waiting = [c for c in engine.conditions if c.name == "waiting"] if engine else []
        if waiting and not self._run_options.wait:
            raise DeviceError(waiting[0].detail.partition(": ")[2])
        is_idle = engine is not None and any(c.name in _IDLE for c in engine.conditions)
        self._watchdog.after_turn(self._mode(runtime, is_idle=is_idle), lambda: self._line(runtime))
        now = time.monotonic()
        if engine is not None and now >= self._clock_at_s:
            self._clock_at_s = now + _CLOCK_S
            attempt("checking the clock", engine.check_clock, None)
        attempt("showing the state", runtime.show_state, None)
        if self.counters.frames and not self._has_sound:
            self._has_sound, self._health_at_s = True, now
        if now >= self._health_at_s:
            attempt("the health record", lambda: self._publish_health(runtime), None)

    def _mode(self, runtime: ServiceRuntime, *, is_idle: bool) -> Mode:
        if runtime.is_paused:
            return "paused"
        # A device that delivers nothing, or a sound system that hangs, is not absent: a new process may help.
        if is_idle:
            return "stuck" if runtime.stats.is_stuck else "waiting"
        return "listening"

    def _publish_health(self, runtime: ServiceRuntime) -> None:
        """Publish a health record, at times that do not drift."""
        time.tzset()  # the time zone of the machine may have changed
        interval_s = runtime.settings.health.interval_s
        now = time.monotonic()
        due = self._health_at_s + interval_s
        self._health_at_s = due if due > now else now + interval_s
        runtime.publish_health()

    def _line(self, runtime: ServiceRuntime) -> str:
        if runtime.is_paused:
            return f"paused: {runtime.paused_detail}"
        conditions = runtime.engine.conditions if runtime.engine else ()
        return runtime.health.line(runtime.settings.audio.source, runtime.stats, conditions)

    def _end(self, fault: str | None) -> None:
        gc.unfreeze()  # what an error holds in a cycle is collected, or libraries print it as leaked at the exit
        self._notifier.stopping()
        if self._runtime is not None:
            self._runtime.end("end_of_stream" if self._signals.goes_on() else "shutdown", fault, _END_S)
