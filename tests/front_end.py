"""The front end that tests use where they need one."""

from __future__ import annotations

from typing import Final

from detector.manifest import MfccParams

FRONT_END: Final = MfccParams(
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
"""Like that of the model that ships, but its own: expected values were computed with it."""
