"""Messages on their way to a broker: in order, bounded, kept until the broker has acknowledged them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from detector.sinks.mqtt_topics import Message

_WINDOW: Final = 20
"""Messages that may be sent before the first of them is acknowledged."""
_MOST_PRESENT: Final = 2000
"""Messages about the present that may wait; beyond, the broker is too slow for them, and is told again later."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What became of the messages so far."""

    waiting: int
    """Not yet acknowledged."""
    dropped: int
    """Lasting messages that had to make room for later ones."""


class Outbox:
    """Holds lasting messages while there is no connection, and no others: these would be out of date by then.

    Any thread may use it. Whoever owns the connection calls ``open`` when it is there, with all
    that is true now, and ``shut`` when it is lost.
    """

    def __init__(self, bound: int) -> None:
        """Keep at most ``bound`` lasting messages, the latest ones."""
        self._bound = bound
        self._lock = threading.Lock()
        self._queue: deque[Message] = deque()
        self._sent: dict[int, Message] = {}
        self._takes_present = False
        self._is_open = False
        self._lasting = 0
        self._dropped = 0

    @property
    def traffic(self) -> Traffic:
        """How much waits and how much was lost."""
        with self._lock:
            return Traffic(len(self._queue) + len(self._sent), self._dropped)

    @property
    def is_behind(self) -> bool:
        """Whether messages about the present were left out, and all that waited before them has been sent."""
        with self._lock:
            return self._is_open and not self._takes_present and not self._queue and not self._sent

    def put(self, messages: Iterable[Message]) -> None:
        """Queue messages behind those that wait."""
        with self._lock:
            self._put(messages)

    def open(self, messages: Iterable[Message]) -> None:
        """Begin to send: first these messages, then what has waited.

        A message is left out where a later one for its topic waits already.
        """
        with self._lock:
            waiting = list(self._queue)
            later = {m.topic for m in waiting}
            self._clear()
            self._is_open = self._takes_present = True
            self._put(m for m in messages if m.topic not in later)
            self._put(waiting)

    def shut(self) -> None:
        """Keep what is lasting, what was sent and not acknowledged before all else."""
        with self._lock:
            kept = [m for m in (*self._sent.values(), *self._queue) if m.lasting]
            self._clear()
            self._is_open = self._takes_present = False
            self._put(kept)

    def pop(self) -> Message | None:
        """Return the next message to send; None where there is none or too many are unacknowledged."""
        with self._lock:
            if not self._is_open or not self._queue or len(self._sent) >= _WINDOW:
                return None
            message = self._queue.popleft()
            self._lasting -= message.lasting
            return message

    def sent(self, number: int, message: Message) -> None:
        """Note that a message that will be acknowledged has been sent under this number."""
        with self._lock:
            self._sent[number] = message

    def acknowledged(self, number: int) -> None:
        """Forget a message that the broker has taken."""
        with self._lock:
            self._sent.pop(number, None)

    def _put(self, messages: Iterable[Message]) -> None:
        for message in messages:
            if message.lasting or self._takes_present:
                self._queue.append(message)
                self._lasting += message.lasting
        while self._lasting > self._bound:
            self._queue.remove(next(m for m in self._queue if m.lasting))
            self._lasting -= 1
            self._dropped += 1
        if len(self._queue) - self._lasting > _MOST_PRESENT:
            self._queue = deque(m for m in self._queue if m.lasting)
            self._takes_present = False

    def _clear(self) -> None:
        self._queue.clear()
        self._sent.clear()
        self._lasting = 0
