"""One connection to a broker, from its beginning to its end, without a thread of its own."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, LogLevel, MQTTErrorCode, MQTTProtocolVersion

from detector.config.settings import Mqtt
from detector.errors import ConfigError
from detector.sinks.mqtt_topics import Message
from detector.sinks.mqtt_trouble import Trouble, explain, is_refusal

_KEEPALIVE_S: Final = 30
_CONNECT_S: Final = 5.0
_MOST_UNACKNOWLEDGED: Final = 100
_FAILURE: Final = 0x80


@dataclass(frozen=True, slots=True)
class Received:
    """A message from the broker."""

    topic: str
    payload: bytes
    retained: bool
    """It was published before this connection asked for its topic."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who connects."""

    client_id: str
    password: str | None
    context: ssl.SSLContext | None
    """How to speak TLS; None without it."""
    will: Message | None = None
    """What the broker publishes if the connection breaks."""


class Session:
    """A connection; all its methods are to be called in one thread, ``turn`` again and again."""

    def __init__(self, settings: Mqtt, who: Identity, acknowledged: Callable[[int], None]) -> None:
        """Prepare; ``acknowledged`` is called with the number of each message that the broker has taken."""
        self.accepted = False
        self.refusal: str | None = None
        """Why the broker does not want this client."""
        self.is_over = False
        self.received: list[Received] = []
        self.denied: list[str] = []
        """Topics that this client may not read."""
        self._settings = settings
        self._acknowledged = acknowledged
        self._complaint = ""
        self._asked: dict[int, tuple[str, ...]] = {}
        self._client = self._make(who)

    @property
    def subscribed(self) -> bool:
        """Whether the broker has answered all that was asked of it by ``subscribe``."""
        return not self._asked

    def connect(self) -> None:
        """Reach the broker and introduce this client; raises OSError. The answer is seen after some ``turn``."""
        self._client.connect_async(self._settings.host, self._settings.port, _KEEPALIVE_S)
        self._client.reconnect()

    def turn(self, timeout_s: float, wake: socket.socket | None = None) -> None:
        """Receive and send what there is, waiting for it at most that long, or until ``wake`` can be read."""
        sock = self._client.socket()
        if sock is None:
            self.is_over = True
            return
        if self._await(sock, timeout_s, wake):
            self._client.loop_read()
        if self._client.want_write():
            self._client.loop_write()
        self._client.loop_misc()

    def publish(self, message: Message) -> int:
        """Send a message and return the number under which it will be acknowledged."""
        return self._client.publish(message.topic, message.payload, message.qos, message.retain).mid

    def subscribe(self, topics: Iterable[str]) -> None:
        """Ask for topics; what comes is appended to ``received``."""
        wanted = tuple(topics)
        if not wanted:
            return
        _, number = self._client.subscribe([(topic, 1) for topic in wanted])
        if number is not None:
            self._asked[number] = wanted

    def disconnect(self) -> None:
        """Take leave: the broker does not publish the will."""
        self._client.disconnect()
        while self._client.want_write() and self._client.socket() is not None:
            if self._client.loop_write() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                break
        self.drop()

    def drop(self) -> None:
        """Close the connection without a word; the broker publishes the will."""
        sock = self._client.socket()
        if sock is not None:
            sock.close()
        self.is_over = True

    def why(self, error: Exception | None = None) -> Trouble:
        """Say why the connection failed or ended, and what to do."""
        where = f"{self._settings.host}:{self._settings.port}"
        if error is not None:
            return Trouble(f"{where}: {explain(error)}", is_refusal(error))
        if self.refusal is not None:
            user = f"user {self._settings.username!r}" if self._settings.username else "clients without a user name"
            text = f"the broker refuses {user}: {self.refusal}; check username and password_file"
            return Trouble(f"{where}: {text}", is_refusal=True)
        if not self.accepted:
            hint = "check port and tls" + (", certificate_file and key_file" if self._settings.tls else "")
            text = f"closed the connection without an answer{self._complaint}; {hint}"
            return Trouble(f"{where}: {text}", is_refusal=True)
        return Trouble(f"{where}: connection lost{self._complaint}", is_refusal=False)

    def _make(self, who: Identity) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, who.client_id, protocol=MQTTProtocolVersion.MQTTv311)
        client.connect_timeout = _CONNECT_S
        client.max_queued_messages_set(_MOST_UNACKNOWLEDGED)
        client.max_inflight_messages_set(_MOST_UNACKNOWLEDGED)
        if who.context is not None:
            client.tls_set_context(who.context)
        if self._settings.username is not None:
            client.username_pw_set(self._settings.username, who.password)
        if who.will is not None:
            client.will_set(who.will.topic, who.will.payload, who.will.qos, who.will.retain)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_log = self._on_log
        return client

    def _await(self, sock: Any, timeout_s: float, wake: socket.socket | None) -> bool:
        """Wait for something to do; return whether the broker has sent something."""
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        poll = select.poll()
        poll.register(sock, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        if wake is not None:
            poll.register(wake, select.POLLIN)
        ready = dict(poll.poll(1000 * timeout_s))
        return bool(ready.get(sock.fileno(), 0) & ~select.POLLOUT)

    # The client's callbacks only note what has happened: a call from here into the client would nest.

    def _on_connect(self, _client: Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        self.accepted = not reason.is_failure
        self.refusal = str(reason) if reason.is_failure else None

    def _on_disconnect(self, _client: Client, _data: object, _flags: object, _reason: Any, _properties: object) -> None:
        self.is_over = True

    def _on_publish(self, _client: Client, _data: object, number: int, _reason: Any, _properties: object) -> None:
        self._acknowledged(number)

    def _on_subscribe(self, _client: Client, _data: object, number: int, reasons: Any, _properties: object) -> None:
        asked = self._asked.pop(number, ())
        self.denied += [topic for topic, reason in zip(asked, reasons, strict=False) if reason.value >= _FAILURE]

    def _on_message(self, _client: Client, _data: object, message: Any) -> None:
        self.received.append(Received(message.topic, bytes(message.payload), bool(message.retain)))

    def _on_log(self, _client: Client, _data: object, level: int, text: str) -> None:
        if level == LogLevel.MQTT_LOG_ERR:
            self._complaint = f" ({' '.join(text.split())})"


def tls_context(settings: Mqtt) -> ssl.SSLContext | None:
    """Return how to speak TLS, which always verifies the broker's name and certificate; None where it is off.

    Raises ConfigError for files that are missing or hold something else.
    """
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise ConfigError(f"ca_file {settings.ca_file}: {_file_words(error)}") from error
    if settings.certificate_file is None:
        return context
    try:
        # An empty password, so that a key that needs one fails instead of asking at the terminal.
        context.load_cert_chain(settings.certificate_file, settings.key_file, password="")
    except OSError as error:
        files = f"certificate_file {settings.certificate_file}, key_file {settings.key_file}"
        raise ConfigError(f"{files}: {_file_words(error)}") from error
    return context


def _file_words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return f"not PEM files that fit ({error.reason or error})"
    return str(error.strerror)
