"""Where in a clip its sound is heard, and how long after its beginning a detector knows of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.audio.sources import read_sound
from models.data.household import Clip
from models.training.augment import Wave
from models.training.examples import ACTIVE_DB, DOUBT_S, HOLD_S, frame_rms

WINDOW_S = 0.01
JOIN_S = HOLD_S + DOUBT_S
"""Pauses up to this long belong to the sound: in training, silence and sound are both right for so long."""
_SILENT = 1e-5
"""Windows below it are padding, and say nothing of how loud the clip is."""


def begins_at(wave: Wave, rate_hz: int) -> int:
    """Return the first sample of the first 10 ms that are loud; 0 where none is."""
    loud = loud_windows(wave, rate_hz)
    return int(np.argmax(loud)) * round(WINDOW_S * rate_hz) if loud.size else 0


def beginnings(clips: list[Clip], rate_hz: int) -> list[int]:
    """Return the sample at which each clip's sound begins; raises SourceError for one that cannot be read."""
    return [begins_at(read_sound(clip.path, rate_hz), rate_hz) for clip in clips]


def loud_windows(wave: Wave, rate_hz: int) -> NDArray[np.bool_]:
    """Mark the windows of 10 ms that are loud, as training takes it: within 28 dB of the loud ones, (windows,)."""
    window = round(WINDOW_S * rate_hz)
    rms = frame_rms(wave, window, window)
    heard = rms[rms > _SILENT]
    if not heard.size:
        return np.zeros(rms.size, np.bool_)
    return np.asarray(rms > max(_SILENT, float(np.quantile(heard, 0.95)) * 10 ** (ACTIVE_DB / 20)))


def heard_spans(wave: Wave, rate_hz: int, join_s: float = JOIN_S) -> list[tuple[int, int]]:
    """Return where a sound is heard: first sample and the one behind the last, pauses up to ``join_s`` included."""
    window = round(WINDOW_S * rate_hz)
    loud = np.flatnonzero(loud_windows(wave, rate_hz))
    if not loud.size:
        return []
    breaks = np.flatnonzero(np.diff(loud) > 1 + join_s / WINDOW_S)
    firsts, lasts = loud[np.r_[0, breaks + 1]], loud[np.r_[breaks, loud.size - 1]]
    return [(int(first) * window, int(last + 1) * window) for first, last in zip(firsts, lasts, strict=True)]
