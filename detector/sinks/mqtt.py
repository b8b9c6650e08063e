"""Events, states and levels on an MQTT broker, announced to Home Assistant.

paho-mqtt's network loop connects, reconnects and resends what the broker has not acknowledged. What waits before it
does is kept here, since paho's own queue refuses the newest messages when it is full.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, field_validator, model_validator

from detector.config.secrets import credential, read_secret
from detector.config.sections import SecretFile, UserPath
from detector.errors import ConfigError
from detector.records import Record, ServiceState
from detector.sinks.base import (
    LiveSink,
    NodeInfo,
    RetryableError,
    SensitivityControl,
    SinkContext,
    SinkSection,
    SinkSpec,
)
from detector.sinks.home_assistant import BIRTH_PAYLOAD, Discovery
from detector.sinks.mqtt_client import (
    Link,
    Outbox,
    Requests,
    Trouble,
    failure,
    make_client,
    refused,
    set_pause,
    unanswered,
    where,
)
from detector.sinks.mqtt_topics import OFF, OFFLINE, ON, ONLINE, Message, NodeStates, Topics, client_id, status
from detector.sinks.mqtt_visits import INSTANCE, NameTakenError, NodeReport, left_behind

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

    from detector.manifest import Sensitivity

BROKER_PASSWORD: Final = "mqtt-password"  # noqa: S105 - its name
"""Credential with the password for all brokers whose section names no file."""
_log = logging.getLogger(__name__)
_KEEPALIVE_S: Final = 30
_ANSWER_S: Final = 10.0
"""A broker that has not answered by then is reported as absent."""
_EARLIER_S: Final = 0.5
"""Time to wait for the announcement that an earlier run left with the broker."""
_BIRTH_DELAY_S: Final = 5.0
"""Longest delay after Home Assistant's start, so that not all devices answer it at once."""
_SUBSCRIBED_S: Final = 3.0
"""Time for Home Assistant to subscribe to what was announced: a level is not retained."""
_LEAVE_S: Final = 1.0
_GRACE_S: Final = 0.2
"""Time for the network loop to end once there is nothing more to send."""
_FAILURE: Final = 0x80


class Mqtt(SinkSection):
    """An MQTT broker, with discovery for Home Assistant."""

    host: str = Field(min_length=1, description="Name or address of the broker.", examples=["homeassistant.local"])
    port: int = Field(1883, ge=1, le=65535, description="Its port. Left out: 1883, with TLS 8883.")
    username: str | None = Field(
        None, description="User name. Left out: none, and no password either.", examples=["snn-detect"]
    )
    password_file: SecretFile | None = Field(
        None,
        description="File whose first line is the password, which is never in here. Left out: the credential "
        "mqtt-password, which the system's service gets from /etc/snn-detect/mqtt.password, even where only root can "
        "read that.",
        examples=["/etc/snn-detect/mqtt.password"],
    )
    tls: bool = Field(False, description="Whether to use TLS.")
    ca_file: UserPath | None = Field(
        None,
        description="Certificates to trust, where they are not the system's.",
        examples=["/etc/snn-detect/ca.pem"],
    )
    certificate_file: UserPath | None = Field(
        None,
        description="Certificate of this machine, for brokers that require one, with key_file.",
        examples=["/etc/snn-detect/client.pem"],
    )
    key_file: SecretFile | None = Field(
        None, description="Private key of that certificate.", examples=["/etc/snn-detect/client.key"]
    )
    prefix: str = Field("snn-detect", pattern=r"^[^#+\x00]+$", description="First part of all topics.")
    discovery_prefix: str | None = Field(
        "homeassistant", description='First part of the topics of discovery. "": no discovery.'
    )
    area: str | None = Field(
        None,
        min_length=1,
        max_length=255,
        description="Area that Home Assistant is to put the device into when it first sees it.",
        examples=["Kitchen"],
    )
    page_url: str | None = Field(
        None,
        max_length=1000,
        pattern=r"^https?://[^\s/]+(/\S*)?$",
        description="Address of the page that Home Assistant links to. Left out: that of the [web] section, where "
        "other machines can reach it.",
        examples=["https://pi4.example.org/snn/"],
    )
    level_interval_s: float = Field(
        30.0,
        ge=1,
        le=3600,
        description="Seconds between two levels; they come with the health records, so not more often than those.",
    )
    queue: int = Field(
        1000, ge=1, le=100_000, description="Messages kept while the broker is away; beyond, the oldest are dropped."
    )

    @model_validator(mode="before")
    @classmethod
    def _usual_port(cls, value: Any) -> Any:
        has_tls = isinstance(value, dict) and value.get("tls") in (True, "true", "1", 1)
        return {"port": 8883, **value} if has_tls else value

    @field_validator("host")
    @classmethod
    def _is_name(cls, value: str) -> str:
        """Refuse what is no name or address of a host, such as a URL or a name with a port.

        The resolver raises UnicodeError for some of it, which would end paho's thread.
        """
        name, colon, _ = value.rpartition(":")
        if "/" in value or "@" in value or value.split() != [value]:
            raise ValueError("must be the name or address of the broker alone, without mqtt://, user or path")
        if value.startswith("[") or (colon and ":" not in name):
            raise ValueError("must be the name or address alone, without brackets; the port is a key of its own, port")
        try:
            value.encode("idna")
        except UnicodeError as error:
            raise ValueError(f"{value!r} is not the name of a host") from error
        return value

    @model_validator(mode="after")
    def _whole(self) -> Mqtt:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("certificate_file and key_file belong together")
        if not self.tls and (self.ca_file or self.certificate_file):
            raise ValueError("ca_file, certificate_file and key_file need tls = true")
        if self.password_file and not self.username:
            raise ValueError("password_file needs username")
        return self

    def build(self, context: SinkContext, /) -> SinkSpec:
        """Return the sink; raises ConfigError for a password that cannot be read."""
        settings = self.model_copy(update={"page_url": self.page_url or context.page_url})
        arguments = (settings, context.node_infos, broker_password(self))
        control = context.sensitivity
        sensitivity = control if control is not None and len(control.choices) > 1 else None
        identity = (*arguments, None if sensitivity is None else sensitivity.choices)
        return SinkSpec(identity, lambda: MqttSink(*arguments, context.on_listening, sensitivity))


