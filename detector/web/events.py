"""The events that the page shows: those of the last day from memory, all of them where there is a database."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from detector.errors import ConfigError
from detector.event_store.query import FIELDS, EventReader, Wanted
from detector.sinks.sink import Record

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

    def note(self, record: Record) -> None:
        """Take an onset, an offset, or news of a clip."""
        with self._lock:
            known = self._recent.get(record["id"])
            if record["type"] == "clip":
                if known is not None:
                    known["clip"] = record["path"]
                return
            self._recent[record["id"]] = _merged(known or dict.fromkeys(FIELDS), record)
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


def _merged(event: Event, record: Record) -> Event:
    """Return an event with what a record says of it."""
    own = {name: record[name] for name in FIELDS if name in record and name != "clip"}
    moment = record["time"]
    if record["type"] == "onset":
        return event | own | {"onset_time": moment}
    if event["onset_time"] is None and moment:  # its onset's record came before this one began to listen
        began = datetime.fromisoformat(moment) - timedelta(seconds=record["duration_s"])
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
