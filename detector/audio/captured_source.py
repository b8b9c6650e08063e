"""What a thread captures, as an audio source: positions in time, resampling, levels, and the hours of the day.

Positions come from the arrival times of blocks: a block can arrive late, but never early. Where a stream has timestamps
of its own, these say how much is missing between two blocks.
"""

from __future__ import annotations

import math
import re
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.audio.capture import Block, BlockQueue, Capture, StreamFormat, Supervisor, now_s
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
from detector.config.sections import Audio
from detector.messages import LOUDEST, AudioChunk, ConditionName, GapCause, Samples

_SPAN_S: Final = 5.0
"""Within this time, at least one block of a device is assumed to arrive without delay."""
_CLOSE_S: Final = 1.0
_DRIFT_WINDOW_S: Final = 10.0
_DRIFT_WINDOWS: Final = 360
_MIN_DRIFT_WINDOWS: Final = 7
_CHECK_S: Final = 1.0
_SUN_DEG: Final = 90.833
"""Angle between the zenith and the centre of the sun when its upper edge rises or sets, with refraction."""
_MOMENT: Final = re.compile(r"(?P<sun>sunrise|sunset)?(?P<sign>[+-])?(?:(?P<hours>\d+):(?P<minutes>\d+))?")
_J2000: Final = datetime(2000, 1, 1, 12, tzinfo=UTC)


