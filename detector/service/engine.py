"""The engine: the events of an audio source go through the detector and become records; with counters of the work."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import time
import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np

from detector.audio.levels import Loudness
from detector.audio.live_source import AudioBlock, AudioGap, AudioSource, SourceCondition, SourceEvent
from detector.messages import AudioChunk, Event, Observer, Reason, Scores, Trace
from detector.pipeline import Detector
from detector.records import (
    ClipRecord,
    EventRecord,
    GapRecord,
    HealthRecord,
    HealthState,
    Histogram,
    OnsetRecord,
    Record,
    State,
    StatusRecord,
    StreamInfo,
    event_record,
)
from detector.service.clock import SampleClock, clock_is_synced, local_now, rfc3339
from detector.sinks.base import SavedClip

_DURATIONS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_PAUSE_S: Final = 60.0
_IDLE: Final = frozenset({"waiting", "off_hours"})
"""Conditions in which no sound arrives for the detector."""
_DECIMALS: Final = 6
_NO_SAMPLES: Final = np.empty(0, np.float32)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Counters:
    """Counts over all engines of a process, one after another."""

    samples: Counter[int] = field(default_factory=Counter)
    """Samples that were processed, by their rate in Hz."""
    busy_ns: int = 0
    """Processing time."""
    frames: int = 0
    """Frames that the network has evaluated."""
    gaps: int = 0
    """Resets because samples were lost."""
    repairs: int = 0
    """Resets because the network gave NaN or infinity."""
    sounds: int = 0
    """Onsets reported."""
    last_onset: OnsetRecord | None = None
    _durations: list[int] = field(default_factory=lambda: [0] * (len(_DURATIONS_S) + 1))

    @property
    def heard_s(self) -> float:
        """Seconds of sound that were processed."""
        return sum(count / rate for rate, count in self.samples.items())

    @property
    def busy_s(self) -> float:
        """Processing time in seconds."""
        return self.busy_ns / 1e9

    def add(self, samples: int, rate_hz: int, frames: int, taken_ns: int) -> None:
        """Count a chunk: its samples and their rate, the frames that it completed, and the processing time."""
        self.samples[rate_hz] += samples
        self.frames += frames
        self.busy_ns += taken_ns
        self._durations[bisect_left(_DURATIONS_S, taken_ns / 1e9)] += 1

    def inference(self) -> Histogram:
        """Return the histogram of processing times of chunks: bounds, cumulative counts and the sum."""
        counts = list(itertools.accumulate(self._durations))
        return Histogram(_DURATIONS_S, tuple(counts), round(self.busy_s, 6))


class RateLimitedLog:
    """Writes a warning at most once a minute; the next one says how many were left out."""

    def __init__(self, log: logging.Logger) -> None:
        """Write to ``log``."""
        self._log = log
        self._written_at, self._kept_back = -math.inf, 0

    def warning(self, text: str, *values: object) -> None:
        """Write a text with its values, as ``logging`` does, or count it."""
        now = time.monotonic()
        if now - self._written_at < _PAUSE_S:
            self._kept_back += 1
            return
        more = f" (and {self._kept_back} like it since the last such line)" if self._kept_back else ""
        self._log.warning(text + more, *values)
        self._written_at, self._kept_back = now, 0


class RecordPublisher:
    """Makes the records of one process, with a sequence number over all types, and submits them to the sinks."""

    def __init__(self, source: str, submit: Callable[[Record], None]) -> None:
        """Name the source in each record; ``submit`` takes the records and must not block."""
        self.source, self._submit = source, submit
        self.device = ""
        """Stable id of the open device, or the selector."""
        self.unlogged: frozenset[State] = frozenset()
        """States whose beginning is reported to the user elsewhere."""
        self._seq = 0
        self._losses = RateLimitedLog(_log)

    def event(self, event: Event, origin: StreamInfo, clock: SampleClock, level_dbfs: float | None) -> EventRecord:
        """Publish an onset or an offset, and return its record."""
        record = event_record(event, origin, self._next())
        live: Any = {"device": self.device, "clock_synced": clock_is_synced()}
        if isinstance(record, OnsetRecord):
            time = rfc3339(clock.time_of(event.onset_sample))
            record = dataclasses.replace(record, time=time, level_dbfs=level_dbfs, **live)
        else:
            end = event.onset_sample if event.offset_sample is None else event.offset_sample
            record = dataclasses.replace(record, time=rfc3339(clock.time_of(end)), **live)
        self._submit(record)
        return record

    def gap(self, lost: AudioGap, rate_hz: int, clock: SampleClock) -> None:
        """Publish that sound was lost, and log it."""
        lost_s = lost.samples / rate_hz
        at_s = round(lost.first_sample / rate_hz, _DECIMALS)
        head = self._head(clock.time_of(lost.first_sample))
        self._submit(GapRecord(at_s=at_s, lost_s=round(lost_s, _DECIMALS), cause=lost.cause, **head))
        if lost.cause != "off_hours":
            self._losses.warning("%s: %.2f s of sound lost (%s)", self.source, lost_s, lost.cause)

    def condition(self, condition: SourceCondition) -> None:
        """Publish that a condition of the source has begun or ended."""
        level = logging.WARNING if condition.active else logging.INFO
        self.status(condition.name, condition.detail, active=condition.active, level=level)

    def status(self, state: State, detail: str, *, active: bool = True, level: int | None = logging.INFO) -> None:
        """Publish a change of state, and log it at a level; None: do not log it."""
        record = self._status(state, detail, active=active)
        self._submit(record)
        if level is not None and not (active and state in self.unlogged):
            _log.log(level, "%s", record.detail)

    def health(self, health: HealthState, *, calibrated: bool | None, scores: Mapping[str, float] | None) -> None:
        """Publish the state of the service."""
        self._submit(HealthRecord(health=health, calibrated=calibrated, scores=scores, **self._head(local_now())))

    def clip(self, saved: SavedClip) -> None:
        """Publish that a clip has been written."""
        self._submit(ClipRecord(**dataclasses.asdict(saved), **self._head(local_now())))

    def repeat(self, submit: Callable[[Record], None], states: Iterable[tuple[State, bool, str]]) -> None:
        """Give the present states (name, whether active, detail) to one sink that has just started."""
        for state, active, detail in states:
            submit(self._status(state, detail, active=active))

    def _status(self, state: State, detail: str, *, active: bool) -> StatusRecord:
        return StatusRecord(state=state, active=active, detail=" ".join(detail.split()), **self._head(local_now()))

    def _head(self, moment: datetime) -> dict[str, Any]:
        """Return the fields that all records share."""
        return {
            "seq": self._next(),
            "source": self.source,
            "time": rfc3339(moment),
            "device": self.device,
            "clock_synced": clock_is_synced(),
        }

    def _next(self) -> int:
        self._seq += 1
        return self._seq


@runtime_checkable
class AudioTap(Protocol):
    """A receiver of the sound itself."""

    def on_chunk(self, chunk: AudioChunk) -> None:
        """Process a chunk at the model's rate, without blocking; after a gap comes an empty one with ``gap`` set."""


