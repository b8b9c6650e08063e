"""What hypothesis draws: ways to cut a stream into chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray


def chunk_lengths(most: int = 2000) -> st.SearchStrategy[list[int]]:
    """Draw lengths of chunks, empty ones and single ones included."""
    return st.lists(st.one_of(st.integers(0, 3), st.integers(0, most)), min_size=1, max_size=40)


def cut(array: NDArray[Any], lengths: list[int]) -> list[NDArray[Any]]:
    """Cut an array along its first axis into chunks of these lengths, and the rest into one more."""
    return np.split(array, np.minimum(np.cumsum(lengths), len(array)))
