"""The engine: the events of an audio source go through the detector and become records; counters and health of it."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import threading
import time
import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from detector.audio.levels import FLOOR_DBFS, Loudness
from detector.audio.live_source import AudioBlock, AudioGap, AudioSource, SourceCondition, SourceEvent, SourceStats
from detector.manifest import Sensitivity
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
from detector.sinks.base import AudioTap, NodeInfo, SavedClip

_DURATIONS_S: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_PAUSE_S: Final = 60.0
_IDLE: Final = frozenset({"waiting", "off_hours"})
"""Conditions in which no sound arrives for the detector."""
_DECIMALS: Final = 6
_NO_SAMPLES: Final = np.empty(0, np.float32)
_RecordT = TypeVar("_RecordT", bound=Record)
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


class RecordNumbers:
    """Numbers the records of a process over all types and sources, in the order in which they are submitted."""

    def __init__(self) -> None:
        """Start before the first record."""
        self._lock = threading.Lock()
        self._last = 0

    def submit(self, make: Callable[[int], _RecordT], submit: Callable[[Record], None]) -> _RecordT:
        """Make a record with the next number, submit it, which must not block, and return it."""
        with self._lock:
            self._last += 1
            record = make(self._last)
            submit(record)
            return record


class RecordPublisher:
    """Makes the records of one source and submits them to the sinks; any thread may call it."""

    def __init__(self, source: str, submit: Callable[[Record], None], numbers: RecordNumbers | None = None) -> None:
        """Name the source in each record; ``submit`` takes the records and must not block.

        ``numbers``: those of the process, where it has several publishers.
        """
        self.source, self._submit = source, submit
        self._numbers = numbers or RecordNumbers()
        self.device = ""
        """Stable id of the open device, or the selector."""
        self.unlogged: frozenset[State] = frozenset()
        """States whose beginning is reported to the user elsewhere."""
        self.is_named = False
        """Whether messages in the log name the source, since there are others."""
        self._losses = RateLimitedLog(_log)
        self._onset_times: dict[str, datetime] = {}
        """Of the sounds that go on, by label."""

    def event(self, event: Event, origin: StreamInfo, clock: SampleClock, level_dbfs: float | None) -> EventRecord:
        """Publish an onset or an offset, and return its record."""
        live: Any = {"device": self.device, "clock_synced": clock_is_synced()}
        live["time"] = rfc3339(self._time_of(event, origin.rate_hz, clock))

        def make(seq: int) -> EventRecord:
            record = event_record(event, origin, seq)
            if isinstance(record, OnsetRecord):
                return dataclasses.replace(record, level_dbfs=level_dbfs, **live)
            return dataclasses.replace(record, **live)

        return self._numbers.submit(make, self._submit)

    def _time_of(self, event: Event, rate_hz: int, clock: SampleClock) -> datetime:
        """Return the time of an onset or offset.

        A sound lasts as long as its samples, or longer: those that come faster than in real time move the clock back.
        """
        if event.offset_sample is None:
            began = self._onset_times[event.label] = clock.time_of(event.onset_sample)
            return began
        ended, known = clock.time_of(event.offset_sample), self._onset_times.pop(event.label, None)
        length = timedelta(seconds=(event.offset_sample - event.onset_sample) / rate_hz)
        return ended if known is None else max(ended, known + length)

    def gap(self, lost: AudioGap, rate_hz: int, clock: SampleClock) -> None:
        """Publish that sound was lost, and log it."""
        lost_s = lost.samples / rate_hz
        head = self._head(clock.time_of(lost.first_sample))
        head |= {"at_s": round(lost.first_sample / rate_hz, _DECIMALS), "lost_s": round(lost_s, _DECIMALS)}
        self._numbers.submit(lambda seq: GapRecord(seq=seq, cause=lost.cause, **head), self._submit)
        if lost.cause != "off_hours":
            self._losses.warning("%s: %.2f s of sound lost (%s)", self.source, lost_s, lost.cause)

    def condition(self, condition: SourceCondition) -> None:
        """Publish that a condition of the source has begun or ended."""
        level = logging.WARNING if condition.active else logging.INFO
        self.status(condition.name, condition.detail, active=condition.active, level=level)

    def status(self, state: State, detail: str, *, active: bool = True, level: int | None = logging.INFO) -> None:
        """Publish a change of state, and log it at a level; None: do not log it."""
        self.repeat(self._submit, [(state, active, detail)])
        if level is not None and not (active and state in self.unlogged):
            line = f"{self.source}: " if self.is_named else "", " ".join(detail.split())
            _log.log(level, "%s%s", *line, extra={"alike": f"{self.source} {state}"})

    def health(self, health: HealthState, *, calibrated: bool | None, scores: Mapping[str, float] | None) -> None:
        """Publish the state of the service."""
        head = self._head(local_now())
        self._numbers.submit(
            lambda seq: HealthRecord(seq=seq, health=health, calibrated=calibrated, scores=scores, **head), self._submit
        )

    def clip(self, saved: SavedClip) -> None:
        """Publish that a clip has been written."""
        values = self._head(local_now()) | dataclasses.asdict(saved)
        self._numbers.submit(lambda seq: ClipRecord(seq=seq, **values), self._submit)

    def repeat(self, submit: Callable[[Record], None], states: Iterable[tuple[State, bool, str]]) -> None:
        """Give states (name, whether active, detail) to what submits records, such as a sink that has just started."""
        for state, active, detail in states:
            values = self._head(local_now()) | {"state": state, "active": active, "detail": " ".join(detail.split())}
            self._numbers.submit(partial(_status, values), submit)

    def _head(self, moment: datetime) -> dict[str, Any]:
        """Return the fields that all records share, but the number."""
        return {
            "source": self.source,
            "time": rfc3339(moment),
            "device": self.device,
            "clock_synced": clock_is_synced(),
        }


def _status(values: Mapping[str, Any], seq: int) -> StatusRecord:
    return StatusRecord(seq=seq, **values)


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

    def pause(self, reason: Reason = "shutdown") -> None:
        """Close open events; the next sound is announced as the first one was.

        Taps receive a gap, since nothing continues the sound so far: a clip of it is written at once, not later.
        """
        self.close_events(reason)
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


_MEMORY: Final = Path("/proc/self/statm")
_THERMAL: Final = Path("/sys/class/thermal")
_HWMON: Final = Path("/sys/class/hwmon")


def rss_bytes() -> int:
    """Return the resident memory of this process; 0 where that is unknown."""
    try:
        return int(_MEMORY.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def temperature_c(folder: Path = _THERMAL) -> float | None:
    """Return the temperature of the hottest zone; None where there is no thermometer."""
    found = []
    for file in _files(folder, "thermal_zone*/temp"):
        try:
            found.append(int(file.read_text(encoding="ascii")) / 1000)
        except (OSError, ValueError):
            continue  # a zone that is switched off cannot be read
    return max(found, default=None)


def is_under_voltage(folder: Path = _HWMON) -> bool | None:
    """Return whether a Raspberry Pi gets too little voltage, or did since this was read last; None elsewhere."""
    for sensor in _files(folder, "hwmon*"):
        try:
            if (sensor / "name").read_text(encoding="ascii").strip() == "rpi_volt":
                return (sensor / "in0_lcrit_alarm").read_text(encoding="ascii").strip() == "1"
        except (OSError, ValueError):
            continue
    return None


def _files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match, in order; none where it cannot be read."""
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


