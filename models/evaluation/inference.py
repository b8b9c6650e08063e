"""Scenes through the streaming pipeline, and stored scores through its decoder with other settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.audio.sources import read_chunks
from detector.decoder import EventDecoder
from detector.errors import DetectorError
from detector.manifest import ClassSpec, Manifest, Sensitivity
from detector.messages import AudioChunk, Event, Scores
from detector.network import load_model
from detector.pipeline import Detector
from models.console import progress
from models.data.segments import JOIN_S
from models.scenes.folder import Scenes, Span

Change = Callable[[Iterable[AudioChunk], int], Iterable[AudioChunk]]
"""A transformation of a stream's chunks (and their rate in Hz) in front of the detector."""


@dataclass(frozen=True, slots=True)
class Detection:
    """An event of the detector, in seconds of its stream."""

    label: str
    onset_s: float
    offset_s: float
    emitted_s: float
    """Position in the stream when the onset was emitted."""


@dataclass(frozen=True, slots=True)
class ScenePredictions:
    """Scores and events of a model on a scene."""

    manifest: Manifest
    sha256: str
    """Of the model file."""
    scores: tuple[Scores, ...]
    """Of each stream, (frames, classes); 0 where a class is not evaluated."""
    detections: tuple[tuple[Detection, ...], ...]
    """Of each stream, with the model's own decoder values."""


def predict_scenes(
    model: Path,
    scenes: Scenes,
    processes: int = 2,
    change: Change | None = None,
    sensitivity: Sensitivity = "balanced",
) -> ScenePredictions:
    """Run each stream of a scene through the detector, as ``snn-detect replay`` does.

    The manifest that is returned has the decoder values of the ``sensitivity``.

    Where a background contains a class, the class is not evaluated: its scores are set to 0 before decoding.
    Raises ManifestError where the file is no model, ConfigError where it lacks the sensitivity, SourceError for a
    stream that cannot be read, DetectorError where decoding the stored scores does not reproduce the pipeline's
    events.
    """
    detector = Detector.load(model, sensitivity=sensitivity)
    manifest = replace(detector.manifest, classes=detector.classes)
    tasks = [(model, stream.path, change, sensitivity) for stream in scenes.streams]
    with ProcessPoolExecutor(max(1, min(processes, len(tasks)))) as pool:
        results = pool.map(_predict_stream, *zip(*tasks, strict=True))
        predictions = list(progress(results, "predicting", "streams", len(tasks)))
    scores = []
    for (found, events), stream in zip(predictions, scenes.streams, strict=True):
        if decode(manifest.classes, manifest, found) != events:
            raise DetectorError(f"{stream.path}: decoding the stored scores gives other events; please report this bug")
        scores.append(_masked(found, manifest, stream.spans))
    detections = tuple(tuple(decode(manifest.classes, manifest, s)) for s in scores)
    return ScenePredictions(manifest, detector.sha256, tuple(scores), detections)


def model_of(path: Path) -> dict[str, str]:
    """Return a model's name, version and SHA-256, for JSON."""
    model = load_model(path)
    return {"name": model.manifest.name, "version": model.manifest.version, "sha256": model.sha256}


def decode(classes: Sequence[ClassSpec], manifest: Manifest, scores: Scores) -> list[Detection]:
    """Decode a stream's scores by the runtime's decoder, with these classes' values."""
    features = manifest.features
    decoder = EventDecoder(classes, features.hop_length, features.frame_length)
    return _paired([*decoder.push(scores), *decoder.flush()], features.sample_rate_hz)


def evaluated_hours(scenes: Scenes, label: str) -> float:
    """Return the hours of a scene in which a class is evaluated."""
    seconds = sum(s.offset_s - s.onset_s for stream in scenes.streams for s in stream.spans if label not in s.contains)
    return seconds / 3600


def _predict_stream(
    model: Path, path: Path, change: Change | None, sensitivity: Sensitivity
) -> tuple[Scores, list[Detection]]:
    detector = Detector.load(model, sensitivity=sensitivity)
    rate_hz, parts, events = detector.sample_rate_hz, list[NDArray[np.float32]](), list[Event]()
    with closing(read_chunks(path, rate_hz)) as source:
        for chunk in change(source, rate_hz) if change else source:
            scores, found = detector.process(chunk.samples)
            parts.append(scores)
            events += found
    scores, found = detector.finish()
    return np.concatenate([*parts, scores]), _paired([*events, *found], rate_hz)


def _paired(events: Iterable[Event], rate_hz: int) -> list[Detection]:
    onsets: dict[int, Event] = {}
    found: dict[int, Detection] = {}
    for event in events:
        if event.offset_sample is None:
            onsets[event.index] = event
            continue
        onset = onsets[event.index]
        found[event.index] = Detection(
            label=event.label,
            onset_s=onset.onset_sample / rate_hz,
            offset_s=event.offset_sample / rate_hz,
            emitted_s=(onset.emitted_sample + 1) / rate_hz,
        )
    return [found[index] for index in sorted(found)]


def _masked(scores: Scores, manifest: Manifest, spans: Sequence[Span]) -> Scores:
    """Return scores set to 0 where a background contains the class, and for ``JOIN_S`` after it."""
    result = scores.copy()
    hop_s = manifest.features.hop_length / manifest.features.sample_rate_hz
    length_s = manifest.features.frame_length / manifest.features.sample_rate_hz
    for span in spans:
        columns = [manifest.labels.index(label) for label in span.contains if label in manifest.labels]
        first = max(0, int((span.onset_s - length_s) / hop_s))
        result[first : int((span.offset_s + JOIN_S) / hop_s), columns] = 0
    return result
