"""The parts of a running service as its settings define them, and how they change when the settings do."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeAlias

from detector.config.loading import Configuration, Key
from detector.config.paths import listening_flag, sensitivity_file
from detector.config.secrets import read_secret
from detector.config.settings import Settings
from detector.errors import ConfigError, DetectorError
from detector.manifest import Sensitivity
from detector.messages import Reason
from detector.pipeline import Detector
from detector.records import ALL_SOURCES
from detector.service.engine import Counters, RecordNumbers, RecordPublisher
from detector.service.outputs import SinkManager, mistakes
from detector.service.source import (
    Mode,
    RunOptions,
    SourceRuntime,
    Tee,
    check_source,
    is_unchanged,
    make_detector,
    source_context,
)
from detector.sinks.base import SavedClip, SensitivityControl, SinkContext, SinkWorker, describe_oserror
from detector.system import LastingChoice, LastingFlag

_log = logging.getLogger(__name__)
_CLIPS_BOUND: Final = 100
_SOURCE_S: Final = 0.3
_MODES: Final[tuple[Mode, ...]] = ("listening", "stuck", "waiting")
"""The mode of the service is the first of these that a source is in."""
Plan: TypeAlias = Sequence[tuple[Settings, Detector]]
"""For each source its own settings and its own detector, in the order of the settings."""


def check_settings(settings: Settings, plan: Plan) -> None:
    """Raise ConfigError for what does not depend on sinks alone: labels, files, the source."""
    for key, text in settings.mistakes([detector.labels for _, detector in plan]):
        raise ConfigError(f"{'.'.join(part for part in key if isinstance(part, str))}: {text}")


def all_mistakes(configuration: Configuration) -> Iterator[str]:
    """Yield a line for all that prevents the service from running with a configuration, by the checks of a run.

    Raises ManifestError for a model that cannot be loaded.
    """
    settings, layers = configuration.settings, configuration.layers
    models = {path: Detector.load(path) for path in dict.fromkeys(alone.model.path for alone in settings.each())}
    plan = [(alone, models[alone.model.path]) for alone in settings.each()]
    context = SinkContext(tuple(source_context(*planned) for planned in plan), None, lambda _: None)
    found = list(settings.mistakes([detector.labels for _, detector in plan]))
    checks: dict[Key, Callable[[], object]] = {}
    for alone, detector in plan:
        key = partial(settings.key_of, alone.audio.source)
        checks[key("audio", "device")] = partial(check_source, alone.audio)
        if not found:
            checks[key("listening", "thresholds")] = partial(detector.at, "balanced", alone.listening.thresholds)
            checks[key("listening", "sensitivity")] = partial(detector.at, alone.listening.sensitivity)
    checks |= {key: partial(read_secret, path) for key, path in settings.secret_files()}
    for place_key, check in checks.items():
        try:
            check()
        except DetectorError as error:
            found.append((place_key, str(error)))
    found += [(key, text) for key, text in mistakes(settings, context) if not any(k[:-1] == key for k, _ in found)]
    for wrong_key, text in found:
        name, place = layers.name(wrong_key), layers.place_of(wrong_key)
        named = text if text.startswith(name.partition("[")[0]) else f"{name}: {text}"
        yield named if place is None else f"{place}: {named}"


@dataclass(slots=True)
class Totals:
    """Counts over all sources of a process, those included that are no longer there."""

    parts: list[Counters] = field(default_factory=list)

    @property
    def frames(self) -> int:
        """Frames that the network has evaluated."""
        return sum(counters.frames for counters in self.parts)

    @property
    def heard_s(self) -> float:
        """Seconds of sound that were processed."""
        return sum(counters.heard_s for counters in self.parts)

    @property
    def sounds(self) -> int:
        """Onsets reported."""
        return sum(counters.sounds for counters in self.parts)


class ServiceRuntime:
    """The sources of a service, and what they share: the sinks, the models, listening and the sensitivity."""

    def __init__(
        self,
        settings: Settings,
        run_options: RunOptions,
        totals: Totals | None = None,
        switch: LastingFlag | None = None,
        choice: LastingChoice[Sensitivity] | None = None,
    ) -> None:
        """Load the models and start the sinks; raises DetectorError for impossible settings.

        ``switch``: is set while listening is switched off, and read before any device is opened; None: not kept.
        ``choice``: holds a sensitivity that a user has chosen in place of the configured one; None: not kept.
        """
        self._switch, self._choice = switch, choice
        self._chosen = None if choice is None else choice.word
        self.settings, self._run_options, self._totals = settings, run_options, totals or Totals()
        self.outputs = SinkManager()
        self._numbers = RecordNumbers()
        self._shared = RecordPublisher(ALL_SOURCES, self.outputs.submit, self._numbers)
        self.sources: tuple[SourceRuntime, ...] = ()
        self.wake = threading.Event()
        """Set where a source has ended or failed."""
        self.wants_listening = switch is None or not switch.is_set
        """Whether listening is switched on; set from threads of sinks, and applied by ``pause`` and ``resume``."""
        self.is_paused = False
        self.is_hung = False
        """Whether a part has not ended in time; the process then has to end without it."""
        self._clips: deque[SavedClip] = deque(maxlen=_CLIPS_BOUND)
        """Clips that have been written and not yet published."""
        plan = self._plan(settings)
        check_settings(settings, plan)
        self.sources = tuple(self._make(alone, detector, is_named=len(plan) > 1) for alone, detector in plan)
        self._tee = Tee(run_options.tee, self.sources[0].detector.sample_rate_hz) if run_options.tee else None
        self.outputs.prepare(settings, self._sink_context(plan))()
        self._connect()

    @property
    def publisher(self) -> RecordPublisher:
        """What publishes records about the whole service: that of the only source, where there is only one."""
        return self.sources[0].publisher if len(self.sources) == 1 else self._shared

    @property
    def paused_detail(self) -> str:
        """What is said while listening is switched off."""
        since = f" since {self._switch.since}" if self._switch is not None and self._switch.is_set else ""
        return f"listening is switched off{since}"

    @property
    def mode(self) -> Mode:
        """What the service does: it listens where any of its sources does."""
        modes = {source.mode for source in self.sources if not source.has_ended}
        return "paused" if self.is_paused else next((mode for mode in _MODES if mode in modes), "listening")

    @property
    def line(self) -> str:
        """The state as a line for users."""
        if self.is_paused:
            return f"paused: {self.paused_detail}"
        lines = {s.name: s.health.line(s.name, s.stats, s.conditions) for s in self.sources}
        if len(lines) == 1:
            return "".join(lines.values())
        return "; ".join(line if line.startswith(name) else f"{name} {line}" for name, line in lines.items())

    @property
    def has_ended(self) -> bool:
        """Whether the sound of all sources has ended."""
        return all(source.has_ended for source in self.sources)

    def listen(self) -> None:
        """Open the sources unless listening is switched off; raises DetectorError where none can be."""
        if not self.wants_listening:
            self.pause()
            return
        for source in self.sources:
            self._open(source)
        self.settle()

    def open_due(self) -> None:
        """Open the sources that are closed and due, such as one that has failed before."""
        now = time.monotonic()
        for source in self.sources:
            is_closed = source.engine is None and source.failure is None and not source.has_ended
            if is_closed and not source.is_paused and now >= source.open_at_s:
                try:
                    source.listen()
                except DetectorError as error:
                    source.fail(error)

    def settle(self) -> None:
        """Go on without sources that have ended, or failed for now; raises the failure where no other one is left."""
        for source in self.sources:
            if source.has_ended and source.engine is not None and not self.has_ended:
                source.release("end_of_stream")
                source.publisher.status("stopping", "the sound has ended")
        has_others = any(s.failure is None and not s.has_ended and s.set_aside_for is None for s in self.sources)
        for source in self.sources:
            why = source.failure or source.set_aside_for
            if why is not None and not has_others:
                raise why
            if source.failure is not None:
                source.set_aside()

    def pause(self) -> None:
        """Stop listening, and release the devices."""
        self.is_paused = True
        for source in self.sources:
            source.pause(self.paused_detail)

    def resume(self) -> None:
        """Listen again, as ``open_due`` opens the sources."""
        self.is_paused = False
        for source in self.sources:
            source.resume()

    def change(self, settings: Settings) -> None:
        """Apply other settings; what they do not change continues, to the sample.

        Raises DetectorError, with everything as it was before, for impossible settings.
        """
        plan = self._plan(settings)
        check_settings(settings, plan)
        take_over = self.outputs.prepare(settings, self._sink_context(plan))
        before = [self._predecessor(alone, len(plan)) for alone, _ in plan]
        for known, planned in zip(before, plan, strict=True):
            if known is not None:
                known.check_change(*planned)
        with ExitStack() as undo:
            sources = self._exchange(plan, before, undo)
            undo.pop_all()
        gone = [source for source in self.sources if source not in sources]
        for source in gone:
            source.end_events("shutdown")
            source.publisher.status("stopping", "the source is no longer in the settings")
        self.settings, self.sources = settings, sources
        for source in sources:
            source.publisher.is_named = len(sources) > 1
            source.announce_sensitivity()
        self._take_over(take_over)

    def _exchange(
        self, plan: Plan, before: Sequence[SourceRuntime | None], undo: ExitStack
    ) -> tuple[SourceRuntime, ...]:
        """Close the sources that go, change those that stay, and open new ones; ``undo`` takes what reverts it."""
        for source in self.sources:
            if source not in before:
                undo.callback(self._open, source)
                source.release("shutdown")
        sources = []
        for known, (alone, detector) in zip(before, plan, strict=True):
            if known is not None:
                earlier = (known.settings, known.detector)
                known.change(alone, detector)
                undo.callback(known.change, *earlier)
                sources.append(known)
        for number, (known, (alone, detector)) in enumerate(zip(before, plan, strict=True)):
            if known is None:
                added = self._make(alone, detector, is_named=len(plan) > 1)
                undo.callback(added.end_events, "shutdown")
                undo.callback(added.close_source)
                sources.insert(number, added)
                if self.is_paused:
                    added.pause(self.paused_detail)
                else:
                    self._open(added)
        return tuple(sources)

    def _take_over(self, take_over: Callable[[], Sequence[SinkWorker]]) -> None:
        """Start new sinks in place of old ones; no source processes sound meanwhile, so that no record is lost."""
        with ExitStack() as held:
            for source in self.sources:
                held.enter_context(source.held())
            new = [w for w in take_over() if w.sink.shows_states]
            for source in self.sources:
                states = source.states(self.paused_detail)
                for worker in new:
                    source.publisher.repeat(worker.submit, states)
            self._connect()

    @property
    def sensitivity(self) -> Sensitivity:
        """The operating point that was chosen, where a model has it, else the configured one."""
        is_there = any(self._chosen in source.detector.manifest.sensitivities for source in self.sources)
        return self._chosen if self._chosen is not None and is_there else self.settings.listening.sensitivity

    @property
    def is_sensitivity_changed(self) -> bool:
        """Whether another operating point has been chosen than the one in force."""
        return any(self._wanted(s.detector, s.settings) != s.detector.sensitivity for s in self.sources)

    def change_sensitivity(self) -> None:
        """Apply the operating point that has been chosen; where that fails, log it and keep the one in force."""
        try:
            self.change(self.settings)
        except DetectorError as error:
            in_force = self.sources[0].detector.sensitivity
            self._chosen = in_force
            _log.warning("the sensitivity stays %s: %s", in_force, error)

    def publish_health(self) -> None:
        """Publish the state of the service, with each of its sources."""
        sinks = self.outputs.stats
        for source in self.sources:
            source.publish_health(sinks)

    def show_state(self) -> None:
        """Show the state of the service where it is asked for."""
        sinks = [sink for sink in self.outputs.sinks if sink.wants_state]
        if sinks:
            counts = self.outputs.stats
            states = tuple(source.state(counts) for source in self.sources)
            for sink in sinks:
                sink.show(states)

    def publish_clips(self) -> None:
        """Publish the clips that have been written since the last call."""
        publishers = {source.name: source.publisher for source in self.sources}
        while self._clips:
            saved = self._clips.popleft()
            publishers.get(saved.source, self.publisher).clip(saved)

    def end(self, reason: Reason, fault: str | None, timeout_s: float) -> None:
        """Close open events, publish the end with its ``fault``, and end all parts within ``timeout_s``."""
        until = time.monotonic() + timeout_s
        for source in self.sources:
            source.end_events(reason)
        self.outputs.finish_makers(timeout_s / 2)
        self.publish_clips()
        detail = f"stopping: {fault}" if fault else "stopping"
        left = [source for source in self.sources if source.engine is not None or not source.has_ended]
        for number, source in enumerate(left):
            source.publisher.is_named = False  # logged once, for all
            source.publisher.status("stopping", detail, level=None if fault or number else logging.INFO)
        closing = [threading.Thread(target=s.close_source, name="source-close", daemon=True) for s in self.sources]
        for thread in closing:
            with contextlib.suppress(RuntimeError):  # the system has no thread left: the source ends with the process
                thread.start()
        left_s = max(0.1, until - time.monotonic())
        if not self.outputs.close(left_s):
            self.is_hung = True
        closed_by = time.monotonic() + _SOURCE_S
        for thread in closing:
            if thread.ident is not None:
                thread.join(max(0.0, closed_by - time.monotonic()))
        has_ended = [source.join() for source in self.sources]
        self.is_hung = self.is_hung or not all(has_ended) or any(thread.is_alive() for thread in closing)
        if self._tee is not None:
            self._tee.close()

    def _make(self, alone: Settings, detector: Detector, *, is_named: bool) -> SourceRuntime:
        publisher = RecordPublisher(alone.audio.source, self.outputs.submit, self._numbers)
        publisher.is_named = is_named
        source = SourceRuntime(alone, detector, self._run_options, publisher, self.wake.set)
        self._totals.parts.append(source.counters)
        return source

    def _open(self, source: SourceRuntime) -> None:
        """Open a source; raises ConfigError for settings that it cannot have, and notes other failures."""
        try:
            source.listen()
        except ConfigError as error:
            raise ConfigError(f"{source.name}: {error}" if source.publisher.is_named else str(error)) from error
        except DetectorError as error:
            source.fail(error)

    def _plan(self, settings: Settings) -> Plan:
        """Return the settings and the detector of each source; all that have the same model file share the model."""
        plan: list[tuple[Settings, Detector]] = []
        each = settings.each()
        for alone in each:
            before = self._predecessor(alone, len(each))
            if before is not None and _is_current(before, alone):
                detector = before.detector
            else:
                known = [*(source.detector for source in self.sources), *(detector for _, detector in plan)]
                detector = make_detector(alone, known)
            wanted = self._wanted(detector, alone)
            is_wanted = wanted == detector.sensitivity
            plan.append((alone, detector if is_wanted else detector.at(wanted, alone.listening.thresholds)))
        return plan

    def _predecessor(self, alone: Settings, count: int) -> SourceRuntime | None:
        """Return the source that goes on with these settings, of ``count`` sources: the only one by any name."""
        if len(self.sources) == count == 1:
            return self.sources[0]
        return next((source for source in self.sources if source.name == alone.audio.source), None)

    def _sink_context(self, plan: Plan) -> SinkContext:
        points = dict.fromkeys(point for _, detector in plan for point in detector.manifest.sensitivities)
        return SinkContext(
            sources=tuple(source_context(*planned) for planned in plan),
            on_listening=self._set_listening,
            on_clip=self._clips.append,
            sensitivity=SensitivityControl(tuple(points), lambda: self.sensitivity, self._choose_sensitivity),
        )

    def _wanted(self, detector: Detector, settings: Settings) -> Sensitivity:
        """Return the operating point for settings: the one that was chosen, where the model has it."""
        is_there = self._chosen in detector.manifest.sensitivities
        return self._chosen if self._chosen is not None and is_there else settings.listening.sensitivity

    def _choose_sensitivity(self, wanted: Sensitivity) -> None:
        """Choose an operating point: kept before it is acknowledged, and applied even where it cannot be kept."""
        chosen = None if wanted == self.settings.listening.sensitivity else wanted
        try:
            if self._choice is not None:
                self._choice.set(chosen)
        except OSError as error:
            what = describe_oserror(sensitivity_file(), error)
            _log.warning("the sensitivity is %s, but not beyond a restart: %s", wanted, what)
        finally:
            self._chosen = chosen

    def _set_listening(self, wanted: bool) -> None:
        """Switch listening on or off: kept before it is acknowledged, and applied even where it cannot be kept."""
        try:
            if self._switch is not None:
                self._switch.set(wanted=not wanted)
        except OSError as error:
            what = describe_oserror(listening_flag(), error)
            _log.warning("listening is switched %s, but not beyond a restart: %s", "on" if wanted else "off", what)
        finally:
            self.wants_listening = wanted

    def _connect(self) -> None:
        """Connect each source with the sinks that receive its sound or its traces."""
        rates_hz = {source.name: source.detector.sample_rate_hz for source in self.sources}
        taps = [sink.taps(rates_hz) for sink in self.outputs.sinks]
        observers = {name: found for sink in self.outputs.sinks for name, found in sink.observers().items()}
        if self._tee is not None:
            taps.append({self.sources[0].name: self._tee})
        for source in self.sources:
            own = [found[source.name] for found in taps if source.name in found]
            source.connect(own, observers.get(source.name))


def _is_current(source: SourceRuntime, after: Settings) -> bool:
    """Return whether a source's detector fits changed settings too: same options, and same content of its file."""
    before = source.settings
    return (before.model, before.listening) == (after.model, after.listening) and is_unchanged(source.detector)
