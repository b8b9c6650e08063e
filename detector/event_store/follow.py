"""Following the events as they are stored: the new ones, and those shown before that have ended since."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from detector.event_store.query import EventReader, StoredEvent, Wanted


class Follower:
    """Remembers which events have been given, and which of them were going on then."""

    def __init__(self, wanted: Wanted) -> None:
        """Choose the events."""
        self._wanted = wanted
        self._last = 0
        self._open: set[str] = set()

    def begin(self, reader: EventReader) -> Iterator[StoredEvent]:
        """Yield the events stored so far, as many as are wanted."""
        self._last = reader.last_number()
        return self._noted(reader.events(self._wanted))

    def news(self, reader: EventReader) -> Iterator[StoredEvent]:
        """Yield those that have ended since they were given, then those that are new."""
        if reader.last_number() < self._last:  # another file has taken this one's place
            self._last = 0
        wanted = replace(self._wanted, newest=None)
        ended = [e for e in reader.events(replace(wanted, ids=tuple(self._open))) if not e.is_going_on]
        yield from self._noted(ended)
        yield from self._noted(reader.events(replace(wanted, after=self._last)))

    def _noted(self, events: Iterable[StoredEvent]) -> Iterator[StoredEvent]:
        for event in events:
            self._last = max(self._last, event.number)
            if event.is_going_on:
                self._open.add(event.values["id"])
            else:
                self._open.discard(event.values["id"])
            yield event
