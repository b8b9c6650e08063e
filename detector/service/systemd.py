"""Notifications for systemd: ready, watchdog, reloading, stopping, and a line for ``systemctl status``.

The protocol is that of sd_notify(3): datagrams to the socket that the environment names. Without systemd
there is no socket, and nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from detector.system import printable

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
