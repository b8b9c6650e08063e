"""What the tests of live listening share: the shipped model, the demo scene, and sound that is sure to be reported."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import pytest

from detector.audio.sources import read_sound
from detector.messages import Samples
from detector.pipeline import Detector

MODEL = os.environ.get("SNN_DETECT_MODEL")


@pytest.fixture(scope="session")
def scene() -> Path:
    return Path(str(resources.files("models") / "demo" / "scene.flac"))


@pytest.fixture(scope="session")
def sound(scene: Path) -> Samples:
    return read_sound(scene, 16000)


@pytest.fixture(scope="session")
def lively(sound: Samples) -> tuple[Samples, dict[str, float]]:
    """Give 4 s of sound and the threshold with which one sound in it is certain to be reported, to the end."""
    detector = Detector.load(MODEL)
    clip = sound[16000 * 8 : 16000 * 12]
    scores = detector.score(clip)
    means = scores.mean(axis=0)
    label = detector.labels[int(means.argmax())]
    return clip, {label: float(means.max()) / 2}


@pytest.fixture
def detector(lively: tuple[Samples, dict[str, float]]) -> Detector:
    """Give a fresh detector that reports the lively sound."""
    return Detector.load(MODEL, lively[1])
