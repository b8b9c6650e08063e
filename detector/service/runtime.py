"""All parts of a running service as the settings in force want them, and their change into what others want.

What the settings make of the service: its model, its source, and what it is called.

Somebody who shows people what the detector does, while they look.

The sound as the detector hears it, kept in a file: to replay it, and to send it along with a complaint.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import soundfile

from detector import __version__
from detector.audio.live_source import LiveSource, SourceStats
from detector.audio.sources import PcmStream, PlayedFile, RawFormat
from detector.config.sections import Audio
from detector.config.settings import Settings
from detector.errors import ConfigError, DetectorError
from detector.messages import AudioChunk, Reason, Trace
from detector.pipeline import Detector
from detector.records import State
from detector.service.clock import clock_is_synced, local_now, rfc3339
from detector.service.engine import AudioTap, Counters, Engine, RecordPublisher
from detector.service.health import NO_SOURCE, Health
from detector.service.outputs import SinkManager
from detector.service.signals import Requests
from detector.sinks.base import NodeInfo
from detector.sinks.section import SinkContext

STDIN: Final = "-"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What one run is asked for beyond the settings."""

    raw: RawFormat | None = None
    """How raw samples on standard input are written; None: mono, 16 bits, at the rate of the settings."""
    wait: bool = True
    """Whether to wait for a device that is not there."""
    tee: Path | None = None
    """File to keep the sound in as it is heard."""
    plays_file: bool = False
    """Whether the device is a sound file, which is heard at its own pace."""
    loop: bool = False
    """Whether that file begins anew at its end."""
    is_filter: bool = False
    """Whether to end when nobody reads standard output any more."""


def make_detector(settings: Settings) -> Detector:
    """Load the model; raises ManifestError for a wrong one, ConfigError for labels or thresholds it cannot have."""
    listening = settings.listening
    detector = Detector.load(settings.model.path, listening.thresholds)
    for label in listening.only:
        if label not in detector.labels:
            raise ConfigError(f"only: unknown label {label!r}; the model knows {', '.join(detector.labels)}")
    return detector


def is_current(detector: Detector, before: Settings, after: Settings) -> bool:
    """Tell whether a detector made of settings before would be made again of those after; its file may have changed."""
    if (before.model, before.listening) != (after.model, after.listening):
        return False
    try:
        return hashlib.sha256(detector.path.read_bytes()).hexdigest() == detector.sha256
    except OSError:
        return False


def make_station(settings: Settings, detector: Detector) -> NodeInfo:
    """Return who is listening, to what, with which model."""
    only = settings.listening.only or detector.labels
    manifest = detector.manifest
    return NodeInfo(
        node=settings.node,
        source=settings.audio.source,
        device=settings.audio.device,
        classes=tuple((c.label, c.category) for c in manifest.classes if c.label in only),
        model=f"{manifest.name}-{manifest.version}",
        model_sha256=detector.sha256,
        version=__version__,
    )


def open_source(audio: Audio, model_rate_hz: int, run_options: RunOptions) -> LiveSource:
    """Begin to listen; a device that is absent is waited for.

    Raises ConfigError for settings that cannot be, DeviceError where PortAudio is missing, SourceError for a file
    that is missing or no sound.
    """
    if run_options.plays_file:
        return PlayedFile(audio.device, model_rate_hz, loop=run_options.loop)
    if audio.device == STDIN:
        if os.isatty(0):
            raise ConfigError("standard input is a terminal; pipe raw samples into it, or name another device")
        if audio.channel != "mean":
            raise ConfigError("audio.channel: of raw sound on standard input, the mean of its channels is heard")
        raw = run_options.raw or RawFormat(audio.rate_hz or model_rate_hz)
        return PcmStream(0, raw, model_rate_hz)
    if os.sep in audio.device and Path(audio.device).is_file():
        raise ConfigError(f"{audio.device} is a file, not a device; hear it with snn-detect replay")
    from detector.audio.microphone import Microphone

    return Microphone(audio, model_rate_hz)


def is_same_pipe(before: Audio, after: Audio) -> bool:
    """Tell whether both hear standard input, which cannot be begun anew in its middle.

    Raises ConfigError where it would have to be.
    """
    if not before.device == after.device == STDIN:
        return False
    if before.rate_hz != after.rate_hz:
        raise ConfigError("audio.rate_hz: raw sound on standard input cannot change its rate; restart to change it")
    return True


@runtime_checkable
class LiveViewer(Protocol):
    """A sink that is also an observer of the detector, and may ask how the service is."""

    @property
    def wants_layers(self) -> bool:
        """Whether anybody looks at the layers now."""

    def on_trace(self, trace: Trace) -> None:
        """Take what a chunk brought about, without waiting."""

    @property
    def wants_state(self) -> bool:
        """Whether anybody has asked how the service is since it was shown last."""

    def show(self, state: Mapping[str, Any]) -> None:
        """Take how the service is, without waiting."""


_log = logging.getLogger(__name__)
_LONGEST_GAP_S: Final = 60


