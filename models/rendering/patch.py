"""Patch files of the Gravis Ultrasound: recordings of an instrument's notes with where each goes round."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import soxr

from detector.errors import SourceError
from models.rendering.synthesis import RATE_HZ, Wave

_BEGINNING = b"GF1PATCH110\0"
_LAYER, _FIRST_SAMPLE = 192, 239
"""Where a file's first layer begins, and the first sample of that layer."""
_SAMPLE = struct.Struct("<7xxIIIHIIIhx18xB2x2x36x")
"""Size, loop and its end in bytes, rate, lowest, highest and own frequency in mHz, tune, modes; the rest is unused."""
_WIDE, _UNSIGNED, _GOES_ROUND, _AND_BACK = 1, 2, 4, 8
_LONGEST_S = 6.0
_A4_HZ, _A4 = 440.0, 69
_LOWEST_MHZ, _HIGHEST_MHZ = 8_176, 12_543_854
"""Those of MIDI's pitches 0 and 127."""


def read_patch(path: Path) -> dict[int, Wave]:
    """Return the recordings of the first layer of an instrument, by MIDI pitch, for up to 6 s where they go round.

    The format is that of the card's Software Development Kit (Advanced Gravis, 1993). Envelopes and vibrato
    are left out. Raises SourceError where the file is none of that kind.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    if not data.startswith(_BEGINNING) or len(data) < _FIRST_SAMPLE:
        raise SourceError(f"{path}: not a Gravis patch file, version 1.10")
    notes, at = dict[int, Wave](), _FIRST_SAMPLE
    for _ in range(data[_LAYER + 6]):
        try:
            pitch, wave, at = _read_note(data, at)
        except (struct.error, ValueError) as error:
            raise SourceError(f"{path}: damaged or cut off: {error}") from error
        notes.setdefault(pitch, wave)
    if not notes:
        raise SourceError(f"{path}: no recordings of notes there")
    return notes


def _read_note(data: bytes, at: int) -> tuple[int, Wave, int]:
    """Return the MIDI pitch of the note that begins there, the note at that pitch, and where the next begins."""
    size, loop, loop_end, rate_hz, _, _, own_mhz, _, modes = _SAMPLE.unpack_from(data, at)
    first = at + _SAMPLE.size
    width = 2 if modes & _WIDE else 1
    kind = np.dtype(("<u" if modes & _UNSIGNED else "<i") + str(width))
    samples = np.frombuffer(data, kind, size // width, first).astype(np.float32)
    wave = samples / 2 ** (8 * width - 1) - (1.0 if modes & _UNSIGNED else 0.0)
    if modes & _GOES_ROUND:
        wave = _gone_round(wave, loop // width, loop_end // width, round(_LONGEST_S * rate_hz), modes)
    if not _LOWEST_MHZ <= own_mhz <= _HIGHEST_MHZ:
        raise ValueError(f"a note's own frequency is {own_mhz / 1000:g} Hz")
    exact = _A4 + 12 * math.log2(own_mhz / 1000 / _A4_HZ)
    pitch = round(exact)
    wave = soxr.resample(wave, rate_hz * 2 ** ((pitch - exact) / 12), RATE_HZ)
    return pitch, np.asarray(wave, np.float32), first + size


def _gone_round(wave: Wave, first: int, end: int, samples: int, modes: int) -> Wave:
    """Return a recording that goes on with its loop, back and forth where its modes say so."""
    loop = wave[first:end]
    if loop.size == 0:
        return wave
    again = np.concatenate([loop[::-1], loop]) if modes & _AND_BACK else loop
    more = max(0, samples - end)
    return np.concatenate([wave[:end], np.resize(again, more)])
