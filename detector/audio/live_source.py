"""What all audio sources share: protocol, events, the loop that drains them, mixing, resampling, the last seconds."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import soxr
from numpy.typing import NDArray

from detector.errors import SourceError
from detector.messages import LOUDEST, AudioChunk, ConditionName, GapCause, Samples

TURN_S: Final = 0.2
"""How long ``drain`` waits for the next event before it calls ``goes_on``."""
_NO_SAMPLES: Final = np.empty(0, np.float32)
_log: Final = logging.getLogger(__name__)
Pcm: TypeAlias = NDArray[np.int16]
"""(samples,): mono, 16 bits."""
_FULL_SCALE: Final = 32768

Block: TypeAlias = NDArray[np.float32]
"""(frames, channels), full scale is [-1, 1)."""


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """A chunk at the model's rate, and when its last sample was recorded or read."""

    chunk: AudioChunk
    """Its ``gap`` is not set: a source reports lost samples by ``AudioGap`` alone."""
    received_at_s: float
    """``time.monotonic()`` of the last sample, as exactly as the device reports it."""


@dataclass(frozen=True, slots=True)
class AudioGap:
    """Samples that were lost; the next chunk begins behind them."""

    first_sample: int
    samples: int
    """Length at the model's rate; estimated by the clock where the device does not report it."""
    cause: GapCause

    def chunk(self) -> AudioChunk:
        """Return the gap as the pipeline takes it: an empty chunk behind the lost samples, with ``gap`` set."""
        return AudioChunk(_NO_SAMPLES, self.first_sample + self.samples, gap=True)


@dataclass(frozen=True, slots=True)
class SourceCondition:
    """A condition of the source that has begun or ended; emitted once each time."""

    name: ConditionName
    active: bool
    detail: str
    """One line for users: what is wrong and what to do, or that it is over."""


SourceEvent: TypeAlias = AudioBlock | AudioGap | SourceCondition


@dataclass(frozen=True, slots=True)
class SourceStats:
    """Counts since the source was opened, and levels of the last second."""

    device: str
    """Stable id of the open device or name of the file; else the selector."""
    rms_dbfs: float
    peak_dbfs: float
    device_rate_hz: int = 0
    """0 while nothing is open."""
    device_channels: int = 0
    is_open: bool = False
    conditions: tuple[ConditionName, ...] = ()
    """Those that are active."""
    lost_s: float = 0.0
    overruns: int = 0
    reopens: int = 0
    clipped_samples: int = 0
    dc: float = 0.0
    """Mean of the samples, full scale is 1."""
    queue_depth: float = 0.0
    """Share of the buffer that is filled, 0 to 1."""
    is_stuck: bool = False
    """Whether no samples arrive although the device is present; a new process may help."""
    drift_ppm: float | None = None
    """How much faster than the clock samples arrive, in parts per million; None where that is not known."""


class AudioSource(Protocol):
    """Sound from a microphone, a pipe or a file, as events in the order in which they happened."""

    @property
    def stats(self) -> SourceStats:
        """Counts, levels and conditions."""

    def take(self, timeout_s: float) -> Sequence[SourceEvent] | None:
        """Return the events that have arrived, oldest first; wait for the first one at most ``timeout_s`` seconds.

        An empty sequence: none has arrived in time. None: the source has ended. Raises SourceError, behind all
        usable sound, where it cannot continue.
        """

    def close(self) -> None:
        """Stop and release the device or file."""


_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class Emitter(Protocol[_T_co]):
    """Anything that is drained as an audio source is."""

    def take(self, timeout_s: float) -> Sequence[_T_co] | None:
        """Return what has arrived; see ``AudioSource.take``."""


def drain(
    source: Emitter[_T], handle: Callable[[_T], object], goes_on: Callable[[], bool], timeout_s: float = TURN_S
) -> bool:
    """Pass on everything that a source emits until it ends or ``goes_on`` is false; return whether it has ended.

    ``goes_on`` is called before each wait, so at least every ``timeout_s`` seconds; it may also do what is due
    then. Raises what ``take``, ``handle`` and ``goes_on`` raise.
    """
    while goes_on():
        events = source.take(timeout_s)
        if events is None:
            return True
        for event in events:
            handle(event)
    return False


Channel: TypeAlias = Literal["mean", "left", "right"] | int
"""The mean of all channels, or one of them; numbers count from 1."""


