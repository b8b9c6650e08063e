"""A microphone as a live source: sound at the model's rate, and all that happens to it.

Sound without a gap: from blocks of a device to numbered chunks at the model's rate.

Where blocks of sound lie in time, from when they arrive: a block can come late, but never early.

Opening what the settings ask for: the device that is meant, at a rate and with channels that it has.
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
from detector.audio.levels import Checks, Level
from detector.audio.live_source import (
    AudioBlock,
    AudioGap,
    SourceCondition,
    SourceEvent,
    SourceStats,
)
from detector.audio.portaudio import within
from detector.audio.resampling import LOUDEST, Resampler, mean_of_channels
from detector.config.sections import Audio
from detector.errors import DeviceError
from detector.messages import AudioChunk, ConditionName, GapCause, Samples


class Segment:
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


_SPAN_S: Final = 5.0
"""Within this time, some block is taken to arrive without delay."""


class Timeline:
    """Says when sound was heard, how much of it was lost before it, and how fast it comes.

    Blocks follow each other without a gap in a run; when the first frame of a run was heard is told
    by the block that came with the least delay lately. At a gap a new run begins, and the clock says
    how long the gap was. Seconds are those of the clock that gave ``Block.arrived_s``.
    """

    def __init__(self) -> None:
        """Begin with the first block."""
        self._heard_until_s: float | None = None
        self._begin(0.0)

    @property
    def pace(self) -> float:
        """Frames that arrived in the last seconds, in proportion to those that should have; 1 until that is known."""
        return self._pace

    def place(self, block: Block) -> tuple[float, float]:
        """Return the seconds lost before a block, and when its last frame was heard."""
        rate_hz = block.format.rate_hz
        arrived_s = block.arrived_s - block.left / rate_hz
        lost_s = block.dropped / rate_hz
        if block.cause is not None or self._heard_until_s is None:
            begin_s = arrived_s - block.frames / rate_hz
            lost_s = 0.0 if self._heard_until_s is None else max(0.0, begin_s - self._heard_until_s)
            self._begin(arrived_s)
        self._run_s += block.frames / rate_hz + (lost_s if block.cause is None else 0.0)
        self._notice(arrived_s - self._run_s, arrived_s)
        self._heard_until_s = self._run_s + min(self._least_s, self._least_before_s)
        return lost_s, self._heard_until_s

    def _begin(self, at_s: float) -> None:
        self._run_s = 0.0
        self._pace = 1.0
        self._least_s = self._least_before_s = math.inf
        self._span_ends_s = at_s + _SPAN_S

    def _notice(self, began_s: float, at_s: float) -> None:
        """Take in when the run seems to have begun, by one block."""
        if at_s >= self._span_ends_s:
            passed_s = at_s - self._span_ends_s + _SPAN_S
            if math.isfinite(self._least_before_s):
                self._pace = 1 - min(1.0, (self._least_s - self._least_before_s) / passed_s)
            self._least_before_s, self._least_s = self._least_s, math.inf
            self._span_ends_s = at_s + _SPAN_S
        self._least_s = min(self._least_s, began_s)


class Opener:
    """Opens the device that is asked for, each time anew among those that are there."""

    def __init__(self, audio: Audio) -> None:
        """Take the settings; raises ConfigError for a device that can never be."""
        check_selector(audio.device)
        self._audio = audio
        self._wish = audio.device

    def __call__(self) -> DeviceStream:
        """Open the device; raises DeviceError where it is away, taken, or not as asked for."""
        portaudio.renew()
        device = find_device(self._wish)
        choice = choose_channels(self._audio.channel, device)
        for rate_hz in (rates := rates_to_try(self._audio.rate_hz, device)):
            try:
                stream = DeviceStream(device, rate_hz, choice.channels, choice.column)
            except portaudio.UnfitRateError:
                continue
            if self._wish.isdecimal():
                self._wish = device.id  # its number may be another one's next time
            return stream
        raise DeviceError(
            f"{device.id} cannot be opened at {' or '.join(map(str, rates))} Hz; try without audio.rate_hz"
        )


class DeviceStream(portaudio.InputStream):
    """A device that is open and running, and what it delivers."""

    def __init__(self, device: Device, rate_hz: int, channels: int, column: int | None) -> None:
        """Open and start; raises DeviceError where that cannot be."""
        super().__init__(device.number, device.id, rate_hz, channels)
        self.format = StreamFormat(device.id, rate_hz, channels, column)


def list_devices() -> list[Device]:
    """Return the inputs that can be opened now; raises ConfigError and DeviceError where PortAudio does not work."""
    return identify(portaudio.inputs(), read_cards())


def find_device(selector: str) -> Device:
    """Return the device that is asked for; raises DeviceError where there is none, or several could be meant."""
    cards = read_cards()
    return find(selector, identify(portaudio.inputs(), cards), cards)


_CLOSE_S: Final = 1.0
_START_S: Final = 3.0
"""For a sound system to start in: whoever waits for one that hangs hears no signal."""


class Microphone:
    """Listens to the device that the settings ask for, from now on, wherever it is.

    A device that is away is waited for. ``first_sample`` counts on over what is lost, so that
    positions stay positions in time.
    """

    def __init__(self, audio: Audio, model_rate_hz: int, opener: Callable[[], Stream] | None = None) -> None:
        """Begin to listen in a thread; ``opener`` opens another device than that of the settings.

        Raises ConfigError where PortAudio is missing, or the device is one that can never be.
        """
        self._wish, self._model_rate_hz = audio.device, model_rate_hz
        if opener is None:
            opener = Opener(audio)
            with contextlib.suppress(DeviceError):  # a sound system that does not start is waited for
                within(_START_S, portaudio.load, "the sound system")
        self._queue = BlockQueue(audio.buffer_s)
        self._supervisor = Supervisor(opener, self._queue)
        self._timeline = Timeline()
        self._run: Segment | None = None
        self._format: StreamFormat | None = None
        self._checks: Checks | None = None
        self._next_sample = 0
        self._heard_s: float | None = None
        """When the last frame was heard, by the clock of the blocks."""
        self._waiting = self._closed = False
        self._lost_s = 0.0
        self._clipped_before = 0

    @property
    def stats(self) -> SourceStats:
        """How the source is and has been."""
        now, checks = self._supervisor.format, self._checks
        known = now or self._format
        level = checks.levels.level if checks is not None else Level()
        waiting: tuple[ConditionName, ...] = ("waiting",) if self._waiting else ()
        return SourceStats(
            device=self._wish if known is None else known.device,
            device_rate_hz=now.rate_hz if now is not None else 0,
            device_channels=now.channels if now is not None else 0,
            is_open=now is not None,
            conditions=waiting + (checks.active if checks is not None else ()),
            lost_s=self._lost_s,
            overruns=self._supervisor.overruns + self._queue.overflows,
            reopens=max(0, self._supervisor.opened - 1),
            clipped_samples=self._clipped_before + (checks.levels.clipped_samples if checks is not None else 0),
            rms_dbfs=level.rms_dbfs,
            peak_dbfs=level.peak_dbfs,
            dc=level.dc,
            queue_depth=self._queue.depth,
            is_stuck=self._supervisor.is_stuck,
        )

    def take(self, timeout_s: float) -> list[SourceEvent] | None:
        """Return what has arrived, oldest first, waiting for it at most that long; None once it is closed."""
        if self._closed:
            return None
        self._supervisor.check()
        source_events: list[SourceEvent] = []
        for item in self._queue.take(timeout_s):
            source_events += self._process(item) if isinstance(item, Block) else self._note(item)
        return source_events

    def close(self) -> None:
        """Stop listening and release the device; one that hangs is left to its thread."""
        self._closed = True
        self._supervisor.close(_CLOSE_S)

    def _note(self, waiting: SourceCondition) -> list[SourceEvent]:
        """Pass on that the device is waited for, or back; while it is away nothing else is the matter with it."""
        self._waiting = waiting.active
        return [*self._end_run(), *self._end_checks(), waiting]

    def _process(self, block: Block) -> list[SourceEvent]:
        """Return a block as sound, behind what is to be told of it."""
        source_events: list[SourceEvent] = []
        lost_s, heard_s = self._timeline.place(block)
        run, checks = self._run, self._checks
        if run is None or block.cause is not None or block.dropped:
            source_events += self._end_run()
            source_events += self._lose(lost_s, block.cause or "queue")
            gap = self._heard_s is not None
            run = self._run = Segment(block.format.rate_hz, self._model_rate_hz, self._next_sample, after_gap=gap)
        self._heard_s = heard_s
        if checks is None or block.format != self._format:
            source_events += self._end_checks()
            checks = self._checks = Checks(block.format.rate_hz)
        self._format = block.format
        frames = clean_samples(block)
        source_events += checks.push(frames, self._timeline.pace)
        return source_events + self._sound(run, run.push(frames))

    def _end_run(self) -> list[SourceEvent]:
        """Return the rest of the sound before a gap."""
        run, self._run = self._run, None
        return [] if run is None else self._sound(run, run.end())

    def _lose(self, lost_s: float, cause: GapCause) -> list[SourceEvent]:
        """Tell of a gap behind the sound that there was."""
        if self._heard_s is None:
            return []
        lost = AudioGap(self._next_sample, round(lost_s * self._model_rate_hz), cause)
        self._next_sample += lost.samples
        self._lost_s += lost_s
        return [lost]

    def _end_checks(self) -> list[SourceEvent]:
        checks, self._checks = self._checks, None
        if checks is None:
            return []
        self._clipped_before += checks.levels.clipped_samples
        return [*checks.end()]

    def _sound(self, run: Segment, chunk: AudioChunk | None) -> list[SourceEvent]:
        if chunk is None or self._heard_s is None:
            return []
        self._next_sample = run.next_sample
        return [AudioBlock(chunk, self._heard_s - run.behind_s + time.monotonic() - now_s())]
