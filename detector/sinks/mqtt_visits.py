"""Short visits to a broker beside the service: a test of the connection, and deleting what a machine has left."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from detector.errors import BrokerError
from detector.sinks.home_assistant import config_topic
from detector.sinks.mqtt_client import CONNECT_S, failure, make_client, refused, tls_context, unanswered
from detector.sinks.mqtt_topics import ONLINE, Topics, client_id

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

    from detector.sinks.mqtt import Mqtt

_ANSWER_S: Final = 5.0
_QUIET_S: Final = 1.0
"""All retained messages have come when none has come for this long."""
_MAX_QUIET_S: Final = 60.0
_KEPT_BYTES: Final = 64
"""What is kept of each payload: that of a state, or of a test."""
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
    """Delete all that a machine has left with a broker: its announcement and its retained messages.

    Raises BrokerError where the broker cannot be reached or refuses, ConfigError as ``MqttSink`` does.
    """
    base = Topics(settings.prefix, node, "").base
    wanted = [f"{base}/#"]
    if settings.discovery_prefix:
        wanted.append(config_topic(settings.discovery_prefix.strip("/"), node))
    with _connected(settings, f"{client_id(node)}-purge", password) as visit:
        if denied := visit.subscribe(wanted):
            raise BrokerError(f"{settings.host}:{settings.port}: may not read {', '.join(denied)}")
        visit.wait_until_quiet()
        found = {m.topic: m.payload for m in visit.received if m.retain and m.payload}
        # Home Assistant is to forget its entities before their topics go; # stands for the base itself, too.
        topics = sorted(found.keys() - {base}, key=lambda topic: (topic.startswith(f"{base}/"), topic))
        visit.empty(topics)
    return Purged(tuple(topics), was_online=found.get(f"{base}/status") == ONLINE.encode())


class _Visit:
    """A short connection to a broker, without reconnecting; paho's thread notes the broker's answers."""

    def __init__(self, settings: Mqtt, name: str, password: str | None) -> None:
        self.received: list[MQTTMessage] = []
        self._settings = settings
        self._changed = threading.Condition()
        self._answers: dict[object, Any] = {}
        """By number of the request; by name for the log-in and the end of the connection."""
        self._has_thread = False
        self._client = self._make_client(name, password)

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

    def empty(self, topics: Iterable[str]) -> None:
        """Delete the retained messages of topics, in this order."""
        for number in [self._client.publish(topic, "", 1, retain=True).mid for topic in topics]:
            self._answer(number)

    def wait_for(self, payload: bytes) -> bool:
        """Wait for a message; return whether it has come in time."""
        return self._wait(lambda: any(m.payload == payload for m in self.received))

    def wait_until_quiet(self) -> None:
        """Wait until no message has come for a while."""
        count, until_s = -1, time.monotonic() + _MAX_QUIET_S
        while count < len(self.received) and time.monotonic() < until_s:
            count = len(self.received)
            self._wait(lambda count=count: len(self.received) > count, _QUIET_S)  # type: ignore[misc]

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
        message.payload = message.payload[:_KEPT_BYTES]
        with self._changed:
            self.received.append(message)
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
def _connected(settings: Mqtt, name: str, password: str | None) -> Iterator[_Visit]:
    """Connect to a broker, and disconnect at the end; raises BrokerError."""
    visit = _Visit(settings, name, password)
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
    with _connected(settings, name, password):
        return f"accepted as {settings.username!r}" if settings.username else "accepted without a user name"


def _echo(settings: Mqtt, name: str, password: str | None, topic: str) -> str:
    """Publish something and see it come back: brokers do not report that their rules forbid a message."""
    payload = secrets.token_hex(8)
    with _connected(settings, name, password) as visit:
        visit.subscribe([topic])
        visit.publish(topic, payload)
        if not visit.wait_for(payload.encode()):
            raise BrokerError(f"nothing came back on {topic}; do the broker's rules allow to read and write it?")
    return f"{topic} was published and came back"
