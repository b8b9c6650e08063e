"""Looking at a broker from the command line: does the connection work, and what has this machine left there."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from detector.config.settings import Mqtt
from detector.errors import BrokerError
from detector.sinks.home_assistant import config_topic
from detector.sinks.mqtt import identity
from detector.sinks.mqtt_topics import ONLINE, Message, Topics, client_id
from detector.sinks.mqtt_trouble import explain

if TYPE_CHECKING:
    from detector.sinks.mqtt_session import Identity, Session

_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 5.0
_QUIET_S: Final = 1.0
"""Retained messages have all come when none has come for so long."""
_AT_ONCE: Final = 20


@dataclass(frozen=True, slots=True)
class Stage:
    """One step on the way to a broker."""

    name: str
    ok: bool
    text: str
    """What was found, or what is wrong and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Purged:
    """What was taken away."""

    topics: tuple[str, ...]
    was_online: bool
    """The service seemed to be running, and so will publish again."""


def test_connection(settings: Mqtt, node: str, password: str | None) -> list[Stage]:
    """Try name, TCP, TLS, log-in and publishing, and return what came of each, up to the first that fails.

    The service may run meanwhile. Raises ConfigError as ``MqttSink`` does.
    """
    who = identity(settings, f"{client_id(node)}-test", password)(None)
    stages: list[Stage] = []
    steps: dict[str, Callable[[], str]] = {
        "DNS": lambda: _resolve(settings),
        "TCP": lambda: _reach(settings),
        "TLS": lambda: _encrypt(settings, who),
        "auth": lambda: _log_in(settings, who),
        "publish": lambda: _echo(settings, node, who),
    }
    for name, step in steps.items():
        try:
            stages.append(Stage(name, ok=True, text=step()))
        except (OSError, BrokerError) as error:
            stages.append(Stage(name, ok=False, text=_words(settings, error)))
            break
    return stages


def purge(settings: Mqtt, node: str, password: str | None) -> Purged:
    """Delete all that a machine has left with a broker: its announcement and its retained messages.

    Raises BrokerError where the broker cannot be reached or refuses, ConfigError as ``MqttSink`` does.
    """
    who = identity(settings, f"{client_id(node)}-purge", password)(None)
    base = Topics(settings.prefix, node, "").base
    wanted = [f"{base}/#"]
    if settings.discovery_prefix:
        wanted.append(config_topic(settings.discovery_prefix.strip("/"), node))
    taken: set[int] = set()
    session = _entered(settings, who, taken.add)
    try:
        session.subscribe(wanted)
        _until(session, lambda: session.subscribed)
        if session.denied:
            raise BrokerError(f"{settings.host}:{settings.port}: may not read {', '.join(session.denied)}")
        _until_quiet(session)
        found = {m.topic: m.payload for m in session.received if m.retained and m.payload}
        # Home Assistant is to forget its entities before their topics go; # stands for the base itself, too.
        topics = sorted(found.keys() - {base}, key=lambda topic: (topic.startswith(f"{base}/"), topic))
        _empty(session, topics, taken)
        session.disconnect()
    except OSError as error:
        raise BrokerError(session.why(error).text) from error
    finally:
        session.drop()
    return Purged(tuple(topics), was_online=found.get(f"{base}/status") == ONLINE.encode())


def _empty(session: Session, topics: list[str], taken: set[int]) -> None:
    for first in range(0, len(topics), _AT_ONCE):
        numbers = {session.publish(Message(t, "", retain=True)) for t in topics[first : first + _AT_ONCE]}
        if not _until(session, lambda numbers=numbers: numbers <= taken):  # type: ignore[misc]
            raise BrokerError(session.why(TimeoutError()).text)


def _resolve(settings: Mqtt) -> str:
    found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)
    return ", ".join(dict.fromkeys(str(address[0]) for *_, address in found))


def _reach(settings: Mqtt) -> str:
    with socket.create_connection((settings.host, settings.port), _CONNECT_S):
        return f"port {settings.port} is open"


def _encrypt(settings: Mqtt, who: Identity) -> str:
    if who.context is None:
        return "off" + (": the password travels readable" if settings.username else "")
    with (
        socket.create_connection((settings.host, settings.port), _CONNECT_S) as sock,
        who.context.wrap_socket(sock, server_hostname=settings.host) as encrypted,
    ):
        until = (encrypted.getpeercert() or {}).get("notAfter", "an unknown day")
        return f"{encrypted.version()}, certificate valid until {until}"


def _log_in(settings: Mqtt, who: Identity) -> str:
    _entered(settings, who, lambda _: None).disconnect()
    return f"accepted as {settings.username!r}" if settings.username else "accepted without a user name"


def _echo(settings: Mqtt, node: str, who: Identity) -> str:
    """Publish something and see it come back: brokers keep quiet about messages that their rules forbid."""
    topic = f"{Topics(settings.prefix, node, '').base}/test"
    token = secrets.token_hex(8)
    session = _entered(settings, who, lambda _: None)
    try:
        session.subscribe([topic])
        session.publish(Message(topic, token))
        if not _until(session, lambda: any(m.payload == token.encode() for m in session.received)):
            raise BrokerError(f"nothing came back on {topic}; do the broker's rules allow to read and write it?")
        session.disconnect()
    finally:
        session.drop()
    return f"{topic} was taken and handed on"


def _entered(settings: Mqtt, who: Identity, acknowledged: Callable[[int], None]) -> Session:
    """Return a session that the broker has accepted; raises BrokerError."""
    from detector.sinks.mqtt_session import Session

    session = Session(settings, who, acknowledged)
    try:
        session.connect()
        answered = _until(session, lambda: session.accepted)
    except OSError as error:
        session.drop()
        raise BrokerError(session.why(error).text) from error
    if not answered:
        why = session.why(None if session.is_over else TimeoutError()).text
        session.drop()
        raise BrokerError(why)
    return session


def _until(session: Session, holds: Callable[[], bool]) -> bool:
    """Go on until something holds; return whether it does in time."""
    deadline = time.monotonic() + _ANSWER_S
    while not holds() and not session.is_over and (left := deadline - time.monotonic()) > 0:
        session.turn(left)
    return holds()


def _until_quiet(session: Session) -> None:
    heard, deadline = -1, 0.0
    while not session.is_over:
        if len(session.received) > heard:
            heard, deadline = len(session.received), time.monotonic() + _QUIET_S
        if (left := deadline - time.monotonic()) <= 0:
            return
        session.turn(left)


def _words(settings: Mqtt, error: Exception) -> str:
    return str(error) if isinstance(error, BrokerError) else f"{settings.host}:{settings.port}: {explain(error)}"
