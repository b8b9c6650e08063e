"""Sound without a gap: from blocks of a device to numbered chunks at the model's rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detector.conversion import LOUDEST, Resampler, mean_of_channels
from detector.messages import AudioChunk, Samples
from detector.microphone.blocks import Block


class Run:
    """What lies between two gaps."""

    def __init__(self, rate_hz: int, model_rate_hz: int, first_sample: int, *, after_gap: bool) -> None:
        """Take the rates, and where the first sample lies."""
        self._rate_hz, self._model_rate_hz = rate_hz, model_rate_hz
        self._resampler = None if rate_hz == model_rate_hz else Resampler(rate_hz, model_rate_hz)
        self._gap = after_gap
        self._frames = self._samples = 0
        self.next_sample = first_sample
        """Position behind the last sample that was returned."""

    @property
    def behind_s(self) -> float:
        """Length of the sound that has been pushed and not yet returned."""
        return self._frames / self._rate_hz - self._samples / self._model_rate_hz

    def push(self, frames: NDArray[np.float32]) -> AudioChunk | None:
        """Take frames (frames, channels) and return what is complete by them."""
        self._frames += len(frames)
        mono = mean_of_channels(frames)
        return self._chunk(mono if self._resampler is None else self._resampler.push(mono))

    def end(self) -> AudioChunk | None:
        """Return what is left at the end of the sound."""
        return None if self._resampler is None else self._chunk(self._resampler.flush())

    def _chunk(self, samples: Samples) -> AudioChunk | None:
        if not samples.size:
            return None
        chunk = AudioChunk(samples, self.next_sample, self._gap)
        self._gap = False
        self._samples += samples.size
        self.next_sample += samples.size
        return chunk


def clean_samples(block: Block) -> NDArray[np.float32]:
    """Return a block's frames with silence for what is not sound: it would stay in the network's state for ever."""
    samples = block.samples()
    with np.errstate(invalid="ignore"):
        sound = np.abs(samples) <= LOUDEST
    return samples if sound.all() else np.where(sound, samples, np.float32(0))
