"""Events on an MQTT broker, found by Home Assistant without being told."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from detector.config.secrets import credential, read_secret
from detector.config.settings import Mqtt
from detector.errors import ConfigError
from detector.records import Record
from detector.sinks.base import LiveSink, NodeInfo, RetryableError
from detector.sinks.home_assistant import BIRTH_PAYLOAD, Discovery
from detector.sinks.mqtt_outbox import Outbox
from detector.sinks.mqtt_topics import OFF, OFFLINE, ON, ONLINE, Message, States, Topics, client_id, status

if TYPE_CHECKING:
    from detector.sinks.mqtt_session import Identity, Received

_log = logging.getLogger(__name__)
_EARLIER_S: Final = 0.5
"""How long to wait for the announcement that an earlier run left with the broker."""
_BIRTH_DELAY_S: Final = 5.0
"""Longest delay after Home Assistant's start: all devices answer it, better not at once."""
_LEAVE_S: Final = 1.0
BROKER_PASSWORD: Final = "mqtt-password"  # noqa: S105 - its name
"""Credential with the password for all brokers whose section names no file."""


class MqttSink(LiveSink):
    """Publishes events, states, levels and health, and announces them to Home Assistant.

    The broker may be away at any time, at the start too. Lasting messages (events, and the
    particulars of each sound) wait for it, up to ``settings.queue``, the oldest dropped; states are
    published anew whenever it is back.
    """

    types = frozenset({"onset", "offset", "status", "health", "clip"})

    def __init__(
        self,
        settings: Mqtt,
        node_info: NodeInfo,
        password: str | None,
        on_listening: Callable[[bool], None] | None = None,
    ) -> None:
        """Prepare; ``on_listening`` is called, in a thread of this sink, when somebody turns listening on or off.

        It must not block. Raises ConfigError for settings that cannot be, and where paho-mqtt is missing.
        """
        who = identity(settings, client_id(node_info.node), password)
        self._topics = Topics(settings.prefix, node_info.node, node_info.source)
        self._on_listening = on_listening
        self._states = States(node_info, self._topics, settings.level_interval_s, switch=on_listening is not None)
        self._discovery = self._announcer(settings, node_info)
        self._outbox = Outbox(settings.queue)
        self._lock = threading.Lock()
        self._announce_at: float | None = None
        self._seeks_earlier = self._discovery is not None
        self._notified: set[bool] = set()

        from detector.sinks.mqtt_link import Link

        self._link = Link(settings, who(status(self._topics, OFFLINE)), self._outbox, self)

    @property
    def stats(self) -> Mapping[str, float]:
        """How the connection is and has been: connected (0 or 1), reconnects, messages dropped and waiting."""
        traffic = self._outbox.traffic
        return {
            "connected": int(self._link.is_connected),
            "reconnects": self._link.reconnects,
            "messages_dropped": traffic.dropped,
            "messages_waiting": traffic.waiting,
        }

    def open(self) -> None:
        """Begin to connect; a broker that is away is no reason to wait."""
        self._link.start()

    def write(self, record: Record) -> None:
        """Publish what the record makes known, now or once the broker is back."""
        with self._lock:
            self._outbox.put(self._states.take(record))
        self._link.wake()

    def tick(self) -> None:
        """Announce what is due; raises RetryableError while there is no connection, to have it told."""
        with self._lock:
            due = self._announce_at is not None and time.monotonic() >= self._announce_at
            if due and self._link.is_connected:
                self._announce()
        self._link.wake()
        trouble = self._link.trouble
        if trouble is None:
            self._notified.clear()
            return
        if self._notified and trouble.is_refusal not in self._notified:
            _log.warning("mqtt: %s", trouble.text)  # whoever calls tells the first trouble only, be it an absence
        self._notified.add(trouble.is_refusal)
        raise RetryableError(trouble.text)

    def close(self) -> None:
        """Say that all is off and take leave; what the broker did not take by then is told and lost."""
        with self._lock:
            offline_messages = self._states.offline_messages()
        self._link.stop(offline_messages, _LEAVE_S)
        if left := self._outbox.traffic.waiting:
            _log.warning("mqtt: %s: %d messages were never taken by the broker", self._topics.base, left)

    def topics(self) -> list[str]:
        """Return what to subscribe to."""
        wanted = [self._topics.listening_set] if self._on_listening else []
        if self._discovery:
            wanted += self._discovery.birth_topics
            wanted += [self._discovery.topic] if self._seeks_earlier else []
        return wanted

    def connected(self) -> None:
        """Say that the service is there, then all the rest; the first time, look for an earlier announcement before."""
        with self._lock:
            online = status(self._topics, ONLINE)
            if self._seeks_earlier:
                self._outbox.open([online])
                self._announce_at = time.monotonic() + _EARLIER_S
            else:
                self._outbox.open([online, *self._all()])
                self._announce_at = None

    def caught_up(self) -> None:
        """Publish all states."""
        with self._lock:
            self._outbox.open(self._states.present())

    def received(self, message: Received) -> None:
        """Obey the switch, answer Home Assistant's start, note an earlier announcement."""
        if message.topic == self._topics.listening_set:
            self._switch(message)
        elif self._discovery and message.topic in self._discovery.birth_topics:
            if message.payload == BIRTH_PAYLOAD.encode() and not message.retained:
                self._announce_within(_BIRTH_DELAY_S)
        elif self._discovery and message.topic == self._discovery.topic and message.retained:
            with self._lock:
                if self._seeks_earlier or self._discovery.leaves_ghosts(message.payload):
                    self._announce(message.payload)

    def _switch(self, message: Received) -> None:
        if message.retained or self._on_listening is None:
            return  # somebody's wish of long ago
        if message.payload not in (ON.encode(), OFF.encode()):
            _log.warning("%s: %s and %s are understood, not %.20r", message.topic, ON, OFF, message.payload)
            return
        on = message.payload == ON.encode()
        try:
            self._on_listening(on)
        except Exception as error:  # noqa: BLE001 - the connection goes on whatever the other side does
            _log.warning("listening could not be turned %s: %s", "on" if on else "off", error)
            return
        with self._lock:
            self._outbox.put(self._states.listening(on=on))

    def _announce_within(self, delay_s: float) -> None:
        due = time.monotonic() + delay_s * secrets.randbelow(1000) / 1000
        with self._lock:
            self._announce_at = min(due, self._announce_at or due)

    def _announce(self, earlier: bytes = b"") -> None:
        """Publish discovery and all states; the lock is held."""
        self._announce_at = None
        self._seeks_earlier = False
        self._outbox.put(self._all(earlier))

    def _all(self, earlier: bytes = b"") -> list[Message]:
        discovery = self._discovery.messages(earlier) if self._discovery else []
        return [*discovery, *self._states.present()]

    def _announcer(self, settings: Mqtt, node_info: NodeInfo) -> Discovery | None:
        prefix = (settings.discovery_prefix or "").strip("/")
        if not prefix:
            return None
        if set("+#\0") & set(prefix):
            raise ConfigError(f"mqtt discovery_prefix {prefix!r} must hold no +, # or NUL")
        return Discovery(prefix, node_info, self._topics, settings.level_interval_s, self._on_listening is not None)


def identity(settings: Mqtt, name: str, password: str | None) -> Callable[[Message | None], Identity]:
    """Return what makes an identity out of a last will; raises ConfigError without paho-mqtt or for wrong files."""
    try:
        from detector.sinks.mqtt_session import Identity, tls_context
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("paho"):
            raise
        raise ConfigError("MQTT needs paho-mqtt: pip install 'snn-detect[mqtt]'") from error
    context = tls_context(settings)
    return lambda will: Identity(name, password, context, will)


def broker_password(broker: Mqtt, besides: Path | None = None) -> str | None:
    """Return the password for a broker: from its file, else the credential, else the file ``besides``; None without.

    A broker that wants no user name is given no password. Raises ConfigError where it cannot be read.
    """
    if broker.password_file is not None:
        return read_secret(broker.password_file)
    if not broker.username:
        return None
    if credential(BROKER_PASSWORD):
        return read_secret(BROKER_PASSWORD)
    has_one = besides is not None and os.access(besides, os.R_OK) and besides.read_bytes().strip()
    return read_secret(besides) if besides is not None and has_one else None
