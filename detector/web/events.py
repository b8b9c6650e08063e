"""The events that the page shows: those of the last day from memory, all of them where there is a database.

What was going on around each sound, kept in memory for those who look later: no sound, and within bounds.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from detector.errors import ConfigError
from detector.events_db import FIELDS, EventReader, Wanted
from detector.messages import Trace
from detector.records import ClipRecord, EventRecord, OnsetRecord
from detector.web.stream import FrameEncoder

Event = dict[str, Any]
"""By ``FIELDS``."""
_KEPT: Final = timedelta(days=1)
_MOST: Final = 5000
"""Events in memory."""
_DECIMALS: Final = 6


@dataclass(frozen=True, slots=True)
class Archive:
    """Where the service keeps what it hears; None where it does not."""

    database: Path | None
    clips: Path | None


class Events:
    """Knows the events by their records; the database, which is written later, knows those from before, too."""

    def __init__(self, archive: Archive) -> None:
        """Begin with what the database holds."""
        self._archive = archive
        self._recent: OrderedDict[str, Event] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, record: EventRecord | ClipRecord) -> None:
        """Take an onset, an offset, or news of a clip."""
        with self._lock:
            known = self._recent.get(record.id)
            if isinstance(record, ClipRecord):
                if known is not None:
                    known["clip"] = record.path
                return
            self._recent[record.id] = _merged(known or dict.fromkeys(FIELDS), record)
            while len(self._recent) > _MOST or _is_old(next(iter(self._recent.values()))):
                self._recent.popitem(last=False)

    def find(self, wanted: Wanted) -> list[Event]:
        """Return events, the newest first; raises ConfigError where the database cannot be read."""
        found = {e["id"]: e for e in self._stored(wanted)}
        with self._lock:
            found |= {e["id"]: dict(e) for e in self._recent.values() if _is_wanted(e, wanted)}
        ordered = sorted(found.values(), key=_began, reverse=True)
        return ordered[: wanted.newest]

    def get(self, event_id: str) -> Event | None:
        """Return one event; None where nobody knows it."""
        with self._lock:
            known = self._recent.get(event_id)
            if known is not None:
                return dict(known)
        return next(iter(self._stored(Wanted(ids=(event_id,)))), None)

    def clip(self, event: Event) -> Path | None:
        """Return the file with an event's sound; None where there is none, or it is not in the folder of clips."""
        if event["clip"] is None or self._archive.clips is None:
            return None
        path, folder = Path(event["clip"]), self._archive.clips
        # The name alone counts: what a database says is not trusted to lead elsewhere.
        path = folder / path.name
        return path if path.suffix == ".flac" and path.is_file() and not path.is_symlink() else None

    def _stored(self, wanted: Wanted) -> list[Event]:
        path = self._archive.database
        if path is None or not path.is_file():  # the service makes it with its first event
            return []
        with EventReader(path) as reader:
            return [dict(e.values) for e in reader.events(wanted)]


def _merged(event: Event, record: EventRecord) -> Event:
    """Return an event with what a record says of it."""
    own = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
    moment = record.time
    if isinstance(record, OnsetRecord):
        return event | own | {"onset_time": moment}
    if event["onset_time"] is None and moment:  # its onset's record came before this one began to listen
        began = datetime.fromisoformat(moment) - timedelta(seconds=record.duration_s)
        event["onset_time"] = began.isoformat(timespec="milliseconds")
    return event | own | {"offset_time": moment}


def _is_wanted(event: Event, wanted: Wanted) -> bool:
    chosen = (not wanted.labels or event["label"] in wanted.labels) and (
        not wanted.categories or event["category"] in wanted.categories
    )
    compare: tuple[tuple[datetime | None, Callable[[datetime, datetime], bool]], ...] = (
        (wanted.since, datetime.__ge__),
        (wanted.until, datetime.__lt__),
    )
    return chosen and all(moment is None or holds(_began(event), moment) for moment, holds in compare)


def _began(event: Event) -> datetime:
    return datetime.fromisoformat(event["onset_time"])


def _is_old(event: Event) -> bool:
    return _began(event) < datetime.now().astimezone() - _KEPT


__all__ = ["Archive", "ConfigError", "Event", "Events", "Wanted"]


