"""The tables of the MFCC, as pure functions of its parameters: training, runtime and firmware take them from here."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.manifest import MfccParams

Float64 = NDArray[np.float64]

WINDOWS: dict[str, Callable[[int], Float64]] = {
    "rectangular": np.ones,
    "hann": np.hanning,
    "hamming": np.hamming,
    "blackman": np.blackman,
    "bartlett": np.bartlett,
}


def mfcc_params(  # noqa: PLR0913 - python_speech_features' own argument list
    samplerate: int = 16000,
    winlen: float = 0.025,
    winstep: float = 0.01,
    numcep: int = 13,
    nfilt: int = 26,
    nfft: int = 512,
    lowfreq: float = 0,
    highfreq: float | None = None,
    preemph: float = 0.97,
    ceplifter: int = 22,
    appendEnergy: bool = True,  # noqa: N803 - as python_speech_features spells it
    winfunc: Callable[[int], Any] = np.ones,
) -> MfccParams:
    """Give the parameters that mean the same as these arguments of ``python_speech_features.mfcc``.

    Raises ValueError for values that no extractor can have (see ``MfccExtractor``).
    """
    frame_length = _round_half_up(winlen * samplerate)
    named = {function: name for name, function in WINDOWS.items()}
    return MfccParams(
        sample_rate_hz=samplerate,
        frame_length=frame_length,
        hop_length=_round_half_up(winstep * samplerate),
        n_fft=nfft,
        n_mels=nfilt,
        n_mfcc=min(numcep, nfilt),
        f_min_hz=float(lowfreq),
        f_max_hz=float(highfreq or samplerate / 2),
        preemphasis=preemph,
        lifter=max(ceplifter, 0),
        append_energy=bool(appendEnergy),
        window=named.get(winfunc) or tuple(float(w) for w in winfunc(frame_length)),
        log_floor=0.0,
    )


def window_coefficients(params: MfccParams) -> Float64:
    """Return the analysis window, shape (frame_length,)."""
    if isinstance(params.window, str):
        return np.asarray(WINDOWS[params.window](params.frame_length), np.float64)
    return np.asarray(params.window, np.float64)


def mel_edges(params: MfccParams) -> NDArray[np.int64]:
    """Return the FFT bins at which the triangles begin, peak and end, shape (n_mels + 2,)."""

    def mel(hz: float) -> float:
        return float(2595 * np.log10(1 + hz / 700.0))

    points = np.linspace(mel(params.f_min_hz), mel(params.f_max_hz), params.n_mels + 2)
    hz = 700 * (10 ** (points / 2595.0) - 1)
    return np.floor((params.n_fft + 1) * hz / params.sample_rate_hz).astype(np.int64)


def mel_filterbank(params: MfccParams) -> Float64:
    """Return the triangular filters, shape (n_mels, n_fft // 2 + 1), peak 1."""
    edges = mel_edges(params)
    bins = np.arange(params.n_fft // 2 + 1)
    bank = np.zeros((params.n_mels, bins.size))
    for row, (low, peak, high) in zip(bank, zip(edges, edges[1:], edges[2:], strict=False), strict=True):
        rising = (bins >= low) & (bins < peak)
        falling = (bins >= peak) & (bins < high)
        row[rising] = (bins[rising] - low) / (peak - low)
        row[falling] = (high - bins[falling]) / (high - peak)
    return bank


def dct_matrix(params: MfccParams) -> Float64:
    """Return the orthonormal DCT-II with the lifter folded in, shape (n_mels, n_mfcc)."""
    n = np.arange(params.n_mels)[:, None]
    k = np.arange(params.n_mfcc)[None, :]
    dct: Float64 = np.sqrt(2 / params.n_mels) * np.cos(np.pi * k * (2 * n + 1) / (2 * params.n_mels))
    dct[:, 0] /= math.sqrt(2)
    if params.lifter > 0:
        dct = dct * (1 + params.lifter / 2 * np.sin(np.pi * k / params.lifter))
    return dct


def log_mel_matrix(params: MfccParams) -> Float64:
    """Return the matrix (n_mfcc, n_mels) that leads from cepstra back to log mel energies.

    With as many cepstra as bands it gives them as they were; with fewer, smoothed along the bands
    (the least squares solution); where the energy stands in for the zeroth, up to a constant of each frame.
    """
    return np.asarray(np.linalg.pinv(dct_matrix(params)), np.float64)


def mel_centres_hz(params: MfccParams) -> Float64:
    """Return the frequency at which each mel filter peaks, shape (n_mels,)."""
    return np.asarray(mel_edges(params)[1:-1] * (params.sample_rate_hz / params.n_fft), np.float64)


def _round_half_up(x: float) -> int:
    """Round as python_speech_features does: the decimal digits of the float, halves up."""
    return int(Decimal(x).quantize(Decimal(1), rounding=ROUND_HALF_UP))
