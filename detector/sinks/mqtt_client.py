"""Connections to brokers: paho's client, what waits for it, and why there is none."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Final, Self

from detector.errors import ConfigError
from detector.sinks.mqtt_topics import Message
from detector.system import Backoff, install_command

if TYPE_CHECKING:
    import ssl

    from paho.mqtt.client import Client
    from paho.mqtt.enums import MQTTErrorCode

    from detector.sinks.mqtt import Mqtt

CONNECT_S: Final = 5.0
_MAX_PACKET_BYTES: Final = 1_000_000
"""The longest packet of use is the announcement of an earlier run: some 500 bytes a sound."""
_RECEIVE_BYTES: Final = 65536
_PAUSE_S: Final = (1.0, 120.0)
"""Shortest and longest pause before the next attempt to connect."""
_STEADY_S: Final = 10.0
"""A connection that lasted this long makes the next pause short again."""
_MAX_REQUESTS: Final = 10
"""What users may ask for in one go before it is done less often."""
_REQUESTS_PER_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why there is no connection, in one line with what to do."""

    text: str
    is_refusal: bool = False
    """Whether the broker is there and does not accept this client as it is: waiting does not help."""


def failure(settings: Mqtt, error: Exception) -> Trouble:
    """Return why a broker cannot be reached, and what to do."""
    import ssl

    explanations: tuple[tuple[type[Exception], str], ...] = (
        (socket.gaierror, "no such host ({0.strerror}); check host and the network"),
        (ConnectionRefusedError, "nothing listens there; check host and port, and whether the broker runs"),
        (ConnectionError, "breaks the connection off; check port and tls (TLS is usually on 8883, without it on 1883)"),
        (TimeoutError, "no answer; check host, port and firewall"),
        (
            ssl.SSLCertVerificationError,
            "its certificate is not trusted: {0.verify_message}; check host, ca_file and clock",
        ),
        (ssl.SSLError, "TLS failed: {0.reason}; check port (usually 8883) and certificates"),
    )
    known = next((text.format(error) for kind, text in explanations if isinstance(error, kind)), None)
    what = known or getattr(error, "strerror", None) or f"{type(error).__name__}: {error}"
    return Trouble(f"{where(settings)}: {what}", isinstance(error, ssl.SSLError))


def refused(settings: Mqtt, reason: str) -> Trouble:
    """Return that a broker does not accept this client."""
    user = f"user {settings.username!r}" if settings.username else "clients without a user name"
    text = f"the broker refuses {user}: {reason}; check username and password_file"
    return Trouble(f"{where(settings)}: {text}", is_refusal=True)


def unanswered(settings: Mqtt, complaint: str = "") -> Trouble:
    """Return that the connection was closed in place of an answer; ``complaint``: what paho said, in brackets."""
    hint = "check port and tls" + (", certificate_file and key_file" if settings.tls else "")
    text = f"closed the connection without an answer{complaint}; {hint}"
    return Trouble(f"{where(settings)}: {text}", is_refusal=True)


def make_client(
    settings: Mqtt,
    name: str,
    password: str | None,
    *,
    reconnects: bool = True,
    before_connect: Callable[[], object] = bool,
) -> Client:
    """Return a client of paho that is not connected yet; ``name`` is its id with the broker.

    ``before_connect`` is called before each connection, in the thread that makes it; an OSError of it takes the place
    of the connection. Raises ConfigError without paho-mqtt and for files that are missing or no certificates.
    """
    try:
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        client_class = _bounded_client()
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("paho"):
            raise
        raise ConfigError(f"MQTT needs paho-mqtt: {install_command('mqtt')}") from error
    client: Any = client_class(
        CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv311, reconnect_on_failure=reconnects
    )
    client.before_connect = before_connect
    client.connect_timeout = CONNECT_S
    client.max_inflight_messages_set(0)  # the limits are those of Outbox
    client.max_queued_messages_set(0)
    if (context := tls_context(settings)) is not None:
        client.tls_set_context(context)
    if settings.username is not None:
        client.username_pw_set(settings.username, password)
    made: Client = client
    return made


def _close_old_pair(client: Any) -> None:
    """Close the pair of sockets of a thread that has ended; the next thread has one of its own."""
    if client._thread is None:  # noqa: SLF001 - of the client below
        client._reset_sockets(sockpair_only=True)  # noqa: SLF001


def _encrypt(client: Any, tcp_sock: socket.socket) -> ssl.SSLSocket:
    """Begin TLS on a connection, and close it where that fails: paho keeps it open until its next attempt is due."""
    encrypted: ssl.SSLSocket = client._ssl_context.wrap_socket(  # noqa: SLF001 - of the client below
        tcp_sock,
        server_hostname=client.host,
        do_handshake_on_connect=False,
    )
    try:
        encrypted.settimeout(client.connect_timeout)
        encrypted.do_handshake()
    except BaseException:
        encrypted.close()
        raise
    return encrypted


