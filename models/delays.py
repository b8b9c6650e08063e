"""How long after a sound has begun a detector knows of it."""

from __future__ import annotations

import numpy as np

from detector.sources import read_sound
from models.augment import Wave
from models.datasets import Clip
from models.examples import ACTIVE_DB, frame_rms

_WINDOW_S = 0.01


def begins_at(wave: Wave, rate_hz: int) -> int:
    """Return the first sample of the first 10 ms that are loud, as training takes it: within 28 dB of the loud ones."""
    window = round(_WINDOW_S * rate_hz)
    rms = frame_rms(wave, window, window)
    if not rms.size:
        return 0
    return int(np.argmax(rms > float(np.quantile(rms, 0.95)) * 10 ** (ACTIVE_DB / 20))) * window


def beginnings(clips: list[Clip], rate_hz: int) -> list[int]:
    """Return the sample at which each clip's sound begins; raises SourceError for one that cannot be read."""
    return [begins_at(read_sound(clip.path, rate_hz), rate_hz) for clip in clips]
