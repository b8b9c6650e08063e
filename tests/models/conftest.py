"""A small tree of sounds in the layout of the recordings, made of tones and noise."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from models.data.household import ESC10, INSTRUMENTS, SPEAKER_FOLD
from models.training.augment import AcousticConditions

RATE_HZ = 16000


def write(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    t = np.arange(RATE_HZ // 2) / RATE_HZ
    wave = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 4000) * t) + 0.02 * rng.normal(size=t.size)
    wave = np.concatenate([np.zeros(RATE_HZ // 4), wave, np.zeros(RATE_HZ // 4)])
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave.astype(np.float32), RATE_HZ)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a data folder with one clip per fold and class."""
    root = tmp_path_factory.mktemp("data")
    names = [root / "esc10" / label / f"{fold}-{i}-A.ogg" for i, label in enumerate(ESC10) for fold in range(1, 6)]
    names += [root / "instruments" / name / f"{i}.flac" for name in INSTRUMENTS for i in range(5)]
    names += [root / "guitar_notes" / f"E{i}.flac" for i in range(5)]
    names += [root / "speech_digits" / f"{i}_{speaker}_0.wav" for i, speaker in enumerate(SPEAKER_FOLD)]
    for seed, path in enumerate(names):
        write(path, seed)
    return root


@pytest.fixture(scope="module")
def few_conditions() -> Iterator[None]:
    """Draw fewer rooms and noises than training, for each length of sound once: all of them take seconds."""

    @functools.cache
    def conditions_of(samples: int, rate_hz: int) -> AcousticConditions:
        return AcousticConditions(samples, rate_hz, np.random.default_rng(0), rooms=12, noises=12)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.training.augment.conditions_of", conditions_of)
        yield
