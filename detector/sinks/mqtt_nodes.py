"""The nodes on a broker: what each says of itself, whether a name is free, and a list of all of them.

A node is a machine's service with all its sources. Its name stands in all its topics, so that of two services of one
name each would overwrite what the other publishes, and the broker would disconnect one when the other connects.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from detector.errors import BrokerError
from detector.sinks.base import NodeInfo
from detector.sinks.home_assistant import config_topic
from detector.sinks.mqtt_client import where
from detector.sinks.mqtt_topics import OFF, OFFLINE, ON, ONLINE, Message, Topics, client_id, models
from detector.sinks.mqtt_visits import Received, Visit, visiting
from detector.system import printable

if TYPE_CHECKING:
    from detector.sinks.mqtt import Mqtt

_log = logging.getLogger(__name__)
INSTANCE: Final = secrets.token_hex(8)
"""Which process this is. It is not kept: machines set up from copies of one card would share it."""
_SETTLED_S: Final = 0.5
"""What the broker has kept comes within this time of its answers."""
_LIVING_S: Final = 5.0
"""Time for a service that is said to be online to answer; one that ended without its last will does not."""
_ASK_S: Final = 1.0
_LISTED_S: Final = 3.0
"""Time for all nodes to answer those who list them."""
_QUIET_S: Final = 1.0
MAX_NODES: Final = 1000
SILENT: Final = "no answer"
_NODE: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MAX_TEXT: Final = 200
_MAX_SOURCES: Final = 64


class NameTakenError(OSError):
    """Another service that lives has the name of this node: no connection is to be made. Its text says so."""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """What a service says of itself, as JSON on its topic ``node``."""

    id: str
    """Which process it is."""
    host: str
    version: str
    model: str
    """Names and versions of its models."""
    sources: tuple[str, ...]
    discovery: str | None
    """Topic of its announcement to Home Assistant."""
    time: str = ""
    """When it said so, by RFC 3339."""

    @classmethod
    def of(cls, node_infos: Sequence[NodeInfo], instance: str, discovery: str | None) -> NodeReport:
        """Return that of this machine."""
        sources = tuple(info.source for info in node_infos)
        return cls(instance, socket.gethostname(), node_infos[0].version, models(node_infos), sources, discovery)

    @classmethod
    def parse(cls, payload: bytes) -> NodeReport | None:
        """Return what a service has said, its texts printable and of bounded length; None for anything else."""
        found = _json_object(payload)
        if not isinstance(found.get("id"), str):
            return None
        sources, discovery = found.get("sources"), found.get("discovery")
        names = sources[:_MAX_SOURCES] if isinstance(sources, list) else []
        return cls(
            **{name: _text(found.get(name)) for name in ("id", "host", "version", "model", "time")},
            sources=tuple(name for name in names if isinstance(name, str) and _NODE.fullmatch(name)),
            discovery=discovery if isinstance(discovery, str) else None,
        )

    def message(self, topics: Topics) -> Message:
        """Return the message that says so now."""
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        payload = {"v": 1, **asdict(replace(self, time=now))}
        return Message(topics.node_report, json.dumps(payload, separators=(",", ":")), retain=True)


def left_behind(settings: Mqtt, node: str, password: str | None, report: NodeReport, *, sweeps: bool) -> set[str]:
    """Look at a broker before a service connects to it: raises NameTakenError where another one lives by its name.

    Returns the topics whose retained messages are of a service of this name, with ``sweeps``; the caller knows which
    of them it still uses. A broker that does not answer, or does not let this client look, has the name free. Raises
    OSError where the broker cannot be reached.
    """
    topics = Topics(settings.prefix, node, "")
    try:
        # An id of its own: the broker would end the connection of a service that has the same one.
        with visiting(settings, f"{client_id(node)}-{report.id}", password) as visit:
            denied = visit.subscribe([topics.node_report, topics.status, *(_own_patterns(topics) if sweeps else [])])
            if topics.node_report not in denied:
                _check_free(settings, topics, report.id, visit)
            return _own(topics, visit.received) | _announced(topics, visit.received)
    except BrokerError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        _log.debug("whether the name %s is free is not known: %s", node, error)
        return set()


def _check_free(settings: Mqtt, topics: Topics, own_id: str, visit: Visit) -> None:
    """Ask who has the name; raises NameTakenError where another service answers.

    Being said to be online is not enough: that stays with the broker where both ended at once. An answer is.
    """
    visit.ask(topics.node_report_get, own_id)
    visit.wait_until_quiet(_SETTLED_S)
    until_s = time.monotonic() + _LIVING_S
    while (holder := _answer(topics, own_id, visit.received)) is None:
        known = _report(topics, visit.received)
        is_own = known is not None and known.id == own_id  # the connection before this one, which is over
        if is_own or not _is_online(topics, visit.received) or time.monotonic() >= until_s:
            return
        visit.ask(topics.node_report_get, own_id)
        visit.wait_for(lambda message: _is_answer(topics, own_id, message), _ASK_S)
    raise NameTakenError(
        f"{where(settings)}: the node name {topics.node!r} is in use by another service (on the host "
        f"{holder.host or 'unknown'}); set another node here, or stop that one"
    )


def _is_answer(topics: Topics, own_id: str, message: Received) -> bool:
    if message.retain or message.topic != topics.node_report:
        return False
    report = NodeReport.parse(message.payload)
    return report is not None and report.id != own_id


def _answer(topics: Topics, own_id: str, received: Iterable[Received]) -> NodeReport | None:
    """Return what another service has answered; None without one."""
    answers = [NodeReport.parse(m.payload) for m in list(received) if _is_answer(topics, own_id, m)]
    return answers[-1] if answers else None


def _report(topics: Topics, received: Iterable[Received]) -> NodeReport | None:
    payload = next((m.payload for m in reversed(list(received)) if m.topic == topics.node_report), b"")
    return NodeReport.parse(payload)


def _is_online(topics: Topics, received: Iterable[Received]) -> bool:
    last = next((m.payload for m in reversed(list(received)) if m.topic == topics.status), b"")
    return last == ONLINE.encode()


def _own_patterns(topics: Topics) -> list[str]:
    """Return what the retained topics of a node match, but for those of the node itself."""
    ends = ("listening/state", "sensitivity/state", "+/status", "+/+/state", "+/+/attributes")
    return [f"{topics.base}/{end}" for end in ends]


def _own(topics: Topics, received: Iterable[Received]) -> set[str]:
    """Return the topics of retained messages that are of sources, listening or sensitivity, by their payloads, too."""
    of_node = {topics.status, topics.node_report}
    return {m.topic for m in received if m.retain and m.topic not in of_node and _is_of_service(m)}


def _is_of_service(message: Received) -> bool:
    name = message.topic.rpartition("/")[2]
    if name == "attributes":
        return not {"event_id", "conditions"}.isdisjoint(_json_object(message.payload))
    if message.topic.endswith("/sensitivity/state"):
        return True
    words = {"state": (ON, OFF), "status": (ONLINE, OFFLINE)}.get(name, ())
    return message.payload.decode("ascii", "replace") in words


def _announced(topics: Topics, received: Iterable[Received]) -> set[str]:
    """Return the topic of the announcement of an earlier run, where that is one of this node."""
    earlier = _report(topics, received)
    topic = earlier.discovery if earlier is not None else None
    if topic is None or not topic.endswith(config_topic("", topics.node)) or set("+#\0") & set(topic):
        return set()
    return {topic}


@dataclass(frozen=True, slots=True)
class Node:
    """A node as the broker knows it."""

    node: str
    state: str
    """``online``; ``no answer``, where it is said to be online and does not answer; ``offline``."""
    version: str
    model: str
    host: str
    last_seen: str | None
    """When it last said something, by its own clock."""
    sources: Mapping[str, str]
    """Whether sound arrives from each, ``online`` or ``offline``, by name."""


@dataclass(frozen=True, slots=True)
class Nodes:
    """All nodes of a broker below one prefix, by name."""

    found: tuple[Node, ...]
    is_complete: bool
    """Whether there were no more than can be listed, and the broker came to an end."""


def list_nodes(settings: Mqtt, password: str | None) -> Nodes:
    """Return the nodes that a broker knows, whether or not they run.

    Each that is said to be online is asked for an answer, which needs the right to publish on its topic. At most
    ``MAX_NODES`` are listed, and it ends within some 70 s whatever a broker sends. Raises BrokerError where the broker
    cannot be reached or refuses, ConfigError as ``MqttSink`` does.
    """
    prefix = Topics(settings.prefix, "", "").base
    wanted = [f"{prefix}+/{end}" for end in ("node", "status", "health", "+/status")]
    with visiting(settings, f"snn-detect-list-{secrets.token_hex(4)}", password) as visit:
        denied = visit.subscribe(wanted)
        if wanted[1] in denied:
            raise BrokerError(f"{where(settings)}: may not read {', '.join(denied)}")
        is_complete = visit.wait_until_quiet(_QUIET_S)
        names = _names(prefix, visit.received)
        listed = names[:MAX_NODES]
        _ask(settings, visit, listed)
        known = {message.topic: message.payload for message in visit.received}
        answered = set(visit.published)
    found = tuple(_node(Topics(settings.prefix, name, ""), known, answered) for name in listed)
    return Nodes(found, is_complete and not visit.is_full and len(names) == len(listed))


def _names(prefix: str, received: Iterable[Received]) -> list[str]:
    """Return the names of the nodes: of those whose service has said whether it runs."""
    parts = [(m, m.topic.removeprefix(prefix).split("/")) for m in received]
    words = (ONLINE.encode(), OFFLINE.encode())
    return sorted({p[0] for m, p in parts if p[1:] == ["status"] and m.payload in words and _NODE.fullmatch(p[0])})


def _ask(settings: Mqtt, visit: Visit, names: Iterable[str]) -> None:
    """Ask all nodes that are said to be online, and wait until each has answered, or a while."""
    every = [Topics(settings.prefix, name, "") for name in names]
    online = {m.topic for m in visit.received if m.payload == ONLINE.encode()}
    asked = [topics for topics in every if topics.status in online]
    for topics in asked:
        visit.publish(topics.node_report_get, "list")
    visit.wait_for_topics({topics.node_report for topics in asked}, _LISTED_S)


def _node(topics: Topics, known: Mapping[str, bytes], answered: set[str]) -> Node:
    report = NodeReport.parse(known.get(topics.node_report, b"")) or _UNKNOWN
    health = _json_object(known.get(topics.health, b""))
    state = OFFLINE
    if known[topics.status] == ONLINE.encode():
        state = ONLINE if topics.node_report in answered else SILENT
    up = {name for name in report.sources if known.get(replace(topics, source=name).source_status) == ONLINE.encode()}
    return Node(
        topics.node,
        state,
        report.version or _text(health.get("version")),
        report.model or _text(health.get("model")),
        report.host,
        _latest(report.time, _text(health.get("time"))),
        {name: ONLINE if name in up and state == ONLINE else OFFLINE for name in report.sources},
    )


_UNKNOWN: Final = NodeReport("", "", "", "", (), None)


def _latest(*times: str) -> str | None:
    """Return the latest of some times; None where none of them is one with an offset from UTC."""
    moments = []
    for text in times:
        try:
            moment = datetime.fromisoformat(text)
            moments += [moment.astimezone()] if moment.tzinfo is not None else []
        except (ValueError, OverflowError):
            continue
    return max(moments).isoformat(timespec="seconds") if moments else None


def _json_object(payload: bytes) -> dict[str, Any]:
    try:
        found = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    return printable(value).replace("\n", " ")[:_MAX_TEXT] if isinstance(value, str) else ""