class _Head(bytearray):
    """The beginning of what is added to it."""

    def __iadd__(self, data: Any) -> Self:  # type: ignore[misc]  # bytearray's has the same result
        self.extend(data[: max(0, _MAX_PACKET_BYTES - len(self))])
        return self


@cache
def _bounded_client() -> type[Any]:
    """Return paho's client, of whose incoming packets only the beginning is kept; a broken one ends the connection.

    MQTT 3.1.1 cannot ask a broker for small packets. What is left out is received all the same, so that the broker
    does not send it again.
    """
    from paho.mqtt.client import Client
    from paho.mqtt.enums import MQTTErrorCode

    class BoundedClient(Client):
        before_connect: Callable[[], object]
        _ssl_wrap_socket = _encrypt

        def reconnect(self) -> MQTTErrorCode:
            self.before_connect()
            return super().reconnect()

        def _sock_recv(self, bufsize: int) -> bytes:
            packet = self._in_packet
            if not isinstance(packet["packet"], _Head):
                packet["packet"] = _Head(packet["packet"])
            return super()._sock_recv(min(bufsize, _RECEIVE_BYTES))

        def loop_start(self) -> MQTTErrorCode:
            _close_old_pair(self)
            try:
                return super().loop_start()
            except BaseException:
                self._thread = None  # one that could not be started would keep others from it
                raise

        def _packet_handle(self) -> MQTTErrorCode:
            try:
                return super()._packet_handle()
            except (struct.error, ValueError, IndexError):
                return MQTTErrorCode.MQTT_ERR_PROTOCOL

    return BoundedClient


def tls_context(settings: Mqtt) -> ssl.SSLContext | None:
    """Return the context for TLS, which always verifies the broker's name and certificate; None without TLS.

    Raises ConfigError for files that are missing or no certificates.
    """
    if not settings.tls:
        return None
    import ssl

    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise ConfigError(f"ca_file {settings.ca_file}: {_describe_file_error(error)}") from error
    if settings.certificate_file is None:
        return context
    try:
        # An empty password, so that an encrypted key fails in place of a prompt at the terminal.
        context.load_cert_chain(settings.certificate_file, settings.key_file, password="")
    except OSError as error:
        files = f"certificate_file {settings.certificate_file}, key_file {settings.key_file}"
        raise ConfigError(f"{files}: {_describe_file_error(error)}") from error
    return context


def _describe_file_error(error: OSError) -> str:
    import ssl

    if isinstance(error, ssl.SSLError):
        return f"not PEM files that fit ({error.reason or error})"
    return str(error.strerror)


def where(settings: Mqtt) -> str:
    """Return how a broker is named in messages."""
    return f"{settings.host}:{settings.port}"


_MAX_UNACKNOWLEDGED: Final = 20
_MAX_STATES: Final = 2000
"""Messages about the present that may wait, for a broker that is too slow for them."""


