"""Topics, and the messages that follow from records; names and payloads are a contract with users."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from detector.config.sections import slug
from detector.records import (
    ClipRecord,
    EventRecord,
    HealthRecord,
    HealthState,
    OffsetRecord,
    OnsetRecord,
    Record,
    ServiceState,
    StatusRecord,
)
from detector.sinks.base import NodeInfo, SensitivityControl

ONLINE: Final = "online"
OFFLINE: Final = "offline"
ON: Final = "ON"
OFF: Final = "OFF"
PROBLEM: Final = "problem"
"""Stands for a class in topics: ON while the source does not deliver usable sound."""
_RESERVED: Final = frozenset({PROBLEM, "event", "level", "status", "listening"})
_DIGITS: Final = 8
_MAX_SLUG: Final = 64


@dataclass(frozen=True, slots=True)
class Message:
    """Something to publish."""

    topic: str
    payload: str
    qos: int = 1
    retain: bool = False
    durable: bool = False
    """Reports the past, so that it is sent late rather than never; other messages report the present alone."""


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one machine with one sound source."""

    prefix: str
    node: str
    source: str

    @property
    def base(self) -> str:
        """The first part of all topics."""
        return f"{self.prefix.rstrip('/')}/{self.node}"

    @property
    def status(self) -> str:
        """Whether the service runs; the last will."""
        return f"{self.base}/status"

    @property
    def node_report(self) -> str:
        """What the service says of itself."""
        return f"{self.base}/node"

    @property
    def node_report_get(self) -> str:
        """Asks the service to say it again; the payload is the id of the process that asks."""
        return f"{self.base}/node/get"

    @property
    def source_status(self) -> str:
        """Whether the source is open and sound arrives."""
        return f"{self.base}/{self.source}/status"

    @property
    def event(self) -> str:
        """One message per onset."""
        return f"{self.base}/{self.source}/event"

    @property
    def level(self) -> str:
        """The level of the sound."""
        return f"{self.base}/{self.source}/level"

    @property
    def health(self) -> str:
        """The health of the service."""
        return f"{self.base}/health"

    @property
    def listening_set(self) -> str:
        """Turns listening on or off."""
        return f"{self.base}/listening/set"

    @property
    def listening_state(self) -> str:
        """Whether listening is on."""
        return f"{self.base}/listening/state"

    @property
    def sensitivity_set(self) -> str:
        """Chooses the operating point of the model."""
        return f"{self.base}/sensitivity/set"

    @property
    def sensitivity_state(self) -> str:
        """The operating point in force."""
        return f"{self.base}/sensitivity/state"

    def state(self, class_id: str) -> str:
        """Whether a sound is present now."""
        return f"{self.base}/{self.source}/{class_id}/state"

    def attributes(self, class_id: str) -> str:
        """Attributes of the last sound of a class, as JSON."""
        return f"{self.base}/{self.source}/{class_id}/attributes"


def client_id(node: str) -> str:
    """Return the client id of a machine; a second client of that id disconnects the first one."""
    return f"snn-detect-{node}"


def class_ids(labels: Iterable[str]) -> dict[str, str]:
    """Return for each label its part of topics; labels that would share one, or take a reserved one, get a suffix."""
    slugs = {label: slug(label) for label in labels}
    uses = Counter(slugs.values())
    return {
        label: _distinct(name, label) if uses[name] > 1 or name in _RESERVED else name for label, name in slugs.items()
    }


def _distinct(name: str, label: str) -> str:
    digest = hashlib.sha256(label.encode()).hexdigest()[:_DIGITS]
    return f"{name[: _MAX_SLUG - _DIGITS - 1]}_{digest}"


_CONDITIONS: Final = frozenset({"waiting", "silent", "clipping", "dc_offset", "wrong_rate"})
"""Conditions of a source without usable sound."""
_MIN_DBFS: Final = -200.0
_SLACK_S: Final = 0.5
"""A health record that is this much too early for the next level will do."""


