"""Reading ahead: a source decodes in a thread of its own while the chunks before are being heard."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Final, Generic, TypeVar

from detector.messages import AudioChunk

_T = TypeVar("_T")
_LOOK_S: Final = 0.1
"""How long what ``look`` would raise may have to wait while no chunk comes."""


def read_ahead(
    chunks: Iterable[AudioChunk], look: Callable[[], None], depth: int = 2
) -> Generator[AudioChunk, None, None]:
    """Yield chunks that a thread of their own reads ahead, at most ``depth`` of them: decoding costs no waiting.

    What the source raises is raised here, behind the chunks before it. ``look`` is called before each
    chunk, and every so often while none comes; what it raises is the end. Close the iterator before the source.
    """
    reader = Reader(chunks, depth)
    reader.start()
    try:
        while True:
            look()
            try:
                item = reader.take(_LOOK_S)
            except queue.Empty:
                continue
            if item is None:
                return
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
        self._ready: queue.Queue[_T | BaseException | None] = queue.Queue(depth)
        self.stopped = threading.Event()
        self._items, self._depth = items, depth

    @property
    def filled(self) -> float:
        """Share of the places that is taken, 0 to 1."""
        return self._ready.qsize() / self._depth

    def take(self, timeout_s: float) -> _T | BaseException | None:
        """Return the next item; behind the last one None, or what the source raised.

        Waits for it that long at most; raises queue.Empty where none has come.
        """
        return self._ready.get(block=timeout_s > 0, timeout=timeout_s)

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
                self._ready.put(item, timeout=0.1)
                return
