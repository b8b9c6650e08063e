"""Short visits to a broker: a test of the connection, who has the name of a node, all nodes, and deleting one.

A node is a machine's service with all its sources. Its name stands in all its topics, so that of two services of one
name each would overwrite what the other publishes, and the broker would disconnect one when the other connects.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from detector.errors import BrokerError, DetectorError
from detector.sinks.base import NodeInfo
from detector.sinks.home_assistant import config_topic
from detector.sinks.mqtt_client import CONNECT_S, failure, make_client, refused, tls_context, unanswered, where
from detector.sinks.mqtt_topics import OFF, OFFLINE, ON, ONLINE, Message, Topics, client_id, models
from detector.system import printable

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

    from detector.sinks.mqtt import Mqtt

_log = logging.getLogger(__name__)
_ANSWER_S: Final = 5.0
_QUIET_S: Final = 1.0
"""All retained messages have come when none has come for this long."""
_MAX_QUIET_S: Final = 60.0
KEPT_BYTES: Final = 8192
"""What is kept of each payload: that of a state, or of what a service says of itself."""
_MAX_KEPT: Final = 10_000
_MAX_KEPT_BYTES: Final = 16_000_000
"""Messages, and bytes of them, that are kept in a visit, whatever a broker holds."""
_LONG_BYTES: Final = 65536
_POLL_S: Final = 0.05
_KEEPALIVE_S: Final = 30
_FAILURE: Final = 0x80
INSTANCE: Final = secrets.token_hex(8)
"""Which process this is. It is not kept: machines set up from copies of one card would share it."""
_SETTLED_S: Final = 0.5
"""What the broker has kept comes within this time of its answers."""
_LIVING_S: Final = 5.0
"""Time for a service that is said to be online to answer; one that ended without its last will does not."""
_ASK_S: Final = 1.0
_LISTED_S: Final = 3.0
"""Time for all nodes to answer those who list them."""
MAX_NODES: Final = 1000
SILENT: Final = "no answer"
_NODE: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MAX_TEXT: Final = 200
_MAX_SOURCES: Final = 64


@dataclass(frozen=True, slots=True)
class Stage:
    """One step on the way to a broker."""

    name: str
    ok: bool
    text: str
    """What was found, or what is wrong and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What was deleted."""

    topics: tuple[str, ...]
    was_online: bool
    """Whether the service seemed to be running, so that it will publish again."""
    is_complete: bool
    """Whether that was all there was: more than some thousand topics take several visits."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message as a visit keeps it."""

    topic: str
    payload: bytes
    """At most ``KEPT_BYTES`` of it."""
    retain: bool
    """Whether the broker had it before the subscription."""


def test_connection(settings: Mqtt, node: str, password: str | None) -> list[Stage]:
    """Try name, TCP, TLS, log-in and publishing, and return the result of each, up to the first that fails.

    The service may run meanwhile. Raises ConfigError as ``MqttSink`` does.
    """
    name, topic = f"{client_id(node)}-test", f"{Topics(settings.prefix, node, '').base}/test"
    make_client(settings, name, password)
    stages: list[Stage] = []
    steps: dict[str, Callable[[], str]] = {
        "DNS": lambda: _resolve(settings),
        "TCP": lambda: _reach(settings),
        "TLS": lambda: _encrypt(settings),
        "auth": lambda: _log_in(settings, name, password),
        "publish": lambda: _echo(settings, name, password, topic),
    }
    for stage, step in steps.items():
        try:
            stages.append(Stage(stage, ok=True, text=step()))
        except (OSError, BrokerError) as error:
            text = str(error) if isinstance(error, BrokerError) else failure(settings, error).text
            stages.append(Stage(stage, ok=False, text=text))
            break
    return stages


