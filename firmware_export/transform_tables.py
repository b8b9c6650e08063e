"""Tables of the floating-point Fourier transform in C, laid out in the order in which its passes read them.

The transform of n_fft real samples is one of n_fft / 2 complex points, of radix 4: each pass makes one transform
of every four (J. W. Cooley and J. W. Tukey, "An algorithm for the machine calculation of complex Fourier
series", Math. Comp. 19, 1965), and the last one makes one of two where the number of points asks for it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
LEAST_POINTS: Final = 16
"""Of n_fft: what a first pass and one more take."""


def reversed_numbers(n_fft: int) -> NDArray[np.int64]:
    """Return 0 .. n_fft / 8 - 1 with their bits in the opposite order: where each first butterfly begins to read."""
    points = n_fft // 8
    bits = points.bit_length() - 1
    return np.array([int(f"{i:0{bits}b}"[::-1], 2) for i in range(points)])


def pass_turns(n_fft: int) -> Float64:
    """Return the factors of all passes but the first, whose factors are 1, one after the other.

    A pass that makes a transform of four of ``span`` points has exp(-2 pi i q k / (4 span)) for q = 1, 2, 3, one
    of two exp(-2 pi i k / (2 span)); k = 0 .. span - 1, real parts before imaginary ones.
    """
    half, span, rows = n_fft // 2, 4, [np.empty(0)]
    while span < half:
        radix = 4 if 4 * span <= half else 2
        for q in range(1, radix):
            rows += _turns(q * np.arange(span) / (radix * span))
        span *= radix
    return np.concatenate(rows)


def split_turns(n_fft: int) -> Float64:
    """Return exp(-2 pi i k / n_fft) for k = 0 .. n_fft / 4 - 1, (2, n_fft / 4): real parts, then imaginary ones."""
    return np.stack(_turns(np.arange(n_fft // 4) / n_fft))


def _turns(parts: Float64) -> list[Float64]:
    """Return real and imaginary parts of so many turns clockwise."""
    return [np.cos(2 * np.pi * parts), -np.sin(2 * np.pi * parts)]