_COUNTED: Final = ("lost_s", "overruns", "reopens", "clipped_samples")
NO_SOURCE: Final = SourceStats("", FLOOR_DBFS, FLOOR_DBFS)
"""The stats of a source that is closed."""


@dataclass(slots=True)
class _Mark:
    heard_s: float = 0.0
    busy_s: float = 0.0


class Health:
    """Sums the counts of the sources of a process, and measures the realtime factor from record to record."""

    def __init__(self, counters: Counters) -> None:
        """Start the time."""
        self._counters = counters
        self._began_s = time.monotonic()
        self._closed: dict[str, float] = dict.fromkeys(_COUNTED, 0)
        self._mark = _Mark()
        self.realtime_factor = 0.0
        """Processing time of a second of sound, recently; 1 is the limit for live sound."""
        self.is_paused = False
        """Whether listening is switched off."""
        self.sensitivity: Sensitivity = "balanced"
        """The model's operating point in force."""

    @property
    def uptime_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began_s

    def retire(self, stats: SourceStats) -> None:
        """Keep the counts of a source that is closed."""
        for name in _COUNTED:
            self._closed[name] += getattr(stats, name)

    def fields(self, stats: SourceStats, sinks: Mapping[str, Mapping[str, float]], node_info: NodeInfo) -> HealthState:
        """Return what the next health record holds; the realtime factor is that since the last one."""
        self._measure()
        return self.state(stats, sinks, node_info)

    def state(self, stats: SourceStats, sinks: Mapping[str, Mapping[str, float]], node_info: NodeInfo) -> HealthState:
        """Return the same between two records."""
        return HealthState(
            uptime_s=round(self.uptime_s, 3),
            heard_s=round(self._counters.heard_s, 3),
            realtime_factor=round(self._factor(), 5),
            lost_s=round(self._closed["lost_s"] + stats.lost_s, 3),
            overruns=int(self._closed["overruns"]) + stats.overruns,
            reopens=int(self._closed["reopens"]) + stats.reopens,
            rms_dbfs=_level(stats.rms_dbfs),
            peak_dbfs=_level(stats.peak_dbfs),
            dc=round(stats.dc, 5),
            clipped_samples=int(self._closed["clipped_samples"]) + stats.clipped_samples,
            silent="silent" in stats.conditions,
            up=stats.is_open,
            paused=self.is_paused,
            queue_depth=round(stats.queue_depth, 3),
            rss_bytes=rss_bytes(),
            temperature_c=temperature_c(),
            under_voltage=is_under_voltage(),
            resets=self._counters.gaps + self._counters.repairs,
            frames=self._counters.frames,
            inference=self._counters.inference(),
            sinks={name: dict(counts) for name, counts in sinks.items()},
            drift_ppm=None if stats.drift_ppm is None else round(stats.drift_ppm, 1),
            model=node_info.model,
            model_sha256=node_info.model_sha256,
            version=node_info.version,
            sensitivity=self.sensitivity,
        )

    def line(self, source: str, stats: SourceStats, conditions: tuple[SourceCondition, ...]) -> str:
        """Return the state as a line for users."""
        waiting = [c.detail for c in conditions if c.name == "waiting"]
        if waiting:
            return waiting[0]
        factor = self._factor()
        state = "ok" if not conditions else ", ".join(c.name.replace("_", " ") for c in conditions)
        overruns = int(self._closed["overruns"]) + stats.overruns
        point = "" if self.sensitivity == "balanced" else f", {self.sensitivity} sensitivity"
        return f"{source} {state}, RTF {factor:.3f}, {overruns} xruns{point}{self._last()}"

    def _last(self) -> str:
        onset = self._counters.last_onset
        return f", last {onset.label} {onset.score:.2f} @{(onset.time or '')[11:19]}" if onset else ""

    def _measure(self) -> None:
        heard_s, busy_s = self._since_mark()
        self.realtime_factor = busy_s / heard_s if heard_s else 0.0
        self._mark = _Mark(self._counters.heard_s, self._counters.busy_s)

    def _factor(self) -> float:
        """Return the realtime factor since the last record; just after a record, the one before."""
        heard_s, busy_s = self._since_mark()
        return busy_s / heard_s if heard_s else self.realtime_factor

    def _since_mark(self) -> tuple[float, float]:
        return self._counters.heard_s - self._mark.heard_s, self._counters.busy_s - self._mark.busy_s


def _level(dbfs: float) -> float:
    """Round a level; silence gets the floor."""
    return round(max(FLOOR_DBFS, dbfs), 1)