def purge(settings: Mqtt, node: str, password: str | None) -> Purged:
    """Delete all that a node has left with a broker: its announcement and its retained messages.

    Raises BrokerError where the broker cannot be reached or refuses, ConfigError as ``MqttSink`` does.
    """
    base = Topics(settings.prefix, node, "").base
    wanted = [f"{base}/#"]
    if settings.discovery_prefix:
        wanted.append(config_topic(settings.discovery_prefix.strip("/"), node))
    with visiting(settings, f"{client_id(node)}-purge", password) as visit:
        if denied := visit.subscribe(wanted):
            raise BrokerError(f"{where(settings)}: may not read {', '.join(denied)}")
        is_complete = visit.wait_until_quiet(_QUIET_S) and not visit.is_full
        found = {m.topic: m.payload for m in visit.received if m.retain and m.payload}
        # Home Assistant is to forget its entities before their topics go; # stands for the base itself, too.
        topics = sorted(found.keys() - {base}, key=lambda topic: (topic.startswith(f"{base}/"), topic))
        visit.empty(topics)
    return Purged(tuple(topics), found.get(f"{base}/status") == ONLINE.encode(), is_complete)


class Visit:
    """A short connection to a broker, without reconnecting; paho's thread notes the broker's answers.

    Each visit gives up after a while: a request after 5 s, the wait for retained messages after a minute.
    """

    def __init__(self, settings: Mqtt, name: str, password: str | None) -> None:
        self.received: list[Received] = []
        self.published: set[str] = set()
        """Topics of messages that were published during the visit."""
        self._settings = settings
        self._changed = threading.Condition()
        self._answers: dict[object, Any] = {}
        """By number of the request; by name for the log-in and the end of the connection."""
        self._retained = self._bytes = 0
        self._has_thread = False
        self._client = self._make_client(name, password)

    @property
    def is_full(self) -> bool:
        """Whether there were more messages than are kept."""
        return len(self.received) >= _MAX_KEPT or self._bytes >= _MAX_KEPT_BYTES

    def connect(self) -> None:
        """Connect and log in; raises OSError or BrokerError."""
        self._client.connect(self._settings.host, self._settings.port, _KEEPALIVE_S)
        self._client.loop_start()
        self._has_thread = True
        reason = self._answer("log-in")
        if reason.is_failure:
            raise BrokerError(refused(self._settings, str(reason)).text)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        if self._has_thread:
            self._wait(lambda: False)
        sock = self._client.socket()
        if isinstance(sock, socket.socket):  # paho's thread closes it, where it has been started
            sock.close()

    def subscribe(self, topics: list[str]) -> list[str]:
        """Subscribe, wait for the answer, and return the topics that this client may not read."""
        _, number = self._client.subscribe([(topic, 1) for topic in topics])
        reasons = self._answer(number)
        return [topic for topic, reason in zip(topics, reasons, strict=False) if reason.value >= _FAILURE]

    def publish(self, topic: str, payload: str) -> None:
        """Publish, without waiting for the acknowledgement."""
        self._client.publish(topic, payload, 1)

    def ask(self, topic: str, payload: str) -> None:
        """Publish and wait for the acknowledgement; raises BrokerError without one."""
        self._answer(self._client.publish(topic, payload, 1).mid)

    def empty(self, topics: Iterable[str]) -> None:
        """Delete the retained messages of topics, in this order."""
        for number in [self._client.publish(topic, "", 1, retain=True).mid for topic in topics]:
            self._answer(number)

    def wait_for(self, holds: Callable[[Received], bool], timeout_s: float | None = None) -> bool:
        """Wait for a message; return whether it has come in time, or before."""
        return self._wait(lambda: any(map(holds, self.received)), timeout_s)

    def wait_for_topics(self, topics: Set[str], timeout_s: float) -> None:
        """Wait until something has been published on each of some topics, or the time is over."""
        self._wait(lambda: topics <= self.published, timeout_s)

    def wait_until_quiet(self, quiet_s: float) -> bool:
        """Wait until nothing has come for a while, and return whether that was so: not where it goes on for a minute.

        What was published after the subscription is no reason to wait, but a long message is, while it comes.
        """
        until_s, count, seen_s = time.monotonic() + _MAX_QUIET_S, -1, 0.0
        while (now := time.monotonic()) < until_s:
            if self._retained > count or self._is_within_long_message():
                count, seen_s = self._retained, now
            if now - seen_s >= quiet_s:
                return True
            self._wait(lambda: False, _POLL_S)
            if "end" in self._answers:
                return False
        return False

    def _is_within_long_message(self) -> bool:
        packet = self._client._in_packet  # noqa: SLF001 - paho has no other way to ask
        return packet["remaining_length"] > _LONG_BYTES

    def _answer(self, key: object) -> Any:
        """Wait for the answer to a request; raises BrokerError where there is none."""
        if not self._wait(lambda: key in self._answers):
            is_over = "end" in self._answers
            raise BrokerError((unanswered(self._settings) if is_over else failure(self._settings, TimeoutError())).text)
        return self._answers[key]

    def _wait(self, condition: Callable[[], bool], timeout_s: float | None = None) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: condition() or "end" in self._answers, timeout_s or _ANSWER_S)
            return condition()

    def _note(self, key: object, value: Any) -> None:
        with self._changed:
            self._answers[key] = value
            self._changed.notify_all()

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        with self._changed:
            self._retained += message.retain
            if not self.is_full:
                kept = Received(message.topic, bytes(message.payload[:KEPT_BYTES]), message.retain)
                self.received.append(kept)
                self.published |= set() if kept.retain else {kept.topic}
                self._bytes += len(kept.topic) + len(kept.payload)
            self._changed.notify_all()

    def _make_client(self, name: str, password: str | None) -> Client:
        client = make_client(self._settings, name, password, reconnects=False)
        client.on_connect = lambda _client, _data, _flags, reason, _properties: self._note("log-in", reason)
        client.on_disconnect = lambda *_: self._note("end", value=True)
        client.on_publish = lambda _client, _data, number, *_: self._note(number, value=True)
        client.on_subscribe = lambda _client, _data, number, reasons, _properties: self._note(number, reasons)
        client.on_message = self._on_message
        return client