BEFORE_S: Final = 3.0
AFTER_S: Final = 1.0
"""What a picture shows around a sound."""
LONGEST_S: Final = 30.0
MOST_BYTES: Final = 12_000_000
"""All pictures together; the oldest go first."""
_RING_S: Final = BEFORE_S + LONGEST_S + AFTER_S + 6.0
"""Sound longer ago than this is forgotten: some seconds more than a picture needs, since records come late."""
_PATIENCE_S: Final = 10.0


@dataclass(slots=True)
class _Awaited:
    """A sound whose picture is not taken yet; positions in samples."""

    onset: int
    end: int
    """Behind the last sample that the picture shows, as far as is known."""
    due_s: float
    """When it is taken even if that sample never comes, by the monotonic clock."""


class Pictures:
    """Remembers the insides of the last seconds, and takes a picture of each sound when it is over.

    ``see`` is for the engine's thread and keeps what it is given; everything else is for others.
    """

    def __init__(self, frame_encoder: FrameEncoder, rate_hz: int, hop_length: int) -> None:
        """Begin with nothing."""
        self._frame_encoder, self._rate_hz, self._hop = frame_encoder, rate_hz, hop_length
        self._lock = threading.Lock()
        self._ring: deque[Trace] = deque()
        self._frames, self._most_frames = 0, round(_RING_S * rate_hz / hop_length)
        self._awaited: dict[str, _Awaited] = {}
        self._taken: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def on_trace(self, trace: Trace) -> None:
        """Remember what a chunk brought about."""
        with self._lock:
            if self._ring and trace.first_sample < self._ring[-1].first_sample:
                self._ring.clear()  # a stream has begun anew
                self._frames = 0
            self._ring.append(trace)
            self._frames += len(trace.scores)
            while self._frames > self._most_frames:
                self._frames -= len(self._ring.popleft().scores)

    def note(self, record: EventRecord) -> None:
        """Take notice of an onset or offset."""
        onset = round(record.onset_s * self._rate_hz)
        longest = onset + round(LONGEST_S * self._rate_hz)
        if isinstance(record, OnsetRecord):
            due_s = time.monotonic() + LONGEST_S + _PATIENCE_S
            self._awaited[record.id] = _Awaited(onset, longest, due_s)
        elif (awaited := self._awaited.get(record.id)) is not None:
            end = round((record.offset_s + AFTER_S) * self._rate_hz)
            awaited.end, awaited.due_s = min(end, longest), time.monotonic() + AFTER_S + _PATIENCE_S

    def take(self) -> None:
        """Take the pictures that are complete."""
        with self._lock:
            newest = self._ring[-1].first_sample + len(self._ring[-1].scores) * self._hop if self._ring else 0
        now = time.monotonic()
        for event_id, awaited in list(self._awaited.items()):
            if newest >= awaited.end or now >= awaited.due_s:
                picture = self._pack(awaited)
                del self._awaited[event_id]
                if picture["parts"]:
                    self._keep(event_id, zlib.compress(_json(picture), 1))

    def has(self, event_id: str) -> bool:
        """Tell whether there is a picture of a sound, or will be one."""
        return event_id in self._awaited or event_id in self._taken

    def get(self, event_id: str) -> bytes | None:
        """Return a picture as JSON, that of a sound that goes on as far as it goes; None where there is none."""
        if (packed := self._taken.get(event_id)) is not None:
            return zlib.decompress(packed)
        awaited = self._awaited.get(event_id)
        return None if awaited is None else _json(self._pack(awaited))

    def picture(self, trace: Sequence[Trace], origin: str) -> dict[str, Any]:
        """Return a picture of anything that was seen; ``origin`` is ``memory`` or ``clip``."""
        return {"origin": origin, "parts": list(self._frame_encoder.messages(trace))}

    def _pack(self, awaited: _Awaited) -> dict[str, Any]:
        first = awaited.onset - round(BEFORE_S * self._rate_hz)
        with self._lock:
            ring = list(self._ring)
        cut = (
            i.cut(-(-(first - i.first_sample) // self._hop), -(-(awaited.end - i.first_sample) // self._hop), self._hop)
            for i in ring
        )
        return self.picture([i for i in cut if len(i.scores)], "memory")

    def _keep(self, event_id: str, packed: bytes) -> None:
        self._taken[event_id] = packed
        self._bytes += len(packed)
        while self._bytes > MOST_BYTES:
            self._bytes -= len(self._taken.popitem(last=False)[1])


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
