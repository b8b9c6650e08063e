"""From blocks of frames, as a file or a device gives them, to mono chunks at the model's rate.

Each step passes a SourceError on only behind the sound that came before it, so that nothing that
could be heard is lost to a fault further on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import soxr
from numpy.typing import NDArray

from detector.errors import SourceError
from detector.messages import AudioChunk, Samples

LOUDEST = 1e12
"""Beyond any integer scale that floats are written in: such a sample is damage."""


def to_chunks(
    blocks: Iterable[NDArray[np.float32]], rate_hz: int, model_rate_hz: int, where: str, length: int | None = None
) -> Iterator[AudioChunk]:
    """Average the channels of blocks (frames, channels), resample, and number the samples.

    Chunks have ``length`` samples, the last one fewer; None leaves them as they come. A block may
    be overwritten once the next one is asked for. Raises SourceError, naming ``where``, at a sample
    that is not a number.
    """
    return _numbered(_resampled(_mono(blocks, rate_hz, where), rate_hz, model_rate_hz), length)


class Resampler:
    """Brings mono sound to another rate piece by piece; how it is cut into pieces changes nothing."""

    def __init__(self, rate_hz: int, model_rate_hz: int) -> None:
        """Take the rate of what is pushed, and that of what is returned."""
        # HQ takes as long as MQ here, and equals the resampling of a whole clip bit by bit.
        self._stream = soxr.ResampleStream(rate_hz, model_rate_hz, 1, dtype="float32", quality="HQ")

    def push(self, samples: Samples) -> Samples:
        """Return what is complete by these samples; it may be nothing."""
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
    """Bring parts to the model's rate; a SourceError is passed on behind the resampler's tail."""
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

    Chunks of one length that suits the network's blocks of frames are what makes replay fast. A
    SourceError is passed on behind the last chunk.
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