class CapturedSource:
    """An audio source that a thread captures from what the opener opens, and that is waited for where it is absent.

    ``first_sample`` counts lost samples too, so that positions stay positions in time.
    """

    def __init__(
        self, name: str, audio: Audio, model_rate_hz: int, opener: Callable[[], Any], kind: type[Capture] = Capture
    ) -> None:
        """Start capturing in a thread of a kind; ``name`` is that in ``stats`` before anything was open."""
        self._name, self._model_rate_hz, self._kind = name, model_rate_hz, kind
        self._queue = BlockQueue(audio.buffer_s)
        self._supervisor = Supervisor(opener, self._queue, kind)
        self._timeline = Timeline(kind.span_s)
        self._schedule = Schedule(audio)
        self._segment: Segment | None = None
        self._format: StreamFormat | None = None
        self._checks: Checks | None = None
        self._next_sample = 0
        self._recorded_s: float | None = None
        """When the last frame was recorded, by the clock of the blocks."""
        self._waiting = self._closed = False
        self._lost_s = 0.0
        self._skipped_s: float | None = None
        """How much was dropped outside the hours of processing; None within them."""
        self._clipped_before = 0

    @property
    def stats(self) -> SourceStats:
        """Counts, levels and conditions."""
        now, checks = self._supervisor.format, self._checks
        known = now or self._format
        level = checks.levels.level if checks is not None else Level()
        return SourceStats(
            device=self._name if known is None else known.device,
            rms_dbfs=level.rms_dbfs,
            peak_dbfs=level.peak_dbfs,
            dc=level.dc,
            device_rate_hz=now.rate_hz if now is not None else 0,
            device_channels=now.channels if now is not None else 0,
            is_open=now is not None,
            conditions=(*self._states, *(checks.active if checks is not None else ())),
            lost_s=self._lost_s,
            overruns=self._supervisor.overruns + self._queue.overflows,
            reopens=max(0, self._supervisor.opened - 1),
            clipped_samples=self._clipped_before + (checks.levels.clipped_samples if checks is not None else 0),
            queue_depth=self._queue.depth,
            is_stuck=self._supervisor.is_stuck,
            drift_ppm=self._timeline.drift_ppm if now is not None else None,
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
        """Stop capturing and release the device; a thread that hangs is abandoned."""
        self._closed = True
        self._supervisor.close(_CLOSE_S)

    @property
    def _states(self) -> tuple[ConditionName, ...]:
        """The conditions that do not follow from the sound."""
        waiting: tuple[ConditionName, ...] = ("waiting",) if self._waiting else ()
        return waiting if self._skipped_s is None else (*waiting, "off_hours")

    def _note(self, waiting: SourceCondition) -> list[SourceEvent]:
        """Return that waiting for the device has begun or ended; meanwhile no condition of its sound is active."""
        self._waiting = waiting.active
        return [*self._end_segment(), *self._end_checks(), waiting]

    def _process(self, block: Block) -> list[SourceEvent]:
        """Return the events of a block: a gap before it, conditions that change, and its sound."""
        lost_s, recorded_s = self._timeline.place(block)
        cause = block.cause or ("queue" if block.dropped else None)
        if not self._schedule.is_open():
            return self._skip(lost_s + block.seconds)
        events: list[SourceEvent] = []
        if self._skipped_s is not None:
            lost_s, cause, self._skipped_s = lost_s + self._skipped_s, "off_hours", None
            events.append(SourceCondition("off_hours", active=False, detail="the hours of processing have begun"))
        rate_hz, segment, checks = block.format.rate_hz, self._segment, self._checks
        if segment is None or cause is not None:
            events += self._end_segment() + self._gap(lost_s, cause or "queue")
            segment = None
        elif segment.rate_hz != rate_hz:
            events += self._end_segment()
            segment = None
        if segment is None:
            segment = self._segment = Segment(rate_hz, self._model_rate_hz, self._next_sample)
        self._recorded_s = recorded_s
        if checks is None or block.format != self._format:
            events += self._end_checks()
            checks = self._checks = Checks(rate_hz, self._kind.noun)
        self._format = block.format
        frames = clean_samples(block)
        events += checks.push(frames, self._timeline.pace)
        return events + self._blocks(segment, segment.push(frames))

    def _skip(self, seconds: float) -> list[SourceEvent]:
        """Return what ends with the hours of processing; the sound is dropped."""
        events: list[SourceEvent] = []
        if self._skipped_s is None:
            self._skipped_s = 0.0
            detail = f"outside the hours of processing, {self._schedule}: the sound is not processed"
            off_hours = SourceCondition("off_hours", active=True, detail=detail)
            events = [*self._end_segment(), *self._end_checks(), off_hours]
        self._skipped_s += seconds
        return events

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
        self._lost_s += 0.0 if cause == "off_hours" else lost_s
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


class Segment:
    """Sound between two gaps, resampled to the rate of the model."""

    def __init__(self, rate_hz: int, model_rate_hz: int, first_sample: int) -> None:
        """Take the rates, and the position of the first sample."""
        self.rate_hz, self._model_rate_hz = rate_hz, model_rate_hz
        self._resampler = None if rate_hz == model_rate_hz else Resampler(rate_hz, model_rate_hz)
        self._frames = self._samples = 0
        self.next_sample = first_sample
        """Position behind the last sample that was returned."""

    @property
    def behind_s(self) -> float:
        """Seconds of sound that have been pushed and not yet returned."""
        return self._frames / self.rate_hz - self._samples / self._model_rate_hz

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

    Within a run, blocks follow each other without a gap, or with one whose length their timestamps give; the time of
    its first frame is estimated from the block that arrived with the least delay recently. Where a gap has no other
    length than that of the clock, a new run begins. Seconds are those of the clock of ``Block.arrived_s``.
    """

    def __init__(self, span_s: float | None = None) -> None:
        """Start with the first block; within ``span_s``, at least one block is assumed to arrive without delay."""
        self._span_s = span_s or _SPAN_S
        self._recorded_until_s: float | None = None
        self._begin(0.0)

    @property
    def pace(self) -> float:
        """Frames that arrived in the last seconds as a share of the nominal number; 1 until that is known."""
        return self._pace

    @property
    def drift_ppm(self) -> float | None:
        """How much faster than the clock the source runs, in parts per million; None until a minute of a run is over.

        The slope of a straight line through the least delays of the last hour.
        """
        return self._drift.ppm

    def place(self, block: Block) -> tuple[float, float]:
        """Return the seconds lost before a block, and when its last frame was recorded."""
        rate_hz = block.format.rate_hz
        arrived_s = block.arrived_s - block.left / rate_hz
        lost_s = (block.dropped + (block.lost or 0)) / rate_hz
        if block.is_placed_by_clock or self._recorded_until_s is None:
            begin_s = arrived_s - block.frames / rate_hz
            lost_s = 0.0 if self._recorded_until_s is None else max(0.0, begin_s - self._recorded_until_s)
            self._begin(arrived_s)
            self._run_s = block.frames / rate_hz
        else:
            self._run_s += lost_s + block.frames / rate_hz
        self._update_delay(arrived_s - self._run_s, arrived_s)
        self._recorded_until_s = self._run_s + min(self._least_s, self._least_before_s)
        return lost_s, self._recorded_until_s

    def _begin(self, at_s: float) -> None:
        self._run_s = 0.0
        self._pace = 1.0
        self._drift = Drift()
        self._least_s = self._least_before_s = math.inf
        self._span_ends_s = at_s + self._span_s

    def _update_delay(self, began_s: float, at_s: float) -> None:
        """Process the start of the run as one block suggests it."""
        if at_s >= self._span_ends_s:
            passed_s = at_s - self._span_ends_s + self._span_s
            if math.isfinite(self._least_before_s):
                self._pace = 1 - min(1.0, (self._least_s - self._least_before_s) / passed_s)
            self._least_before_s, self._least_s = self._least_s, math.inf
            self._span_ends_s = at_s + self._span_s
        self._least_s = min(self._least_s, began_s)
        self._drift.push(began_s, at_s)


class Drift:
    """How the start of a run, as its blocks suggest it, moves in the course of an hour."""

    def __init__(self) -> None:
        """Start with the first block of a run."""
        self._leasts: deque[tuple[float, float]] = deque(maxlen=_DRIFT_WINDOWS)
        """Of each window: when its block with the least delay arrived, and the start of the run that it suggests."""
        self._now = (0.0, math.inf)
        self._ends_s = -math.inf
        self.ppm: float | None = None
        """Deviation of the rate from the nominal one; positive: more samples arrive."""

    def push(self, began_s: float, at_s: float) -> None:
        """Process the start of the run as the block that arrives at ``at_s`` suggests it."""
        if at_s >= self._ends_s:
            if math.isfinite(self._now[1]):
                self._leasts.append(self._now)
                self._update()
            self._now = (at_s, math.inf)
            self._ends_s = at_s + _DRIFT_WINDOW_S
        if began_s < self._now[1]:
            self._now = (at_s, began_s)

    def _update(self) -> None:
        if len(self._leasts) < _MIN_DRIFT_WINDOWS:
            return
        at_s, began_s = np.array(self._leasts).T
        at_s -= at_s.mean()
        self.ppm = -1e6 * float((at_s * (began_s - began_s.mean())).sum() / np.square(at_s).sum())


class Schedule:
    """The hours of the day in which sound is processed; always, where the settings name none.

    Sunrise and sunset are those of the calculator of NOAA, after J. Meeus, Astronomical Algorithms: to about a minute
    below 72 degrees of latitude. Where the sun does not rise, both are at its highest stand; where it does not set,
    twelve hours before and after that.
    """

    def __init__(self, audio: Audio) -> None:
        """Take the settings, which are known to be right."""
        self._hours = [(first, last) for first, _, last in (hours.partition(" to ") for hours in audio.hours)]
        self._place = (audio.latitude or 0.0, audio.longitude or 0.0)
        self._checked_s, self._is_open = -math.inf, True

    def __str__(self) -> str:
        """Return the hours as the settings write them."""
        return " and ".join(" to ".join(hours) for hours in self._hours)

    def is_open(self) -> bool:
        """Return whether sound is processed now; checked every second."""
        if self._hours and time.monotonic() >= self._checked_s + _CHECK_S:
            self._checked_s = time.monotonic()
            self._is_open = self.contains(datetime.now().astimezone())
        return self._is_open

    def contains(self, moment: datetime) -> bool:
        """Return whether a moment is within the hours, in its time zone."""
        days = [moment.date() + timedelta(days=offset) for offset in (-1, 0, 1)]
        return any(self._is_between(day, *hours, moment) for hours in self._hours for day in days)

    def _is_between(self, day: date, first: str, last: str, moment: datetime) -> bool:
        """Return whether hours that begin on a day contain a moment; they may end on the next day."""
        begin, end = (self._moment(day, text, moment) for text in (first, last))
        if end <= begin:
            if first.startswith("sunrise") and last.startswith("sunset"):
                return False  # the sun is not up for so long
            end = self._moment(day + timedelta(days=1), last, moment)
        return begin <= moment < end

    def _moment(self, day: date, text: str, like: datetime) -> datetime:
        """Return when a time such as ``06:30`` or ``sunset+00:30`` is on a day, with the time zone of ``like``."""
        parts = _MOMENT.fullmatch(text)
        if parts is None:
            raise ValueError(text)
        shift = timedelta(hours=int(parts["hours"] or 0), minutes=int(parts["minutes"] or 0))
        if parts["sun"] is None:
            return datetime(day.year, day.month, day.day, tzinfo=like.tzinfo) + shift
        sun = sun_times(day, *self._place)[parts["sun"] == "sunset"]
        return sun - shift if parts["sign"] == "-" else sun + shift


def sun_times(day: date, latitude_deg: float, longitude_deg: float) -> tuple[datetime, datetime]:
    """Return when the sun rises and sets on a day; north and east are positive. See ``Schedule`` for polar days."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) - timedelta(minutes=4 * longitude_deg)
    century = (noon - _J2000).total_seconds() / 86400 / 36525
    anomaly = math.radians(357.52911 + century * 35999.05029)
    mean_longitude = 280.46646 + century * 36000.76983
    centre = 1.914602 * math.sin(anomaly) + 0.019993 * math.sin(2 * anomaly) + 0.000289 * math.sin(3 * anomaly)
    node = math.radians(125.04 - 1934.136 * century)
    longitude = math.radians(mean_longitude + centre - 0.00569 - 0.00478 * math.sin(node))
    obliquity = math.radians(23.439291 - 0.0130042 * century + 0.00256 * math.cos(node))
    declination = math.asin(math.sin(obliquity) * math.sin(longitude))
    ascension = math.degrees(math.atan2(math.cos(obliquity) * math.sin(longitude), math.cos(longitude)))
    equation_deg = (mean_longitude - 0.0057183 - ascension + 180) % 360 - 180
    latitude = math.radians(latitude_deg)
    up = math.cos(math.radians(_SUN_DEG)) / (math.cos(latitude) * math.cos(declination))
    up -= math.tan(latitude) * math.tan(declination)
    half_day_deg = math.degrees(math.acos(max(-1.0, min(1.0, up))))
    highest = noon - timedelta(minutes=4 * equation_deg)
    return highest - timedelta(minutes=4 * half_day_deg), highest + timedelta(minutes=4 * half_day_deg)


def clean_samples(block: Block) -> NDArray[np.float32]:
    """Return a block's frames (frames, channels) with 0 for NaN, infinity and absurd values, which state would keep."""
    samples = block.samples()
    with np.errstate(invalid="ignore"):
        if loudest(samples) <= LOUDEST:  # false for NaN
            return samples
        return np.where(np.abs(samples) <= LOUDEST, samples, np.float32(0))