@dataclass(frozen=True, slots=True)
class Mixing:
    """Which sound is used, how its channels become one, and what reports what is doubtful about that."""

    channel: Channel = "mean"
    warn: Callable[[str], None] = _log.warning
    track: str | None = None
    """Sound track of a container: a number from 1, or a language; None: the first."""

    @property
    def column(self) -> int | None:
        """Index of the channel to use; None for the mean of all."""
        if isinstance(self.channel, int):
            return self.channel - 1
        return {"mean": None, "left": 0, "right": 1}[self.channel]

    def used(self, block: Block, where: str) -> Block:
        """Return the channels of a block (frames, channels) that are used; raises SourceError where it has too few."""
        column, channels = self.column, block.shape[1]
        if column is None:
            return block
        if column >= channels:
            plural = "" if channels == 1 else "s"
            raise SourceError(f"{where}: has {channels} channel{plural}; --channel {self.channel} is not there")
        return block[:, column : column + 1]


MEAN: Final = Mixing()


class Resampler:
    """Streaming resampler for mono sound; the result does not depend on how the sound is divided."""

    def __init__(self, rate_hz: float, model_rate_hz: int) -> None:
        """Take the rates of the input and of the output."""
        # HQ takes as long as MQ here, and gives the bits of a whole clip that is resampled at once.
        self._stream = soxr.ResampleStream(rate_hz, model_rate_hz, 1, dtype="float32", quality="HQ")

    def push(self, samples: Samples) -> Samples:
        """Process samples (n,) and return those that they complete; there may be none."""
        return _in_scale(self._stream.resample_chunk(samples))

    def flush(self) -> Samples:
        """Return the rest, as if silence followed; nothing can be pushed behind it."""
        return _in_scale(self._stream.resample_chunk(np.empty(0, np.float32), last=True))


def _in_scale(samples: Samples) -> Samples:
    """Return samples (n,) that the filter has raised beyond the scale of sound at its bound."""
    return np.clip(samples, -LOUDEST, LOUDEST, out=samples)


def mean_of_channels(block: Block) -> Samples:
    """Return the mean of a block's channels (frames, channels) as an array of its own."""
    channels = block.shape[1]
    mono = block[:, 0].copy()
    for channel in range(1, channels):
        mono += block[:, channel]
    mono /= np.float32(channels)
    return mono


@dataclass(slots=True)
class Segment:
    """Sound without a gap, by positions since the stream began."""

    first: int
    end: int
    """One behind the last sample."""
    is_growing: bool = True
    """Whether the next chunk may continue it."""


class SoundRing:
    """A ring buffer of sound, written in one thread and read in another; the lock is held for a copy at most."""

    def __init__(self, samples: int) -> None:
        """Keep that many samples, in two bytes each."""
        self._sound: Pcm = np.zeros(samples, np.int16)
        self._segments: deque[Segment] = deque()
        self._lock = threading.Lock()
        self.stream = 0
        """Incremented when positions restart: those from before are meaningless then."""

    def push(self, chunk: AudioChunk) -> None:
        """Add a chunk (n,) of any length; the oldest samples are overwritten."""
        pcm = _quantised(chunk.samples)
        end = chunk.first_sample + len(pcm)
        with self._lock:
            self._start_segment(chunk)
            kept = pcm[-len(self._sound) :]
            at = (end - len(kept)) % len(self._sound)
            head = min(len(kept), len(self._sound) - at)
            self._sound[at : at + head] = kept[:head]
            self._sound[: len(kept) - head] = kept[head:]
            self._segments[-1].end = end
            oldest = end - len(self._sound)
            while len(self._segments) > 1 and self._segments[0].end <= oldest:
                self._segments.popleft()
            self._segments[0].first = max(self._segments[0].first, oldest)

    def segment_from(self, sample: int, stream: int) -> Segment | None:
        """Return the segment that a sample belongs to, else the next one; None without, or in another stream."""
        with self._lock:
            for segment in self._segments if stream == self.stream else ():
                if segment.end > sample:
                    return Segment(segment.first, segment.end, segment is self._segments[-1])
        return None

    def read(self, first: int, end: int, stream: int) -> Pcm:
        """Return a copy of the samples of a segment from ``first`` on, up to ``end``; fewer where some are gone."""
        with self._lock:
            newest = self._segments[-1].end if self._segments and stream == self.stream else 0
            first = max(first, newest - len(self._sound))
            return self._sound.take(np.arange(first, min(end, newest)), mode="wrap")

    def _start_segment(self, chunk: AudioChunk) -> None:
        """Start a segment where the chunk does not continue the last one."""
        last = self._segments[-1] if self._segments else None
        if last is not None and chunk.first_sample < last.end:
            self._segments.clear()
            self.stream += 1
            last = None
        if last is None or chunk.gap or chunk.first_sample > last.end:
            self._segments.append(Segment(chunk.first_sample, chunk.first_sample))


def _quantised(samples: Samples) -> Pcm:
    with np.errstate(invalid="ignore"):  # NaN becomes an arbitrary sample
        return np.clip(np.rint(samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
