"""The web server: a thread with an event loop of its own, which the detector never waits for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from typing import Any, Final

import uvicorn

_STOP_S: Final = 0.5
_DEAF_MS: Final = 30_000
"""After so long without taking what is sent to it, a browser's connection is ended."""
_SEND_BYTES: Final = 65_536
_BACKLOG: Final = 64
_MOST_CONNECTIONS: Final = 200


class WebServer:
    """Serves an application at an address until ``stop``."""

    def __init__(self, application: Any, host: str, port: int) -> None:
        """Begin to serve; raises OSError where the address cannot be had."""
        # What clients do is no news of this service's; errors of ours are told by the sink's worker and by logging.
        logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
        self._socket = _listening(host, port)
        self.address: Final[tuple[str, int]] = self._socket.getsockname()[:2]
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            ws="none",
            http="h11",
            loop="asyncio",
            lifespan="on",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=0,
        )
        self._server = _Server(config)
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.end()
        self._thread.join(_STOP_S)
        with contextlib.suppress(OSError):
            self._socket.close()

    def _run(self) -> None:
        asyncio.run(self._server.serve([self._socket]))


class _Server(uvicorn.Server):
    """A server that sleeps until it is told to end, where uvicorn's own looks ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over = asyncio.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:
            await self._over.wait()

    def end(self) -> None:
        """Have it end; for other threads."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._over.set)


def _listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; an empty host is every address of this machine."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # Of all addresses, IPv6's takes connections over IPv4 as well.
    chosen = found[0] if host else min(found, key=lambda f: f[0] != socket.AF_INET6)
    family, kind, protocol, _, address = chosen
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Connections inherit both: what waits for a browser is bounded in the system, too.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAF_MS)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock
