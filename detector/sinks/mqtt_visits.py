"""Short visits to a broker beside the service: a test of the connection, and deleting what a machine has left."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from detector.errors import BrokerError
from detector.sinks.home_assistant import config_topic
from detector.sinks.mqtt_client import CONNECT_S, failure, make_client, refused, tls_context, unanswered, where
from detector.sinks.mqtt_topics import ONLINE, Topics, client_id

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

    from detector.sinks.mqtt import Mqtt

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