class Outbox:
    """Messages for the broker, in order; durable ones are kept while there is no connection, up to a bound.

    Messages about the present are dropped then: they would be out of date. Any thread may call any method.
    """

    def __init__(self, bound: int) -> None:
        """Keep at most ``bound`` durable messages, the latest ones."""
        self._bound = bound
        self._changed = threading.Condition()
        self._queue: deque[Message] = deque()
        self._sending: Message | None = None
        self._sent: set[int] = set()
        """Numbers of messages that the broker has not acknowledged; paho resends them after a reconnect."""
        self._early: set[int] = set()
        """Numbers that were acknowledged before ``published`` could say whose they are."""
        self._is_open = False
        self._dropped = 0

    @property
    def is_open(self) -> bool:
        """Whether messages are sent."""
        return self._is_open

    @property
    def dropped(self) -> int:
        """Number of durable messages that had to make room for later ones."""
        return self._dropped

    @property
    def waiting(self) -> int:
        """Number of messages that the broker has not acknowledged."""
        with self._changed:
            return self._waiting()

    def put(self, messages: Iterable[Message]) -> None:
        """Queue messages."""
        with self._changed:
            self._put(messages)

    def open(self, messages: Iterable[Message]) -> None:
        """Start to send: these messages, then what has waited.

        A message is left out where a later one for its topic waits already.
        """
        with self._changed:
            waiting = list(self._queue)
            later = {m.topic for m in waiting}
            self._queue.clear()
            self._is_open = True
            self._put(m for m in messages if m.topic not in later)
            self._put(waiting)

    def shut(self) -> None:
        """Stop to send, and keep the durable messages."""
        with self._changed:
            self._is_open = False
            self._queue = deque(m for m in self._queue if m.durable)
            self._changed.notify_all()

    def next(self) -> Message | None:
        """Return the message to send now, to be followed by ``published``.

        None where there is none, another thread is sending, or too many are unacknowledged.
        """
        with self._changed:
            may_send = self._is_open and self._sending is None and len(self._sent) < _MAX_UNACKNOWLEDGED
            self._sending = self._queue.popleft() if may_send and self._queue else self._sending
            return self._sending if may_send else None

    def published(self, number: int | None) -> None:
        """Note the number under which the message has been sent; None: it could not be."""
        with self._changed:
            if self._sending and self._sending.qos and number is not None and number not in self._early:
                self._sent.add(number)
            self._early.clear()
            self._sending = None
            self._changed.notify_all()

    def acknowledged(self, number: int) -> None:
        """Forget a message that the broker has taken."""
        with self._changed:
            if number not in self._sent and self._sending:
                self._early.add(number)
            self._sent.discard(number)
            self._changed.notify_all()

    def wait_until_sent(self, timeout_s: float) -> bool:
        """Wait until everything is acknowledged; return whether it is, at the latest when sending stops."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting() or not self._is_open, timeout_s)
            return not self._waiting()

    def _waiting(self) -> int:
        return len(self._queue) + len(self._sent) + (self._sending is not None)

    def _put(self, messages: Iterable[Message]) -> None:
        self._queue.extend(m for m in messages if m.durable or self._is_open)
        surplus = sum(m.durable for m in self._queue) - self._bound
        for _ in range(surplus):
            self._queue.remove(next(m for m in self._queue if m.durable))
            self._dropped += 1
        if len(self._queue) > self._bound + _MAX_STATES:  # the broker is too slow: the last state of a topic will do
            last = {m.topic: m for m in self._queue}
            self._queue = deque(m for m in self._queue if m.durable or last[m.topic] is m)


class Requests:
    """What users ask for by topic: done at once, and where there is a flood only the last one, twice a second.

    Each is written to the disk, so that the connection would do nothing else for minutes, and a card wear out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        """Held while one is done, so that an earlier one is never done behind a later one."""
        self._waiting: dict[str, Callable[[], None]] = {}
        self._credit, self._at_s = float(_MAX_REQUESTS), time.monotonic()

    def put(self, topic: str, act: Callable[[], None]) -> None:
        """Do it, now or in a ``settle``; it then takes the place of an earlier one of its topic."""
        with self._lock:
            self._waiting[topic] = act
            self._work()

    def settle(self, *, is_end: bool = False) -> None:
        """Do what waits, as far as its time has come; at the end all of it."""
        with self._lock:
            self._credit += len(self._waiting) if is_end else 0
            self._work()

    def _work(self) -> None:
        now = time.monotonic()
        self._credit = min(self._credit + _REQUESTS_PER_S * (now - self._at_s), max(self._credit, _MAX_REQUESTS))
        self._at_s = now
        while self._waiting and self._credit >= 1:
            self._credit -= 1
            self._waiting.pop(next(iter(self._waiting)))()


@dataclass(slots=True)
class Link:
    """What paho's callbacks have reported of the connection."""

    is_connected: bool = False
    """Whether the broker has accepted this client and has not gone since."""
    is_closing: bool = False
    connections: int = 0
    asked_at: float | None = None
    """When the connection was opened to which the broker has not answered yet."""
    connected_at: float = 0.0
    online: int | None = None
    """Number of the message that has to be acknowledged before others are sent."""
    trouble: Trouble | None = None
    """Why the last attempt failed, or the last connection ended."""
    complaint: str = ""
    """What paho said last, in brackets."""
    subscribed: dict[int | None, list[str]] = field(default_factory=dict)
    """Topics by the number of the request that has not been answered yet."""
    denied: set[str] = field(default_factory=set)
    ended: threading.Event = field(default_factory=threading.Event)
    backoff: Backoff = field(default_factory=lambda: Backoff(*_PAUSE_S))
    pause_s: float = 0.0
    """Pause before the next attempt; paho doubles it with each one that fails."""

    def __post_init__(self) -> None:
        self.pause_s = self.backoff.next_s()

    def connected(self) -> None:
        """Note that the broker has accepted this client."""
        self.is_connected, self.trouble = True, None
        self.connections += 1
        self.connected_at = time.monotonic()
        self.ended.clear()

    def pause_after(self) -> float:
        """Return the pause after a connection has ended.

        It grows with each connection that was short: two clients of one name disconnect each other.
        """
        if time.monotonic() - self.connected_at >= _STEADY_S:
            self.backoff.reset()
        self.pause_s = self.backoff.next_s()
        return self.pause_s


def set_pause(client: Client, pause_s: float) -> None:
    """Set the pause before paho's next attempt."""
    client.reconnect_delay_set(pause_s, _PAUSE_S[1])  # type: ignore[arg-type]  # it takes fractions of a second
