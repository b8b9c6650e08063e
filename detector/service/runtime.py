"""The parts of a running service as its settings define them, and how they change when the settings do."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import numpy as np

from detector import __version__
from detector.audio.devices import check_selector
from detector.audio.live_source import AudioSource, Mixing, SourceEvent, SourceStats
from detector.config.loading import Configuration, Key
from detector.config.paths import STDIN, is_stream, listening_flag, sensitivity_file
from detector.config.secrets import read_secret
from detector.config.sections import Audio
from detector.config.settings import Settings
from detector.errors import ConfigError, DetectorError, SourceError
from detector.manifest import Sensitivity
from detector.messages import AudioChunk, Reason, Trace
from detector.pipeline import Detector, reported_labels
from detector.records import ActiveCondition, ServiceState, State
from detector.service.clock import clock_is_synced, local_now, rfc3339
from detector.service.engine import AudioTap, Counters, Engine, RecordPublisher
from detector.service.health import NO_SOURCE, Health
from detector.service.outputs import SinkManager, mistakes
from detector.sinks.base import NodeInfo, SavedClip, SensitivityControl, SinkContext, describe_oserror
from detector.system import LastingChoice, LastingFlag, replace_file

if TYPE_CHECKING:
    from detector.audio.sources import RawFormat

_log = logging.getLogger(__name__)
_LONGEST_GAP_S: Final = 60
_CLIPS_BOUND: Final = 100
_SOURCE_S: Final = 0.3
"""Sinks that show states, and need those that began before them."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of one run beyond the settings."""

    raw: RawFormat | None = None
    """Format of raw samples on standard input; None: mono, 16 bits, at the rate of the settings."""
    wait: bool = True
    """Whether to wait for an absent device."""
    tee: Path | None = None
    """WAV file to record the sound in."""
    plays_file: bool = False
    """Whether the device is a sound file, which is played in real time."""
    loop: bool = False
    """Whether that file is repeated."""
    is_filter: bool = False
    """Whether to end when standard output is closed by its reader."""


def make_detector(settings: Settings) -> Detector:
    """Load the model; raises ManifestError for a wrong one, ConfigError for impossible thresholds or sensitivity."""
    return Detector.load(settings.model.path, settings.listening.thresholds, settings.listening.sensitivity)


def check_settings(settings: Settings, detector: Detector) -> None:
    """Raise ConfigError for what does not depend on sinks alone: labels, files, the source."""
    for key, text in settings.mistakes(detector.labels):
        raise ConfigError(f"{'.'.join(part for part in key if isinstance(part, str))}: {text}")


def all_mistakes(configuration: Configuration) -> Iterator[str]:
    """Yield a line for all that prevents the service from running with a configuration, by the checks of a run.

    Raises ManifestError for a model that cannot be loaded.
    """
    settings, layers = configuration.settings, configuration.layers
    detector = Detector.load(settings.model.path)
    context = SinkContext(node_info_of(settings, detector), detector.sample_rate_hz, None, lambda _: None, detector)
    found = list(settings.mistakes(detector.labels))
    checks: dict[Key, Callable[[], object]] = {("audio", "device"): lambda: check_source(settings.audio)}
    if not found:
        thresholds, sensitivity = settings.listening.thresholds, settings.listening.sensitivity
        checks["listening", "thresholds"] = lambda: detector.at("balanced", thresholds)
        checks["listening", "sensitivity"] = lambda: detector.at(sensitivity)
    checks |= {key: partial(read_secret, path) for key, path in settings.secret_files()}
    for key, check in checks.items():
        try:
            check()
        except DetectorError as error:
            found.append((key, str(error)))
    found += [(key, text) for key, text in mistakes(settings, context) if not any(k[:-1] == key for k, _ in found)]
    for key, text in found:
        name, place = layers.name(key), layers.place_of(key)
        named = text if text.startswith(name.partition("[")[0]) else f"{name}: {text}"
        yield named if place is None else f"{place}: {named}"


def is_current(detector: Detector, before: Settings, after: Settings) -> bool:
    """Return whether a detector fits changed settings too: with the same options and the same content of its file."""
    if (before.model, before.listening) != (after.model, after.listening):
        return False
    try:
        return hashlib.sha256(detector.path.read_bytes()).hexdigest() == detector.sha256
    except OSError:
        return False


