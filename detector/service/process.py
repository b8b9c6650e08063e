"""The process towards those that manage it: signals, and the notifications of systemd."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from types import FrameType, TracebackType
from typing import Any, Final, Self

from detector.system import printable

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


_log = logging.getLogger(__name__)
_PATIENCE_S: Final = 1.0
"""Timeout for what must arrive; a status or watchdog message is soon followed by another."""


class Notifier:
    """Notifies systemd. No method raises: errors are logged once. ``status`` and ``watchdog`` never block."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Take the socket and the watchdog's period from the environment."""
        self._address = environment.get("NOTIFY_SOCKET") or None
        self._troubled = False
        self._status = ""
        self._period_s = _watchdog_s(environment) if self._address else None
        self._fed_at: float | None = None

    @property
    def watchdog_s(self) -> float | None:
        """Seconds without ``watchdog()`` after which systemd ends the service; None where there is no watchdog."""
        return self._period_s

    def ready(self) -> None:
        """Notify that the start, or a reload, is complete."""
        self._send("READY=1", _PATIENCE_S)

    def status(self, text: str) -> None:
        """Send the state of the service as one line, unless it is the same as before."""
        line = printable(" ".join(text.split()).encode(errors="replace").decode())
        if line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def reloading(self) -> None:
        """Notify that the settings are being reloaded; ``ready`` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}", _PATIENCE_S)

    def stopping(self) -> None:
        """Notify that the service is stopping."""
        self._send("STOPPING=1", _PATIENCE_S)

    def watchdog(self) -> None:
        """Feed the watchdog, whenever sound has been processed; sent at most twice a period."""
        if self._period_s is None:
            return
        now = time.monotonic()
        due = self._fed_at is None or now - self._fed_at >= self._period_s / 2
        if due and self._send("WATCHDOG=1"):
            self._fed_at = now

    def _send(self, message: str, patience_s: float = 0.0) -> bool:
        """Send a datagram, blocking at most so long while systemd's queue is full; return whether it was sent."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(patience_s)
                sender.sendto(message.encode(errors="replace"), _name(self._address))
        except OSError as error:
            if not self._troubled:
                _log.warning("systemd cannot be notified (NOTIFY_SOCKET=%s): %s", self._address, error)
            self._troubled = True
            return False
        self._troubled = False
        return True


def _name(address: str) -> str:
    """Return the address as the kernel expects it; raises OSError for anything but a Unix socket."""
    if not address.startswith(("/", "@")):
        raise OSError("not the name of a Unix socket")
    return f"\0{address[1:]}" if address.startswith("@") else address


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's period; None where there is none, or it is for another process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        period_us = int(environment.get("WATCHDOG_USEC", "0"))
    except ValueError:
        _log.warning("WATCHDOG_USEC=%s is not a number; the watchdog is not fed", environment["WATCHDOG_USEC"])
        return None
    return period_us / 1e6 if period_us > 0 else None
