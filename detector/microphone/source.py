"""A microphone as a live source: sound at the model's rate, and all that happens to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

from detector.errors import DeviceError
from detector.messages import AudioChunk
from detector.microphone import portaudio
from detector.microphone.blocks import Block, BlockQueue, StreamFormat
from detector.microphone.capture import Stream, now_s
from detector.microphone.checks import Checks
from detector.microphone.levels import Level
from detector.microphone.news import Cause, Condition, ConditionName, Figures, Lost, News, Sound
from detector.microphone.open_device import Opener
from detector.microphone.patience import within
from detector.microphone.run import Run, clean_samples
from detector.microphone.supervisor import Supervisor
from detector.microphone.timeline import Timeline
from detector.settings import Audio

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
        self._run: Run | None = None
        self._format: StreamFormat | None = None
        self._checks: Checks | None = None
        self._next_sample = 0
        self._heard_s: float | None = None
        """When the last frame was heard, by the clock of the blocks."""
        self._waiting = self._closed = False
        self._lost_s = 0.0
        self._clipped_before = 0

    @property
    def figures(self) -> Figures:
        """How the source is and has been."""
        now, checks = self._supervisor.format, self._checks
        known = now or self._format
        level = checks.levels.level if checks is not None else Level()
        waiting: tuple[ConditionName, ...] = ("waiting",) if self._waiting else ()
        return Figures(
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

    def take(self, timeout_s: float) -> list[News] | None:
        """Return what has arrived, oldest first, waiting for it at most that long; None once it is closed."""
        if self._closed:
            return None
        self._supervisor.look()
        news: list[News] = []
        for item in self._queue.take(timeout_s):
            news += self._hear(item) if isinstance(item, Block) else self._note(item)
        return news

    def close(self) -> None:
        """Stop listening and release the device; one that hangs is left to its thread."""
        self._closed = True
        self._supervisor.close(_CLOSE_S)

    def _note(self, waiting: Condition) -> list[News]:
        """Pass on that the device is waited for, or back; while it is away nothing else is the matter with it."""
        self._waiting = waiting.active
        return [*self._end_run(), *self._end_checks(), waiting]

    def _hear(self, block: Block) -> list[News]:
        """Return a block as sound, behind what is to be told of it."""
        news: list[News] = []
        lost_s, heard_s = self._timeline.place(block)
        run, checks = self._run, self._checks
        if run is None or block.cause is not None or block.dropped:
            news += self._end_run()
            news += self._lose(lost_s, block.cause or "queue")
            gap = self._heard_s is not None
            run = self._run = Run(block.format.rate_hz, self._model_rate_hz, self._next_sample, after_gap=gap)
        self._heard_s = heard_s
        if checks is None or block.format != self._format:
            news += self._end_checks()
            checks = self._checks = Checks(block.format.rate_hz)
        self._format = block.format
        frames = clean_samples(block)
        news += checks.push(frames, self._timeline.pace)
        return news + self._sound(run, run.push(frames))

    def _end_run(self) -> list[News]:
        """Return the rest of the sound before a gap."""
        run, self._run = self._run, None
        return [] if run is None else self._sound(run, run.end())

    def _lose(self, lost_s: float, cause: Cause) -> list[News]:
        """Tell of a gap behind the sound that there was."""
        if self._heard_s is None:
            return []
        lost = Lost(self._next_sample, round(lost_s * self._model_rate_hz), cause)
        self._next_sample += lost.samples
        self._lost_s += lost_s
        return [lost]

    def _end_checks(self) -> list[News]:
        checks, self._checks = self._checks, None
        if checks is None:
            return []
        self._clipped_before += checks.levels.clipped_samples
        return [*checks.end()]

    def _sound(self, run: Run, chunk: AudioChunk | None) -> list[News]:
        if chunk is None or self._heard_s is None:
            return []
        self._next_sample = run.next_sample
        return [Sound(chunk, self._heard_s - run.behind_s + time.monotonic() - now_s())]