def reported(settings: Settings, detector: Detector) -> tuple[str, ...]:
    """Return the labels that are reported; raises ConfigError where there are none.

    Labels that are not known are left to ``Settings.mistakes``, which names all of them.
    """
    only = [label for label in settings.listening.only if label in detector.labels]
    return reported_labels(detector.manifest, only, all_classes=settings.listening.all_classes)


def node_info_of(settings: Settings, detector: Detector) -> NodeInfo:
    """Return the names of the node, the source and the model, with the classes that are reported."""
    only = reported(settings, detector)
    manifest = detector.manifest
    return NodeInfo(
        node=settings.node,
        source=settings.audio.source,
        device=settings.audio.name,
        classes=tuple((c.label, c.category) for c in manifest.classes if c.label in only),
        model=f"{manifest.name}-{manifest.version}",
        model_sha256=detector.sha256,
        version=__version__,
    )


def check_source(audio: Audio, raw_channels: int = 1) -> None:
    """Raise ConfigError for what can be no live source, whether or not its device is there."""
    if audio.device == STDIN:
        if (Mixing(audio.channel).column or 0) >= raw_channels:
            has = f"they have {raw_channels}"
            raise ConfigError(f"raw samples: channel {audio.channel} is not there, {has}; check --channels")
        return
    if is_stream(audio.device):
        from detector.audio.network_stream import check_stream

        check_stream(audio)
        return
    if os.sep in audio.device and Path(audio.device).is_file():
        raise ConfigError(f"{audio.device} is a file, not a device; use snn-detect replay")
    check_selector(audio.device)


def open_source(audio: Audio, model_rate_hz: int, run_options: RunOptions) -> AudioSource:
    """Open the source of the settings; a microphone or stream that is absent is waited for.

    Raises ConfigError for impossible settings and where PyAV is missing, DeviceError where PortAudio is, SourceError
    for a named pipe in place of a file.
    """
    if run_options.plays_file:
        from detector.audio.sources import FileSource

        if Path(audio.device).is_fifo():  # it could not be repeated, and would block until there is a writer
            raise SourceError(f"{audio.device}: is a pipe, not a file; read it with snn-detect replay")
        return FileSource(
            audio.device, model_rate_hz, real_time=True, loop=run_options.loop, mixing=Mixing(audio.channel)
        )
    check_source(audio, run_options.raw.channels if run_options.raw else 1)
    if audio.device == STDIN:
        if os.isatty(0):
            raise ConfigError("standard input is a terminal; pipe raw samples into it, or name another device")
        from detector.audio.sources import PcmSource, RawFormat

        raw = run_options.raw or RawFormat(audio.rate_hz or model_rate_hz)
        return PcmSource(0, raw, model_rate_hz, Mixing(audio.channel))
    if is_stream(audio.device):
        from detector.audio.network_stream import NetworkStream

        return NetworkStream(audio, model_rate_hz)
    from detector.audio.microphone import Microphone

    return Microphone(audio, model_rate_hz)


def is_same_pipe(before: Audio, after: Audio) -> bool:
    """Return whether both read standard input, which cannot be opened again.

    Raises ConfigError where its rate or channel changes.
    """
    if not before.device == after.device == STDIN:
        return False
    if before.rate_hz != after.rate_hz:
        raise ConfigError("audio.rate_hz: raw samples on standard input cannot change their rate; restart to change it")
    if before.channel != after.channel:
        raise ConfigError("audio.channel: that of raw samples on standard input changes with a restart")
    return True


@runtime_checkable
class LiveViewer(Protocol):
    """A sink that also observes the detector."""

    @property
    def wants_layers(self) -> bool:
        """Whether the layers are shown now."""

    def on_trace(self, trace: Trace) -> None:
        """Process the trace of a chunk, without blocking."""


