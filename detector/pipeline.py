"""The pipeline: samples through features, encoder, network and decoder, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from detector.decoder import EventDecoder, check_classes
from detector.encoder import DeltaEncoder
from detector.engine.core import CoreStream
from detector.errors import ConfigError, ManifestError, unknown_label
from detector.features import MfccExtractor, as_samples
from detector.manifest import ClassSpec, Manifest, Sensitivity
from detector.messages import AudioChunk, Event, Observer, Reason, Samples, Scores, Trace
from detector.network import EngineName, Model, StreamingNetwork, load_model

if TYPE_CHECKING:
    from detector.audio.live_source import Resampler


class Detector:
    """Detect sounds in a stream: ``push`` samples as they come, take the events that come out.

    >>> detector = Detector.load()
    >>> for block in blocks:  # float32, mono, of any length
    ...     for event in detector.push(block, rate_hz=48000):
    ...         print(event.kind, event.label, event.onset_s)
    """

    def __init__(self, model: Model, classes: tuple[ClassSpec, ...], sensitivity: Sensitivity = "balanced") -> None:
        """Use ``load``; this takes a model that is loaded and the classes with the thresholds in force."""
        self._model = model
        self.sensitivity = sensitivity
        """The operating point that the classes' decoder values are those of, but for single thresholds."""
        self.observer: Observer | None = None
        """Receives a trace of each push; scores and events have the same bits with and without."""
        self.classes = classes
        """The classes, in the order of the scores, with the thresholds in force."""
        self._rate_hz: float | None = None
        """Rate of the samples that are pushed; None before the first ones."""
        self._resampler: Resampler | None = None
        f = model.manifest.features
        self._model_rate_hz = f.sample_rate_hz
        try:
            check_classes(classes, f.hop_length, f.frame_length)
            self._stages = _stages(model, classes)
        except (ValueError, MemoryError) as error:  # states may have any size, too
            raise ManifestError(f"{model.path}: {error}; export the model again") from error

    @classmethod
    def load(
        cls,
        path: Path | str | None = None,
        thresholds: Mapping[str, float] | None = None,
        sensitivity: Sensitivity = "balanced",
    ) -> Detector:
        """Load a model file (None: the one that ships), with on-thresholds to override by label.

        ``sensitivity`` chooses among the model's operating points. Raises ManifestError for a model that is missing or
        wrong, ConfigError for an unknown label, a threshold outside (0, 1) or a sensitivity that the model lacks.
        """
        return _with(load_model(path), thresholds or {}, sensitivity)

    def fresh(self) -> Detector:
        """Return a detector for another stream, with the same model and thresholds; the model is shared."""
        return Detector(self._model, self.classes, self.sensitivity)

    def at(self, sensitivity: Sensitivity, thresholds: Mapping[str, float] | None = None) -> Detector:
        """Return a detector of the same model at a sensitivity; see ``load``."""
        return _with(self._model, thresholds or {}, sensitivity)

    @property
    def manifest(self) -> Manifest:
        """Everything that is bound to the weights."""
        return self._model.manifest

    @property
    def path(self) -> Path:
        """The model's file."""
        return self._model.path

    @property
    def sha256(self) -> str:
        """SHA-256 of the model's file, in hexadecimal."""
        return self._model.sha256

    @property
    def sample_rate_hz(self) -> int:
        """The rate of the model, at which ``push`` takes samples unless it is given another."""
        return self._model_rate_hz

    @property
    def chunk_samples(self) -> int:
        """Length of a chunk of about a second that is whole blocks of frames, which the network takes in one call."""
        block = self.manifest.network.block_frames * self.manifest.features.hop_length
        return block * max(1, round(self.sample_rate_hz / block))

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the scores."""
        return self.manifest.labels

    @property
    def engine(self) -> EngineName:
        """What runs the stages: the C core, or onnxruntime with the front end and the decoder in Python."""
        return self._model.engine

    def push(self, samples: Samples, *, rate_hz: float | None = None) -> list[Event]:
        """Take samples (n,), any n, and return the events that they bring about.

        ``rate_hz`` is their rate, 4 to 384 kHz, by default the model's. Others are resampled as files are, with the
        same bits however the stream is divided; positions of events are at the model's rate. A stream has one rate.
        Raises ValueError for another one, and for what is not a one-dimensional array of floats that are finite and
        in [-1, 1), or not far outside.
        """
        samples = self._at_model_rate(samples, rate_hz)
        return self._stages.push(samples) if self.observer is None else self._process(samples)[1]

    def flush(self) -> list[Event]:
        """End the stream: evaluate what resampling held back and the padded last frame, close open events, reset."""
        return self.finish()[1]

    def reset(self) -> None:
        """Forget everything, open events included: the next sample is the first of a stream, at any rate."""
        self._rate_hz = self._resampler = None
        self._stages.reset()

    def process(self, samples: Samples, *, rate_hz: float | None = None) -> tuple[Scores, list[Event]]:
        """Do what ``push`` does and return the scores (frames, classes) of the frames completed, too."""
        return self._process(self._at_model_rate(samples, rate_hz))

    def finish(self, reason: Reason = "end_of_stream") -> tuple[Scores, list[Event]]:
        """Do what ``flush`` does and return the scores of the last frames, if there were any, too."""
        held = () if self._resampler is None else (self._resampler.flush(),)
        parts = [self._process(samples) for samples in (*held, None)]
        events = [event for _, found in parts for event in found] + self._stages.close(reason)
        self.reset()
        return np.concatenate([scores for scores, _ in parts]), events

    def push_chunk(self, chunk: AudioChunk) -> list[Event]:
        """Take a chunk; after a gap, close open events and restart at its position."""
        return [*self._restart(chunk), *self.push(chunk.samples)]

    def process_chunk(self, chunk: AudioChunk) -> tuple[Scores, list[Event]]:
        """Do what ``push_chunk`` does and return the scores (frames, classes) of the frames completed, too."""
        closed = self._restart(chunk)
        scores, events = self.process(chunk.samples)
        return scores, closed + events

    def is_finite(self) -> bool:
        """Return whether the network's state is finite; where it is not, only a reset or a gap repairs it."""
        return self._stages.is_finite()

    def score(self, samples: Samples, *, rate_hz: float | None = None) -> Scores:
        """Return the scores (frames, classes) of a whole clip, from a fresh state; the stream is not touched.

        ``rate_hz`` and errors are those of ``push``.
        """
        resampler = self._resampler_from(self._model_rate_hz if rate_hz is None else rate_hz)
        if resampler is not None:
            samples = np.concatenate([resampler.push(as_samples(samples)), resampler.flush()])
        stages = _stages(self._model, self.classes)
        return np.concatenate([stages.process(samples)[0], stages.process(None)[0]])

    def _at_model_rate(self, samples: Samples, rate_hz: float | None) -> Samples:
        """Return the samples at the model's rate that these complete."""
        if rate_hz is None:
            rate_hz = self._model_rate_hz
        if rate_hz != self._rate_hz:
            if self._rate_hz is not None:
                raise ValueError(f"samples of {rate_hz:g} Hz in a stream of {self._rate_hz:g} Hz: end it with flush()")
            resampler = self._resampler_from(rate_hz)
            as_samples(samples)  # what is refused begins no stream
            self._rate_hz, self._resampler = rate_hz, resampler
        return samples if self._resampler is None else self._resampler.push(as_samples(samples))

    def _resampler_from(self, rate_hz: float) -> Resampler | None:
        """Return what resamples from a rate, None where it is the model's; raises ValueError where it can be none."""
        if rate_hz == self._model_rate_hz:
            return None
        from detector.audio.files import HIGHEST_RATE_HZ, LOWEST_RATE_HZ
        from detector.audio.live_source import Resampler

        if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
            raise ValueError(f"rate_hz {rate_hz:g} is outside {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}")
        return Resampler(rate_hz, self._model_rate_hz)

    def _restart(self, chunk: AudioChunk) -> list[Event]:
        """Return the offsets of open events where a chunk follows a gap, and reset to its position."""
        if not chunk.gap:
            return []
        self._rate_hz = self._resampler = None
        closed = self._stages.close("gap")
        self._stages.reset(chunk.first_sample, self._stages.next_index)
        return closed

    def _process(self, samples: Samples | None) -> tuple[Scores, list[Event]]:
        """Take samples, or the end of the stream (None), through all stages; the observer gets the trace."""
        observer = self.observer
        if observer is None:
            return self._stages.process(samples)
        trace = Trace(self._stages.next_sample, with_layers=observer.wants_layers)
        scores, events = self._stages.process(samples, trace)
        if len(scores):
            observer.on_trace(trace)
        return scores, events


