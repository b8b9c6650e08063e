"""The events that the page shows, and the pictures of them: what the network did around each sound.

Events of the last day are kept in memory, older ones are read from the database where there is one. Pictures hold no
sound, and are bounded.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from detector.audio.sources import read_sound
from detector.events_db import FIELDS, EventReader, Wanted
from detector.messages import Trace
from detector.pipeline import Detector
from detector.records import ClipRecord, EventRecord, OnsetRecord
from detector.sinks.base import NodeInfo
from detector.web.schema import Event, Model, Picture, describe_model
from detector.web.stream import Broadcaster, FrameEncoder

BEFORE_S: Final = 3.0
AFTER_S: Final = 1.0
"""What a picture shows around a sound."""
MAX_S: Final = 30.0
MAX_BYTES: Final = 6_000_000
"""All pictures together; the oldest are dropped first."""
_KEPT: Final = timedelta(days=1)
_MAX_EVENTS: Final = 5000
"""Events in memory where there is no database."""
_MAX_BESIDE_DATABASE: Final = 300
"""Beside one, it holds those that may not be stored yet: thousands would cost some megabytes."""
_RING_S: Final = BEFORE_S + MAX_S + AFTER_S + 6.0
"""Length of the ring of traces: some seconds more than a picture needs, since records come late."""
_TIMEOUT_S: Final = 10.0
_BLOCK_S: Final = 1


@dataclass(frozen=True, slots=True)
class Archive:
    """Where the service keeps events and clips; None where it does not."""

    database: Path | None
    clips: Path | None


class Events:
    """Knows the recent events by their records, and older ones by the database, which is written later."""

    def __init__(self, archive: Archive) -> None:
        """Start with what the database holds."""
        self._archive = archive
        self._max_events = _MAX_EVENTS if archive.database is None else _MAX_BESIDE_DATABASE
        self._recent: OrderedDict[str, Event] = OrderedDict()
        self._lock = threading.Lock()

    def on_record(self, record: EventRecord | ClipRecord) -> None:
        """Add what an onset, an offset or a clip says of its event."""
        with self._lock:
            known = self._recent.get(record.id)
            if isinstance(record, ClipRecord):
                if known is not None:
                    self._recent[record.id] = replace(known, clip=record.path)
                return
            self._recent[record.id] = _merged(known, record)
            while self._recent and (len(self._recent) > self._max_events or _is_old(next(iter(self._recent.values())))):
                self._recent.popitem(last=False)

    def find(self, wanted: Wanted) -> list[Event]:
        """Return events, the newest first; raises ConfigError where the database cannot be read."""
        found = {e.id: e for e in self._stored(wanted)}
        with self._lock:
            found |= {e.id: e for e in self._recent.values() if _is_wanted(e, wanted)}
        ordered = sorted(found.values(), key=_began, reverse=True)
        return ordered[: wanted.newest]

    def get(self, event_id: str) -> Event | None:
        """Return one event, None where it is unknown; raises ConfigError as ``find``."""
        with self._lock:
            known = self._recent.get(event_id)
        return known or next(iter(self._stored(Wanted(ids=(event_id,)))), None)

    def clip(self, event: Event) -> Path | None:
        """Return the file with the sound of an event; None without one, or where it is not in the folder of clips."""
        if event.clip is None or self._archive.clips is None:
            return None
        # Only the name counts: a path from a database must not lead out of the folder.
        path = self._archive.clips / Path(event.clip).name
        return path if path.suffix == ".flac" and path.is_file() and not path.is_symlink() else None

    def _stored(self, wanted: Wanted) -> list[Event]:
        path = self._archive.database
        if path is None or not path.is_file():  # the service creates it with its first event
            return []
        with EventReader(path) as reader:
            return [Event(**e.values, picture=None) for e in reader.events(wanted)]


def _merged(event: Event | None, record: EventRecord) -> Event:
    """Return an event with what a record says of it."""
    known = dict.fromkeys((*FIELDS, "picture")) if event is None else asdict(event)
    known |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
    if isinstance(record, OnsetRecord):
        return Event(**known | {"onset_time": record.time})
    if known["onset_time"] is None and record.time:  # the onset was sent before the page was there
        began = datetime.fromisoformat(record.time) - timedelta(seconds=record.duration_s)
        known["onset_time"] = began.isoformat(timespec="milliseconds")
    return Event(**known | {"offset_time": record.time})


def _is_wanted(event: Event, wanted: Wanted) -> bool:
    compare: tuple[tuple[datetime | None, Callable[[datetime, datetime], bool]], ...] = (
        (wanted.since, datetime.__ge__),
        (wanted.until, datetime.__lt__),
    )
    return (
        (not wanted.labels or event.label in wanted.labels)
        and (not wanted.categories or event.category in wanted.categories)
        and (not wanted.sources or event.source in wanted.sources)
        and all(moment is None or holds(_began(event), moment) for moment, holds in compare)
    )


def _began(event: Event) -> datetime:
    """Return the time of the onset; where it is unknown, one before all others."""
    return datetime.fromisoformat(event.onset_time) if event.onset_time else datetime.min.replace(tzinfo=UTC)


def _is_old(event: Event) -> bool:
    return event.onset_time is not None and _began(event) < datetime.now().astimezone() - _KEPT


@dataclass(slots=True)
class _Pending:
    """A sound whose picture is not complete; positions in samples."""

    onset: int
    end: int
    """Behind the last sample that the picture shows, as far as is known."""
    due_s: float
    """When it is taken even if that sample has not come, by the monotonic clock."""


class Pictures:
    """Keeps the traces of the last seconds, and takes a picture of each sound when it has ended.

    ``on_trace`` is called in the engine's thread and keeps the arrays that it is given; the other methods are called
    in other threads.
    """

    def __init__(self, frame_encoder: FrameEncoder, rate_hz: int, hop_length: int, sources: int = 1) -> None:
        """Start empty; the pictures of several ``sources`` share their room."""
        self._sources = sources
        self._frame_encoder, self._rate_hz, self._hop = frame_encoder, rate_hz, hop_length
        self._lock = threading.Lock()
        self._ring: deque[Trace] = deque()
        self._frames, self._max_frames = 0, round(_RING_S * rate_hz / hop_length)
        self._pending: dict[str, _Pending] = {}
        self._taken: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def on_trace(self, trace: Trace) -> None:
        """Add the trace of a chunk."""
        with self._lock:
            if self._ring and trace.first_sample < self._ring[-1].first_sample:
                self._ring.clear()  # a stream has restarted
                self._frames = 0
            self._ring.append(trace)
            self._frames += len(trace.scores)
            while self._frames > self._max_frames:
                self._frames -= len(self._ring.popleft().scores)

    def on_record(self, record: EventRecord) -> None:
        """Note where a sound begins or ends."""
        onset = round(record.onset_s * self._rate_hz)
        longest = onset + round(MAX_S * self._rate_hz)
        if isinstance(record, OnsetRecord):
            due_s = time.monotonic() + MAX_S + _TIMEOUT_S
            self._pending[record.id] = _Pending(onset, longest, due_s)
        elif (pending := self._pending.get(record.id)) is not None:
            end = round((record.offset_s + AFTER_S) * self._rate_hz)
            pending.end, pending.due_s = min(end, longest), time.monotonic() + AFTER_S + _TIMEOUT_S

    def take(self) -> None:
        """Take the pictures that are complete."""
        with self._lock:
            newest = self._ring[-1].first_sample + len(self._ring[-1].scores) * self._hop if self._ring else 0
        now = time.monotonic()
        for event_id, pending in list(self._pending.items()):
            if newest >= pending.end or now >= pending.due_s:
                picture = self._cut(pending)
                if picture.parts:
                    self._keep(event_id, zlib.compress(as_json(picture), 1))
                del self._pending[event_id]

    def has(self, event_id: str) -> bool:
        """Return whether there is a picture of a sound, or will be one."""
        return event_id in self._pending or event_id in self._taken

    def get(self, event_id: str) -> bytes | None:
        """Return a picture as JSON, that of a sound that goes on as far as it goes; None where there is none."""
        # In this order: a picture is kept before its sound is pending no more.
        pending, packed = self._pending.get(event_id), self._taken.get(event_id)
        if packed is not None:
            return zlib.decompress(packed)
        return None if pending is None else as_json(self._cut(pending))

    def picture(self, traces: Sequence[Trace], origin: Literal["memory", "clip"]) -> Picture:
        """Return a picture of traces."""
        return Picture(origin, list(self._frame_encoder.messages(traces)))

    def _cut(self, pending: _Pending) -> Picture:
        first, end = pending.onset - round(BEFORE_S * self._rate_hz), pending.end
        with self._lock:
            ring = list(self._ring)
        cut = (
            t.cut(-(-(first - t.first_sample) // self._hop), -(-(end - t.first_sample) // self._hop), self._hop)
            for t in ring
        )
        return self.picture([t for t in cut if len(t.scores)], "memory")

    def _keep(self, event_id: str, packed: bytes) -> None:
        self._taken[event_id] = packed
        self._bytes += len(packed)
        while self._bytes > MAX_BYTES // self._sources:
            self._bytes -= len(self._taken.popitem(last=False)[1])


class ModelInfo:
    """Describes the model, and runs it on clips for their pictures."""

    def __init__(
        self, detector: Detector, node_info: NodeInfo, pictures: Pictures, sources: Sequence[str] = ()
    ) -> None:
        """Keep the detector, whose stream is never touched; ``sources``: all there are, by default this one."""
        self.model: Final[Model] = describe_model(detector, node_info, sources)
        self._detector, self._pictures = detector, pictures
        self._one_at_a_time = threading.Lock()

    def picture(self, path: Path) -> Picture:
        """Return the picture of a sound file; raises SourceError where it cannot be read."""
        with self._one_at_a_time:
            detector = self._detector.fresh()
            detector.observer = recorder = _TraceRecorder()
            rate_hz = detector.sample_rate_hz
            sound = read_sound(path, rate_hz)
            for at in range(0, len(sound), _BLOCK_S * rate_hz):
                detector.push(sound[at : at + _BLOCK_S * rate_hz])
            detector.flush()
        return self._pictures.picture(recorder.traces, "clip")


class _TraceRecorder:
    wants_layers = True

    def __init__(self) -> None:
        self.traces: list[Trace] = []

    def on_trace(self, trace: Trace) -> None:
        self.traces.append(trace)


class SourceView:
    """What is shown of one source: its stream, its pictures and its model; observes its detector."""

    def __init__(self, node_info: NodeInfo, detector: Detector, sources: Sequence[str]) -> None:
        """Start empty; ``sources`` are the names of all there are."""
        frame_encoder, features = FrameEncoder(detector), detector.manifest.features
        rate_hz, hop_length = features.sample_rate_hz, features.hop_length
        self.broadcaster = Broadcaster(frame_encoder, node_info.source if len(sources) > 1 else None)
        self.pictures = Pictures(frame_encoder, rate_hz, hop_length, len(sources))
        self.model_info = ModelInfo(detector, node_info, self.pictures, sources)

    @property
    def wants_layers(self) -> bool:
        """Whether there is a viewer."""
        return self.broadcaster.viewers > 0

    def on_trace(self, trace: Trace) -> None:
        """Keep a trace for pictures, and send it to viewers."""
        self.pictures.on_trace(trace)
        self.broadcaster.on_trace(trace)


def as_json(picture: Picture) -> bytes:
    """Return a picture as compact JSON."""
    return json.dumps(asdict(picture), separators=(",", ":")).encode()