class Tee:
    """Writes chunks to a WAV file of floats, which ``snn-detect replay`` hears just as they were heard.

    Sound that was lost is silence in the file, a minute of it at most.
    """

    def __init__(self, path: Path, rate_hz: int) -> None:
        """Begin the file; raises ConfigError where it cannot be written."""
        self._path, self._rate_hz = path, rate_hz
        self._next = 0
        try:
            self._file: soundfile.SoundFile | None = soundfile.SoundFile(
                path, "w", rate_hz, 1, format="WAV", subtype="FLOAT"
            )
        except (OSError, soundfile.LibsndfileError) as error:
            raise ConfigError(f"--tee {path}: cannot be written ({error}); name another file") from error

    def on_chunk(self, chunk: AudioChunk) -> None:
        """Append a chunk; where that fails, say so and write no more."""
        if self._file is None:
            return
        lost = min(max(0, chunk.first_sample - self._next), _LONGEST_GAP_S * self._rate_hz)
        self._next = chunk.first_sample + len(chunk.samples)
        try:
            if lost:
                self._file.write(np.zeros(lost, np.float32))
            self._file.write(chunk.samples)
        except (OSError, soundfile.LibsndfileError) as error:
            _log.warning("--tee %s: cannot be written any more: %s", self._path, error)
            self.close()

    def close(self) -> None:
        """Complete the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


_SOURCE_S: Final = 0.3
_STATEFUL: Final = ("mqtt", "metrics")
"""Sinks that show states, and so have to be told of those that began before them."""


class ServiceRuntime:
    """The source with its engine, the sinks, and what makes records for them."""

    def __init__(self, settings: Settings, run_options: RunOptions, requests: Requests, counters: Counters) -> None:
        """Load the model and start the sinks; raises DetectorError for settings that cannot be."""
        self.settings, self._run_options, self._requests, self._counters = settings, run_options, requests, counters
        self.health = Health(counters)
        self.outputs = SinkManager()
        self.publisher = RecordPublisher(settings.audio.source, self.outputs.submit)
        self.publisher.device = settings.audio.device
        self.publisher.unlogged = frozenset() if run_options.wait else frozenset({"waiting"})
        self.engine: Engine | None = None
        """None while there is no source."""
        self._viewer: LiveViewer | None = None
        self.is_paused = False
        self.is_hung = False
        """Whether a part did not end when it was asked to; the process then has to end without it."""
        self._mismatch: str | None = None
        self._heard_device: str | None = None
        self._detector = make_detector(settings)
        self.node_info = make_station(settings, self._detector)
        self._tee = Tee(run_options.tee, self._detector.sample_rate_hz) if run_options.tee else None
        self.outputs.prepare(settings, self._sink_context(settings, self._detector))()

    @property
    def stats(self) -> SourceStats:
        """How the source is."""
        return NO_SOURCE if self.engine is None else self.engine.source.stats

    @property
    def rate_hz(self) -> int:
        """The model's rate."""
        return self._detector.sample_rate_hz

    def listen(self) -> None:
        """Open the source; raises DetectorError where it cannot be."""
        self._listen(self.settings, self._detector)

    def turn(self, timeout_s: float) -> bool:
        """Work off what has arrived, waiting for it at most that long; False behind the end of the sound."""
        if self.engine is None or self.is_paused:
            time.sleep(timeout_s)
            return True
        goes_on = self.engine.turn(timeout_s)
        self._compare_calibration()
        return goes_on

    def pause(self) -> None:
        """Listen no more, and leave the device to others."""
        self.is_paused = True
        if self.engine is not None:
            self.engine.pause()
        if self.settings.audio.device != STDIN:  # whoever writes there waits
            self._close_source()
        self.publisher.status("listening", "listening is switched off", active=False)

    def resume(self) -> None:
        """Listen again; raises DetectorError where the source cannot be opened."""
        self.is_paused = False
        if self.engine is None:
            self.listen()

    def change(self, settings: Settings) -> None:
        """Take over other settings, building anew only what they change.

        Raises DetectorError, with all as it was before, for settings that cannot be.
        """
        before = self.settings
        detector = self._detector if is_current(self._detector, before, settings) else make_detector(settings)
        take_over = self.outputs.prepare(settings, self._sink_context(settings, detector))
        self._change_source(settings, detector)
        self.settings, self._detector = settings, detector
        self.node_info = make_station(settings, detector)
        self.publisher.source = settings.audio.source
        states = self._states()
        for worker in take_over():
            if worker.name.startswith(_STATEFUL):
                self.publisher.repeat(worker.submit, states)
        self._connect()

    def publish_health(self) -> None:
        """Publish how the service is."""
        state = self.health.fields(self.stats, self.outputs.stats, self.node_info)
        calibrated = None if self.settings.calibration is None else self._mismatch is None
        metrics = self.settings.metrics
        wants_scores = metrics is not None and metrics.scores and self.engine is not None
        scores = self.engine.scores if wants_scores and self.engine is not None else None
        self.publisher.health(state, calibrated=calibrated, scores=scores)

    def show_state(self) -> None:
        """Show how the service is to those who ask for it now."""
        if self._viewer is not None and self._viewer.wants_state:
            self._viewer.show(self._state())

    def publish_clips(self) -> None:
        """Publish the clips that have been written since the last call."""
        clips = self._requests.clips
        while clips:
            self.publisher.clip(clips.popleft())

    def end(self, reason: Reason, fault: str | None, timeout_s: float) -> None:
        """Close open events, tell that this is the end and of what went wrong, and end all parts within a time."""
        until = time.monotonic() + timeout_s
        if self.engine is not None:
            self.engine.close_events(reason)
        self.outputs.finish("clips", timeout_s / 2)
        self.publish_clips()
        detail = f"stopping: {fault}" if fault else "stopping"
        self.publisher.status("stopping", detail, level=None if fault else logging.INFO)
        closing = threading.Thread(target=self._close_source, name="source-close", daemon=True)
        closing.start()
        left_s = max(0.1, until - time.monotonic())
        if not self.outputs.close(left_s):
            self.is_hung = True
        closing.join(_SOURCE_S)
        self.is_hung = self.is_hung or closing.is_alive()
        if self._tee is not None:
            self._tee.close()

    def _state(self) -> dict[str, Any]:
        conditions = self.engine.conditions if self.engine is not None else ()
        stats = self.stats
        return {
            "time": rfc3339(local_now()),
            "clock_synced": clock_is_synced(),
            "device": self.publisher.device,
            "device_rate_hz": stats.device_rate_hz,
            "paused": self.is_paused,
            "conditions": [{"name": c.name, "detail": c.detail} for c in conditions],
            **self.health.state(stats, self.outputs.stats, self.node_info).as_dict(),
        }

    def _compare_calibration(self) -> None:
        """Tell, once each time, that the thresholds were measured with another device or model, or no longer so."""
        calibration, found = self.settings.calibration, None
        if self.engine is not None and self.engine.has_audio:
            self._heard_device = self.publisher.device
        if calibration is not None:
            found = calibration.mismatch(self._heard_device, self.node_info.model, self.node_info.model_sha256)
        if found == self._mismatch:
            return
        self._mismatch = found
        level = logging.WARNING if found else logging.INFO
        detail = found or "the thresholds fit the device and the model again"
        self.publisher.status("calibration", detail, active=found is not None, level=level)

    def _sink_context(self, settings: Settings, detector: Detector) -> SinkContext:
        return SinkContext(
            node_info=make_station(settings, detector),
            rate_hz=detector.sample_rate_hz,
            on_listening=self._requests.set_listening,
            on_clip=self._requests.clips.append,
            detector=detector,
        )

    def _change_source(self, settings: Settings, detector: Detector) -> None:
        """Go over to another source or detector, as far as they are others; on an error, back to those before."""
        is_same = self._is_same_source(settings, detector)
        if self.engine is None:
            return  # whoever listens again will find the new settings
        if is_same:
            if detector is not self._detector:
                self.engine.use(detector, settings.listening.only)
            return
        self.engine.close_events("shutdown")
        self._close_source()
        try:
            self._listen(settings, detector)
        except DetectorError:
            self._listen(self.settings, self._detector)
            raise

    def _is_same_source(self, settings: Settings, detector: Detector) -> bool:
        is_same_rate = detector.sample_rate_hz == self._detector.sample_rate_hz
        if is_same_pipe(self.settings.audio, settings.audio):
            if not is_same_rate:
                raise ConfigError("model.path: this model hears at another rate; restart to change to it")
            return True
        return is_same_rate and settings.audio == self.settings.audio

    def _listen(self, settings: Settings, detector: Detector) -> None:
        source = open_source(settings.audio, detector.sample_rate_hz, self._run_options)
        detector.reset()
        self.publisher.source = settings.audio.source
        self.engine = Engine(source, detector, self.publisher, self._counters, settings.listening.only)
        self._connect()

    def _connect(self) -> None:
        """Give the sound to those who want it, and let those look who want to."""
        self._viewer = next((sink for sink in self.outputs.sinks if isinstance(sink, LiveViewer)), None)
        if self.engine is not None:
            taps: list[AudioTap] = [sink for sink in self.outputs.sinks if isinstance(sink, AudioTap)]
            self.engine.taps = (*taps, *([self._tee] if self._tee else []))
            self.engine.observer = self._viewer

    def _close_source(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            self.health.retire(engine.source.stats)
            engine.source.close()

    def _states(self) -> list[tuple[State, bool, str]]:
        """Return what holds now, as status records tell it."""
        found: list[tuple[State, bool, str]] = []
        if self.is_paused:
            found.append(("listening", False, "listening is switched off"))
        elif self.engine is not None:
            found += [(c.name, True, c.detail) for c in self.engine.conditions]
            if self.engine.has_audio:
                found.append(("listening", True, "listening"))
        if self._mismatch:
            found.append(("calibration", True, self._mismatch))
        return found