class NodeStates:
    """Make messages of the records of all sources of a machine; for one thread at a time."""

    def __init__(
        self,
        node_infos: Sequence[NodeInfo],
        prefix: str,
        level_interval_s: float,
        *,
        switch: bool,
        sensitivity: SensitivityControl | None = None,
    ) -> None:
        """Start with every sound off and the sources offline.

        ``switch``: listening can be turned off. ``sensitivity``: the operating point can be chosen.
        """
        self._shared = _Shared(models(node_infos))
        self._states = {
            info.source: States(
                info,
                Topics(prefix, info.node, info.source),
                level_interval_s,
                switch=switch,
                sensitivity=sensitivity,
                shared=self._shared,
            )
            for info in node_infos
        }

    def take(self, record: Record) -> list[Message]:
        """Return the messages of a record; raises ValueError for a label that its source does not report."""
        states = self._states.get(record.source)
        return states.take(record) if states is not None else []

    def present(self) -> list[Message]:
        """Return the last message of every retained topic."""
        return list(self._shared.present.values())

    def topics(self) -> set[str]:
        """Return all topics that may have a retained message of these sources."""
        return {topic for states in self._states.values() for topic in states.topics()}

    def listening(self, *, on: bool) -> list[Message]:
        """Note that listening has been turned on or off."""
        return self._first().listening(on=on)

    def sensitivity(self) -> list[Message]:
        """Note the operating point in force, where it can be chosen."""
        return self._first().sensitivity()

    @property
    def wants_levels(self) -> bool:
        """Whether ``levels`` is to be called: sound of a source arrives, and its level is not known to subscribers."""
        return any(states.wants_level for states in self._states.values())

    def expect_subscribers(self) -> None:
        """Note that there may be new subscribers, which know no level of any source."""
        for states in self._states.values():
            states.lacks_level = True

    def levels(self, shown: Iterable[ServiceState]) -> list[Message]:
        """Return the levels that subscribers do not know, of the sources at this moment."""
        wanted = [(self._states[now.source], now.health) for now in shown if now.source in self._states]
        return [message for states, health in wanted if states.wants_level for message in states.level(health)]

    def offline_messages(self) -> list[Message]:
        """Return the messages at the end of the service: every sound is off, sources and service are offline."""
        return [message for s in self._states.values() for message in s.offline_messages()] + [self._first().offline()]

    def _first(self) -> States:
        """Return the states of any source, which all know those of the machine."""
        return next(iter(self._states.values()))


@dataclass(slots=True)
class _Shared:
    """What the sources of a machine share."""

    models: str
    present: dict[str, Message] = field(default_factory=dict)
    """The last message of every retained topic."""
    health: dict[str, HealthState] = field(default_factory=dict)
    """The last health of each source."""


