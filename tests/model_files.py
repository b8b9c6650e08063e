"""Model files for tests: that of the release with another manifest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from detector.manifest import ClassResults, DecoderParams, EvidenceParams, Manifest, OperatingPoints
from detector.network import load_model
from models.files import write_with_manifest


def changed_model(path: Path, change: Callable[[Manifest], Manifest]) -> Path:
    """Write the model that ships with a changed manifest, and return its path."""
    model = load_model()
    write_with_manifest(model.path, change(model.manifest), path)
    return path


def at_threshold(params: DecoderParams, on: float) -> DecoderParams:
    """Return decoder values with another on-threshold, and half of it as the off-threshold."""
    return replace(params, on_threshold=on, off_threshold=on / 2)


def with_points(manifest: Manifest, low: float = 0.999, high: float = 0.02) -> Manifest:
    """Return a manifest with operating points, at low and high sensitivity with one on-threshold for all classes."""
    classes = tuple(
        replace(c, low=at_threshold(c.decoder, low), high=at_threshold(c.decoder, high)) for c in manifest.classes
    )
    return replace(manifest, classes=classes, operating_points=OperatingPoints(0.1, 1.0, 10.0, "class"))


def without_points(manifest: Manifest) -> Manifest:
    """Return a manifest without operating points."""
    classes = tuple(replace(c, low=None, high=None) for c in manifest.classes)
    return replace(manifest, classes=classes, operating_points=None)


def with_evidence(manifest: Manifest) -> Manifest:
    """Return a manifest with evidence in place of the average for two classes of three, each with other parameters."""
    classes = []
    for number, c in enumerate(manifest.classes):
        evidence = EvidenceParams(leak=0.01 * number, weight=0.1 + 0.05 * number, bias=-4.5 + 0.2 * number)
        own = replace(at_threshold(c.decoder, 0.3), smoothing_frames=1, min_on_frames=1, evidence=evidence)
        classes.append(replace(c, decoder=own) if number % 3 != 1 else c)
    return replace(manifest, classes=tuple(classes))


def on_trial(manifest: Manifest, *ready: str) -> Manifest:
    """Return a manifest with results, by which all classes but those named are on trial."""
    classes = tuple(
        replace(c, results=ClassResults(c.label in ready, 9 if c.label in ready else 1, 10, 0.5, 2.0, 0.4))
        for c in manifest.classes
    )
    return replace(manifest, classes=classes)
