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

_LOUDEST = 1e12
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


def _mono(blocks: Iterable[NDArray[np.float32]], rate_hz: int, where: str) -> Iterator[Samples]:
    """Average the channels of each block; stop with SourceError at a sample that is not a number."""
    position = 0
    for block in blocks:
        channels = block.shape[1]
        with np.errstate(all="ignore"):  # the comparison below finds what overflows
            mono = block[:, 0].copy()
            for channel in range(1, channels):
                mono += block[:, channel]
            mono /= np.float32(channels)
            loudest = np.abs(mono).max(initial=0)
        if loudest <= _LOUDEST:
            position += len(mono)
            yield mono
            continue
        at = int(np.argmax(~(np.abs(mono) <= _LOUDEST)))
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
    # HQ takes as long as MQ here, and equals the resampling of a whole clip bit by bit.
    stream = soxr.ResampleStream(rate_hz, model_rate_hz, 1, dtype="float32", quality="HQ")
    fault: SourceError | None = None
    try:
        for part in parts:
            yield stream.resample_chunk(part)
    except SourceError as error:
        fault = error
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)
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
