"""Sound between two gaps: the same bits as in replay, whatever the lengths of the blocks."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.audio.captured_source import Segment
from detector.audio.sources import to_chunks
from detector.messages import AudioChunk, Samples


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 48000])
@given(lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=12))
def test_live_sound_has_the_bits_of_replayed_sound(rate_hz: int, channels: int, lengths: list[int]) -> None:
    frames = np.random.default_rng(7).normal(0, 0.2, (sum(lengths), channels)).astype(np.float32)
    run = Segment(rate_hz, 16000, 1000)
    parts = [run.push(part) for part in np.split(frames, np.cumsum(lengths)[:-1])]
    chunks = [chunk for chunk in [*parts, run.end()] if chunk is not None]
    assert abs(run.behind_s) < 1 / 16000
    np.testing.assert_array_equal(joined(chunks), joined(to_chunks([frames], rate_hz, 16000, "here")))
    check_numbers(chunks, 1000)


def joined(chunks: Iterable[AudioChunk]) -> Samples:
    return np.concatenate([np.empty(0, np.float32), *(chunk.samples for chunk in chunks)])


def check_numbers(chunks: list[AudioChunk], first: int) -> None:
    for chunk in chunks:
        assert (chunk.first_sample, chunk.gap) == (first, False)
        first += chunk.samples.size
