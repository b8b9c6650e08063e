"""A microphone as an audio source: opening the selected device, resampling, and positions in time.

Positions come from the arrival times of blocks: a block can arrive late, but never early.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.audio import portaudio
from detector.audio.capture import Block, BlockQueue, Stream, StreamFormat, Supervisor, now_s
from detector.audio.devices import Device, check_selector, choose_channels, find, identify, rates_to_try, read_cards
from detector.audio.levels import Checks, Level, loudest
from detector.audio.live_source import (
    AudioBlock,
    AudioGap,
    Resampler,
    SourceCondition,
    SourceEvent,
    SourceStats,
    mean_of_channels,
)
from detector.audio.portaudio import within
from detector.config.sections import Audio
from detector.errors import DeviceError
from detector.messages import LOUDEST, AudioChunk, ConditionName, GapCause, Samples

_SPAN_S: Final = 5.0
"""Within this time, at least one block is assumed to arrive without delay."""
_CLOSE_S: Final = 1.0
_START_S: Final = 3.0
"""Time for a sound system to start; signals are not handled while waiting for one that hangs."""


def list_devices() -> list[Device]:
    """Return the inputs that can be opened; raises ConfigError and DeviceError where PortAudio does not work."""
    return identify(portaudio.inputs(), read_cards())


def find_device(selector: str) -> Device:
    """Return the selected device; raises DeviceError where there is none, or the selector fits several."""
    cards = read_cards()
    return find(selector, identify(portaudio.inputs(), cards), cards)


class Microphone:
    """An audio source that records from the device of the settings, and waits for it where it is absent.

    ``first_sample`` counts lost samples too, so that positions stay positions in time.
    """

    def __init__(self, audio: Audio, model_rate_hz: int, opener: Callable[[], Stream] | None = None) -> None:
        """Start recording in a thread; ``opener`` opens another device than that of the settings.

        Raises ConfigError where PortAudio is missing, or the selector can never fit a device.
        """
        self._selector, self._model_rate_hz = audio.device, model_rate_hz
        if opener is None:
            opener = Opener(audio)
            with contextlib.suppress(DeviceError):  # a sound system that does not start is waited for
                within(_START_S, portaudio.load, "the sound system")
        self._queue = BlockQueue(audio.buffer_s)
        self._supervisor = Supervisor(opener, self._queue)
        self._timeline = Timeline()
        self._segment: Segment | None = None
        self._format: StreamFormat | None = None
        self._checks: Checks | None = None
        self._next_sample = 0
        self._recorded_s: float | None = None
        """When the last frame was recorded, by the clock of the blocks."""
        self._waiting = self._closed = False
        self._lost_s = 0.0
        self._clipped_before = 0

    @property
    def stats(self) -> SourceStats:
        """Counts, levels and conditions."""
        now, checks = self._supervisor.format, self._checks
        known = now or self._format
        level = checks.levels.level if checks is not None else Level()
        waiting: tuple[ConditionName, ...] = ("waiting",) if self._waiting else ()
        return SourceStats(
            device=self._selector if known is None else known.device,
            rms_dbfs=level.rms_dbfs,
            peak_dbfs=level.peak_dbfs,
            dc=level.dc,
            device_rate_hz=now.rate_hz if now is not None else 0,
            device_channels=now.channels if now is not None else 0,
            is_open=now is not None,
            conditions=waiting + (checks.active if checks is not None else ()),
            lost_s=self._lost_s,
            overruns=self._supervisor.overruns + self._queue.overflows,
            reopens=max(0, self._supervisor.opened - 1),
            clipped_samples=self._clipped_before + (checks.levels.clipped_samples if checks is not None else 0),
            queue_depth=self._queue.depth,
            is_stuck=self._supervisor.is_stuck,
        )

    def take(self, timeout_s: float) -> list[SourceEvent] | None:
        """Return the events that have arrived; see ``AudioSource.take``. None once it is closed."""
        if self._closed:
            return None
        self._supervisor.check()
        source_events: list[SourceEvent] = []
        for item in self._queue.take(timeout_s):
            source_events += self._process(item) if isinstance(item, Block) else self._note(item)
        return source_events

    def close(self) -> None:
        """Stop recording and release the device; a thread that hangs is abandoned."""
        self._closed = True
        self._supervisor.close(_CLOSE_S)

    def _note(self, waiting: SourceCondition) -> list[SourceEvent]:
        """Return that waiting for the device has begun or ended; meanwhile no other condition is active."""
        self._waiting = waiting.active
        return [*self._end_segment(), *self._end_checks(), waiting]

    def _process(self, block: Block) -> list[SourceEvent]:
        """Return the events of a block: a gap before it, conditions that change, and its sound."""
        events: list[SourceEvent] = []
        lost_s, recorded_s = self._timeline.place(block)
        segment, checks = self._segment, self._checks
        if segment is None or block.cause is not None or block.dropped:
            events += self._end_segment()
            events += self._gap(lost_s, block.cause or "queue")
            segment = self._segment = Segment(block.format.rate_hz, self._model_rate_hz, self._next_sample)
        self._recorded_s = recorded_s
        if checks is None or block.format != self._format:
            events += self._end_checks()
            checks = self._checks = Checks(block.format.rate_hz)
        self._format = block.format
        frames = clean_samples(block)
        events += checks.push(frames, self._timeline.pace)
        return events + self._blocks(segment, segment.push(frames))

    def _end_segment(self) -> list[SourceEvent]:
        """Return the rest of the sound before a gap."""
        segment, self._segment = self._segment, None
        return [] if segment is None else self._blocks(segment, segment.end())

    def _gap(self, lost_s: float, cause: GapCause) -> list[SourceEvent]:
        """Return a gap; none before the first sound."""
        if self._recorded_s is None:
            return []
        gap = AudioGap(self._next_sample, round(lost_s * self._model_rate_hz), cause)
        self._next_sample += gap.samples
        self._lost_s += lost_s
        return [gap]

    def _end_checks(self) -> list[SourceEvent]:
        checks, self._checks = self._checks, None
        if checks is None:
            return []
        self._clipped_before += checks.levels.clipped_samples
        return [*checks.end()]

    def _blocks(self, segment: Segment, chunk: AudioChunk | None) -> list[SourceEvent]:
        if chunk is None or self._recorded_s is None:
            return []
        self._next_sample = segment.next_sample
        return [AudioBlock(chunk, self._recorded_s - segment.behind_s + time.monotonic() - now_s())]


class Opener:
    """Opens the selected device, each time looking it up among those that are present."""

    def __init__(self, audio: Audio) -> None:
        """Take the settings; raises ConfigError for a selector that can never fit a device."""
        check_selector(audio.device)
        self._audio = audio
        self._selector = audio.device

    def __call__(self) -> DeviceStream:
        """Open the device; raises DeviceError where it is absent, busy, or lacks the rate or channel."""
        portaudio.renew()
        device = find_device(self._selector)
        choice = choose_channels(self._audio.channel, device)
        for rate_hz in (rates := rates_to_try(self._audio.rate_hz, device)):
            try:
                stream = DeviceStream(device, rate_hz, choice.channels, choice.column)
            except portaudio.UnfitRateError:
                continue
            if self._selector.isdecimal():
                self._selector = device.id  # its number may belong to another device next time
            return stream
        raise DeviceError(
            f"{device.id} cannot be opened at {' or '.join(map(str, rates))} Hz; try without audio.rate_hz"
        )


class DeviceStream(portaudio.InputStream):
    """An open and running device, with its format."""

    def __init__(self, device: Device, rate_hz: int, channels: int, column: int | None) -> None:
        """Open and start; raises DeviceError where that fails."""
        super().__init__(device.number, device.id, rate_hz, channels)
        self.format = StreamFormat(device.id, rate_hz, channels, column)


class Segment:
    """Sound between two gaps, resampled to the rate of the model."""

    def __init__(self, rate_hz: int, model_rate_hz: int, first_sample: int) -> None:
        """Take the rates, and the position of the first sample."""
        self._rate_hz, self._model_rate_hz = rate_hz, model_rate_hz
        self._resampler = None if rate_hz == model_rate_hz else Resampler(rate_hz, model_rate_hz)
        self._frames = self._samples = 0
        self.next_sample = first_sample
        """Position behind the last sample that was returned."""

    @property
    def behind_s(self) -> float:
        """Seconds of sound that have been pushed and not yet returned."""
        return self._frames / self._rate_hz - self._samples / self._model_rate_hz

    def push(self, frames: NDArray[np.float32]) -> AudioChunk | None:
        """Process frames (frames, channels) and return what they complete."""
        self._frames += len(frames)
        mono = mean_of_channels(frames)
        return self._chunk(mono if self._resampler is None else self._resampler.push(mono))

    def end(self) -> AudioChunk | None:
        """Return the rest at the end of the segment."""
        return None if self._resampler is None else self._chunk(self._resampler.flush())

    def _chunk(self, samples: Samples) -> AudioChunk | None:
        if not samples.size:
            return None
        chunk = AudioChunk(samples, self.next_sample)
        self._samples += samples.size
        self.next_sample += samples.size
        return chunk


class Timeline:
    """When sound was recorded, how much was lost before it, and the pace at which it arrives.

    Within a run, blocks follow each other without a gap; the time of its first frame is estimated from the block
    that arrived with the least delay recently. At a gap a new run begins, and the clock gives the length of the
    gap. Seconds are those of the clock of ``Block.arrived_s``.
    """

    def __init__(self) -> None:
        """Start with the first block."""
        self._recorded_until_s: float | None = None
        self._begin(0.0)

    @property
    def pace(self) -> float:
        """Frames that arrived in the last seconds as a share of the nominal number; 1 until that is known."""
        return self._pace

    def place(self, block: Block) -> tuple[float, float]:
        """Return the seconds lost before a block, and when its last frame was recorded."""
        rate_hz = block.format.rate_hz
        arrived_s = block.arrived_s - block.left / rate_hz
        lost_s = block.dropped / rate_hz
        if block.cause is not None or self._recorded_until_s is None:
            begin_s = arrived_s - block.frames / rate_hz
            lost_s = 0.0 if self._recorded_until_s is None else max(0.0, begin_s - self._recorded_until_s)
            self._begin(arrived_s)
        self._run_s += block.frames / rate_hz + (lost_s if block.cause is None else 0.0)
        self._update_delay(arrived_s - self._run_s, arrived_s)
        self._recorded_until_s = self._run_s + min(self._least_s, self._least_before_s)
        return lost_s, self._recorded_until_s

    def _begin(self, at_s: float) -> None:
        self._run_s = 0.0
        self._pace = 1.0
        self._least_s = self._least_before_s = math.inf
        self._span_ends_s = at_s + _SPAN_S

    def _update_delay(self, began_s: float, at_s: float) -> None:
        """Process the start of the run as one block suggests it."""
        if at_s >= self._span_ends_s:
            passed_s = at_s - self._span_ends_s + _SPAN_S
            if math.isfinite(self._least_before_s):
                self._pace = 1 - min(1.0, (self._least_s - self._least_before_s) / passed_s)
            self._least_before_s, self._least_s = self._least_s, math.inf
            self._span_ends_s = at_s + _SPAN_S
        self._least_s = min(self._least_s, began_s)


def clean_samples(block: Block) -> NDArray[np.float32]:
    """Return a block's frames (frames, channels) with 0 for NaN, infinity and absurd values, which state would keep."""
    samples = block.samples()
    with np.errstate(invalid="ignore"):
        if loudest(samples) <= LOUDEST:  # false for NaN
            return samples
        return np.where(np.abs(samples) <= LOUDEST, samples, np.float32(0))