def _with(model: Model, thresholds: Mapping[str, float], sensitivity: Sensitivity) -> Detector:
    if sensitivity not in model.manifest.sensitivities:
        raise ConfigError(
            f"sensitivity {sensitivity!r}: {model.path} has no operating points, only its own thresholds (balanced); "
            "set single thresholds, or choose points with snn-train tune-events"
        )
    return Detector(model, with_thresholds(model.manifest, thresholds, sensitivity), sensitivity)


def with_thresholds(
    manifest: Manifest, thresholds: Mapping[str, float], sensitivity: Sensitivity = "balanced"
) -> tuple[ClassSpec, ...]:
    """Return the classes at a sensitivity with other on-thresholds; the off-threshold keeps its proportion to it."""
    for label, value in thresholds.items():
        if label not in manifest.labels:
            raise ConfigError(f"threshold for {label!r}: {unknown_label(label, manifest.labels)}")
        if not 0 < value < 1:
            raise ConfigError(f"threshold {value:g} for {label!r} must lie between 0 and 1")
    classes = [c.at(sensitivity) for c in manifest.classes]
    return tuple(with_threshold(c, thresholds[c.label]) if c.label in thresholds else c for c in classes)


def reported_labels(
    manifest: Manifest, only: Sequence[str] = (), *, all_classes: bool = False, option: str = "--only"
) -> tuple[str, ...]:
    """Return the labels to report: those of ``only``, else all, or by default all but those on trial.

    Raises ConfigError for one of ``only`` that the model does not know, naming the ``option`` that it comes from, and
    where no class is left.
    """
    for label in only:
        if label not in manifest.labels:
            raise ConfigError(f"{option}: {unknown_label(label, manifest.labels)}")
    if only:
        return tuple(label for label in manifest.labels if label in only)
    found = manifest.labels if all_classes else manifest.ready_labels
    if not found:
        raise ConfigError(
            f"all classes of {manifest.name} {manifest.version} are on trial; name those to report (--only, "
            "listening.only), or ask for all (--all-classes, listening.all_classes)"
        )
    return found


