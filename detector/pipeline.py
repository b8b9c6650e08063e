"""The pipeline: samples through features, encoder, network and decoder, in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from detector.decoder import EventDecoder
from detector.encoder import DeltaEncoder
from detector.errors import ConfigError, ManifestError
from detector.features import MfccExtractor
from detector.manifest import ClassSpec, Manifest
from detector.messages import AudioChunk, Event, Observer, Reason, Samples, Scores, Trace
from detector.network import Model, StreamingNetwork, load_model


class Detector:
    """Detect sounds in a stream: ``push`` samples as they come, take the events that come out.

    >>> detector = Detector.load()
    >>> for block in blocks:  # float32, mono, detector.sample_rate_hz
    ...     for event in detector.push(block):
    ...         print(event.kind, event.label)
    """

    def __init__(self, model: Model, classes: tuple[ClassSpec, ...]) -> None:
        """Use ``load``; this takes a model that is loaded and the classes with the thresholds in force."""
        self._model = model
        self.observer: Observer | None = None
        """Receives a trace of each push; scores and events have the same bits with and without."""
        p = model.manifest.features
        self.classes = classes
        """The classes, in the order of the scores, with the thresholds in force."""
        self._front = _FrontEnd(model)
        try:
            self._decoder = EventDecoder(classes, p.hop_length, p.frame_length)
        except ValueError as error:
            raise ManifestError(f"{model.path}: {error}; export the model again") from error

    @classmethod
    def load(cls, path: Path | str | None = None, thresholds: Mapping[str, float] | None = None) -> Detector:
        """Load a model file (None: the one that ships), with on-thresholds to override by label.

        Raises ManifestError for a model that is missing or wrong, ConfigError for an unknown label
        or a threshold outside (0, 1).
        """
        model = load_model(path)
        return cls(model, with_thresholds(model.manifest, thresholds or {}))

    def fresh(self) -> Detector:
        """Return a detector for another stream, with the same model and thresholds; the model is shared."""
        return Detector(self._model, self.classes)

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
        """The rate at which ``push`` takes samples."""
        return self.manifest.features.sample_rate_hz

    @property
    def chunk_samples(self) -> int:
        """Length of a chunk of about a second that is whole blocks of frames, which the network takes in one call."""
        block = self.manifest.network.block_frames * self.manifest.features.hop_length
        return block * max(1, round(self.sample_rate_hz / block))

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the scores."""
        return self.manifest.labels

    def push(self, samples: Samples) -> list[Event]:
        """Take samples (n,), any n, and return the events that they bring about."""
        return self.process(samples)[1]

    def flush(self) -> list[Event]:
        """End the stream: evaluate the padded last frame, close open events, reset."""
        return self.finish()[1]

    def reset(self) -> None:
        """Forget everything, open events included: the next sample is the first of a stream."""
        self._front.reset()
        self._decoder.reset()

    def process(self, samples: Samples) -> tuple[Scores, list[Event]]:
        """Do what ``push`` does and return the scores (frames, classes) of the frames completed, too.

        Raises ValueError for what is not a one-dimensional array of floats.
        """
        return self._process(samples)

    def finish(self, reason: Reason = "end_of_stream") -> tuple[Scores, list[Event]]:
        """Do what ``flush`` does and return the scores of the last frame, if there was one, too."""
        scores, events = self._process(None)
        events += self._decoder.flush(reason)
        self.reset()
        return scores, events

    def push_chunk(self, chunk: AudioChunk) -> list[Event]:
        """Take a chunk; after a gap, close open events and restart at its position."""
        return self.process_chunk(chunk)[1]

    def process_chunk(self, chunk: AudioChunk) -> tuple[Scores, list[Event]]:
        """Do what ``push_chunk`` does and return the scores (frames, classes) of the frames completed, too."""
        closed: list[Event] = []
        if chunk.gap:
            closed = self._decoder.flush("gap")
            self._front.reset()
            self._decoder.reset(chunk.first_sample, self._decoder.next_index)
        scores, events = self.process(chunk.samples)
        return scores, closed + events

    def is_finite(self) -> bool:
        """Return whether the network's state is finite; where it is not, only a reset or a gap repairs it."""
        return self._front.is_finite()

    def score(self, samples: Samples) -> Scores:
        """Return the scores (frames, classes) of a whole clip, from a fresh state; the stream is not touched."""
        front = _FrontEnd(self._model)
        return np.concatenate([front.push(samples), front.push(None)])

    def _process(self, samples: Samples | None) -> tuple[Scores, list[Event]]:
        """Take samples, or the end of the stream (None), through all stages; the observer gets the trace."""
        observer = self.observer
        trace = None if observer is None else Trace(self._decoder.next_sample, with_layers=observer.wants_layers)
        scores = self._front.push(samples, trace)
        events = self._decoder.push(scores, trace)
        if observer is not None and trace is not None and len(scores):
            observer.on_trace(trace)
        return scores, events


def with_thresholds(manifest: Manifest, thresholds: Mapping[str, float]) -> tuple[ClassSpec, ...]:
    """Return the classes with other on-thresholds; the off-threshold keeps its proportion to it."""
    for label, value in thresholds.items():
        if label not in manifest.labels:
            raise ConfigError(f"threshold for unknown label {label!r}; the model knows {', '.join(manifest.labels)}")
        if not 0 < value < 1:
            raise ConfigError(f"threshold {value:g} for {label!r} must lie between 0 and 1")
    return tuple(with_threshold(c, thresholds[c.label]) if c.label in thresholds else c for c in manifest.classes)


def with_threshold(spec: ClassSpec, on: float) -> ClassSpec:
    """Return a class with another on-threshold and an off-threshold in proportion."""
    off = on * spec.decoder.off_threshold / spec.decoder.on_threshold if spec.decoder.on_threshold else on
    return dataclasses.replace(spec, decoder=dataclasses.replace(spec.decoder, on_threshold=on, off_threshold=off))


class _FrontEnd:
    """The stages from samples to scores."""

    def __init__(self, model: Model) -> None:
        m = model.manifest
        try:
            self._features = MfccExtractor(m.features)
            self._encoder = DeltaEncoder(m.encoder)
        except ValueError as error:
            raise ManifestError(f"{model.path}: {error}; export the model again") from error
        self._network = StreamingNetwork(model)

    def push(self, samples: Samples | None, trace: Trace | None = None) -> Scores:
        """Return the scores of samples; None ends the stream, evaluates its padded last frame and resets."""
        frames = self._features.flush() if samples is None else self._features.push(samples)
        spikes = self._encoder.push(frames)
        if trace is not None:
            trace.frames, trace.spikes = frames, spikes
        scores = self._network.push(spikes, trace)
        if samples is None:
            self.reset()
        return scores

    def is_finite(self) -> bool:
        return self._network.is_finite()

    def reset(self) -> None:
        self._features.reset()
        self._encoder.reset()
        self._network.reset()
