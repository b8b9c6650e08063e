"""Incremental mel-frequency cepstral coefficients.

For the same parameters the frames equal those of ``python_speech_features.mfcc`` on the whole
signal (pre-emphasis, framing, power spectrum, triangular mel filters on FFT bins, natural log,
orthonormal DCT-II, sinusoidal lifter, optional log energy, zero-padded last frame), after
S. Davis and P. Mermelstein, "Comparison of parametric representations for monosyllabic word
recognition", IEEE TASSP 28(4), 1980.

Chunking cannot show: everything is elementwise or row by row, in float64. The mel filters are
summed bin by bin over their support and the DCT is one vector-matrix product per frame, because
one matrix product over many frames rounds differently from one over few.

The tables are pure functions of the parameters, used by runtime, training and firmware alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.manifest import MfccParams
from detector.messages import Frames, Samples, find_fault

__all__ = ["MfccExtractor", "mfcc_params"]

Float64 = NDArray[np.float64]
_LARGEST = 1 << 20
"""Samples in a frame, a hop or a transform, at most: beyond it a number is a mistake."""
_BLOCK_FRAMES = 64
"""Frames transformed at once: bounds the memory of a long push and keeps it in the cache."""

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
    (the least squares solution); where the energy replaces the zeroth, up to a constant of each frame.
    """
    return np.asarray(np.linalg.pinv(dct_matrix(params)), np.float64)


def mel_centres_hz(params: MfccParams) -> Float64:
    """Return the frequency at which each mel filter peaks, shape (n_mels,)."""
    return np.asarray(mel_edges(params)[1:-1] * (params.sample_rate_hz / params.n_fft), np.float64)


def mel_spans(params: MfccParams) -> tuple[NDArray[np.int64], NDArray[np.int64], Float64]:
    """Return each mel filter's first bin (n_mels,), number of bins (n_mels,), and the weights of all in one array."""
    bank = mel_filterbank(params)
    support = [np.flatnonzero(row) for row in bank]
    first = np.array([s[0] if s.size else 0 for s in support])
    count = np.array([s[-1] - s[0] + 1 if s.size else 0 for s in support])
    rows = [row[a : a + n] for row, a, n in zip(bank, first, count, strict=True)]
    return first, count, np.concatenate(rows) if count.sum() else np.zeros(1)


def bit_reversal(n_fft: int) -> NDArray[np.int64]:
    """Return the bit-reversal permutation of 0 .. n_fft / 8 - 1: where each first butterfly starts to read."""
    points = n_fft // 8
    bits = points.bit_length() - 1
    return np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(points)])


def pass_twiddles(n_fft: int) -> Float64:
    """Return the twiddle factors of all passes except the first, whose factors are 1, in one array.

    A pass over four transforms of ``span`` points has exp(-2 pi i q k / (4 span)) for q = 1, 2, 3, a pass over two
    exp(-2 pi i k / (2 span)); k = 0 .. span - 1, real parts before imaginary parts.
    """
    half, span, rows = n_fft // 2, 4, [np.empty(0)]
    while span < half:
        radix = 4 if 4 * span <= half else 2
        for q in range(1, radix):
            rows += _twiddles(q * np.arange(span) / (radix * span))
        span *= radix
    return np.concatenate(rows)


