"""One source of the service: what opens it, and the thread that passes its sound through its own detector."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

import numpy as np

from detector import __version__
from detector.audio.devices import check_selector
from detector.audio.live_source import TURN_S, AudioSource, Mixing, SourceCondition, SourceEvent, SourceStats
from detector.config.paths import STDIN, is_stream
from detector.config.sections import Audio
from detector.config.settings import Settings
from detector.errors import ConfigError, DetectorError, SourceError
from detector.messages import AudioChunk, Observer, Reason
from detector.network import default_model_path
from detector.pipeline import Detector, reported_labels
from detector.records import ActiveCondition, ServiceState, State
from detector.service.clock import clock_is_synced, local_now, rfc3339
from detector.service.engine import NO_SOURCE, Counters, Engine, Health, RecordPublisher
from detector.sinks.base import AudioTap, NodeInfo, SourceContext
from detector.system import replace_file

if TYPE_CHECKING:
    from detector.audio.sources import RawFormat

Mode: TypeAlias = Literal["listening", "waiting", "paused", "stuck"]
"""Stuck: no sound arrives although the device is present."""
_T = TypeVar("_T")
_log = logging.getLogger(__name__)
_LONGEST_GAP_S: Final = 60
_HOPELESS_S: Final = 60.0
_REOPEN_S: Final = 5.0
_PAUSE_S: Final = 0.2
_HELD_S: Final = 5.0
"""How long the main thread waits for the thread of a source; it needs some milliseconds for a block."""
_YIELD_S: Final = 0.001
_END_S: Final = 0.3
_IDLE: Final = frozenset({"waiting", "off_hours"})
"""Conditions in which no sound is processed, as it should be."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of one run beyond the settings."""

    raw: RawFormat | None = None
    """Format of raw samples on standard input; None: mono, 16 bits, at the rate of the settings."""
    wait: bool = True
    """Whether to wait for an absent device."""
    tee: Path | None = None
    """WAV file to record the sound in."""
    files: frozenset[str] = frozenset()
    """Devices that are sound files, which are played in real time."""
    loop: bool = False
    """Whether those files are repeated."""
    is_filter: bool = False
    """Whether to end when standard output is closed by its reader."""


class FaultPolicy:
    """Keeps the service running while a part of it fails with an unexpected error, which is logged once.

    DetectorError passes, since it says what a user has to correct; so does any error of ``vital`` work that has
    failed for a minute without interruption.
    """

    def __init__(self, where: str = "") -> None:
        """Start without a fault; ``where`` begins each message, such as ``kitchen: ``."""
        self._where = where
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
                what = f"{type(error).__name__}: {error}"
                _log.error("%s%s has failed and will be tried again: %s", self._where, part, what)
            elif vital and now - self._failing[part] >= _HOPELESS_S:
                raise
            self._failing.setdefault(part, now)
            return otherwise
        if self._failing.pop(part, None) is not None:
            _log.info("%s%s works again", self._where, part)
        return result


def make_detector(settings: Settings, known: Iterable[Detector] = ()) -> Detector:
    """Return the detector of one source; its model is that of a ``known`` one, where both have the same file.

    Raises ManifestError for a wrong model, ConfigError for impossible thresholds or sensitivity.
    """
    path, thresholds, sensitivity = settings.model.path, settings.listening.thresholds, settings.listening.sensitivity
    for detector in known:
        if detector.path == (path or default_model_path()) and is_unchanged(detector):
            return detector.at(sensitivity, thresholds)
    return Detector.load(path, thresholds, sensitivity)


def is_unchanged(detector: Detector) -> bool:
    """Return whether the file of a detector's model has the content that was loaded."""
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


def source_context(settings: Settings, detector: Detector) -> SourceContext:
    """Return what sinks need to know of a source."""
    return SourceContext(node_info_of(settings, detector), detector)


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
    if Path(audio.device).is_file() and (os.sep in audio.device or _is_sound_name(audio.device)):
        raise ConfigError(f"{audio.device} is a file, not a device; use snn-detect replay")
    check_selector(audio.device)


