"""Reading ahead: a source decodes in a thread of its own while the chunks before are being heard."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable
from typing import Generic, TypeVar

from detector.messages import AudioChunk

_T = TypeVar("_T")


def read_ahead(chunks: Iterable[AudioChunk], depth: int = 2) -> Generator[AudioChunk, None, None]:
    """Yield chunks that a thread of their own reads ahead, at most ``depth`` of them: decoding costs no waiting.

    What the source raises is raised here, behind the chunks before it. Close the iterator before
    the source.
    """
    reader = Reader(chunks, depth)
    reader.start()
    try:
        while (item := reader.take()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        reader.stopped.set()
        # Not for ever: a read from a pipe may never come back. The thread ends with the process.
        reader.join(timeout=1.0)


class Reader(threading.Thread, Generic[_T]):
    """Reads items, at most ``depth`` of them ahead of whoever takes them."""

    def __init__(self, items: Iterable[_T], depth: int) -> None:
        """Wait for ``start``; set ``stopped`` to have it end."""
        super().__init__(name="read-ahead", daemon=True)
        # Not a Queue: one of these is taken from at once or not at all, also where a signal's handler raises.
        self._ready: queue.SimpleQueue[_T | BaseException | None] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(depth):
            self._places.put(None)
        self.stopped = threading.Event()
        self._items, self._depth = items, depth

    @property
    def filled(self) -> float:
        """Share of the places that is taken, 0 to 1."""
        return self._ready.qsize() / self._depth

    def take(self, timeout_s: float | None = None) -> _T | BaseException | None:
        """Return the next item; behind the last one None, or what the source raised.

        Waits for it that long, or for ever; raises queue.Empty where none has come.
        """
        item = self._ready.get(block=timeout_s is None or timeout_s > 0, timeout=timeout_s)
        self._places.put(None)
        return item

    def run(self) -> None:
        """Read until the end, an error, or until nobody takes the items any more."""
        try:
            for item in self._items:
                self._hand_over(item)
                if self.stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised again where the items are taken
            self._hand_over(error)
        else:
            self._hand_over(None)

    def _hand_over(self, item: _T | BaseException | None) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Empty):
                self._places.get(timeout=0.1)
                self._ready.put(item)
                return