def with_threshold(spec: ClassSpec, on: float) -> ClassSpec:
    """Return a class with another on-threshold and an off-threshold in proportion."""
    off = on * spec.decoder.off_threshold / spec.decoder.on_threshold if spec.decoder.on_threshold else on
    return dataclasses.replace(spec, decoder=dataclasses.replace(spec.decoder, on_threshold=on, off_threshold=off))


class _Stages(Protocol):
    """All stages of one stream, in the C core or in Python."""

    @property
    def next_sample(self) -> int:
        """Position of the first sample of the next frame."""

    @property
    def next_index(self) -> int:
        """The number that the next onset will have."""

    def push(self, samples: Samples) -> list[Event]:
        """Return the events of samples (n,)."""

    def process(self, samples: Samples | None, trace: Trace | None = None) -> tuple[Scores, list[Event]]:
        """Return scores and events of samples; None ends the stream and evaluates its padded last frame."""

    def close(self, reason: Reason) -> list[Event]:
        """Return the offsets of open sounds."""

    def reset(self, first_sample: int = 0, first_index: int = 0) -> None:
        """Clear the state; the next frame begins at ``first_sample``, the next onset is ``first_index``."""

    def is_finite(self) -> bool:
        """Return whether the network's state is finite."""


def _stages(model: Model, classes: tuple[ClassSpec, ...]) -> _Stages:
    return _PythonStages(model, classes) if model.core is None else CoreStream(model.core, classes)


class _PythonStages:
    """The stages in Python, with the network in onnxruntime."""

    def __init__(self, model: Model, classes: tuple[ClassSpec, ...]) -> None:
        m = model.manifest
        self._features = MfccExtractor(m.features)
        self._encoder = DeltaEncoder(m.encoder)
        self._network = StreamingNetwork(model)
        f = m.features
        self._decoder = EventDecoder(classes, f.hop_length, f.frame_length, f.sample_rate_hz)

    @property
    def next_sample(self) -> int:
        return self._decoder.next_sample

    @property
    def next_index(self) -> int:
        return self._decoder.next_index

    def push(self, samples: Samples) -> list[Event]:
        return self.process(samples)[1]

    def process(self, samples: Samples | None, trace: Trace | None = None) -> tuple[Scores, list[Event]]:
        if samples is None:
            self._decoder.end_at(self._features.samples)
        frames = self._features.flush() if samples is None else self._features.push(as_samples(samples))
        spikes = self._encoder.push(frames)
        if trace is not None:
            trace.frames, trace.spikes = frames, spikes
        scores = self._network.push(spikes, trace)
        return scores, self._decoder.push(scores, trace)

    def close(self, reason: Reason) -> list[Event]:
        return self._decoder.flush(reason)

    def reset(self, first_sample: int = 0, first_index: int = 0) -> None:
        self._features.reset()
        self._encoder.reset()
        self._network.reset()
        self._decoder.reset(first_sample, first_index)

    def is_finite(self) -> bool:
        return self._network.is_finite()