def _is_sound_name(device: str) -> bool:
    from detector.audio.files import is_sound_name

    return is_sound_name(Path(device))


def open_source(audio: Audio, model_rate_hz: int, run_options: RunOptions) -> AudioSource:
    """Open the source of the settings; a microphone or stream that is absent is waited for.

    Raises ConfigError for impossible settings and where PyAV is missing, DeviceError where PortAudio is, SourceError
    for a named pipe in place of a file.
    """
    if audio.device in run_options.files:
        from detector.audio.sources import FileSource

        if Path(audio.device).is_fifo():  # it could not be repeated, and would block until there is a writer
            raise SourceError(f"{audio.device}: is a pipe, not a file; read it with snn-detect replay")
        return FileSource(
            audio.device,
            model_rate_hz,
            real_time=True,
            loop=run_options.loop,
            mixing=Mixing(audio.channel, track=audio.track),
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
    from detector.audio.devices import Microphone

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


class SourceRuntime:
    """A source with its engine and the thread that takes its sound; the main thread controls it between two events.

    The engine is exchanged where settings change or listening is switched off. A failure ends the thread's work, and
    is left for the main thread, which decides whether the service goes on without this source for now.
    """

    def __init__(
        self,
        settings: Settings,
        detector: Detector,
        run_options: RunOptions,
        publisher: RecordPublisher,
        wake: Callable[[], None],
    ) -> None:
        """Take settings of this source alone; ``wake`` is called when the sound has ended or failed."""
        self._run_options, self.publisher, self._wake = run_options, publisher, wake
        publisher.unlogged = frozenset() if run_options.wait else frozenset({"waiting"})
        self._apply(settings, detector)
        self.publisher.device = settings.audio.name
        self.counters = Counters()
        self.health = Health(self.counters)
        self.health.sensitivity = detector.sensitivity
        self.engine: Engine | None = None
        """None while the source is not open."""
        self.is_paused = False
        self.has_ended = False
        """Whether the sound has ended, of a file or a pipe."""
        self.failure: Exception | None = None
        """Why the source cannot go on; None while it can, or where it is opened again."""
        self.set_aside_for: Exception | None = None
        """The failure for which it is closed, and opened again later."""
        self.open_at_s = 0.0
        """When to open it, by the monotonic clock, where it is not open."""
        self._trouble: SourceCondition | None = None
        self._mismatch: str | None = None
        self._used_device: str | None = None
        self._taps: tuple[AudioTap, ...] = ()
        self._observer: Observer | None = None
        self._faults = FaultPolicy(f"{settings.audio.source}: " if publisher.is_named else "")
        self._events: deque[SourceEvent] = deque()
        self._lock = threading.RLock()
        self._claims = 0
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The source in records."""
        return self.settings.audio.source

    @property
    def stats(self) -> SourceStats:
        """Counts, levels and conditions of the source."""
        engine = self.engine
        return NO_SOURCE if engine is None else engine.source.stats

    @property
    def conditions(self) -> tuple[SourceCondition, ...]:
        """The active conditions of the source."""
        engine = self.engine
        return (*((self._trouble,) if self._trouble else ()), *(engine.conditions if engine is not None else ()))

    @property
    def mode(self) -> Mode:
        """What the source does."""
        if self.is_paused:
            return "paused"
        # A device that delivers nothing, or a sound system that hangs, is not absent: a new process may help.
        if any(c.name in _IDLE for c in self.conditions):
            return "stuck" if self.stats.is_stuck else "waiting"
        return "listening"

    def listen(self) -> None:
        """Open the source, and take its sound in a thread; raises DetectorError where it cannot be opened."""
        self.open_at_s = time.monotonic() + _REOPEN_S
        source = open_source(self.settings.audio, self.detector.sample_rate_hz, self._run_options)
        with self.held():
            self.detector.reset()
            reported_classes = reported(self.settings, self.detector)
            self.engine = Engine(source, self.detector, self.publisher, self.counters, reported_classes)
            self._events.clear()
            self._connect()
            self.failure, self.has_ended = None, False
        if self._trouble is not None:
            over = SourceCondition("waiting", active=False, detail=f"{self.settings.audio.name} is open again")
            self._trouble = self.set_aside_for = None
            self.publisher.condition(over)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"source-{self.name}", daemon=True)
            self._thread.start()

    def connect(self, taps: Iterable[AudioTap], observer: Observer | None) -> None:
        """Give the sound to taps, and the traces to an observer."""
        with self.held():
            self._taps, self._observer = tuple(taps), observer
            self._connect()

    def pause(self, detail: str) -> None:
        """Stop listening, and release the device."""
        with self.held():
            self.is_paused = self.health.is_paused = True
            if self.engine is not None:
                self.engine.pause()
        if self.settings.audio.device != STDIN:  # the writer of the pipe waits
            self.close_source()
        self.publisher.status("listening", detail, active=False)

    def resume(self) -> None:
        """Listen again, or once the source has been opened where it is closed."""
        self.is_paused = self.health.is_paused = False
        self.open_at_s = 0.0

    def check_change(self, settings: Settings, detector: Detector) -> None:
        """Raise ConfigError where the settings cannot change to others in a process that runs."""
        self._is_same_source(settings, detector)

    def change(self, settings: Settings, detector: Detector) -> None:
        """Apply other settings; where the source has to be opened again and cannot be, those before stay."""
        before, is_same = (self.settings, self.detector), self._is_same_source(settings, detector)
        with self.held():
            self._apply(settings, detector)
            if self.engine is None:
                return  # it is opened with the new ones
            if is_same:
                if detector is not before[1]:
                    self.engine.use(detector, reported(settings, detector))
                return
            self.engine.close_events("shutdown")
        self.close_source()
        try:
            self.listen()
        except Exception:
            self._apply(*before)
            self.listen()
            raise

    def announce_sensitivity(self) -> None:
        """Publish the sensitivity where it has changed."""
        if self.detector.sensitivity != self.health.sensitivity:
            self.health.sensitivity = self.detector.sensitivity
            self.publisher.status("sensitivity", f"sensitivity: {self.detector.sensitivity}")

    def fail(self, error: Exception) -> None:
        """Note why the source cannot go on."""
        self.failure = error
        self._wake()

    def set_aside(self) -> None:
        """Publish the failure, close the source, and open it again later."""
        why, self.failure = self.failure, None
        self.set_aside_for = why
        self.open_at_s = time.monotonic() + _HOPELESS_S
        detail = str(why) if isinstance(why, DetectorError) else f"{type(why).__name__}: {why}"
        self.release("gap")
        if self._trouble is None or self._trouble.detail != detail:
            self._trouble = SourceCondition("waiting", active=True, detail=detail)
            self.publisher.condition(self._trouble)

    def end_events(self, reason: Reason) -> None:
        """Let the thread end, and close open events."""
        self._closed.set()
        with contextlib.suppress(SourceError), self.held():
            if self.engine is not None:
                self.engine.close_events(reason)

    def release(self, reason: Reason) -> None:
        """Close open events and the source, which ``listen`` can open again."""
        with self.held():
            if self.engine is not None:
                self.engine.pause(reason)
        self.close_source()

    def close_source(self) -> None:
        """Close the source; its counts stay."""
        with self.held():
            engine, self.engine = self.engine, None
            self._events.clear()
        if engine is not None:
            self.health.retire(engine.source.stats)
            engine.source.close()

    def join(self) -> bool:
        """Wait until the thread has ended, once ``end_events`` was called; return whether it has in time."""
        if self._thread is None:
            return True
        self._thread.join(_END_S)
        return not self._thread.is_alive()

    def check_clock(self) -> None:
        """Publish a status where the wall clock was set since the last call."""
        with self.held():
            if self.engine is not None:
                self.engine.check_clock()

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

    def publish_health(self, sinks: dict[str, dict[str, float]]) -> None:
        """Publish the health of the source and of the service."""
        state = self.health.fields(self.stats, sinks, self.node_info)
        calibrated = None if self.settings.calibration is None else self._mismatch is None
        self.publisher.health(state, calibrated=calibrated, scores=self._scores())

    def state(self, sinks: dict[str, dict[str, float]]) -> ServiceState:
        """Return the state of the source and of the service."""
        stats = self.stats
        return ServiceState(
            source=self.name,
            time=rfc3339(local_now()),
            clock_synced=clock_is_synced(),
            device=self.publisher.device,
            device_rate_hz=stats.device_rate_hz,
            paused=self.is_paused,
            conditions=tuple(ActiveCondition(c.name, c.detail) for c in self.conditions),
            health=self.health.state(stats, sinks, self.node_info),
            scores=self._scores(),
        )

    def states(self, paused_detail: str) -> list[tuple[State, bool, str]]:
        """Return the present states as status records: name, whether active, detail."""
        found: list[tuple[State, bool, str]] = []
        if self.is_paused:
            found.append(("listening", False, paused_detail))
        else:
            found += [(c.name, True, c.detail) for c in self.conditions]
            if self.engine is not None and self.engine.has_audio:
                found.append(("listening", True, "listening"))
        if self._mismatch:
            found.append(("calibration", True, self._mismatch))
        return found

    def _apply(self, settings: Settings, detector: Detector) -> None:
        self.settings, self.detector = settings, detector
        self.node_info = node_info_of(settings, detector)
        self.publisher.source = settings.audio.source

    def _is_same_source(self, settings: Settings, detector: Detector) -> bool:
        is_same_rate = detector.sample_rate_hz == self.detector.sample_rate_hz
        if is_same_pipe(self.settings.audio, settings.audio):
            if not is_same_rate:
                raise ConfigError("model.path: this model has another sample rate; restart to change to it")
            return True
        return is_same_rate and settings.audio == self.settings.audio

    def _scores(self) -> dict[str, float] | None:
        """Return the scores of the last frame where the metrics show them."""
        metrics = self.settings.metrics
        return self.engine.scores if self.engine is not None and metrics is not None and metrics.scores else None

    def _connect(self) -> None:
        if self.engine is not None:
            self.engine.taps, self.engine.observer = self._taps, self._observer

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the thread between two events; raises SourceError where it does not come to the end of one."""
        self._claims += 1
        try:
            if not self._lock.acquire(timeout=_HELD_S):
                raise SourceError(f"{self.name}: the detection hangs")
        finally:
            self._claims -= 1
        try:
            yield
        finally:
            self._lock.release()

    # What follows is called in the thread of the source.

    def _run(self) -> None:
        while not self._closed.is_set():
            engine = self.engine
            if engine is None or self.is_paused or self.has_ended or self.failure is not None:
                self._closed.wait(TURN_S)
                continue
            try:
                self._turn(engine)
            except Exception as error:  # noqa: BLE001 - left for the main thread
                with self._lock:
                    if engine is self.engine:
                        self.fail(error)

    def _turn(self, engine: Engine) -> None:
        """Take what has arrived, and process it; where that fails unexpectedly, the detector starts again behind it."""
        if not self._events:
            take = self._faults.attempt("the sound source", lambda: (engine.source.take(TURN_S),), None, vital=True)
            if take is None:
                self._closed.wait(_PAUSE_S)
                return
            with self._lock:
                if engine is not self.engine:
                    return  # it has been closed meanwhile
                if take[0] is None:
                    self.has_ended = True
                    self._wake()
                    return
                self._events.extend(take[0])
        while self._events and not self._closed.is_set():
            while self._claims:
                time.sleep(_YIELD_S)  # the lock goes to the main thread first
            with self._lock:
                if engine is not self.engine or self.is_paused:
                    return
                self._process(engine, self._events.popleft())

    def _process(self, engine: Engine, event: SourceEvent) -> None:
        def process() -> bool:
            engine.handle(event)
            return True

        if not self._faults.attempt("detection", process, otherwise=False, vital=True):
            self._faults.attempt("the detector's restart", engine.recover, None)