class States:
    """Make messages of the records of one source, and keep the last message of every retained topic."""

    def __init__(  # noqa: PLR0913 - one option each
        self,
        node_info: NodeInfo,
        topics: Topics,
        level_interval_s: float,
        *,
        switch: bool,
        sensitivity: SensitivityControl | None = None,
        shared: _Shared | None = None,
    ) -> None:
        """Start with every sound off and the source offline; see ``NodeStates``."""
        self._sensitivity = sensitivity
        self._topics, self._level_interval_s = topics, level_interval_s
        self._ids = class_ids(label for label, _ in node_info.classes)
        self._shared, self._version = shared or _Shared(node_info.model), node_info.version
        self._attributes: dict[str, dict[str, Any]] = {}
        self._conditions: dict[str, str] = {}
        """Detail by name, the latest last."""
        self._is_paused = False
        self._detail = ""
        self._clipped = 0
        self._level_at_s = -math.inf
        self.lacks_level = True
        """Whether subscribers may know no level: ``level`` has not been published since the source came online."""
        self._present = self._shared.present
        self._keep(topics.source_status, OFFLINE)
        if switch:
            self._keep(topics.listening_state, ON)
        self.sensitivity()
        self._keep(topics.state(PROBLEM), OFF)
        for class_id in self._ids.values():
            self._keep(topics.state(class_id), OFF)

    def take(self, record: Record) -> list[Message]:
        """Return the messages of a record; raises ValueError for a label that the node does not report."""
        match record:
            case OnsetRecord():
                return self._onset(record)
            case OffsetRecord():
                return self._offset(record)
            case ClipRecord():
                return self._clip(record)
            case StatusRecord():
                return self._status(record)
            case HealthRecord():
                return self._health(record.health, record.time)
            case _:
                return []

    def topics(self) -> set[str]:
        """Return all topics that may have a retained message: attributes have none before the first sound."""
        return {*self._present, *map(self._topics.attributes, (PROBLEM, *self._ids.values()))}

    def listening(self, *, on: bool) -> list[Message]:
        """Note that listening has been turned on or off."""
        return [self._keep(self._topics.listening_state, ON if on else OFF)]

    def sensitivity(self) -> list[Message]:
        """Note the operating point in force, where it can be chosen."""
        if self._sensitivity is None:
            return []
        return [self._keep(self._topics.sensitivity_state, self._sensitivity.current())]

    @property
    def wants_level(self) -> bool:
        """Whether ``level`` is to be called: sound arrives, and its level is not known to subscribers."""
        return self.lacks_level and self._present[self._topics.source_status].payload == ONLINE

    def level(self, health: HealthState) -> list[Message]:
        """Return the level of a moment, whenever the last one was; none where none is known."""
        if not _has_level(health):
            return []
        self.lacks_level = False
        return [self._level_message(health)]

    def offline_messages(self) -> list[Message]:
        """Return the messages at the end of the service: every sound is off, and the source is offline."""
        states = [self._keep(self._topics.state(class_id), OFF) for class_id in self._ids.values()]
        return [*states, self._keep(self._topics.source_status, OFFLINE)]

    def offline(self) -> Message:
        """Return the message that the service has ended."""
        return status(self._topics, OFFLINE)

    def _onset(self, record: OnsetRecord) -> list[Message]:
        class_id = self._id(record)
        attributes = {
            "score": record.score,
            "peak": None,
            "start": record.time,
            "end": None,
            "duration_s": None,
            "event_id": record.id,
            "clip": None,
        }
        return [
            *self._source(up=True),
            self._explain(class_id, attributes),
            self._keep(self._topics.state(class_id), ON),
            Message(self._topics.event, _json(_event(record)), durable=True),
        ]

    def _offset(self, record: OffsetRecord) -> list[Message]:
        class_id = self._id(record)
        before = self._attributes.get(class_id, {})
        known = before if before.get("event_id") == record.id else {}
        attributes = {
            "score": known.get("score"),
            "peak": record.peak,
            "start": known.get("start"),
            "end": record.time,
            "duration_s": record.duration_s,
            "event_id": record.id,
            "clip": known.get("clip"),
        }
        return [self._explain(class_id, attributes), self._keep(self._topics.state(class_id), OFF)]

    def _clip(self, record: ClipRecord) -> list[Message]:
        """Publish where the clip of the class's last event is."""
        class_id = self._id(record)
        attributes = self._attributes.get(class_id, {})
        if attributes.get("event_id") != record.id:
            return []
        return [self._explain(class_id, attributes | {"clip": record.path})]

    def _status(self, record: StatusRecord) -> list[Message]:
        state, active = record.state, record.active
        if state == "listening":
            return self._listening(active=active)
        if state == "sensitivity":
            return self.sensitivity()
        if state == "stopping":
            return self._source(up=False)
        if state not in _CONDITIONS:
            return []
        self._conditions.pop(state, None)
        if active:
            self._conditions[state] = record.detail
        self._detail = self._latest_detail(record.detail)
        return self._problem() + (self._source(up=not active) if state == "waiting" else [])

    def _listening(self, *, active: bool) -> list[Message]:
        """Note that sound arrives, or that listening was turned off: a source that is switched off has no problem."""
        self._is_paused = not active
        if active:
            messages = self._source(up=True) if "waiting" not in self._conditions else []
        else:
            self._conditions.clear()
            self._detail = ""
            messages = [*self._source(up=False), *self._problem()]
        has_switch = self._topics.listening_state in self._present
        return messages + (self.listening(on=active) if has_switch else [])

    def _health(self, health: HealthState, time: str) -> list[Message]:
        self._shared.health[self._topics.source] = health
        each = self._shared.health.values()
        payload = {
            "rtf": _sum(each, "realtime_factor"),
            "xruns": _sum(each, "overruns"),
            "dropped_s": _sum(each, "lost_s"),
            "rss": health.rss_bytes,
            "temp_c": health.temperature_c,
            "uptime_s": health.uptime_s,
            "model": self._shared.models,
            "version": self._version,
            "time": time,
        }
        messages = [self._keep(self._topics.health, _json(payload), qos=0)]
        return (
            messages
            + self._source(up=health.up and not self._is_paused)
            + self._end_conditions(health)
            + self._level(health)
        )

    def _end_conditions(self, health: HealthState) -> list[Message]:
        """Remove conditions whose end was not reported, such as those of a source that was closed."""
        over = {name for name, holds in (("waiting", not health.up), ("silent", health.silent)) if not holds}
        if not over & self._conditions.keys():
            return []
        self._conditions = {name: detail for name, detail in self._conditions.items() if name not in over}
        self._detail = self._latest_detail("")
        return self._problem()

    def _latest_detail(self, otherwise: str) -> str:
        """Return the detail of the latest condition that is active; ``otherwise`` without one."""
        return next(reversed(self._conditions.values()), otherwise)

    def _level(self, health: HealthState) -> list[Message]:
        """Return the level if the last one is old enough, with the samples that were clipped in between."""
        passed_s = health.uptime_s - self._level_at_s
        if 0 <= passed_s < self._level_interval_s - _SLACK_S or not _has_level(health):
            return []
        return [self._level_message(health)]

    def _level_message(self, health: HealthState) -> Message:
        clipped = health.clipped_samples - self._clipped
        level = {
            "rms_dbfs": _decibels(health.rms_dbfs),
            "peak_dbfs": _decibels(health.peak_dbfs),
            "clipped": clipped if clipped >= 0 else health.clipped_samples,
        }
        self._level_at_s, self._clipped = health.uptime_s, health.clipped_samples
        return Message(self._topics.level, _json(level), qos=0)

    def _source(self, *, up: bool) -> list[Message]:
        before = self._present[self._topics.source_status].payload
        message = self._keep(self._topics.source_status, ONLINE if up else OFFLINE)
        if message.payload == before:
            return []
        self.lacks_level = True
        return [message]

    def _problem(self) -> list[Message]:
        particulars = {"conditions": sorted(self._conditions), "detail": self._detail}
        attributes = self._keep(self._topics.attributes(PROBLEM), _json(particulars))
        return [attributes, self._keep(self._topics.state(PROBLEM), ON if self._conditions else OFF)]

    def _explain(self, class_id: str, attributes: dict[str, Any]) -> Message:
        self._attributes[class_id] = attributes
        return self._keep(self._topics.attributes(class_id), _json(attributes), durable=True)

    def _keep(self, topic: str, payload: str, qos: int = 1, *, durable: bool = False) -> Message:
        message = Message(topic, payload, qos, retain=True, durable=durable)
        self._present[topic] = message
        return message

    def _id(self, record: EventRecord | ClipRecord) -> str:
        label = record.label
        if label not in self._ids:
            raise ValueError(f"unknown label {label!r}; the node reports {', '.join(self._ids)}")
        return self._ids[label]


