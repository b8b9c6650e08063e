"""Messages on their way to a broker: in order, bounded, and counted until the broker has acknowledged them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Final

from detector.sinks.mqtt_topics import Message

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