class MqttSink(LiveSink):
    """Publish events, states, levels and health, and announce them to Home Assistant.

    The broker may be away at any time, also at the start. Durable messages (events, and the attributes of each sound)
    wait for it, at most ``settings.queue``, the oldest dropped; all states are published again on each connection.
    """

    shows_states = True
    types = frozenset({"onset", "offset", "status", "health", "clip"})

    def __init__(  # noqa: PLR0913 - what it is made of
        self,
        settings: Mqtt,
        node_infos: Sequence[NodeInfo],
        password: str | None,
        on_listening: Callable[[bool], None] | None = None,
        sensitivity: SensitivityControl | None = None,
        instance: str = INSTANCE,
    ) -> None:
        """Prepare; ``on_listening`` is called, in paho's thread or in a tick, when a user turns listening on or off.

        It must not block, nor must ``sensitivity`` where a user chooses an operating point. ``instance`` stands for
        the process: no other may have the name of its node. Raises ConfigError for settings that contradict the
        files they name, and without paho-mqtt.
        """
        self._settings = settings
        node = node_infos[0].node
        self._topics = Topics(settings.prefix, node, node_infos[0].source)
        """Those of the machine count; those of its first source do not."""
        self._on_listening, self._sensitivity = on_listening, sensitivity
        has_switch = on_listening is not None
        self._states = NodeStates(
            node_infos, settings.prefix, settings.level_interval_s, switch=has_switch, sensitivity=sensitivity
        )
        self._discovery = self._make_discovery(settings, node_infos)
        self._outbox = Outbox(settings.queue)
        self._lock = threading.Lock()
        """Guards states and announcements; never held in a call of paho, whose callbacks hold locks of its own."""
        self._announce_at: float | None = None
        self._level_at = 0.0
        """When a level may be published that health records do not bring."""
        self._wants_state = False
        self._shown: Sequence[ServiceState] = ()
        self._seeks_earlier = self._discovery is not None
        self._earlier = b""
        """The announcement that an earlier run left, until the next one removes what only that had."""
        announcement = self._discovery.topic if self._discovery else None
        self._report = NodeReport.of(node_infos, instance, announcement)
        self._left: set[str] | None = None
        """Topics that an earlier run left, until those that are no longer used are emptied; None: not known yet."""
        self._password = password
        self._link = Link()
        self._requests = Requests()
        self._reported: set[bool] = set()
        self._client = self._make_client(node, password)

    @property
    def stats(self) -> Mapping[str, float]:
        """State of the connection: connected (0 or 1), reconnects, messages dropped and waiting."""
        return {
            "connected": int(self._link.is_connected),
            "reconnects": max(0, self._link.connections - 1),
            "messages_dropped": self._outbox.dropped,
            "messages_waiting": self._outbox.waiting,
        }

    @property
    def wants_state(self) -> bool:
        """Whether the level is to be published before the next health record."""
        return self._wants_state

    def show(self, states: Sequence[ServiceState]) -> None:
        """Keep the levels of this moment for the next tick."""
        self._wants_state, self._shown = False, states

    def open(self) -> None:
        """Start to connect, in paho's thread; does not wait."""
        self._client.connect_async(self._settings.host, self._settings.port, _KEEPALIVE_S)
        self._client.loop_start()

    def write(self, record: Record) -> None:
        """Publish what follows from the record, now or once the broker is back."""
        with self._lock:
            self._outbox.put(self._states.take(record))
        self._send()

    def tick(self) -> None:
        """Announce what is due; raises RetryableError while there is no connection, so that it is logged."""
        self._requests.settle()
        with self._lock:
            if self._outbox.is_open and self._announce_at is not None and time.monotonic() >= self._announce_at:
                self._outbox.put(self._all())
            self._publish_level()
        self._client.loop_start()  # does nothing but where an unexpected error has ended paho's thread
        self._send()
        if self._link.is_connected:
            self._reported.clear()
            return
        trouble = self._link.trouble or self._missing_answer()
        if trouble is None:
            return
        if self._reported and trouble.is_refusal not in self._reported:
            _log.warning("mqtt: %s", trouble.text)  # the worker logs the first one only
        self._reported.add(trouble.is_refusal)
        raise RetryableError(trouble.text)

    def close(self) -> None:
        """Publish that all is off and disconnect; logs how many messages the broker has not acknowledged in time."""
        self._requests.settle(is_end=True)
        with self._lock:
            self._outbox.put([self._report.message(self._topics), *self._states.offline_messages()])
        self._send()
        is_complete = self._outbox.is_open and self._outbox.wait_until_sent(_LEAVE_S)
        self._link.is_closing = True
        sock = self._client.socket()
        if self._link.is_connected and not is_complete and isinstance(sock, socket.socket):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # without a DISCONNECT the broker publishes the will
        else:
            self._client.disconnect()
        if self._link.is_connected:
            self._link.ended.wait(_GRACE_S)
        if left := self._outbox.waiting:
            _log.warning("mqtt: %s: the broker has not acknowledged %d messages", self._topics.base, left)

    def _make_discovery(self, settings: Mqtt, node_infos: Sequence[NodeInfo]) -> Discovery | None:
        prefix = (settings.discovery_prefix or "").strip("/")
        if not prefix:
            return None
        if set("+#\0") & set(prefix):
            raise ConfigError(f"mqtt discovery_prefix {prefix!r} must hold no +, # or NUL")
        points = self._sensitivity.choices if self._sensitivity else ()
        has_switch = self._on_listening is not None
        discovery = Discovery(
            prefix,
            tuple(node_infos),
            self._topics,
            settings.level_interval_s,
            has_switch,
            points,
            area=settings.area,
            page_url=settings.page_url,
        )
        discovery.messages()  # raises ConfigError where names of sources and sounds give one entity twice
        return discovery

    def _make_client(self, node: str, password: str | None) -> Client:
        client = make_client(self._settings, client_id(node), password, before_connect=self._before_connect)
        client.suppress_exceptions = True  # paho's thread would end by them; _on_log logs them
        will = status(self._topics, OFFLINE)
        client.will_set(will.topic, will.payload, will.qos, will.retain)
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_log = self._on_log
        set_pause(client, self._link.pause_s)
        return client

    def _send(self) -> None:
        """Hand messages to paho until none may be sent; returns at once where another thread is doing it."""
        while (message := self._outbox.next()) is not None:
            number = None
            try:
                number = self._client.publish(message.topic, message.payload, message.qos, message.retain).mid
            finally:
                self._outbox.published(number)

    def _publish_level(self) -> None:
        """Publish the levels that were shown, and ask for those that subscribers may not know; the lock is held."""
        shown, self._shown = self._shown, ()
        is_due = self._outbox.is_open and self._announce_at is None and time.monotonic() >= self._level_at
        if is_due:
            self._outbox.put(self._states.levels(shown))
        self._wants_state = is_due and self._states.wants_levels

    def _all(self) -> list[Message]:
        """Return discovery, with what removes entities of an earlier announcement, and all states; the lock is held."""
        discovery = self._discovery.messages(self._earlier) if self._discovery else []
        self._announce_at, self._seeks_earlier, self._earlier = None, False, b""
        self._level_at = time.monotonic() + _SUBSCRIBED_S
        self._states.expect_subscribers()
        stale = sorted((self._left or set()) - self._states.topics() - {self._report.discovery})
        self._left = set()
        removed = [Message(topic, "", retain=True) for topic in stale]
        return [self._report.message(self._topics), *discovery, *removed, *self._states.present()]

    def _missing_answer(self) -> Trouble | None:
        asked_at = self._link.asked_at
        is_late = asked_at is not None and time.monotonic() - asked_at >= _ANSWER_S
        return failure(self._settings, TimeoutError()) if is_late else None

    # What follows is called in paho's thread.

    def _before_connect(self) -> None:
        """Look who has the node's name, and the first time what an earlier run has left; raises OSError."""
        if self._link.is_closing:
            raise ConnectionAbortedError
        is_first = self._left is None
        found = left_behind(self._settings, self._topics.node, self._password, self._report, sweeps=is_first)
        with self._lock:
            self._left = found if is_first else self._left
        if self._link.is_closing:
            raise ConnectionAbortedError

    def _on_socket_open(self, _client: Client, _data: object, _socket: object) -> None:
        self._link.asked_at = time.monotonic()
        self._link.complaint = ""

    def _on_connect(self, client: Client, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        """Subscribe and publish ``online``; all else waits until the broker has acknowledged that.

        paho resends what was unacknowledged only after this callback: a state published in here would be overtaken
        by an older one of the same topic.
        """
        if self._link.is_closing:
            client.disconnect()
            return
        self._link.asked_at = None
        if reason.is_failure:
            self._link.trouble = refused(self._settings, str(reason))
            return
        if self._link.connections == 0:
            _log.info("mqtt: %s: connected", where(self._settings))
        self._link.connected()
        if topics := self._subscriptions():
            _, number = client.subscribe([(topic, 1) for topic in topics])
            self._link.subscribed = {number: topics}
        online = status(self._topics, ONLINE)
        self._link.online = client.publish(online.topic, online.payload, online.qos, online.retain).mid

    def _on_publish(self, _client: Client, _data: object, number: int, _reason: object, _properties: object) -> None:
        if number == self._link.online:
            self._link.online = None
            self._publish_states()
        else:
            self._outbox.acknowledged(number)
        self._send()

    def _publish_states(self) -> None:
        """Start to send; the first time, look for an earlier announcement before publishing one."""
        with self._lock:
            if self._seeks_earlier and not self._earlier:
                self._outbox.open([])
                self._announce_at = time.monotonic() + _EARLIER_S
            else:
                self._outbox.open(self._all())

    def _on_connect_fail(self, client: Client, _data: object) -> None:
        error = sys.exception()  # paho calls this while it handles the error
        if isinstance(error, NameTakenError):
            self._link.trouble = Trouble(str(error), is_refusal=True)
        elif isinstance(error, Exception):
            self._link.trouble = failure(self._settings, error)
        if self._link.is_closing:
            client.loop_stop()

    def _on_disconnect(
        self, client: Client, _data: object, _flags: object, _reason: object, _properties: object
    ) -> None:
        self._outbox.shut()
        if self._link.is_closing:
            client.loop_stop()
        elif self._link.is_connected:
            self._link.trouble = Trouble(f"{where(self._settings)}: connection lost{self._link.complaint}")
            set_pause(client, self._link.pause_after())
        elif self._link.asked_at is not None:
            self._link.trouble = self._missing_answer() or unanswered(self._settings, self._link.complaint)
        self._link.is_connected, self._link.asked_at = False, None
        self._link.ended.set()

    def _on_subscribe(self, _client: Client, _data: object, number: int, reasons: Any, _properties: object) -> None:
        asked = self._link.subscribed.pop(number, [])
        for topic in (topic for topic, reason in zip(asked, reasons, strict=False) if reason.value >= _FAILURE):
            if topic not in self._link.denied:
                self._link.denied.add(topic)
                _log.warning("mqtt: %s: may not read %s; change the access rules", where(self._settings), topic)

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        """Follow switch and select, answer, publish discovery at Home Assistant's start, use one of an earlier run."""
        topics = self._topics
        mine = {
            topics.listening_set: self._switch,
            topics.sensitivity_set: self._choose,
            topics.node_report_get: self._answer,
        }
        if message.topic in mine:
            mine[message.topic](message)
        elif self._discovery and message.topic in self._discovery.birth_topics:
            if message.payload == BIRTH_PAYLOAD.encode() and not message.retain:
                self._announce_within(_BIRTH_DELAY_S)
        elif self._discovery and message.topic == self._discovery.topic and message.retain:
            with self._lock:
                self._earlier = bytes(message.payload)
                if self._outbox.is_open and (self._seeks_earlier or self._discovery.leaves_ghosts(self._earlier)):
                    self._outbox.put(self._all())
        self._send()

    def _on_log(self, client: Client, _data: object, level: int, text: str) -> None:
        from paho.mqtt.enums import LogLevel

        if level != LogLevel.MQTT_LOG_ERR:
            return
        if text.startswith("Caught exception"):
            _log.error("mqtt: %s: internal error: %s", where(self._settings), text)
        elif client.socket() is not None:
            self._link.complaint = f" ({' '.join(text.split())})"

    def _subscriptions(self) -> list[str]:
        topics = [self._topics.node_report_get]
        topics += [self._topics.listening_set] if self._on_listening else []
        topics += [self._topics.sensitivity_set] if self._sensitivity else []
        if self._discovery:
            topics += self._discovery.birth_topics
            topics += [self._discovery.topic] if self._seeks_earlier else []
        return topics

    def _answer(self, message: MQTTMessage) -> None:
        """Say again what this service is, to those who ask whether it lives."""
        if not message.retain:
            self._outbox.put([self._report.message(self._topics)])

    def _switch(self, message: MQTTMessage) -> None:
        if message.retain or self._on_listening is None:
            return  # published before this connection
        if message.payload not in (ON.encode(), OFF.encode()):
            _log.warning("%s: %s and %s are understood, not %r", message.topic, ON, OFF, message.payload[:20])
            return
        self._requests.put(message.topic, partial(self._turn, self._on_listening, message.payload == ON.encode()))

    def _turn(self, turn: Callable[[bool], None], on: bool) -> None:
        try:
            turn(on)
        except Exception as error:  # noqa: BLE001 - the connection goes on whatever the service does
            _log.warning("listening could not be turned %s: %s", "on" if on else "off", error)
            return
        with self._lock:
            self._outbox.put(self._states.listening(on=on))

    def _choose(self, message: MQTTMessage) -> None:
        """Follow the choice of an operating point."""
        if message.retain or self._sensitivity is None:
            return  # published before this connection
        wanted = next((point for point in self._sensitivity.choices if point.encode() == message.payload), None)
        if wanted is None:
            points = ", ".join(self._sensitivity.choices)
            _log.warning("%s: one of %s is understood, not %r", message.topic, points, message.payload[:20])
            return
        self._requests.put(message.topic, partial(self._apply, self._sensitivity.choose, wanted))

    def _apply(self, choose: Callable[[Sensitivity], None], wanted: Sensitivity) -> None:
        try:
            choose(wanted)
        except Exception as error:  # noqa: BLE001 - the connection goes on whatever the service does
            _log.warning("the sensitivity could not be changed: %s", error)
            return
        with self._lock:
            self._outbox.put(self._states.sensitivity())

    def _announce_within(self, delay_s: float) -> None:
        due = time.monotonic() + delay_s * secrets.randbelow(1000) / 1000
        with self._lock:
            self._announce_at = min(due, self._announce_at or due)


def broker_password(broker: Mqtt, fallback: Path | None = None) -> str | None:
    """Return the password for a broker: from its file, else the credential, else the file ``fallback``; None without.

    Without a user name there is no password. Raises ConfigError where it cannot be read.
    """
    if broker.password_file is not None:
        return read_secret(broker.password_file)
    if not broker.username:
        return None
    if credential(BROKER_PASSWORD):
        return read_secret(BROKER_PASSWORD)
    has_one = fallback is not None and os.access(fallback, os.R_OK) and fallback.read_bytes().strip()
    return read_secret(fallback) if fallback is not None and has_one else None
