"""Blocks of frames to mono chunks at the rate of the model: mixing, resampling, numbering.

Each step passes a SourceError on only behind the sound that came before it, so that a fault loses no sound
that can be used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import soxr
from numpy.typing import NDArray

from detector.errors import SourceError
from detector.messages import AudioChunk, Samples

LOUDEST: Final = 1e12
"""Larger than full scale of any integer format: samples beyond it are damage."""


def to_chunks(
    blocks: Iterable[NDArray[np.float32]], rate_hz: int, model_rate_hz: int, where: str, length: int | None = None
) -> Iterator[AudioChunk]:
    """Average the channels of blocks (frames, channels), resample, and number the samples.

    Chunks have ``length`` samples, the last one fewer; None leaves them as they are. A block may be
    overwritten after the next one is requested. Raises SourceError, naming ``where``, at a sample that is not a
    number.
    """
    return _numbered(_resampled(_mono(blocks, rate_hz, where), rate_hz, model_rate_hz), length)


class Resampler:
    """Streaming resampler for mono sound; the result does not depend on how the sound is divided."""

    def __init__(self, rate_hz: int, model_rate_hz: int) -> None:
        """Take the rates of the input and of the output."""
        # HQ takes as long as MQ here, and gives the bits of a whole clip that is resampled at once.
        self._stream = soxr.ResampleStream(rate_hz, model_rate_hz, 1, dtype="float32", quality="HQ")

    def push(self, samples: Samples) -> Samples:
        """Process samples (n,) and return those that they complete; there may be none."""
        result: Samples = self._stream.resample_chunk(samples)
        return result

    def flush(self) -> Samples:
        """Return the rest, as if silence followed; nothing can be pushed behind it."""
        result: Samples = self._stream.resample_chunk(np.empty(0, np.float32), last=True)
        return result


def mean_of_channels(block: NDArray[np.float32]) -> Samples:
    """Return the mean of a block's channels (frames, channels) as an array of its own."""
    channels = block.shape[1]
    mono = block[:, 0].copy()
    for channel in range(1, channels):
        mono += block[:, channel]
    mono /= np.float32(channels)
    return mono


def _mono(blocks: Iterable[NDArray[np.float32]], rate_hz: int, where: str) -> Iterator[Samples]:
    """Average the channels of each block; stop with SourceError at a sample that is not a number."""
    position = 0
    for block in blocks:
        with np.errstate(all="ignore"):  # the comparison below finds what overflows
            mono = mean_of_channels(block)
            loudest = np.abs(mono).max(initial=0)
        if loudest <= LOUDEST:
            position += len(mono)
            yield mono
            continue
        at = int(np.argmax(~(np.abs(mono) <= LOUDEST)))
        yield mono[:at]
        raise SourceError(
            f"{where}: the sample at {(position + at) / rate_hz:.4f} s is {mono[at]:g}, which is not sound; "
            "events up to there are given; repair or cut the recording"
        )


def _resampled(parts: Iterable[Samples], rate_hz: int, model_rate_hz: int) -> Iterator[Samples]:
    """Resample parts; a SourceError is raised behind the resampler's tail."""
    if rate_hz == model_rate_hz:
        yield from parts
        return
    resampler = Resampler(rate_hz, model_rate_hz)
    fault: SourceError | None = None
    try:
        for part in parts:
            yield resampler.push(part)
    except SourceError as error:
        fault = error
    yield resampler.flush()
    if fault is not None:
        raise fault


def _numbered(parts: Iterable[Samples], length: int | None = None) -> Iterator[AudioChunk]:
    """Cut parts into numbered chunks of ``length`` samples; None leaves the parts as they are.

    Chunks of one length that fits the network's blocks of frames make replay fast. A SourceError is raised behind
    the last chunk.
    """
    first = 0
    pending = np.empty(0, np.float32)
    fault: SourceError | None = None
    try:
        for part in parts:
            pending = np.concatenate((pending, part)) if pending.size else part
            size = length or max(1, pending.size)
            while pending.size >= size:
                yield AudioChunk(pending[:size], first)
                first, pending = first + size, pending[size:]
    except SourceError as error:
        fault = error
    if pending.size:
        yield AudioChunk(pending, first)
    if fault is not None:
        raise fault
