"""Copies of recordings in other data sets, found by content: under another name, as an excerpt, at another level.

The loudest segment of the shorter of two recordings is located in the longer one by two correlations, which must both
be high at one lag. The normalised cross-correlation is 1 for a scaled copy, but also high between tones and thumps of
one pitch. The phase transform (generalized cross-correlation with all frequencies weighted equally: C. Knapp and
G. Carter, "The generalized correlation method for estimation of time delay", IEEE Trans. ASSP 24(4), 1976) has a peak
far above its standard deviation for a copy, but also between sharp onsets. A lossy codec or another sampling rate
lowers both.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from detector.messages import Samples
from models.data.clips import Clip
from models.data.datasets import load_good_clips

RATE_HZ: Final = 4000
"""Sampling rate of the comparison: enough to separate recordings, and fast."""
MIN_CORRELATION, _MIN_PEAK = 0.5, 9.0
"""Of the normalised cross-correlation, and of the phase transform in standard deviations."""
_EXCERPT_S: Final = 1.5
_MIN_S: Final = 0.2
"""A shorter sound, such as one tick or one note, resembles others by chance."""
_LOUD: Final = 0.02
"""Magnitude of active samples as a share of the peak."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A recording that another data set contains, too."""

    clip: Clip
    original: Clip
    correlation: float
    """Normalised cross-correlation; 1 where they differ in level alone."""


def find_copies(clips: Sequence[Clip], originals: Sequence[Clip], processes: int = 2) -> list[Copy]:
    """Return the clips that are copies of an original in another fold, each with the most similar one.

    A copy within a fold does no harm. Raises SourceError where no clip, or no original, can be read.
    """
    own, own_waves, _ = load_good_clips(list(clips), RATE_HZ, processes)
    others, other_waves, _ = load_good_clips(list(originals), RATE_HZ, processes)
    spectra = [_Spectrum.of(wave) for wave in other_waves]
    jobs = [
        (wave, frozenset(i for i, c in enumerate(others) if c.fold != clip.fold))
        for clip, wave in zip(own, own_waves, strict=True)
    ]
    with ProcessPoolExecutor(processes, initializer=_set_originals, initargs=(spectra,)) as pool:
        found = list(zip(own, pool.map(_most_similar, jobs, chunksize=8), strict=True))
    return [Copy(clip, others[i], value) for clip, (i, value) in found if value >= MIN_CORRELATION]


@dataclass(frozen=True, slots=True)
class _Spectrum:
    """A recording prepared for comparisons."""

    wave: Samples
    size: int
    """Length of the transform."""
    transform: NDArray[np.complex64]
    energy: NDArray[np.float64]
    """Energy before each sample, (samples + 1,)."""

    @classmethod
    def of(cls, wave: Samples) -> _Spectrum:
        """Prepare a recording, zero-padded by the length of an excerpt."""
        size = scipy.fft.next_fast_len(wave.size + round(_EXCERPT_S * RATE_HZ), real=True)
        energy = np.concatenate([[0.0], np.cumsum(wave.astype(np.float64) ** 2)])
        return cls(wave, size, np.asarray(scipy.fft.rfft(wave, size), np.complex64), energy)

    def correlation(self, excerpt: Samples) -> float:
        """Return the largest normalised correlation with an excerpt; 0 where the phase transform has no peak there."""
        lags = self.wave.size - excerpt.size + 1
        if lags < 1 or excerpt.size < _MIN_S * RATE_HZ:
            return 0.0
        cross = self.transform * np.conj(scipy.fft.rfft(excerpt, self.size))
        products = scipy.fft.irfft(cross, self.size)[:lags]
        overlapped = self.energy[excerpt.size :] - self.energy[: -excerpt.size]
        norms = np.sqrt(np.maximum(overlapped, 1e-4 * overlapped.max()) * float(np.sum(excerpt**2)))
        values = np.abs(products) / np.maximum(norms, 1e-9)
        lag = int(np.argmax(values))
        if values[lag] < MIN_CORRELATION:
            return 0.0  # saves the second inverse transform
        level = np.abs(cross)
        whitened = scipy.fft.irfft(cross / np.maximum(level, 1e-6 * level.max() + 1e-30), self.size)
        peak = np.abs(whitened[max(0, lag - 1) : lag + 2]).max() / (whitened.std() + 1e-12)
        return float(values[lag]) if peak >= _MIN_PEAK else 0.0


_originals: list[_Spectrum] = []
"""Of a worker process."""


def _set_originals(originals: list[_Spectrum]) -> None:
    """Keep the originals in a worker process; sending them with each job would take too long."""
    _originals[:] = originals


def _most_similar(job: tuple[Samples, frozenset[int]]) -> tuple[int, float]:
    """Return the index of the most similar of the given originals, and the correlation with it."""
    wave, numbers = job
    excerpt = _loudest(wave)
    if excerpt.size < _MIN_S * RATE_HZ or not numbers:
        return 0, 0.0  # saves the comparisons
    values = {}
    for number in numbers:
        other = _originals[number]
        if other.wave.size >= wave.size:
            values[number] = other.correlation(excerpt)
        else:
            values[number] = _Spectrum.of(wave).correlation(_loudest(other.wave))
    best = max(values, key=values.__getitem__)
    return best, values[best]


def _loudest(wave: Samples) -> Samples:
    """Return the loudest segment of a recording, at most 1.5 s, without silence at its ends."""
    loud = np.flatnonzero(np.abs(wave) > _LOUD * np.abs(wave).max(initial=0.0))
    if not loud.size:
        return wave[:0]
    active, size = wave[loud[0] : loud[-1] + 1], round(_EXCERPT_S * RATE_HZ)
    if active.size <= size:
        return active
    energy = np.concatenate([[0.0], np.cumsum(active.astype(np.float64) ** 2)])
    start = int(np.argmax(energy[size:] - energy[:-size]))
    return active[start : start + size]
