"""The integers of the MFCC in fixed point. A *point* of n bits means units of 2**-n."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.errors import ManifestError
from detector.features import dct_matrix, mel_filterbank, window_coefficients
from detector.manifest import MfccParams

Int64 = NDArray[np.int64]

AMPLITUDE_BITS: Final = 29
SAMPLE_BITS: Final = 15
TURN_BITS: Final = 30
"""Point of the window, too."""
MEL_BITS: Final = 15
LOG_BITS: Final = 24
LOG_STEPS: Final = 256
CEPSTRUM_BITS: Final = 16


@dataclass(frozen=True, slots=True)
class FrontEndTables:
    """The integers of the MFCC."""

    preemphasis: int
    window: Int64
    turns: Int64
    """(n_fft // 2, 2): cosine and sine of -2 pi k / n_fft."""
    mel_first: Int64
    mel_count: Int64
    mel_weights: Int64
    logs: Int64
    """ln(1 + i / LOG_STEPS), (LOG_STEPS + 1,)."""
    ln_2: int
    log_unit: int
    """Logarithm of what an energy of 1 stands for, before a frame's growth is taken off."""
    log_of_nothing: int
    """The least logarithm there is: that of the floor, or of what stands for zero."""
    dct: Int64
    """(n_mels, n_mfcc)."""
    dct_bits: int
    silence: Int64
    """Cepstra of a frame of zeros, (n_mfcc,)."""


def front_end_tables(p: MfccParams) -> FrontEndTables:
    """Return the integers of a front end; raises ManifestError, naming the key, for what does not fit."""
    if abs(p.preemphasis) > 1:
        raise ManifestError(f"features.preemphasis is {p.preemphasis}; in fixed point it must lie in [-1, 1]")
    dct_bits = TURN_BITS - max(0, math.ceil(math.log2(np.abs(dct_matrix(p)).max())))
    dct = to_points(dct_matrix(p), dct_bits)
    nothing = to_point(math.log(p.log_floor or np.finfo(np.float64).eps), LOG_BITS)
    first, count, weights = mel_spans(p)
    half = p.n_fft // 2
    unit = math.log(half**2 / p.n_fft) - 2 * AMPLITUDE_BITS * math.log(2)
    return FrontEndTables(
        preemphasis=to_point(p.preemphasis, AMPLITUDE_BITS - SAMPLE_BITS),
        window=to_points(_window(p), TURN_BITS),
        turns=to_points(turns(p), TURN_BITS),
        mel_first=first,
        mel_count=count,
        mel_weights=to_points(weights, MEL_BITS),
        logs=to_points(np.log1p(np.arange(LOG_STEPS + 1) / LOG_STEPS), LOG_BITS),
        ln_2=to_point(math.log(2), LOG_BITS),
        log_unit=to_point(unit, LOG_BITS),
        log_of_nothing=nothing,
        dct=dct,
        dct_bits=dct_bits,
        silence=_silence(p, nothing, dct, dct_bits),
    )


def mel_spans(params: MfccParams) -> tuple[Int64, Int64, NDArray[np.float64]]:
    """Return each filter's first bin, its number of bins, and all their weights in a row."""
    bank = mel_filterbank(params)
    support = [np.flatnonzero(row) for row in bank]
    first = np.array([s[0] if s.size else 0 for s in support])
    count = np.array([s[-1] - s[0] + 1 if s.size else 0 for s in support])
    rows = [row[a : a + n] for row, a, n in zip(bank, first, count, strict=True)]
    return first, count, np.concatenate(rows) if count.sum() else np.zeros(1)


def turns(params: MfccParams) -> NDArray[np.float64]:
    """Return cosine and sine of -2 pi k / n_fft, (n_fft // 2, 2)."""
    angles = -2 * np.pi * np.arange(params.n_fft // 2) / params.n_fft
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rounded(values: Int64, bits: int) -> Int64:
    """Return whole numbers divided by 2**bits, halves up: what the C does by a sum and a shift."""
    return np.asarray((values + (1 << (bits - 1))) >> bits, np.int64)


def to_points(values: Any, bits: int) -> Int64:
    """Return numbers in units of 2**-bits, rounded."""
    return np.asarray(np.round(np.ldexp(np.asarray(values, np.float64), bits)), np.int64)


def to_point(value: float, bits: int) -> int:
    """Return one number in units of 2**-bits, rounded."""
    return int(to_points(value, bits))


def _silence(p: MfccParams, nothing: int, dct: Int64, dct_bits: int) -> Int64:
    cepstra = rounded(nothing * dct.sum(axis=0), LOG_BITS + dct_bits - CEPSTRUM_BITS)
    if p.append_energy:
        cepstra[0] = rounded(np.array(nothing), LOG_BITS - CEPSTRUM_BITS)
    return cepstra


def _window(p: MfccParams) -> NDArray[np.float64]:
    window = window_coefficients(p)
    if np.abs(window).max() > 1:
        raise ManifestError("features.window leaves [-1, 1]; in fixed point it must not")
    return window
