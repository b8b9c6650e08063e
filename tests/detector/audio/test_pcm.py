"""Raw samples from a pipe, as they arrive."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from detector.audio.live_source import AudioBlock, SourceCondition, SourceEvent
from detector.audio.sources import PcmSource, RawFormat
from detector.errors import ConfigError, SourceError
from detector.messages import Samples
from tests.resources import left_open, resources
from tests.service import wait_until

RATE = 16000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with contextlib.suppress(OSError):  # the test may have closed it
            os.close(descriptor)


def to_the_end(stream: PcmSource) -> list[SourceEvent]:
    found: list[SourceEvent] = []
    while (source_events := stream.take(5)) is not None:
        found += source_events
    return found


def samples_of(source_events: list[SourceEvent]) -> Samples:
    return np.concatenate([n.chunk.samples for n in source_events if isinstance(n, AudioBlock)])


def write(writer: int, data: bytes) -> None:
    """Write all of the data, and close, without waiting for it."""

    def to_the_pipe() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(data)

    threading.Thread(target=to_the_pipe, daemon=True).start()


def ramp(samples: int) -> np.ndarray[tuple[int], np.dtype[np.int16]]:
    return (np.arange(samples) % 2000 - 1000).astype("<i2")


def test_all_samples_arrive_in_order_however_they_are_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    data = ramp(RATE).tobytes()
    stream = PcmSource(reader, RawFormat(), RATE)

    def dribble() -> None:
        for at, n in ((0, 1), (1, 2), (3, 5000), (5003, len(data))):
            os.write(writer, data[at : at + n])
            time.sleep(0.02)
        os.close(writer)

    thread = threading.Thread(target=dribble)
    thread.start()
    source_events = to_the_end(stream)
    thread.join()
    np.testing.assert_array_equal(samples_of(source_events), ramp(RATE) / np.float32(32768))
    sounds = [n for n in source_events if isinstance(n, AudioBlock)]
    ends = [0, *np.cumsum([len(s.chunk.samples) for s in sounds]).tolist()]
    assert [s.chunk.first_sample for s in sounds] == ends[:-1]
    assert not any(s.chunk.gap for s in sounds)
    assert all(abs(s.received_at_s - time.monotonic()) < 60 for s in sounds)
    assert stream.take(1) is None
    assert not stream.stats.is_open


def test_taking_waits_up_to_the_timeout(pipe: tuple[int, int]) -> None:
    stream = PcmSource(pipe[0], RawFormat(), RATE)
    assert stream.take(0.01) == []
    assert stream.take(0) == []
    stream.close()
    assert stream.take(0.01) is None


def test_the_writer_waits_for_the_detector(pipe: tuple[int, int]) -> None:
    """Back-pressure instead of loss: an hour of sound is neither dropped nor buffered in memory."""
    reader, writer = pipe
    stream = PcmSource(reader, RawFormat(), RATE)
    written = 0
    block = ramp(RATE).tobytes()

    def keep_writing() -> None:
        nonlocal written
        for _ in range(60):
            at = 0
            while at < len(block):
                at += os.write(writer, block[at:])
            written += 1
        os.close(writer)

    threading.Thread(target=keep_writing, daemon=True).start()
    wait_until(lambda: stream.stats.queue_depth == 1, "a full queue")
    time.sleep(0.3)
    assert written < 20
    assert len([n for n in stream.take(1) or [] if isinstance(n, AudioBlock)]) == 1
    source_events = to_the_end(stream)
    assert len(samples_of(source_events)) > 50 * RATE
    assert stream.stats.lost_s == 0


def test_the_end_leaves_no_thread_and_the_descriptor_open(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    before = resources()
    stream = PcmSource(reader, RawFormat(), RATE)
    stream.close()
    wait_until(lambda: not left_open(before), "the end of the thread")
    os.write(writer, b"1234")
    assert os.read(reader, 4) == b"1234"


@pytest.mark.parametrize(("data", "word"), [(b"", "0 bytes"), (b"\0" * 7, "within a frame"), (b"RIFFabcdWAVE", "WAV")])
def test_an_error_of_raw_samples_is_raised_behind_the_sound(pipe: tuple[int, int], data: bytes, word: str) -> None:
    reader, writer = pipe
    os.write(writer, data)
    os.close(writer)
    stream = PcmSource(reader, RawFormat(), RATE)
    with pytest.raises(SourceError, match=word):
        to_the_end(stream)
    assert stream.take(1) is None


@pytest.mark.parametrize("raw", [RawFormat(100), RawFormat(sample_format="mp3"), RawFormat(channels=0)])
def test_impossible_formats_are_errors(pipe: tuple[int, int], raw: RawFormat) -> None:
    with pytest.raises(ConfigError):
        PcmSource(pipe[0], raw, RATE)


def test_levels_and_conditions(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    write(writer, b"\0\0" * 8 * RATE)
    stream = PcmSource(reader, RawFormat(), RATE)
    source_events = to_the_end(stream)
    assert [(n.name, n.active) for n in source_events if isinstance(n, SourceCondition)] == [("silent", True)]
    assert stream.stats.conditions == ("silent",)
    assert stream.stats.rms_dbfs == -120


def test_stereo_at_another_rate(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    left = np.sin(2 * np.pi * 440 * np.arange(48000) / 48000) * 0.5
    data = np.stack([left, -left * 0.5], axis=1).astype("<f4").tobytes()
    write(writer, data)
    found = samples_of(to_the_end(PcmSource(reader, RawFormat(48000, "f32le", 2), RATE)))
    assert len(found) == pytest.approx(RATE, abs=20)
    assert np.abs(found[1000:-1000]).max() == pytest.approx(0.125, abs=0.01)
