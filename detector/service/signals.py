"""Signals: their requests are kept, and fulfilled between two turns of the loop."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType
from typing import Any, Final, Self

_END: Final = (signal.SIGINT, signal.SIGTERM)
_REQUESTS: Final = (signal.SIGHUP, signal.SIGUSR1)


def hold_requests() -> None:
    """Hold back SIGHUP and SIGUSR1, which would end a service that is still starting, until there is a handler."""
    if sys.argv[1:2] == ["run"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)


class SignalHandler:
    """Takes signals as requests, so that nothing is interrupted while locks are held or modules are imported.

    While entered, the first SIGINT or SIGTERM sets ``number``; the loop ends before its next turn, with the
    detector intact so that open events can be closed. A second one ends the process at once: by
    KeyboardInterrupt, or by ``os._exit`` for a service, whose threads may hang. A service also takes SIGHUP to
    reload the settings and SIGUSR1 to reopen files.
    """

    def __init__(self, *, exits: bool = False, reloads: bool = False) -> None:
        """Prepare. ``exits``: a second signal ends the process by ``os._exit``; ``reloads``: SIGHUP, SIGUSR1 too."""
        self.number: int | None = None
        """Number of the signal that asks for the end."""
        self.reload = False
        self.reopen = False
        self._exits = exits
        self._numbers = (*_END, *(_REQUESTS if reloads else ()))
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """128 and the signal's number; 0 where there was none."""
        return 0 if self.number is None else 128 + self.number

    def goes_on(self) -> bool:
        """Return whether no signal has asked for the end yet."""
        return self.number is None

    def __enter__(self) -> Self:
        """Install the handler, except for SIGINT and SIGTERM where the parent ignores them (shells, in background)."""
        for number in self._numbers:
            if number not in _END or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _REQUESTS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous handlers; requests to a service that is ending are ignored."""
        for number, handler in self._previous.items():
            is_request = number in _REQUESTS and handler is signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if is_request else handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload = True
        elif number == signal.SIGUSR1:
            self.reopen = True
        elif self.number is None:
            self.number = number
        elif self._exits:
            os._exit(128 + number)
        else:
            raise KeyboardInterrupt
