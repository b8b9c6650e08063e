"""Records of what happens while listening: numbered, with source, device and time, and handed to the sinks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from detector.live.clock import SampleClock, local_now, rfc3339
from detector.live.clock_state import clock_is_synced
from detector.live.seldom import Seldom
from detector.messages import Event
from detector.microphone.news import Condition, ConditionName, Lost
from detector.records import RECORD_VERSION, Origin, event_record
from detector.sinks.sink import Record

State: TypeAlias = ConditionName | Literal["listening", "stopping", "reloaded", "clock", "calibration"]
_log = logging.getLogger(__name__)
_DECIMALS: Final = 6


class Teller:
    """Makes the records of one process; ``seq`` numbers them all, whatever their type."""

    def __init__(self, source: str, submit: Callable[[Record], None]) -> None:
        """Name the source in each record; ``submit`` takes them and must not wait."""
        self.source, self._submit = source, submit
        self.device = ""
        """Stable id of the device that is open, or what was asked for."""
        self.unlogged: frozenset[State] = frozenset()
        """States whose beginning somebody else tells the user."""
        self._seq = 0
        self._losses = Seldom(_log)

    def event(self, event: Event, origin: Origin, clock: SampleClock, level_dbfs: float | None) -> Record:
        """Tell of an onset or an offset, and return its record."""
        self._seq += 1
        onset = event.offset_sample is None
        sample = event.onset_sample if event.offset_sample is None else event.offset_sample
        record = event_record(event, origin, self._seq) | {"time": rfc3339(clock.time_of(sample))}
        if onset:
            record["level_dbfs"] = level_dbfs
        return self._send(record | self._circumstances())

    def gap(self, lost: Lost, rate_hz: int, clock: SampleClock) -> None:
        """Tell that sound was lost."""
        self.tell(
            "gap",
            clock.time_of(lost.first_sample),
            at_s=round(lost.first_sample / rate_hz, _DECIMALS),
            lost_s=round(lost.samples / rate_hz, _DECIMALS),
            cause=lost.cause,
        )
        self._losses.say("%s: %.2f s of sound lost (%s)", self.source, lost.samples / rate_hz, lost.cause)

    def condition(self, condition: Condition) -> None:
        """Tell that something about the source has begun or is over."""
        level = logging.WARNING if condition.active else logging.INFO
        self.status(condition.name, condition.detail, active=condition.active, level=level)

    def status(self, state: State, detail: str, *, active: bool = True, level: int | None = logging.INFO) -> None:
        """Tell of a change, and log it at a level; None: not at all."""
        detail = " ".join(detail.split())
        self.tell("status", local_now(), state=state, active=active, detail=detail)
        if level is not None and not (active and state in self.unlogged):
            _log.log(level, "%s", detail)

    def tell(self, kind: str, moment: datetime, **fields: Any) -> None:
        """Tell anything else, of a moment."""
        self._send(self._make(kind, moment, fields))

    def remind(self, submit: Callable[[Record], None], states: Iterable[tuple[State, bool, str]]) -> None:
        """Tell one sink that has just begun what the states are, whether they are active, and the details."""
        for state, active, detail in states:
            submit(self._make("status", local_now(), {"state": state, "active": active, "detail": detail}))

    def _make(self, kind: str, moment: datetime, fields: Mapping[str, Any]) -> Record:
        self._seq += 1
        head = {"v": RECORD_VERSION, "type": kind, "seq": self._seq, "source": self.source}
        return head | {"time": rfc3339(moment)} | dict(fields) | self._circumstances()

    def _circumstances(self) -> dict[str, Any]:
        return {"device": self.device, "clock_synced": clock_is_synced()}

    def _send(self, record: Record) -> Record:
        self._submit(record)
        return record
