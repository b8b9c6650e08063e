"""Signal activity: the frames of a recording in which its sound is present, by level."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.audio.sources import read_sound
from detector.messages import Samples
from models.data.clips import Clip

HOLD_S: Final = 0.5
"""A sound counts as present for this long after its last active frame: between two barks or clock ticks."""
IGNORE_S: Final = 1.5
"""For this long after that, the target is ignore-masked: silence and sound are both right."""
ACTIVE_DB: Final = -28.0
"""Level relative to the clip's loud frames (95th percentile) above which a frame is active."""
WINDOW_S: Final = 0.01
JOIN_S: Final = HOLD_S + IGNORE_S
"""Pauses up to this length belong to the sound, as they do in training targets."""
_SILENT: Final = 1e-5
"""RMS below which a window is padding and does not count towards the clip's level."""


def frame_rms(wave: Samples, hop: int, length: int) -> NDArray[np.float64]:
    """Return the RMS of every complete frame, (frames,)."""
    if wave.size < length:
        return np.empty(0)
    windows = np.lib.stride_tricks.sliding_window_view(wave, length)[::hop]
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", windows, windows) / length), np.float64)


def held(active: NDArray[np.bool_], frames: int) -> NDArray[np.bool_]:
    """Mark frames that are active or follow an active one by at most ``frames``."""
    last = np.maximum.accumulate(np.where(active, np.arange(active.size), -frames - 1))
    return np.asarray(np.arange(active.size) - last <= frames, np.bool_)


def active_windows(wave: Samples, rate_hz: int) -> NDArray[np.bool_]:
    """Mark the windows of 10 ms within 28 dB of the 95th percentile, (windows,)."""
    window = round(WINDOW_S * rate_hz)
    rms = frame_rms(wave, window, window)
    audible = rms[rms > _SILENT]
    if not audible.size:
        return np.zeros(rms.size, np.bool_)
    return np.asarray(rms > max(_SILENT, float(np.quantile(audible, 0.95)) * 10 ** (ACTIVE_DB / 20)))


def active_spans(wave: Samples, rate_hz: int, join_s: float = JOIN_S) -> list[tuple[int, int]]:
    """Return the active spans as (first sample, one past the last), joined over pauses of up to ``join_s`` seconds."""
    window = round(WINDOW_S * rate_hz)
    active = np.flatnonzero(active_windows(wave, rate_hz))
    if not active.size:
        return []
    breaks = np.flatnonzero(np.diff(active) > 1 + join_s / WINDOW_S)
    firsts, lasts = active[np.r_[0, breaks + 1]], active[np.r_[breaks, active.size - 1]]
    return [(int(first) * window, int(last + 1) * window) for first, last in zip(firsts, lasts, strict=True)]


def first_active_sample(wave: Samples, rate_hz: int) -> int:
    """Return the first sample of the first active window; 0 where there is none."""
    active = active_windows(wave, rate_hz)
    return int(np.argmax(active)) * round(WINDOW_S * rate_hz) if active.size else 0


def onset_samples_of(clips: list[Clip], rate_hz: int) -> list[int]:
    """Return the onset of each clip's sound in samples; raises SourceError for a clip that cannot be read."""
    return [first_active_sample(read_sound(clip.path, rate_hz), rate_hz) for clip in clips]