class _GuardedObserver:
    """An observer that cannot stop the detector: what it raises is logged."""

    def __init__(self, observer: Observer, log: RateLimitedLog) -> None:
        self._observer, self._log = observer, log

    @property
    def wants_layers(self) -> bool:
        return self._observer.wants_layers

    def on_trace(self, trace: Trace) -> None:
        try:
            self._observer.on_trace(trace)
        except Exception as error:  # noqa: BLE001 - whatever it is, detection goes on
            name = type(self._observer).__name__
            self._log.warning("%s cannot take a trace: %s: %s", name, type(error).__name__, error)


class Engine:
    """Passes the events of one source to the detector, and publishes what follows from them.

    A stream begins with the engine: positions count from its first sample, and its events have ids
    that no other stream has.
    """

    def __init__(
        self,
        source: AudioSource,
        detector: Detector,
        publisher: RecordPublisher,
        counters: Counters,
        only: Sequence[str] = (),
    ) -> None:
        """Take an open source and a detector with a fresh state; ``only``: labels to report, empty for all."""
        self.source, self._publisher, self.counters = source, publisher, counters
        self.taps: tuple[AudioTap, ...] = ()
        """They receive each chunk before the events that it causes are published."""
        self._observer: Observer | None = None
        self.rate_hz = detector.sample_rate_hz
        self.clock = SampleClock(self.rate_hz)
        self._loudness = Loudness(self.rate_hz)
        self._scores: Scores = np.empty(0, np.float32)
        self._stream = str(uuid.uuid4())
        self._position = self._next_check = 0
        self.has_audio = False
        """Whether sound has arrived."""
        self._conditions: dict[str, SourceCondition] = {}
        self._trouble = RateLimitedLog(_log)
        self._use(detector, only)

    @property
    def conditions(self) -> tuple[SourceCondition, ...]:
        """The active conditions of the source."""
        return tuple(self._conditions.values())

    @property
    def observer(self) -> Observer | None:
        """The observer of the detector."""
        return self._observer

    @observer.setter
    def observer(self, observer: Observer | None) -> None:
        self._observer = observer
        self._observe()

    @property
    def scores(self) -> dict[str, float]:
        """The scores of the last frame, by label."""
        return dict(zip(self._detector.labels, self._scores.tolist(), strict=False))

    def handle(self, event: SourceEvent) -> None:
        """Process one event of the source."""
        match event:
            case AudioBlock():
                self._process(event)
            case AudioGap():
                self._on_gap(event)
            case SourceCondition():
                self._on_condition(event)

    def use(self, detector: Detector, only: Sequence[str] = ()) -> None:
        """Continue with another detector of the same rate; open events are closed."""
        self.close_events("shutdown")
        self._use(detector, only)
        self._restart()

    def pause(self) -> None:
        """Close open events; the next sound is announced as the first one was.

        Taps receive a gap, since nothing continues the sound so far: a clip of it is written at once, not later.
        """
        self.close_events("shutdown")
        self.has_audio = False
        for tap in self.taps:
            tap.on_chunk(AudioChunk(_NO_SAMPLES, self._position, gap=True))

    def close_events(self, reason: Reason) -> None:
        """Evaluate the last frame and close open events; the detector starts again."""
        _, events = self._detector.finish(reason)
        self._publish(events)
        self._restart()

    def recover(self) -> None:
        """Close open events and start the detector again, after an event that could not be processed."""
        self.counters.repairs += 1
        self._restart()

    def check_clock(self) -> None:
        """Publish a status where the wall clock was set since the last call."""
        step_s = self.clock.check()
        if step_s is not None:
            ahead = "forward" if step_s > 0 else "back"
            detail = f"the clock was set {ahead} by {abs(step_s):.1f} s; times follow the new one from here on"
            self._publisher.status("clock", detail)

    def _use(self, detector: Detector, only: Sequence[str]) -> None:
        self._detector, self._only = detector, frozenset(only or detector.labels)
        self._observe()
        manifest = detector.manifest
        self._origin = StreamInfo(
            source=self._publisher.source,
            stream=self._stream,
            rate_hz=self.rate_hz,
            model=f"{manifest.name}-{manifest.version}",
            model_sha256=detector.sha256,
        )

    def _observe(self) -> None:
        observer = self._observer
        self._detector.observer = None if observer is None else _GuardedObserver(observer, self._trouble)

    def _process(self, block: AudioBlock) -> None:
        begin = time.perf_counter_ns()
        chunk = block.chunk
        self._position = chunk.first_sample + len(chunk.samples)
        self.clock.update(self._position, block.received_at_s)
        self._loudness.push(chunk)
        self._give(chunk)
        scores, events = self._detector.process_chunk(chunk)
        if len(scores):
            self._scores = scores[-1]
        if not self._is_finite(scores):
            events += self._repair()
        if not self.has_audio:
            self._announce()
        self._publish(events)
        self.counters.add(len(chunk.samples), self.rate_hz, len(scores), time.perf_counter_ns() - begin)

    def _on_gap(self, gap: AudioGap) -> None:
        """Close open events by the clock from before the gap; the detector starts again behind it."""
        chunk = gap.chunk()
        self._position = chunk.first_sample
        self._restart()
        self._publisher.gap(gap, self.rate_hz, self.clock)
        self.clock.lose()
        self.counters.gaps += 1
        self._give(chunk)

    def _give(self, chunk: AudioChunk) -> None:
        """Give a chunk to all who receive the sound; one that fails does not stop the others, or detection."""
        for tap in self.taps:
            try:
                tap.on_chunk(chunk)
            except Exception as error:  # noqa: BLE001 - whatever it is, detection goes on
                name = type(tap).__name__
                self._trouble.warning("%s cannot take the sound: %s: %s", name, type(error).__name__, error)

    def _on_condition(self, condition: SourceCondition) -> None:
        if condition.active:
            self._conditions[condition.name] = condition
        else:
            self._conditions.pop(condition.name, None)
        if condition.name in _IDLE and condition.active:
            self._restart()  # sound may be absent for long: no event may stay open meanwhile
        self._publisher.device = self.source.stats.device
        self._publisher.condition(condition)

    def _announce(self) -> None:
        self.has_audio = True
        self._publisher.device = self.source.stats.device
        sounds = len(self._only)
        detail = f"listening to {self._publisher.device} for {sounds} kind{'' if sounds == 1 else 's'} of sound"
        self._publisher.status("listening", detail)

    def _is_finite(self, scores: Scores) -> bool:
        """Return whether the scores and, checked once a second, the state behind them are finite numbers."""
        if not np.isfinite(scores).all():
            return False
        if self._position < self._next_check:
            return True
        self._next_check = self._position + self.rate_hz
        return self._detector.is_finite()

    def _repair(self) -> list[Event]:
        """Reset the network: a state with NaN never recovers by itself."""
        self.counters.repairs += 1
        self._trouble.warning("%s: the network gave a value that is not a number and was reset", self._publisher.source)
        return self._reset_detector()

    def _restart(self) -> None:
        """Close open events with the sound so far; the detector then starts with the next sample."""
        self._publish(self._reset_detector())

    def _reset_detector(self) -> list[Event]:
        return self._detector.push_chunk(AudioChunk(_NO_SAMPLES, self._position, gap=True))

    def _publish(self, events: Sequence[Event]) -> None:
        for event in events:
            if event.label not in self._only:
                continue
            level = self._loudness.dbfs(event.onset_sample, event.emitted_sample + 1)
            record = self._publisher.event(event, self._origin, self.clock, level)
            if isinstance(record, OnsetRecord):
                self.counters.sounds += 1
                self.counters.last_onset = record