def split_twiddles(n_fft: int) -> Float64:
    """Return exp(-2 pi i k / n_fft) for k = 0 .. n_fft / 4 - 1, (2, n_fft / 4): real parts, then imaginary parts."""
    return np.stack(_twiddles(np.arange(n_fft // 4) / n_fft))


def _round_half_up(x: float) -> int:
    """Round as python_speech_features does: the decimal digits of the float, halves up."""
    return int(Decimal(x).quantize(Decimal(1), rounding=ROUND_HALF_UP))


def _twiddles(fractions: Float64) -> list[Float64]:
    """Return the real and imaginary parts of exp(-2 pi i x) for x in ``fractions``."""
    return [np.cos(2 * np.pi * fractions), -np.sin(2 * np.pi * fractions)]


@dataclass(slots=True)
class _State:
    pending: Float64
    """Pre-emphasised samples from the start of the next frame on (fewer than a frame)."""
    skip: int
    """Samples to drop before the next frame begins, where the hop is longer than the frame."""
    previous: float
    """The last raw sample, for the pre-emphasis."""
    seen: int
    """Samples pushed since the reset."""
    frames: int
    """Frames given since the reset."""


class MfccExtractor:
    """Turn samples into MFCC frames, however the samples are cut into chunks."""

    def __init__(self, params: MfccParams) -> None:
        """Build the tables; raises ValueError that names the parameter which cannot be."""
        check_mfcc(params)
        self._p = params
        self._window = window_coefficients(params)
        # The power spectrum's 1 / n_fft is part of the filters' weights.
        self._filters = _SparseFilters(mel_filterbank(params) / params.n_fft)
        self._dct = np.ascontiguousarray(dct_matrix(params))
        self._eps = float(np.finfo(np.float64).eps)
        self.reset()

    @property
    def samples(self) -> int:
        """Samples pushed since the reset."""
        return self._s.seen

    def reset(self) -> None:
        """Forget everything: the next sample is the first of a stream."""
        self._s = _State(pending=np.empty(0), skip=0, previous=0.0, seen=0, frames=0)

    def push(self, samples: Samples) -> Frames:
        """Take samples (n,), any n, and return the frames (m, n_mfcc) that they complete.

        Raises ValueError for an array that is not one-dimensional or not of floats.
        """
        _check_array(samples)
        if samples.size == 0:
            return self._empty()
        s, p = self._s, self._p
        new = self._preemphasise(samples)
        s.seen += new.size
        if s.skip:
            dropped = min(s.skip, new.size)
            new, s.skip = new[dropped:], s.skip - dropped
        signal = np.concatenate((s.pending, new)) if s.pending.size else new
        count = max(0, (signal.size - p.frame_length) // p.hop_length + 1)
        used = count * p.hop_length
        s.skip += max(0, used - signal.size)
        s.pending = signal[used:].copy()
        s.frames += count
        return self._transform(signal, count)

    def flush(self) -> Frames:
        """End the stream: return the zero-padded last frame (0 or 1 of them) and reset."""
        s, p = self._s, self._p
        beyond = max(0, s.seen - p.frame_length)
        missing = (1 + -(-beyond // p.hop_length) - s.frames) if s.seen else 0
        signal = np.zeros(p.frame_length)
        signal[: s.pending.size] = s.pending
        self.reset()
        return self._transform(signal, missing)

    def _preemphasise(self, samples: Samples) -> Float64:
        coefficient = self._p.preemphasis
        new = samples.astype(np.float64)
        if coefficient and new.size:
            # The stream's first sample has no predecessor: `previous` is zero then.
            previous, self._s.previous = self._s.previous, float(new[-1])
            new[1:] -= coefficient * new[:-1]
            new[0] -= coefficient * previous
        return new

    def _transform(self, signal: Float64, count: int) -> Frames:
        if count <= 0:
            return self._empty()
        p = self._p
        out = np.empty((count, p.n_mfcc), np.float32)
        at = 0
        for start in range(0, count, _BLOCK_FRAMES):
            windowed = np.empty((min(_BLOCK_FRAMES, count - start), p.frame_length))
            for row in windowed:
                np.multiply(signal[at : at + p.frame_length], self._window, out=row)
                at += p.hop_length
            out[start : start + len(windowed)] = self._cepstra(windowed)
        return out

    def _cepstra(self, windowed: Float64) -> Float64:
        """Transform windowed frames (m, frame_length) to cepstra (m, n_mfcc), row by row."""
        squares = np.fft.rfft(windowed, self._p.n_fft).view(np.float64)
        np.multiply(squares, squares, out=squares)
        power = squares[:, 0::2] + squares[:, 1::2]
        log_mel = self._log(self._filters.apply(power))
        cepstra: Float64 = np.matmul(log_mel[:, None, :], self._dct)[:, 0]
        if self._p.append_energy:
            cepstra[:, 0] = self._log(power.sum(axis=1) / self._p.n_fft)
        return cepstra

    def _log(self, energy: Float64) -> Float64:
        if self._p.log_floor > 0:
            np.maximum(energy, self._p.log_floor, out=energy)
        else:
            energy[energy == 0] = self._eps
        return np.log(energy, out=energy)

    def _empty(self) -> Frames:
        return np.empty((0, self._p.n_mfcc), np.float32)


def _check_array(samples: Samples) -> None:
    if not isinstance(samples, np.ndarray) or samples.ndim != 1:
        raise ValueError(f"samples must be an array (n,), not {np.shape(samples)}; mix the channels first")
    if samples.dtype.kind != "f":
        raise ValueError(f"samples must be floats in [-1, 1), not {samples.dtype}; divide 16-bit samples by 32768")


def as_samples(samples: Samples) -> Samples:
    """Return samples (n,) as float32, as the detector takes them.

    Raises ValueError for an array that is not one-dimensional or not of floats, for values that are not finite, and
    for values in the scale of integers (``detector.messages.find_fault``).
    """
    _check_array(samples)
    if fault := find_fault(samples):
        at, reason = fault
        raise ValueError(f"samples must be floats in [-1, 1): sample {at} {reason}")
    return samples.astype(np.float32, copy=False)


class _SparseFilters:
    """The mel filters as sums over their own bins, so that each frame is summed alike in any batch."""

    def __init__(self, bank: Float64) -> None:
        """Take the dense filters (n_mels, bins) and keep each one's support."""
        support = [np.flatnonzero(row) for row in bank]
        # A filter narrower than a bin is empty; it becomes one bin of weight zero.
        self._bins = np.concatenate([s if s.size else np.zeros(1, np.int64) for s in support])
        self._weights = np.concatenate(
            [row[s] if s.size else np.zeros(1) for row, s in zip(bank, support, strict=True)]
        )
        lengths = np.array([max(s.size, 1) for s in support])
        self._starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))

    def apply(self, power: Float64) -> Float64:
        """Return filter energies (m, n_mels) of power spectra (m, bins)."""
        weighted = power.take(self._bins, axis=1)
        weighted *= self._weights
        energies: Float64 = np.add.reduceat(weighted, self._starts, axis=1)
        return energies


def check_mfcc(p: MfccParams) -> None:
    """Raise ValueError that names the parameter which cannot be."""
    wrong = [
        (p.sample_rate_hz <= 0, "sample_rate_hz must be positive"),
        (p.frame_length <= 0, "frame_length must be positive"),
        (p.hop_length <= 0, "hop_length must be positive"),
        (p.n_fft <= 0, "n_fft must be positive"),
        (not 0 < p.n_mfcc <= p.n_mels, "n_mfcc must lie in 1..n_mels"),
        (not 0 <= p.f_min_hz < p.f_max_hz <= p.sample_rate_hz / 2, "need 0 <= f_min_hz < f_max_hz <= half the rate"),
        (p.n_fft > _LARGEST, f"n_fft must be at most {_LARGEST}"),
        (
            p.frame_length > _LARGEST or p.hop_length > _LARGEST,
            f"frame and hop must be at most {_LARGEST} samples",
        ),
        (p.n_mels > p.n_fft, "n_mels must not exceed n_fft"),
        (not math.isfinite(p.preemphasis), "preemphasis must be finite"),
        (not math.isfinite(p.log_floor), "log_floor must be finite"),
        (p.lifter < 0, "lifter must not be negative"),
        (p.log_floor < 0, "log_floor must not be negative"),
        (isinstance(p.window, str) and p.window not in WINDOWS, f"window must be one of {', '.join(WINDOWS)}"),
        (not isinstance(p.window, str) and len(p.window) != p.frame_length, "window must have frame_length values"),
        (not isinstance(p.window, str) and not all(map(math.isfinite, p.window)), "window must be finite"),
    ]
    for is_wrong, text in wrong:
        if is_wrong:
            raise ValueError(f"MFCC: {text}; got {p}")
