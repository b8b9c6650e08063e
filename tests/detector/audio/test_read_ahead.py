"""Reading ahead: the same chunks in the same order, errors behind them, and no thread left over."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from detector.audio.sources import read_ahead, read_sound
from detector.errors import SourceError
from detector.messages import AudioChunk


def chunks(count: int, fault: str | None = None) -> Iterator[AudioChunk]:
    for i in range(count):
        yield AudioChunk(np.full(4, i, np.float32), 4 * i)
    if fault:
        raise SourceError(fault)


def no_look() -> None:
    """Nothing can end these but the chunks."""


def readers() -> int:
    return sum(thread.name == "read-ahead" for thread in threading.enumerate())


def test_chunks_come_in_order() -> None:
    assert [c.first_sample for c in read_ahead(chunks(50), no_look)] == list(range(0, 200, 4))
    assert readers() == 0


def test_an_error_comes_behind_the_chunks_before_it() -> None:
    iterator = read_ahead(chunks(7, "cut off"), no_look)
    assert [next(iterator).first_sample for _ in range(7)] == list(range(0, 28, 4))
    with pytest.raises(SourceError, match="cut off"):
        next(iterator)
    assert readers() == 0


def test_closing_early_ends_the_thread() -> None:
    iterator = read_ahead(chunks(1000), no_look)
    next(iterator)
    assert readers() == 1
    iterator.close()
    assert readers() == 0


def test_no_more_than_the_depth_is_read_ahead() -> None:
    taken = []

    def counted() -> Iterator[AudioChunk]:
        for chunk in chunks(100):
            taken.append(chunk.first_sample)
            yield chunk

    iterator = read_ahead(counted(), no_look, depth=2)
    next(iterator)
    threading.Event().wait(0.3)
    # One was given, two are ready, one waits to be handed over.
    assert len(taken) <= 4
    iterator.close()


def test_what_a_look_raises_ends_it_also_while_no_chunk_comes() -> None:
    gate = threading.Event()

    def stuck() -> Iterator[AudioChunk]:
        yield from chunks(1)
        gate.wait(timeout=5)  # so that a look that never comes ends in StopIteration

    looks = iter(range(100))

    def check() -> None:
        if next(looks) == 3:
            gate.set()
            raise InterruptedError("enough")

    iterator = read_ahead(stuck(), check)
    assert next(iterator).first_sample == 0
    with pytest.raises(InterruptedError, match="enough"):
        next(iterator)
    assert readers() == 0


def test_a_whole_sound_is_what_the_file_holds(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, (40000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_sound(tmp_path / "a.wav", 16000), wave.mean(axis=1), atol=1e-7)
    assert abs(read_sound(tmp_path / "a.wav", 8000).size - 20000) <= 1
