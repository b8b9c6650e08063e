"""Pictures made of characters: bands as half blocks, spikes as braille, values as bars."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style

_STOPS: Final = (
    (9, 11, 16),
    (38, 22, 74),
    (105, 28, 107),
    (178, 49, 88),
    (235, 101, 52),
    (252, 180, 60),
    (252, 253, 191),
)
_LEVELS: Final = 20
"""Colours of a picture; the fewer, the longer the runs that a terminal is sent."""
_SHADES: Final = " .:-=+*#%@"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_DOTS: Final = np.array([[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]], np.uint16)
"""Bits of a braille cell: two columns of four dots, from the top."""
_BRAILLE: Final = 0x2800
DOTS: Final = 4
"""Dots above each other in a cell."""
FRAMES: Final = 2
"""Dots, and so frames, beside each other in a cell."""


def bands(shares: NDArray[np.float32], rows: int, *, colours: bool) -> Iterator[list[Segment]]:
    """Yield lines of a picture of shares (frames, bands) in [0, 1], the highest band on top, two frames a cell."""
    cells = shares[: len(shares) // FRAMES * FRAMES].reshape(-1, FRAMES, shares.shape[1]).max(axis=1)
    if colours:
        picture = np.rint(_fitted(cells, 2 * rows) * (_LEVELS - 1)).astype(int)[:, ::-1].T
        for top, bottom in zip(picture[0::2], picture[1::2], strict=True):
            yield list(_runs(top.tolist(), bottom.tolist()))
    else:
        picture = np.rint(_fitted(cells, rows) * (len(_SHADES) - 1)).astype(int)[:, ::-1].T
        for row in picture:
            yield [Segment("".join(_SHADES[level] for level in row))]


def raster(spikes: NDArray[np.bool_], rows: int) -> Iterator[str]:
    """Yield lines with a dot for each spike (frames, neurons) of as many neurons as there are dots, evenly chosen."""
    dots = DOTS * rows
    chosen = np.linspace(0, spikes.shape[1] - 1, dots).astype(int)
    grid = spikes[: len(spikes) // FRAMES * FRAMES, chosen[::-1]].reshape(-1, FRAMES, rows, DOTS)
    codes = (grid * _DOTS[:, None, :]).sum(axis=(1, 3)) + _BRAILLE
    for row in codes.T:
        yield "".join(map(chr, row.tolist()))


def bar(share: float, width: int, mark: float | None = None) -> str:
    """Return a bar of eighths of a cell, with a mark where a threshold is."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    text = ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width, "·")
    if mark is not None:
        at = min(width - 1, int(mark * width))
        text = f"{text[:at]}│{text[at + 1 :]}"
    return text


def _fitted(cells: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return cells (columns, bands) as (columns, rows): the loudest of bands that share a row."""
    width = cells.shape[1]
    edges = np.minimum(np.arange(rows) * width // rows, width - 1)
    return np.clip(np.maximum.reduceat(cells, edges, axis=1) if width >= rows else cells[:, edges], 0, 1)


def _runs(top: list[int], bottom: list[int]) -> Iterator[Segment]:
    """Yield half blocks, neighbours of the same colours together."""
    begin = 0
    for at in range(1, len(top) + 1):
        if at == len(top) or (top[at], bottom[at]) != (top[begin], bottom[begin]):
            yield Segment("▀" * (at - begin), _style(top[begin], bottom[begin]))
            begin = at


@cache
def _style(top: int, bottom: int) -> Style:
    return Style(color=_colour(top), bgcolor=_colour(bottom))


@cache
def _colour(level: int) -> str:
    at = level / (_LEVELS - 1) * (len(_STOPS) - 1)
    low = min(int(at), len(_STOPS) - 2)
    mixed = (round(a + (at - low) * (b - a)) for a, b in zip(_STOPS[low], _STOPS[low + 1], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)
