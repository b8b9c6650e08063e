"""Where the terminal's view gets its messages: from a detector of its own, or from a service's stream."""

from __future__ import annotations

import http.client
import queue
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from detector.errors import DeviceError, SourceError
from detector.insides import Insides
from detector.live.engine import Engine
from detector.live.tally import Tally
from detector.live.teller import Teller
from detector.microphone.news import LiveSource
from detector.pipeline import Detector
from detector.read_ahead import Reader
from detector.sinks.sink import Record, Station
from detector.web.client import Message, WebClient
from detector.web.model_card import card
from detector.web.packing import Packer

_AGAIN_S: Final = 2.0
_STATE_S: Final = 0.5
_DEPTH: Final = 200


class Feed(Protocol):
    """Messages as a service's stream has them, and of the kind ``connection`` with what is wrong with it."""

    @property
    def model(self) -> Mapping[str, Any]:
        """What the model is."""

    def take(self, timeout_s: float) -> list[Message] | None:
        """Return what has come, waiting for it at most that long; None at the end."""

    def close(self) -> None:
        """Take no more."""


class OwnFeed:
    """Hears a source itself, and is its own observer."""

    wants_layers = True

    def __init__(self, source: LiveSource, detector: Detector, station: Station) -> None:
        """Take an open source and a detector with a fresh state."""
        self._source, self._packer = source, Packer(detector)
        self.model: Mapping[str, Any] = card(detector, station)
        self._messages: list[Message] = []
        self._insides: list[Insides] = []
        teller = Teller(station.source, self._note)
        teller.unlogged = frozenset({"waiting", "silent", "clipping", "dc_offset", "wrong_rate", "listening"})
        self._engine = Engine(source, detector, teller, Tally())
        self._engine.observer = self
        self._state_at_s = 0.0

    def see(self, insides: Insides) -> None:
        """Take what the sound brought about."""
        self._insides.append(insides)

    def take(self, timeout_s: float) -> list[Message] | None:
        """Hear what has come; raises SourceError where the sound cannot go on."""
        goes_on = self._engine.turn(timeout_s)
        if not goes_on:
            self._engine.close_events("end_of_stream")
        now_s = time.monotonic()
        if now_s >= self._state_at_s:
            self._state_at_s = now_s + _STATE_S
            self._messages.append(("state", self._state()))
        self._messages += [("frames", m) for m in self._packer.messages(self._insides)]
        messages, self._messages, self._insides = self._messages, [], []
        return messages if goes_on or messages else None

    def close(self) -> None:
        """Stop listening."""
        self._source.close()

    def _note(self, record: Record) -> None:
        self._messages.append(("record", record))

    def _state(self) -> dict[str, Any]:
        figures = self._source.figures
        return {
            "device": figures.device,
            "up": figures.is_open,
            "rms_dbfs": figures.rms_dbfs,
            "peak_dbfs": figures.peak_dbfs,
            "conditions": [{"name": c.name, "detail": c.detail} for c in self._engine.conditions],
        }


class StreamFeed:
    """Follows the stream of a service that shows its page; a lost connection is made again."""

    def __init__(self, client: WebClient, model: Mapping[str, Any]) -> None:
        """Take a service's client, and what it has told of its model."""
        self._client, self.model = client, model
        self._reader = Reader(self._follow(), _DEPTH)
        self._reader.start()

    def take(self, timeout_s: float) -> list[Message] | None:
        """Return what has come."""
        messages: list[Message] = []
        while True:
            try:
                item = self._reader.take(0 if messages else timeout_s)
            except queue.Empty:
                return messages
            if item is None:
                return messages or None
            if isinstance(item, BaseException):
                raise item
            messages.append(item)

    def close(self) -> None:
        """Take no more; the thread ends with the process, or with the next message."""
        self._reader.stopped.set()

    def _follow(self) -> Iterator[Message]:
        while True:
            try:
                for message in self._client.stream():
                    yield "connection", {"detail": ""}
                    yield message
            except (OSError, http.client.HTTPException, DeviceError, SourceError) as error:
                yield "connection", {"detail": f"no connection: {error}"}
            time.sleep(_AGAIN_S)
