"""What systemd is told of the service: ready, alive, reloading, stopping, and a line for ``systemctl status``.

The protocol is that of sd_notify(3): datagrams to the socket that the environment names. Started by
something else, there is no socket, and nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

_log = logging.getLogger(__name__)
_PATIENCE_S: Final = 1.0
"""For what must arrive; a status or a sign of life is soon followed by another."""


class Notifier:
    """Tells systemd. No method raises: trouble is logged once. ``status`` and ``watchdog`` never wait."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Take the socket and the watchdog's period from the environment."""
        self._address = environment.get("NOTIFY_SOCKET") or None
        self._troubled = False
        self._status = ""
        self._period_s = _watchdog_s(environment) if self._address else None
        self._fed_at: float | None = None

    @property
    def watchdog_s(self) -> float | None:
        """Seconds without ``watchdog()`` after which systemd ends the service; None where it does not watch."""
        return self._period_s

    def ready(self) -> None:
        """Say that the start, or a reload, is complete."""
        self._send("READY=1", _PATIENCE_S)

    def status(self, text: str) -> None:
        """Say in one line how the service is; the same line is sent once."""
        line = " ".join(text.split())
        if line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def reloading(self) -> None:
        """Say that the settings are being read anew; ``ready`` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}", _PATIENCE_S)

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._send("STOPPING=1", _PATIENCE_S)

    def extend_timeout(self, seconds: float) -> None:
        """Ask for that much more time, from now, to start, reload or stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1e6)}", _PATIENCE_S)

    def watchdog(self) -> None:
        """Say that all is well; call it whenever sound has been worked off. It sends twice a period at most."""
        if self._period_s is None:
            return
        now = time.monotonic()
        due = self._fed_at is None or now - self._fed_at >= self._period_s / 2
        if due and self._send("WATCHDOG=1"):
            self._fed_at = now

    def _send(self, message: str, patience_s: float = 0.0) -> bool:
        """Send a datagram, waiting that long while systemd's queue is full; True where it went out."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(patience_s)
                sender.sendto(message.encode(errors="replace"), _name(self._address))
        except OSError as error:
            if not self._troubled:
                _log.warning("systemd cannot be told how the service is (NOTIFY_SOCKET=%s): %s", self._address, error)
            self._troubled = True
            return False
        self._troubled = False
        return True


def _name(address: str) -> str:
    """Return the socket's name as the kernel wants it; raises OSError for kinds other than Unix sockets."""
    if not address.startswith(("/", "@")):
        raise OSError("not the name of a Unix socket")
    return f"\0{address[1:]}" if address.startswith("@") else address


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's period; None where there is none, or it watches another process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        period_us = int(environment.get("WATCHDOG_USEC", "0"))
    except ValueError:
        _log.warning("WATCHDOG_USEC=%s is no number; the watchdog is not fed", environment["WATCHDOG_USEC"])
        return None
    return period_us / 1e6 if period_us > 0 else None
