"""A connection to a broker that comes back by itself, kept by a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterable
from typing import Final, Protocol

from detector.config.settings import Mqtt
from detector.sinks.mqtt_outbox import Outbox
from detector.sinks.mqtt_session import Identity, Received, Session
from detector.sinks.mqtt_topics import Message
from detector.sinks.mqtt_trouble import Trouble

_log = logging.getLogger(__name__)
_PAUSE_S: Final = (1.0, 120.0)
"""Shortest and longest pause before the next try; each one doubles the last."""
_STEADY_S: Final = 10.0
"""A connection that lasted so long makes the next pause short again."""
_ANSWER_S: Final = 10.0
"""A broker that has not answered by then is none."""
_TURN_S: Final = 1.0
_GRACE_S: Final = 0.2
"""How long the thread may take to end once it need not send any more."""


class Listener(Protocol):
    """Whom a link tells what happens; in the link's thread."""

    def topics(self) -> list[str]:
        """Return what to subscribe to, now that there is a connection."""

    def connected(self) -> None:
        """Open the outbox: the broker takes messages."""

    def received(self, message: Received) -> None:
        """Take a message from the broker."""

    def caught_up(self) -> None:
        """Put what is true now into the outbox: messages about it had been left out."""


class Link:
    """Sends what is in an outbox to a broker, however often the broker goes away and comes back."""

    def __init__(self, settings: Mqtt, who: Identity, outbox: Outbox, listener: Listener) -> None:
        """Prepare; ``start`` begins to connect."""
        self._settings, self._who = settings, who
        self._outbox, self._listener = outbox, listener
        self._trouble: Trouble | None = None
        self._connections = 0
        self._is_connected = False
        self._pause_s = _PAUSE_S[0]
        self._denied: set[str] = set()
        self._stopping = threading.Event()
        self._last: list[Message] = []
        self._stop_by = 0.0
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"mqtt-{settings.host}", daemon=True)

    @property
    def trouble(self) -> Trouble | None:
        """Why there is no connection; None while there is one, or the first try goes on."""
        return self._trouble

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted this client and not gone since."""
        return self._is_connected

    @property
    def reconnects(self) -> int:
        """How often a connection was made, the first one not counted."""
        return max(0, self._connections - 1)

    def start(self) -> None:
        """Begin to connect, without waiting for it."""
        if self._thread.ident is None:
            self._thread.start()

    def wake(self) -> None:
        """Say that there is something in the outbox; does not wait."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: it is over
            self._waker.send(b"\0")

    def stop(self, last: Iterable[Message], timeout_s: float) -> None:
        """Send what waits and these messages if that is possible in this time, and take leave of the broker."""
        self._last = list(last)
        self._stop_by = time.monotonic() + timeout_s
        self._stopping.set()
        self.wake()
        if self._thread.ident is None:
            self._close()
        else:  # without a connection there is nothing to wait for; a name server may take its time
            self._thread.join(timeout_s + _GRACE_S if self._is_connected else _GRACE_S)

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            session = Session(self._settings, self._who, self._outbox.acknowledged)
            try:
                self._hold(session)
            except Exception as error:  # noqa: BLE001 - even a mistake in here is told like any trouble, and tried again
                self._trouble = session.why(error)
            finally:
                self._is_connected = False
                session.drop()
                self._outbox.shut()
            if time.monotonic() - began >= _STEADY_S and session.accepted:
                self._pause_s = _PAUSE_S[0]
            self._stopping.wait(self._pause_s)
            self._pause_s = min(2 * self._pause_s, _PAUSE_S[1])
        self._close()

    def _close(self) -> None:
        self._wake.close()
        self._waker.close()

    def _hold(self, session: Session) -> None:
        """Connect and stay connected until it breaks or the link stops."""
        session.connect()
        if not self._introduce(session):
            return
        self._welcome(session)
        while not session.is_over:
            if self._stopping.is_set():
                self._take_leave(session)
                return
            self._turn(session)
        self._trouble = session.why()

    def _introduce(self, session: Session) -> bool:
        """Wait for the broker's answer; return whether it is yes."""
        deadline = time.monotonic() + _ANSWER_S
        while not session.accepted and not session.is_over and time.monotonic() < deadline:
            self._wait(session)
            if self._stopping.is_set():
                return False
        if session.accepted:
            return True
        self._trouble = session.why(None if session.is_over else TimeoutError())
        return False

    def _welcome(self, session: Session) -> None:
        if self._connections == 0:
            _log.info("mqtt: %s:%d: connected", *self._where)
        self._connections += 1
        self._trouble = None
        self._is_connected = True
        session.subscribe(self._listener.topics())
        self._listener.connected()

    def _turn(self, session: Session) -> None:
        self._send(session)
        self._wait(session)
        received, session.received = session.received, []
        for message in received:
            self._listener.received(message)
        for topic in set(session.denied) - self._denied:
            self._denied.add(topic)
            _log.warning("mqtt: %s:%d: may not read %s; change the access rules", *self._where, topic)
        if self._outbox.is_behind:
            self._listener.caught_up()

    def _wait(self, session: Session) -> None:
        session.turn(_TURN_S, self._wake)
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4096)

    def _send(self, session: Session) -> None:
        while not session.is_over and (message := self._outbox.pop()) is not None:
            number = session.publish(message)
            if message.qos:
                self._outbox.sent(number, message)

    def _take_leave(self, session: Session) -> None:
        """Send the rest; a broker that does not take it in time is left without a word, and publishes the will."""
        self._outbox.put(self._last)
        while not session.is_over and self._outbox.traffic.waiting and (left := self._stop_by - time.monotonic()) > 0:
            self._send(session)
            session.turn(min(left, _TURN_S))
        if not self._outbox.traffic.waiting:
            session.disconnect()

    @property
    def _where(self) -> tuple[str, int]:
        return self._settings.host, self._settings.port
