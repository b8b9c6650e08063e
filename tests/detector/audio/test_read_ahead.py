"""Reading ahead: the same items in the same order, errors behind them, and no thread that is left running."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import soundfile

from detector.audio.live_source import AudioBlock, SourceEvent, drain
from detector.audio.sources import FileSource, Reader, read_chunks, read_sound
from detector.errors import SourceError
from tests.service import wait_until


def numbers(count: int, fault: str | None = None) -> Iterator[int]:
    yield from range(count)
    if fault:
        raise SourceError(fault)


def readers() -> int:
    return sum(thread.name == "read-ahead" for thread in threading.enumerate())


def test_items_come_in_order() -> None:
    reader = Reader(numbers(50), 2)
    found: list[int] = []
    assert drain(reader, found.append, lambda: True)
    assert found == list(range(50))
    assert reader.is_over
    assert reader.take(1) is None
    wait_until(lambda: readers() == 0, "the end of the thread")


def test_an_error_is_raised_behind_the_items_before_it() -> None:
    reader = Reader(numbers(7, "cut off"), 2)
    found: list[int] = []
    with pytest.raises(SourceError, match="cut off"):
        drain(reader, found.append, lambda: True)
    assert found == list(range(7))
    assert reader.take(1) is None
    wait_until(lambda: readers() == 0, "the end of the thread")


def test_closing_early_ends_the_thread_and_closes_what_it_reads() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from numbers(1000)
        finally:
            closed.set()

    reader = Reader(items(), 2)
    assert reader.take(5) == [0]
    assert readers() == 1
    reader.close()
    assert closed.wait(5)
    assert readers() == 0
    assert reader.take(1) is None


def test_no_more_than_the_depth_is_read_ahead() -> None:
    taken = []

    def counted() -> Iterator[int]:
        for number in numbers(100):
            taken.append(number)
            yield number

    with closing(Reader(counted(), 2)) as reader:
        assert reader.take(5) == [0]
        time.sleep(0.3)
        # One was taken, two are queued, one waits for a place in the queue.
        assert len(taken) <= 4
        assert reader.filled == 1


def test_the_loop_can_be_ended_while_no_item_arrives() -> None:
    gate = threading.Event()

    def stuck() -> Iterator[int]:
        yield 0
        gate.wait(timeout=30)

    found: list[int] = []
    turns = iter([True, True, True, False])
    with closing(Reader(stuck(), 2)) as reader:
        assert not drain(reader, found.append, lambda: next(turns), 0.05)
        gate.set()
    assert found == [0]


def test_a_file_that_blocks_delays_neither_the_loop_nor_the_end(tmp_path: Path) -> None:
    """The named pipe has no writer: opening it blocks."""
    os.mkfifo(tmp_path / "pipe.wav")
    begin = time.monotonic()
    with closing(FileSource(tmp_path / "pipe.wav", 16000)) as source:
        assert source.take(0.05) == []
        assert (source.seconds_read, source.frames_total) == (0, None)
    assert time.monotonic() - begin < 5
    descriptor = os.open(tmp_path / "pipe.wav", os.O_WRONLY)  # ends the wait of the thread
    os.close(descriptor)


def test_a_repeated_file_is_one_stream(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    blocks: list[AudioBlock] = []

    def keep(event: SourceEvent) -> None:
        if isinstance(event, AudioBlock):
            blocks.append(event)

    with closing(FileSource(tmp_path / "a.wav", 16000, 1600, loop=True)) as source:
        drain(source, keep, lambda: len(blocks) < 7)
    assert [b.chunk.first_sample for b in blocks] == [0, 1600, 3200, 4000, 5600, 7200, 8000]
    np.testing.assert_array_equal(np.concatenate([b.chunk.samples for b in blocks])[4000:8000], wave)


def test_a_source_emits_the_chunks_of_the_file(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, 40000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 44100, subtype="FLOAT")
    expected = list(read_chunks(tmp_path / "a.wav", 16000, 700))
    found: list[SourceEvent] = []
    with closing(FileSource(tmp_path / "a.wav", 16000, 700)) as source:
        assert drain(source, found.append, lambda: True)
    blocks = [event for event in found if isinstance(event, AudioBlock)]
    assert [b.chunk.first_sample for b in blocks] == [c.first_sample for c in expected]
    for block, chunk in zip(blocks, expected, strict=True):
        np.testing.assert_array_equal(block.chunk.samples, chunk.samples)


def test_a_whole_sound_is_what_the_file_holds(tmp_path: Path) -> None:
    wave = np.random.default_rng(0).normal(0, 0.1, (40000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_sound(tmp_path / "a.wav", 16000), wave.mean(axis=1), atol=1e-7)
    assert abs(read_sound(tmp_path / "a.wav", 8000).size - 20000) <= 1
