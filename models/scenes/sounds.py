"""One sound of a scene: cut to where it is heard, so that its onset and offset are known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.augment import Wave, room
from models.delays import WINDOW_S, heard_spans, loud_windows

LONGEST_S = 8.0
"""Longer sounds are cut: a scene should hold many."""
_BEFORE_S, _BEHIND_S = 0.03, 0.15
"""What is kept around the span that is heard, faded."""
_ROOM_TAIL_S = 0.5


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound that is heard throughout, but for short pauses."""

    label: str | None
    """None is a sound of no class."""
    source: str
    """The folder of recordings or the synthesiser that it came from."""
    clip: str
    """The recording's name in its source."""
    wave: Wave
    """(samples,) mono, from just before the sound is heard to just after."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A sound as it arrives: through a room or not."""

    wave: Wave
    onset: int
    """Sample at which it is first heard."""
    offset: int
    """The one behind the last at which it is."""
    rms: float
    """Over the windows in which it is loud: what signal-to-noise ratios are counted from."""
    peak: float


def cut_sounds(label: str | None, source: str, clip: str, wave: Wave, rate_hz: int) -> Iterator[Sound]:
    """Yield each stretch of a clip in which a sound is heard as a sound of its own; a silent clip has none."""
    before, behind = round(_BEFORE_S * rate_hz), round(_BEHIND_S * rate_hz)
    for first, last in heard_spans(wave, rate_hz):
        end = min(last, first + round(LONGEST_S * rate_hz))
        piece = np.array(wave[max(0, first - before) : end + behind], np.float32)
        rise = min(first, before)
        fall = max(1, piece.size - rise - (end - first)) if end == last else behind
        piece[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)
        piece[piece.size - fall :] *= np.linspace(1, 0, fall, dtype=np.float32)
        yield Sound(label, source, clip, piece)


def arrive(sound: Sound, room_seed: int | None, rate_hz: int) -> Heard | None:
    """Return a sound as it arrives, in the room of that seed if one is given; None where nothing is left to hear."""
    wave = sound.wave
    if room_seed is not None:
        response = room(np.random.default_rng(room_seed), rate_hz)
        size = wave.size + min(response.size, round(_ROOM_TAIL_S * rate_hz))
        spectrum = np.fft.rfft(wave, 2 * size) * np.fft.rfft(response, 2 * size)
        wave = np.asarray(np.fft.irfft(spectrum, 2 * size)[:size], np.float32)
    spans = heard_spans(wave, rate_hz)
    if not spans:
        return None
    window = round(WINDOW_S * rate_hz)
    loud = np.repeat(loud_windows(wave, rate_hz), window)
    rms = float(np.sqrt(np.mean(np.square(wave[: loud.size][loud], dtype=np.float64))))
    return Heard(wave, spans[0][0], spans[-1][1], rms, float(np.abs(wave).max()))
