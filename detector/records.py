"""Records: what sinks are given, one frozen dataclass a type, and their lines: JSON for programs, text for people.

The fields of a record, in their order, are the keys of its JSON object, behind ``v`` and ``type``. The schema
is the same live and replayed, and fixed by ``v``; consumers skip a ``type`` that they do not know. Seconds come
from the sample index, rounded to a microsecond, so that each sample keeps its own. The time of day is known
only where the start of the stream is.
"""

from __future__ import annotations

import json
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TextIO, TypeAlias

from detector.manifest import Sensitivity
from detector.system import printable

if TYPE_CHECKING:
    from rich.console import Console

    from detector.messages import ConditionName, Event, GapCause, Reason

RECORD_VERSION: Final = 1
ALL_SOURCES: Final = "all"
"""The source of records that are about the whole service, where it has several sources."""
_NAMESPACE: Final = uuid.UUID("6f2d9f2e-4f0c-5d0e-9a55-0f6b3b1c7a11")
"""Separates these ids from other version 5 UUIDs; drawn once, never to change."""
_SHA_DIGITS: Final = 12
_SECONDS_DECIMALS: Final = 6
_SCORE_DECIMALS: Final = 4
_COLOURS: Final = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")
_LABEL_WIDTH: Final = 14
_REASONS: Final = {
    "end_of_stream": "the sound ends here",
    "gap": "sound was lost here",
    "shutdown": "listening ends here",
}
_CAUSES: Final = {
    "overrun": "the device was not read in time",
    "queue": "the detector was too slow",
    "device": "the device was away",
    "suspended": "the machine slept",
    "network": "the stream did not bring it",
    "off_hours": "outside the hours of processing",
}
_HEAD: Final = frozenset({"v", "type", "seq", "source", "time", "device", "clock_synced"})
_Part: TypeAlias = str | tuple[str, str]
"""A piece of a line, or one with its style."""
_NO_POSITION: Final = " " * len(f"{0:10.2f} s  ")
"""Replaces the position of a record that has none."""
_LIVE_ONLY: Final = ("level_dbfs", "device", "clock_synced")
"""Keys that a record lacks where there is no device."""

State: TypeAlias = "ConditionName | Literal['listening', 'stopping', 'reloaded', 'clock', 'calibration', 'sensitivity']"


