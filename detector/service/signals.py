"""What signals and other threads ask of the service; it is taken up between two turns of the engine."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

if TYPE_CHECKING:
    from detector.sinks.base import SavedClip

_T = TypeVar("_T")
_CLIPS_BOUND: Final = 100


class Requests:
    """Wishes that wait to be granted; any thread and any handler of signals may leave one.

    While entered, SIGINT and SIGTERM ask for the end, SIGHUP for the settings to be read anew, and
    SIGUSR1 for files to be opened anew. A second SIGINT or SIGTERM ends the process at once.
    """

    def __init__(self, *, is_service: bool) -> None:
        """Wait for ``with``; only a service knows SIGHUP and SIGUSR1."""
        self.stop: int | None = None
        """Number of the signal that asks for the end."""
        self.reload = False
        self.reopen = False
        self.listening = True
        """Whether anybody wants sound to be listened to."""
        self.clips: deque[SavedClip] = deque(maxlen=_CLIPS_BOUND)
        """Fields of records about clips that have been written."""
        self._numbers = (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP, signal.SIGUSR1) if is_service else ()))
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals over, but for an end that the parent had ignored (as shells do in the background)."""
        for number in self._numbers:
            is_end = number in (signal.SIGINT, signal.SIGTERM)
            if not is_end or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def set_listening(self, wanted: bool) -> None:
        """Ask for sound to be listened to, or not to be."""
        self.listening = wanted

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload = True
        elif number == signal.SIGUSR1:
            self.reopen = True
        elif self.stop is None:
            self.stop = number
        else:
            os._exit(128 + number)


class Stopped(BaseException):
    """A signal asks for the end while nothing was being computed."""


class StopOnSignal:
    """While entered, SIGINT and SIGTERM end the work between two chunks, never within one.

    The first signal is noted. Stopped is raised by ``look``, which the work calls between its turns, or at once
    inside ``waiting``, which is for what may wait for ever, as a pipe does; so the detector is whole and can close
    its open events. Inside ``waiting`` Stopped comes at any instruction: nothing there may hold a lock that threads
    share, start a thread, or import a module. A second SIGINT or SIGTERM ends at once.
    """

    def __init__(self) -> None:
        """Wait for ``with``."""
        self.number: int | None = None
        self._waiting = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """128 and the signal's number; 0 where there was none."""
        return 0 if self.number is None else 128 + self.number

    def __enter__(self) -> Self:
        """Take the two signals over, but for one that the parent had ignored (as nohup does)."""
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raise Stopped where a signal has come."""
        if self.number is not None:
            raise Stopped

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Enter around what may block; raises Stopped where a signal has come or comes."""
        self._waiting = True
        try:
            self.check()
            yield
        finally:
            self._waiting = False

    def between(self, items: Iterable[_T]) -> Generator[_T, None, None]:
        """Yield the items; raises Stopped instead of the next one after a signal."""
        iterator = iter(items)
        while True:
            with self.waiting():
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number
        if self._waiting:
            raise Stopped
