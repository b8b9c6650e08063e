"""What was going on around each sound, kept in memory for those who look later: no sound, and within bounds."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from detector.insides import Insides
from detector.sinks.sink import Record
from detector.web.packing import Packer

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

    def __init__(self, packer: Packer, rate_hz: int, hop_length: int) -> None:
        """Begin with nothing."""
        self._packer, self._rate_hz, self._hop = packer, rate_hz, hop_length
        self._lock = threading.Lock()
        self._ring: deque[Insides] = deque()
        self._frames, self._most_frames = 0, round(_RING_S * rate_hz / hop_length)
        self._awaited: dict[str, _Awaited] = {}
        self._taken: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def see(self, insides: Insides) -> None:
        """Remember what a chunk brought about."""
        with self._lock:
            if self._ring and insides.first_sample < self._ring[-1].first_sample:
                self._ring.clear()  # a stream has begun anew
                self._frames = 0
            self._ring.append(insides)
            self._frames += len(insides.scores)
            while self._frames > self._most_frames:
                self._frames -= len(self._ring.popleft().scores)

    def note(self, record: Record) -> None:
        """Take notice of an onset or offset."""
        onset = round(record["onset_s"] * self._rate_hz)
        longest = onset + round(LONGEST_S * self._rate_hz)
        if record["type"] == "onset":
            due_s = time.monotonic() + LONGEST_S + _PATIENCE_S
            self._awaited[record["id"]] = _Awaited(onset, longest, due_s)
        elif (awaited := self._awaited.get(record["id"])) is not None:
            end = round((record["offset_s"] + AFTER_S) * self._rate_hz)
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

    def picture(self, insides: Sequence[Insides], origin: str) -> dict[str, Any]:
        """Return a picture of anything that was seen; ``origin`` is ``memory`` or ``clip``."""
        return {"origin": origin, "parts": list(self._packer.messages(insides))}

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
