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
        while (item := reader.ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        reader.stopped.set()
        # Not for ever: a read from a pipe may never come back. The thread ends with the process.
        reader.join(timeout=1.0)


class Reader(threading.Thread, Generic[_T]):
    """Reads items into ``ready``, at most ``depth`` of them: behind the last one None, or what the source raised."""

    def __init__(self, items: Iterable[_T], depth: int) -> None:
        """Wait for ``start``; set ``stopped`` to have it end."""
        super().__init__(name="read-ahead", daemon=True)
        self.ready: queue.Queue[_T | BaseException | None] = queue.Queue(depth)
        self.stopped = threading.Event()
        self._items = items

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
            with contextlib.suppress(queue.Full):
                self.ready.put(item, timeout=0.1)
                return