class Tee:
    """Writes chunks to a WAV file of floats, for which ``snn-detect replay`` gives the same events.

    Lost sound becomes silence in the file, a minute at most for each gap. A file that is there already is replaced
    at the end, by the complete new one.
    """

    def __init__(self, path: Path, rate_hz: int) -> None:
        """Create the file; raises ConfigError where it cannot be written."""
        import soundfile

        self._errors = (OSError, soundfile.LibsndfileError)
        self._path, self._rate_hz = path, rate_hz
        self._next = 0
        self._replacement = ExitStack()
        part = self._replacement.enter_context(replace_file(path)) if path.exists() else path
        try:
            self._file: soundfile.SoundFile | None = soundfile.SoundFile(
                part, "w", rate_hz, 1, format="WAV", subtype="FLOAT"
            )
        except self._errors as error:
            raise ConfigError(f"--tee {path}: cannot be written ({error}); name another file") from error

    def on_chunk(self, chunk: AudioChunk) -> None:
        """Append a chunk; where that fails, log it and close the file."""
        if self._file is None:
            return
        lost = min(max(0, chunk.first_sample - self._next), _LONGEST_GAP_S * self._rate_hz)
        self._next = chunk.first_sample + len(chunk.samples)
        try:
            if lost:
                self._file.write(np.zeros(lost, np.float32))
            self._file.write(chunk.samples)
        except self._errors as error:
            _log.warning("--tee %s: writing has failed: %s", self._path, error)
            self.close()

    def close(self) -> None:
        """Complete the file."""
        file, self._file = self._file, None
        if file is None:
            return
        try:
            file.close()
            self._replacement.close()
        except self._errors as error:
            _log.warning("--tee %s: the file is not complete: %s", self._path, error)