@contextmanager
def visiting(settings: Mqtt, name: str, password: str | None) -> Iterator[Visit]:
    """Connect to a broker, and disconnect at the end; raises BrokerError."""
    visit = Visit(settings, name, password)
    try:
        visit.connect()
        yield visit
    except OSError as error:
        raise BrokerError(failure(settings, error).text) from error
    finally:
        visit.close()


def _resolve(settings: Mqtt) -> str:
    found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    return ", ".join(dict.fromkeys(str(address[0]) for *_, address in found))


def _reach(settings: Mqtt) -> str:
    with socket.create_connection((settings.host, settings.port), CONNECT_S):
        return f"port {settings.port} is open"


def _encrypt(settings: Mqtt) -> str:
    context = tls_context(settings)
    if context is None:
        return "off" + (": the password is sent in the clear" if settings.username else "")
    with (
        socket.create_connection((settings.host, settings.port), CONNECT_S) as sock,
        context.wrap_socket(sock, server_hostname=settings.host) as encrypted,
    ):
        until = (encrypted.getpeercert() or {}).get("notAfter", "an unknown day")
        return f"{encrypted.version()}, certificate valid until {until}"


def _log_in(settings: Mqtt, name: str, password: str | None) -> str:
    with visiting(settings, name, password):
        return f"accepted as {settings.username!r}" if settings.username else "accepted without a user name"


def _echo(settings: Mqtt, name: str, password: str | None, topic: str) -> str:
    """Publish something and see it come back: brokers do not report that their rules forbid a message."""
    payload = secrets.token_hex(8)
    with visiting(settings, name, password) as visit:
        visit.subscribe([topic])
        visit.publish(topic, payload)
        if not visit.wait_for(lambda message: message.payload == payload.encode()):
            raise BrokerError(f"nothing came back on {topic}; do the broker's rules allow to read and write it?")
    return f"{topic} was published and came back"


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
    wanted = [topics.node_report, topics.status, *(_own_patterns(topics) if sweeps else [])]
    try:
        # An id of its own: the broker would end the connection of a service that has the same one.
        with closing(Visit(settings, f"{client_id(node)}-{report.id}", password)) as visit:
            visit.connect()
            if topics.node_report not in visit.subscribe(wanted):
                _check_free(settings, topics, report.id, visit)
            return _own(topics, visit.received) | _announced(topics, visit.received)
    except DetectorError as error:  # also one of a certificate that was there when the service began
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
