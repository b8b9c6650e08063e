"""Events as the records that leave the house: one JSON object per onset and per offset.

The schema is the same live and replayed, and fixed by ``v``; consumers skip a ``type`` they do not
know. Seconds come from the sample index, rounded to a microsecond: each sample keeps its own. The
time of day is added only where the start of the stream is known.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detector.messages import Event

RECORD_VERSION = 1
_NAMESPACE = uuid.UUID("6f2d9f2e-4f0c-5d0e-9a55-0f6b3b1c7a11")
"""Separates these ids from other version 5 UUIDs; drawn once, never to change."""
_SHA_DIGITS = 12
_SECONDS_DECIMALS = 6
_SCORE_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """Where events come from: all that a record says besides the event itself."""

    source: str
    """What the user calls the stream: a file's name as given, or a device's."""
    stream: str
    """What tells this stream from every other: a file's full path, or an id drawn when it began."""
    rate_hz: int
    """The rate that the events' samples count at."""
    model: str
    """Name and version of the model."""
    model_sha256: str
    started: datetime | None = None
    """Time of day of sample 0, with its offset from UTC; None where nobody knows."""


def event_record(event: Event, origin: StreamInfo, seq: int) -> dict[str, Any]:
    """Return the record of an event; ``seq`` numbers the records that one process sends.

    ``time`` is that of the onset in an onset's record and of the offset in an offset's.
    ``latency_s`` is how much sound had passed since that moment when the event became known.
    """
    onset_s = _seconds(event.onset_sample, origin)
    head = {
        "v": RECORD_VERSION,
        "type": event.kind,
        "id": event_id(event, origin),
        "seq": seq,
        "source": origin.source,
        "label": event.label,
        "category": event.category,
        "onset_s": onset_s,
    }
    if event.offset_sample is None:
        return head | {
            "time": _time(event.onset_sample, origin),
            "score": _rounded(event.score),
            "threshold": _rounded(event.threshold),
            "latency_s": _seconds(event.emitted_sample + 1 - event.onset_sample, origin),
            "model": origin.model,
            "model_sha256": origin.model_sha256[:_SHA_DIGITS],
        }
    return head | {
        "offset_s": _seconds(event.offset_sample, origin),
        "duration_s": _seconds(event.offset_sample - event.onset_sample, origin),
        "peak": None if event.peak is None else _rounded(event.peak),
        "mean": None if event.mean is None else _rounded(event.mean),
        "reason": event.reason,
        "time": _time(event.offset_sample, origin),
        "latency_s": _seconds(event.emitted_sample + 1 - event.offset_sample, origin),
        "model": origin.model,
    }


def event_id(event: Event, origin: StreamInfo) -> str:
    """Return the id that an onset shares with its offset: a version 5 UUID.

    The same file, model and thresholds give the same ids whenever they are replayed; label and onset
    are part of it because other thresholds number other events.
    """
    parts = (origin.stream, origin.model_sha256, str(event.index), event.label, str(event.onset_sample))
    # A file's name may hold bytes that are no text, which uuid5 would refuse.
    name = "\n".join(parts).encode("utf-8", "surrogateescape").decode("latin-1")
    return str(uuid.uuid5(_NAMESPACE, name))


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
