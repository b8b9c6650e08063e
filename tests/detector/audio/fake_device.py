"""A device for faults that a real one does not have on request: it hangs, overruns, or is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from detector.audio.capture import StreamFormat
from detector.audio.devices import Microphone
from detector.audio.live_source import AudioBlock, AudioGap, SourceCondition, SourceEvent
from detector.config.sections import Audio
from detector.errors import DeviceError

DEADLINE_S = 30.0
RATE = 16000


class FakeDevice:
    """Delivers a ramp that counts its frames, at the pace of the clock, while it is present."""

    def __init__(self, rate_hz: int = RATE, channels: int = 1) -> None:
        self.format = StreamFormat("fake", rate_hz, channels, None)
        self.is_present = True
        self.is_frozen = False
        """Whether it delivers nothing, without being lost."""
        self.hangs = threading.Event()
        """While this is set, no call returns."""
        self.overrun = False
        self.opened = self.closed = self.restarted = self.checked = 0
        self.began_s = 0.0
        self.value: Callable[[NDArray[np.int64]], NDArray[np.float64]] = lambda n: (n % 1000) / 2000 - 0.25
        self.pace = 1.0
        self.period_s = 0.0
        """Frames become available in periods of this length; 0: one by one."""

    def __call__(self) -> FakeStream:
        self.wait()
        if not self.is_present:
            raise DeviceError("device 'fake' is not there")
        self.opened += 1
        return FakeStream(self)

    def wait(self) -> None:
        while self.hangs.is_set():
            time.sleep(0.01)


class FakeStream:
    def __init__(self, device: FakeDevice) -> None:
        self.format = device.format
        self._device = device
        self._read = 0
        self._overrun = False
        self._began_s = device.began_s = time.monotonic()

    def available(self) -> int:
        self._device.wait()
        self._device.checked += 1
        if not self._device.is_present:
            raise DeviceError("fake is lost")
        if self._device.is_frozen:
            return 0
        passed_s = time.monotonic() - self._began_s
        if self._device.period_s:
            passed_s -= passed_s % self._device.period_s
        frames = passed_s * self.format.rate_hz * self._device.pace
        if self._device.overrun:  # the buffered frames are lost
            self._device.overrun, self._overrun = False, True
            self._read = int(frames)
        return int(frames) - self._read

    def read(self, frames: int) -> tuple[memoryview, bool]:
        overrun, self._overrun = self._overrun, False
        values = self._device.value(np.arange(self._read, self._read + frames))
        self._read += frames
        block = np.repeat(values[:, None], self.format.channels, axis=1).astype(np.float32)
        return memoryview(block.tobytes()), overrun

    def restart(self) -> None:
        self._device.restarted += 1
        self._read += self.available()

    def close(self) -> None:
        self._device.wait()
        self._device.closed += 1


class Consumer:
    """Takes all events of a microphone, and checks that positions follow each other."""

    def __init__(self, device: FakeDevice, buffer_s: float = 5.0, rate_hz: int = RATE) -> None:
        self.device = device
        self.microphone = Microphone(Audio(device="fake", buffer_s=buffer_s), rate_hz, device)
        self.source_events: list[SourceEvent] = []
        self._next = 0

    def until(self, holds: Callable[[], object]) -> None:
        """Take events until a condition holds."""
        deadline = time.monotonic() + DEADLINE_S
        while not holds():
            if time.monotonic() > deadline:
                raise TimeoutError(f"timed out; conditions were {self.conditions}")
            self.take()

    def take(self, timeout_s: float = 0.05) -> None:
        for item in self.microphone.take(timeout_s) or []:
            self.source_events.append(item)
            if isinstance(item, AudioGap):
                assert item.first_sample == self._next
                self._next += item.samples
            elif isinstance(item, AudioBlock):
                assert item.chunk.first_sample == self._next
                assert not item.chunk.gap
                self._next += item.chunk.samples.size

    def record(self, seconds: float) -> None:
        """Take events until so much more sound has arrived."""
        until = self.recorded_s + seconds
        self.until(lambda: self.recorded_s >= until)

    @property
    def recorded_s(self) -> float:
        return sum(n.chunk.samples.size for n in self.source_events if isinstance(n, AudioBlock)) / RATE

    @property
    def skew_s(self) -> float:
        """How far positions and the clock have diverged between the first sound and the last."""
        sounds = [n for n in self.source_events if isinstance(n, AudioBlock)]
        began = [s.received_at_s - (s.chunk.first_sample + s.chunk.samples.size) / RATE for s in sounds]
        return began[-1] - began[0]

    def after(self, gap: AudioGap) -> AudioBlock:
        """Return the first sound behind a gap."""
        behind = self.source_events[self.source_events.index(gap) :]
        return next(n for n in behind if isinstance(n, AudioBlock))

    @property
    def lost(self) -> list[AudioGap]:
        return [n for n in self.source_events if isinstance(n, AudioGap)]

    @property
    def conditions(self) -> list[tuple[str, bool]]:
        return [(n.name, n.active) for n in self.source_events if isinstance(n, SourceCondition)]


@contextmanager
def listening(device: FakeDevice, buffer_s: float = 5.0) -> Iterator[Consumer]:
    consumer = Consumer(device, buffer_s)
    try:
        yield consumer
    finally:
        device.hangs.clear()
        consumer.microphone.close()
