"""C source for tables of numbers: floats to the bit, integers, texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WIDTH = 112


def c_float(value: float) -> str:
    """Return a float32 as a hexadecimal constant, which every C99 compiler reads to the same bit."""
    single = float(np.float32(value))
    if not np.isfinite(single):
        raise ValueError(f"{value} cannot stand in a table")
    mantissa, _, exponent = single.hex().partition("p")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}p{exponent}f"


def c_double(value: float) -> str:
    """Return a float64 as a hexadecimal constant, which a front end in single precision rounds when compiled."""
    if not np.isfinite(value):
        raise ValueError(f"{value} cannot stand in a table")
    return f"SNN_REAL({float(value).hex()})"


def c_text(text: str) -> str:
    """Return a C string literal of ASCII characters alone."""
    plain = text.encode("ascii", "backslashreplace").decode()
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def c_array(kind: str, name: str, values: NDArray[Any], *, shape: str | None = None) -> str:
    """Return the definition of a constant array; more than one axis gives nested braces."""
    sizes = shape if shape is not None else "".join(f"[{n}]" for n in values.shape)
    return f"const {kind} {name}{sizes} = {_braced(values)};\n"


def _braced(values: NDArray[Any]) -> str:
    if values.ndim > 1:
        return "{\n" + ",\n".join(_braced(row) for row in values) + "}"
    printer = {np.dtype(np.float32): c_float, np.dtype(np.float64): c_double}.get(values.dtype, str)
    texts = map(printer, values.tolist() if printer is str else values)
    return "{" + "\n".join(_lines(texts)).lstrip() + "}"


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Join texts with commas into lines that can be read."""
    line = ""
    parts = list(texts)
    for i, text in enumerate(parts):
        piece = text + ("," if i + 1 < len(parts) else "")
        if line and len(line) + len(piece) + 1 > _WIDTH:
            yield line
            line = ""
        line = f"{line} {piece}" if line else f"    {piece}"
    yield line