class ServiceRuntime:
    """The source with its engine, the publisher, and the sinks; drained as an audio source is.

    The source is exchanged where settings change or listening is switched off, while the loop continues.
    """

    def __init__(
        self,
        settings: Settings,
        run_options: RunOptions,
        counters: Counters,
        switch: LastingFlag | None = None,
        choice: LastingChoice[Sensitivity] | None = None,
    ) -> None:
        """Load the model and start the sinks; raises DetectorError for impossible settings.

        ``switch``: is set while listening is switched off, and read before any device is opened; None: not kept.
        ``choice``: holds a sensitivity that a user has chosen in place of the configured one; None: not kept.
        """
        self._switch, self._choice = switch, choice
        self._chosen = None if choice is None else choice.word
        self.settings, self._run_options, self._counters = settings, run_options, counters
        self.health = Health(counters)
        self.outputs = SinkManager()
        self.publisher = RecordPublisher(settings.audio.source, self.outputs.submit)
        self.publisher.device = settings.audio.name
        self.publisher.unlogged = frozenset() if run_options.wait else frozenset({"waiting"})
        self.engine: Engine | None = None
        """None while there is no source."""
        self.wants_listening = switch is None or not switch.is_set
        """Whether listening is switched on; set from threads of sinks, and applied by ``pause`` and ``resume``."""
        self.is_paused = False
        self.is_hung = False
        """Whether a part has not ended in time; the process then has to end without it."""
        self._clips: deque[SavedClip] = deque(maxlen=_CLIPS_BOUND)
        """Clips that have been written and not yet published."""
        self._mismatch: str | None = None
        self._used_device: str | None = None
        self._detector = self._at_choice(make_detector(settings), settings)
        self.health.sensitivity = self._detector.sensitivity
        check_settings(settings, self._detector)
        self.node_info = node_info_of(settings, self._detector)
        self._tee = Tee(run_options.tee, self._detector.sample_rate_hz) if run_options.tee else None
        self.outputs.prepare(settings, self._sink_context(settings, self._detector))()

    @property
    def stats(self) -> SourceStats:
        """Counts, levels and conditions of the source."""
        return NO_SOURCE if self.engine is None else self.engine.source.stats

    @property
    def paused_detail(self) -> str:
        """What is said while listening is switched off."""
        since = f" since {self._switch.since}" if self._switch is not None and self._switch.is_set else ""
        return f"listening is switched off{since}"

    @property
    def rate_hz(self) -> int:
        """The model's rate."""
        return self._detector.sample_rate_hz

    def listen(self) -> None:
        """Open the source unless listening is switched off; raises DetectorError where it cannot be."""
        if self.wants_listening:
            self._listen(self.settings, self._detector)
        else:
            self.pause()

    def take(self, timeout_s: float) -> Sequence[SourceEvent] | None:
        """Return the events of the present source, none while there is no source; see ``AudioSource.take``."""
        if self.engine is None or self.is_paused:
            time.sleep(timeout_s)
            return ()
        return self.engine.source.take(timeout_s)

    def handle(self, event: SourceEvent) -> None:
        """Process an event of the source."""
        if self.engine is not None:
            self.engine.handle(event)

    def recover(self) -> None:
        """Start the detector again, after an event that could not be processed."""
        if self.engine is not None:
            self.engine.recover()

    def pause(self) -> None:
        """Stop listening, and release the device."""
        self.is_paused = self.health.is_paused = True
        if self.engine is not None:
            self.engine.pause()
        if self.settings.audio.device != STDIN:  # the writer of the pipe waits
            self._close_source()
        self.publisher.status("listening", self.paused_detail, active=False)

    def resume(self) -> None:
        """Listen again; raises DetectorError where the source cannot be opened."""
        self.is_paused = self.health.is_paused = False
        if self.engine is None:
            self.listen()

    def change(self, settings: Settings) -> None:
        """Apply other settings; what they do not change continues.

        Raises DetectorError, with everything as it was before, for impossible settings.
        """
        before = self.settings
        detector = self._detector if is_current(self._detector, before, settings) else make_detector(settings)
        detector = self._at_choice(detector, settings)
        check_settings(settings, detector)
        take_over = self.outputs.prepare(settings, self._sink_context(settings, detector))
        self._change_source(settings, detector)
        self.settings, self._detector = settings, detector
        if detector.sensitivity != self.health.sensitivity:
            self.health.sensitivity = detector.sensitivity
            self.publisher.status("sensitivity", f"sensitivity: {detector.sensitivity}")
        self.node_info = node_info_of(settings, detector)
        self.publisher.source = settings.audio.source
        states = self._states()
        for worker in take_over():
            if worker.sink.shows_states:
                self.publisher.repeat(worker.submit, states)
        self._connect()

    @property
    def sensitivity(self) -> Sensitivity:
        """The operating point in force, or the one that has been chosen and is about to be."""
        return self._wanted(self._detector, self.settings)

    @property
    def is_sensitivity_changed(self) -> bool:
        """Whether another operating point has been chosen than the one in force."""
        return self.sensitivity != self._detector.sensitivity

    def change_sensitivity(self) -> None:
        """Apply the operating point that has been chosen; where that fails, log it and keep the one in force."""
        try:
            self.change(self.settings)
        except DetectorError as error:
            self._chosen = self._detector.sensitivity
            _log.warning("the sensitivity stays %s: %s", self._detector.sensitivity, error)

    def publish_health(self) -> None:
        """Publish the state of the service."""
        state = self.health.fields(self.stats, self.outputs.stats, self.node_info)
        calibrated = None if self.settings.calibration is None else self._mismatch is None
        self.publisher.health(state, calibrated=calibrated, scores=self._scores())

    def show_state(self) -> None:
        """Show the state of the service where it is asked for."""
        sinks = [sink for sink in self.outputs.sinks if sink.wants_state]
        if sinks:
            state = self._state()
            for sink in sinks:
                sink.show(state)

    def publish_clips(self) -> None:
        """Publish the clips that have been written since the last call."""
        while self._clips:
            self.publisher.clip(self._clips.popleft())

    def end(self, reason: Reason, fault: str | None, timeout_s: float) -> None:
        """Close open events, publish the end with its ``fault``, and end all parts within ``timeout_s``."""
        until = time.monotonic() + timeout_s
        if self.engine is not None:
            self.engine.close_events(reason)
        self.outputs.finish_makers(timeout_s / 2)
        self.publish_clips()
        detail = f"stopping: {fault}" if fault else "stopping"
        self.publisher.status("stopping", detail, level=None if fault else logging.INFO)
        closing = threading.Thread(target=self._close_source, name="source-close", daemon=True)
        with contextlib.suppress(RuntimeError):  # the system has no thread left: the source ends with the process
            closing.start()
        left_s = max(0.1, until - time.monotonic())
        if not self.outputs.close(left_s):
            self.is_hung = True
        if closing.ident is not None:
            closing.join(_SOURCE_S)
        self.is_hung = self.is_hung or closing.is_alive()
        if self._tee is not None:
            self._tee.close()

    def _state(self) -> ServiceState:
        conditions = self.engine.conditions if self.engine is not None else ()
        stats = self.stats
        return ServiceState(
            time=rfc3339(local_now()),
            clock_synced=clock_is_synced(),
            device=self.publisher.device,
            device_rate_hz=stats.device_rate_hz,
            paused=self.is_paused,
            conditions=tuple(ActiveCondition(c.name, c.detail) for c in conditions),
            health=self.health.state(stats, self.outputs.stats, self.node_info),
            scores=self._scores(),
        )

    def _scores(self) -> dict[str, float] | None:
        """Return the scores of the last frame where the metrics show them."""
        metrics = self.settings.metrics
        return self.engine.scores if self.engine is not None and metrics is not None and metrics.scores else None

    def check_calibration(self) -> None:
        """Publish a status where the thresholds begin or cease to be those of another device or model."""
        calibration, found = self.settings.calibration, None
        if self.engine is not None and self.engine.has_audio:
            self._used_device = self.publisher.device
        if calibration is not None:
            found = calibration.mismatch(self._used_device, self.node_info.model, self.node_info.model_sha256)
        if found == self._mismatch:
            return
        self._mismatch = found
        level = logging.WARNING if found else logging.INFO
        detail = found or "the thresholds fit the device and the model again"
        self.publisher.status("calibration", detail, active=found is not None, level=level)

    def _sink_context(self, settings: Settings, detector: Detector) -> SinkContext:
        return SinkContext(
            node_info=node_info_of(settings, detector),
            rate_hz=detector.sample_rate_hz,
            on_listening=self._set_listening,
            on_clip=self._clips.append,
            detector=detector,
            sensitivity=SensitivityControl(
                detector.manifest.sensitivities, lambda: self.sensitivity, self._choose_sensitivity
            ),
        )

    def _wanted(self, detector: Detector, settings: Settings) -> Sensitivity:
        """Return the operating point for settings: the one that was chosen, where the model has it."""
        is_there = self._chosen in detector.manifest.sensitivities
        return self._chosen if self._chosen is not None and is_there else settings.listening.sensitivity

    def _at_choice(self, detector: Detector, settings: Settings) -> Detector:
        """Return the detector at the operating point that is wanted."""
        wanted = self._wanted(detector, settings)
        return detector if wanted == detector.sensitivity else detector.at(wanted, settings.listening.thresholds)

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

    def _change_source(self, settings: Settings, detector: Detector) -> None:
        """Change the source or the detector where the settings do; on an error, return to those before."""
        is_same = self._is_same_source(settings, detector)
        if self.engine is None:
            return  # ``resume`` uses the new settings
        if is_same:
            if detector is not self._detector:
                self.engine.use(detector, reported(settings, detector))
            return
        self.engine.close_events("shutdown")
        self._close_source()
        try:
            self._listen(settings, detector)
        except Exception:
            self._listen(self.settings, self._detector)
            raise

    def _is_same_source(self, settings: Settings, detector: Detector) -> bool:
        is_same_rate = detector.sample_rate_hz == self._detector.sample_rate_hz
        if is_same_pipe(self.settings.audio, settings.audio):
            if not is_same_rate:
                raise ConfigError("model.path: this model has another sample rate; restart to change to it")
            return True
        return is_same_rate and settings.audio == self.settings.audio

    def _listen(self, settings: Settings, detector: Detector) -> None:
        source = open_source(settings.audio, detector.sample_rate_hz, self._run_options)
        detector.reset()
        self.publisher.source = settings.audio.source
        self.engine = Engine(source, detector, self.publisher, self._counters, reported(settings, detector))
        self._connect()

    def _connect(self) -> None:
        """Connect the sinks that receive sound or traces."""
        if self.engine is not None:
            viewer = next((sink for sink in self.outputs.sinks if isinstance(sink, LiveViewer)), None)
            taps: list[AudioTap] = [sink for sink in self.outputs.sinks if isinstance(sink, AudioTap)]
            self.engine.taps = (*taps, *([self._tee] if self._tee else []))
            self.engine.observer = viewer

    def _close_source(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            self.health.retire(engine.source.stats)
            engine.source.close()

    def _states(self) -> list[tuple[State, bool, str]]:
        """Return the present states as status records: name, whether active, detail."""
        found: list[tuple[State, bool, str]] = []
        if self.is_paused:
            found.append(("listening", False, self.paused_detail))
        elif self.engine is not None:
            found += [(c.name, True, c.detail) for c in self.engine.conditions]
            if self.engine.has_audio:
                found.append(("listening", True, "listening"))
        if self._mismatch:
            found.append(("calibration", True, self._mismatch))
        return found
