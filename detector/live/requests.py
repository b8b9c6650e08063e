"""What signals and other threads ask of the service; it is taken up between two turns of the engine."""

from __future__ import annotations

import os
import signal
from collections import deque
from types import FrameType, TracebackType
from typing import Any, Final, Self

from detector.sinks.sink import Record

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
        self.clips: deque[Record] = deque(maxlen=_CLIPS_BOUND)
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