@dataclass(frozen=True, slots=True, kw_only=True)
class OnsetRecord:
    """A sound has begun; sent as soon as it is detected."""

    type: ClassVar[Literal["onset"]] = "onset"
    id: str
    """UUID that the onset shares with its offset."""
    seq: int
    """Number of the record in its process."""
    source: str
    label: str
    category: str
    onset_s: float
    """Seconds since the stream began."""
    time: str | None
    """Time of day of the onset by RFC 3339; null in a replay without --start-time."""
    score: float
    """Smoothed score in [0, 1] at the moment of detection."""
    threshold: float
    latency_s: float
    """Seconds of sound between the onset and its detection."""
    model: str
    """Name and version of the model."""
    model_sha256: str
    """First twelve digits of the model file's SHA-256."""
    level_dbfs: float | None = None
    """RMS level from the onset to its detection; null where no sample of it is left. Live only."""
    device: str | None = None
    """Stable id of the device. Live only."""
    clock_synced: bool | None = None
    """Whether the wall clock is synchronised; null where the system does not say. Live only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OffsetRecord:
    """A sound has ended."""

    type: ClassVar[Literal["offset"]] = "offset"
    id: str
    seq: int
    source: str
    label: str
    category: str
    onset_s: float
    offset_s: float
    duration_s: float
    peak: float | None
    """Highest smoothed score between onset and offset."""
    mean: float | None
    """Mean smoothed score between onset and offset."""
    reason: Reason | None
    time: str | None
    """Time of day of the offset."""
    latency_s: float
    model: str
    device: str | None = None
    clock_synced: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GapRecord:
    """Samples were lost."""

    type: ClassVar[Literal["gap"]] = "gap"
    seq: int
    source: str
    time: str
    at_s: float
    """Position of the first lost sample, seconds since the stream began."""
    lost_s: float
    cause: GapCause
    device: str
    clock_synced: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRecord:
    """A state of the service has begun or ended."""

    type: ClassVar[Literal["status"]] = "status"
    seq: int
    source: str
    time: str
    state: State
    active: bool
    detail: str
    """One line for people."""
    device: str
    clock_synced: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipRecord:
    """The sound of an event has been written to a file."""

    type: ClassVar[Literal["clip"]] = "clip"
    seq: int
    source: str
    time: str
    id: str
    """That of the event."""
    label: str
    path: str
    bytes: int
    device: str
    clock_synced: bool | None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations of inference: ``counts[i]`` took at most ``le_s[i]`` seconds, the last count is that of all."""

    le_s: tuple[float, ...]
    counts: tuple[int, ...]
    sum_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthState:
    """How the service is: counts since it began, and levels of the last second."""

    uptime_s: float
    heard_s: float
    """Seconds of sound processed."""
    realtime_factor: float
    """Seconds of computing per second of sound."""
    lost_s: float
    overruns: int
    reopens: int
    rms_dbfs: float
    peak_dbfs: float
    dc: float
    clipped_samples: int
    silent: bool
    up: bool
    """Whether the source is open."""
    paused: bool
    """Whether listening is switched off."""
    queue_depth: float
    """Share of the capture buffer that is filled, 0 to 1."""
    rss_bytes: int
    temperature_c: float | None
    under_voltage: bool | None
    resets: int
    frames: int
    inference: Histogram
    sinks: Mapping[str, Mapping[str, float]]
    """Counts of each sink by its name."""
    drift_ppm: float | None
    """How much faster than the clock the source runs, in parts per million; null where that is not known."""
    model: str
    model_sha256: str
    version: str
    """Version of snn-detect."""
    sensitivity: Sensitivity
    """The model's operating point in force."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as keys of a JSON object."""
        return {name: _json_value(value) for name, value in _items(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRecord:
    """How the service is, sent at intervals."""

    type: ClassVar[Literal["health"]] = "health"
    seq: int
    source: str
    time: str
    health: HealthState
    """Its fields are keys of the record itself."""
    calibrated: bool | None
    """Whether device and model are those of the calibration; null without one."""
    scores: Mapping[str, float] | None = None
    """Scores of the last frame by label; left out unless the settings ask for them."""
    device: str
    clock_synced: bool | None


@dataclass(frozen=True, slots=True)
class ActiveCondition:
    """A condition of the source that lasts."""

    name: str
    detail: str
    """One line for people: what is wrong and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceState:
    """How the service and one of its sources are at a moment: what viewers are shown besides records."""

    source: str
    time: str
    """Time of day by RFC 3339."""
    clock_synced: bool
    device: str
    device_rate_hz: int
    paused: bool
    conditions: tuple[ActiveCondition, ...]
    health: HealthState
    scores: Mapping[str, float] | None = None
    """Scores of the last frame by label, where the metrics show them."""


EventRecord: TypeAlias = OnsetRecord | OffsetRecord
Record: TypeAlias = OnsetRecord | OffsetRecord | GapRecord | StatusRecord | ClipRecord | HealthRecord


def as_dict(record: Record) -> dict[str, Any]:
    """Return a record as the JSON object that it is sent as, keys in order."""
    values: dict[str, Any] = {"v": RECORD_VERSION, "type": record.type}
    for name, value in _items(record):
        if isinstance(value, HealthState):
            values |= value.as_dict()
        elif not (name in _LIVE_ONLY and record.device is None) and not (name == "scores" and value is None):
            values[name] = _json_value(value)
    return values


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Where events come from: what a record holds besides the event itself."""

    source: str
    """Name of the stream: a file's name as given, or that of the settings."""
    stream: str
    """Unique id of the stream: a file's full path, or an id drawn when it began."""
    rate_hz: int
    """The rate that the events' samples count at."""
    model: str
    """Name and version of the model."""
    model_sha256: str
    started: datetime | None = None
    """Time of day of sample 0, with its offset from UTC; None where it is unknown."""


def event_record(event: Event, origin: StreamInfo, seq: int) -> EventRecord:
    """Return the record of an event; ``seq`` numbers the records that one process sends.

    ``time`` is that of the onset in an onset's record and of the offset in an offset's.
    ``latency_s`` is the duration of the sound between that moment and the detection of the event.
    """
    onset_s = _seconds(event.onset_sample, origin)
    if event.offset_sample is None:
        return OnsetRecord(
            id=event_id(event, origin),
            seq=seq,
            source=origin.source,
            label=event.label,
            category=event.category,
            onset_s=onset_s,
            time=_time(event.onset_sample, origin),
            score=_rounded(event.score),
            threshold=_rounded(event.threshold),
            latency_s=_seconds(event.emitted_sample + 1 - event.onset_sample, origin),
            model=origin.model,
            model_sha256=origin.model_sha256[:_SHA_DIGITS],
        )
    return OffsetRecord(
        id=event_id(event, origin),
        seq=seq,
        source=origin.source,
        label=event.label,
        category=event.category,
        onset_s=onset_s,
        offset_s=_seconds(event.offset_sample, origin),
        duration_s=_seconds(event.offset_sample - event.onset_sample, origin),
        peak=None if event.peak is None else _rounded(event.peak),
        mean=None if event.mean is None else _rounded(event.mean),
        reason=event.reason,
        time=_time(event.offset_sample, origin),
        latency_s=_seconds(event.emitted_sample + 1 - event.offset_sample, origin),
        model=origin.model,
    )


def event_id(event: Event, origin: StreamInfo) -> str:
    """Return the id that an onset shares with its offset: a version 5 UUID.

    The same file, model and thresholds give the same ids whenever they are replayed; label and onset
    are part of it because other thresholds number other events.
    """
    parts = (origin.stream, origin.model_sha256, str(event.index), event.label, str(event.onset_sample))
    # A file's name may hold bytes that are no text, which uuid5 would refuse.
    name = "\n".join(parts).encode("utf-8", "surrogateescape").decode("latin-1")
    return str(uuid.uuid5(_NAMESPACE, name))


def _items(value: Any) -> list[tuple[str, Any]]:
    return [(field.name, getattr(value, field.name)) for field in fields(value)]


def _json_value(value: Any) -> Any:
    """Return a field's value as JSON has it: objects for dataclasses and mappings, lists for tuples."""
    if is_dataclass(value):
        return {name: _json_value(part) for name, part in _items(value)}
    if isinstance(value, Mapping):
        return {key: _json_value(part) for key, part in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _seconds(samples: int, origin: StreamInfo) -> float:
    return round(samples / origin.rate_hz, _SECONDS_DECIMALS)


def _rounded(value: float) -> float:
    return round(float(value), _SCORE_DECIMALS)


def _time(sample: int, origin: StreamInfo) -> str | None:
    """Return the time of day of a sample by RFC 3339, to the millisecond."""
    if origin.started is None:
        return None
    moment = origin.started + timedelta(seconds=sample / origin.rate_hz)
    return moment.isoformat(timespec="milliseconds")


class TextSink:
    """Readable lines for a terminal, coloured by label where the terminal can."""

    def __init__(self, console: Console, sources: Sequence[str] = ()) -> None:
        """Write to ``console``; each line of several ``sources``, which happen at the same time, names its own."""
        self._console, self._sources = console, sources if len(sources) > 1 else ()
        self._source: object = None

    def write(self, record: Record) -> None:
        """Write one line, below a heading where the source is another than before."""
        from rich.text import Text

        before: list[_Part] = []
        if self._sources:
            before = [(f"{_line(record.source):<{max(map(len, self._sources))}}  ", "bold")]
        elif record.source != self._source:
            self._source = record.source
            self._print(Text(_line(str(self._source)), style="bold"))
        time = f"  {record.time}" if record.time else ""
        self._print(Text.assemble(*before, *_parts(record), (time, "dim")))

    def _print(self, text: object) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)


def _parts(record: Record) -> list[_Part]:
    match record:
        case OnsetRecord():
            text = f"onset   score {record.score:.2f}"
            return [_at(record.onset_s), _label(record.label, "bold "), text, _latency(record.latency_s)]
        case OffsetRecord():
            return [_at(record.offset_s), _label(record.label), _offset(record), _latency(record.latency_s)]
        case GapRecord():
            lost = f"{record.lost_s:.2f} s ({_CAUSES[record.cause]})"
            return [_at(record.at_s), (f"{'sound lost':<{_LABEL_WIDTH}}  ", "yellow"), lost]
        case StatusRecord():
            state = record.state.replace("_", " ")
            heading = f"{state if record.active else f'not {state}':<{_LABEL_WIDTH}}  "
            return [_NO_POSITION, (heading, "yellow"), _line(record.detail)]
        case ClipRecord():
            return [_NO_POSITION, _label(record.label), f"clip    {_line(record.path)}"]
        case HealthRecord():
            return [_NO_POSITION, f"{record.type:<{_LABEL_WIDTH}}  ", _health(record)]


def _offset(record: OffsetRecord) -> str:
    why = _REASONS.get(record.reason or "")
    peak = "" if record.peak is None else f"  peak {record.peak:.2f}"
    return f"offset  after {record.duration_s:.2f} s{peak}{f'  ({why})' if why else ''}"


def _health(record: HealthRecord) -> str:
    """Return the numbers, texts and flags of a health record, without what all records hold."""
    plain = {k: v for k, v in as_dict(record).items() if k not in _HEAD and isinstance(v, bool | int | float | str)}
    return "  ".join(f"{key} {_line(str(value))}" for key, value in plain.items())


def _at(position_s: float) -> _Part:
    return (f"{position_s:10.2f} s  ", "dim")


def _label(label: str, weight: str = "") -> _Part:
    return (f"{_line(label):<{_LABEL_WIDTH}}  ", f"{weight}{_colour(label)}")


def _latency(latency_s: float) -> _Part:
    return (f"  known +{latency_s:.2f} s", "dim")


def _colour(label: str) -> str:
    """Return a colour that is the same for a label in every run."""
    return _COLOURS[zlib.crc32(label.encode()) % len(_COLOURS)]


def _line(text: str) -> str:
    return printable(text).replace("\n", " ")


class JsonLinesSink:
    """One JSON object a line, each line flushed."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``, which stays open."""
        self._stream = stream

    def write(self, record: Record) -> None:
        """Write and flush one line."""
        self._stream.write(json_line(record))
        self._stream.flush()


def json_line(record: Record) -> str:
    """Return a record as a line; what is not ASCII is escaped, since names of files may be no text."""
    return json.dumps(as_dict(record), separators=(",", ":"), allow_nan=False) + "\n"
