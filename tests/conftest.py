"""What tests share: where recordings are, and the front end of the model that ships."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from detector.manifest import MfccParams

settings.register_profile("project", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("project")

DATA = Path(os.environ.get("SNN_DETECT_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def data() -> Path:
    """Give the folder of recordings; without it, skip, except in CI, where that is a failure."""
    if not DATA.is_dir():
        reason = f"no recordings at {DATA}; set SNN_DETECT_DATA"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return DATA


@pytest.fixture
def model_params() -> MfccParams:
    """Give a front end like that of the model that ships."""
    return MfccParams(
        sample_rate_hz=16000,
        frame_length=800,
        hop_length=400,
        n_fft=1024,
        n_mels=40,
        n_mfcc=40,
        f_min_hz=50.0,
        f_max_hz=8000.0,
        preemphasis=0.0,
        lifter=0,
        append_energy=False,
        window="hann",
        log_floor=1e-8,
    )