def models(node_infos: Iterable[NodeInfo]) -> str:
    """Return the names of the models of a machine."""
    return ", ".join(dict.fromkeys(info.model for info in node_infos))


def status(topics: Topics, payload: str) -> Message:
    """Return the message for whether the service runs."""
    return Message(topics.status, payload, retain=True)


def _event(record: OnsetRecord) -> dict[str, Any]:
    return {
        "event_type": record.label,
        "event_id": record.id,
        "category": record.category,
        "source": record.source,
        "time": record.time,
        "onset_s": record.onset_s,
        "score": record.score,
        "threshold": record.threshold,
        "latency_s": record.latency_s,
        "level_dbfs": _decibels(record.level_dbfs),
        "clock_synced": record.clock_synced,
        "model": record.model,
    }


def _has_level(health: HealthState) -> bool:
    """Return whether the level is known: the floor without silence is that of a source before its first second."""
    from detector.audio.levels import FLOOR_DBFS  # with numpy, which settings and clients do without

    return health.up and (health.silent or health.rms_dbfs > FLOOR_DBFS)


def _sum(each: Iterable[HealthState], name: str) -> float:
    """Return a number of all sources together; that of the only one has its own digits."""
    numbers: list[float] = [getattr(health, name) for health in each]
    return numbers[0] if len(numbers) == 1 else round(sum(numbers), 5)


def _decibels(value: float | None) -> float | None:
    """Round a level, and give silence, which has none in JSON, a number below all others."""
    return None if value is None else round(max(_MIN_DBFS, value), 1)


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
