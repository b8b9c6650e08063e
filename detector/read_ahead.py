"""Reading ahead: a source decodes in a thread of its own while the chunks before are being heard."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterable

from detector.messages import AudioChunk


def read_ahead(chunks: Iterable[AudioChunk], depth: int = 2) -> Generator[AudioChunk, None, None]:
    """Yield chunks that a thread of their own reads ahead, at most ``depth`` of them: decoding costs no waiting.

    What the source raises is raised here, behind the chunks before it. Close the iterator before
    the source.
    """
    reader = _Reader(chunks, depth)
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


class _Reader(threading.Thread):
    """Reads chunks into ``ready``: behind the last one None, or what the source raised."""

    def __init__(self, chunks: Iterable[AudioChunk], depth: int) -> None:
        super().__init__(name="read-ahead", daemon=True)
        self.ready: queue.Queue[AudioChunk | BaseException | None] = queue.Queue(depth)
        self.stopped = threading.Event()
        self._chunks = chunks

    def run(self) -> None:
        """Read until the end, an error, or until nobody takes the chunks any more."""
        try:
            for chunk in self._chunks:
                self._hand_over(chunk)
                if self.stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised again where the chunks are taken
            self._hand_over(error)
        else:
            self._hand_over(None)

    def _hand_over(self, item: AudioChunk | BaseException | None) -> None:
        while not self.stopped.is_set():
            with contextlib.suppress(queue.Full):
                self.ready.put(item, timeout=0.1)
                return
