"""What tests of the exported C need besides Python."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from detector.sources import read_sound
from firmware_export.host import to_pcm

ROOT: Final = Path(__file__).resolve().parents[2]
MODEL: Final = ROOT / "models" / "pretrained" / "household.onnx"
RATE_HZ: Final = 16000


def need(*programs: str) -> None:
    """Skip where a program is missing, except in CI, where that is a failure."""
    for program in programs:
        if shutil.which(program) is None:
            skip(f"{program} is not installed")


def skip(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def scene(from_s: float = 0, to_s: float = 60) -> NDArray[np.int16]:
    """Return a part of the demo scene: the guitar plays from 4 s to 12 s."""
    sound = read_sound(ROOT / "models" / "demo" / "scene.flac", RATE_HZ)
    return to_pcm(sound[int(from_s * RATE_HZ) : int(to_s * RATE_HZ)])
