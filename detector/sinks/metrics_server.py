"""A small HTTP server for one page: figures for Prometheus."""

from __future__ import annotations

import contextlib
import hmac
import logging
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any, Final

_log = logging.getLogger(__name__)
_PATH: Final = "/metrics"
_MOST_AT_ONCE: Final = 8
_LONGEST_S: Final = 10.0
"""After this a connection is closed, however little it has said by then."""
_POLL_S: Final = 0.5
_MOST_READ: Final = 65536

Page = Callable[[str], tuple[bytes, str]]
"""Takes what the client accepts, returns the page and its content type."""


class MetricsServer(ThreadingHTTPServer):
    """Serves ``/metrics`` to a few clients at a time, none of which can keep it busy for long."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, host: str, port: int, token: str | None, page: Page) -> None:
        """Listen on an address; raises OSError. With a token, only those who know it get the page."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.token, self.page = token, page
        self._open: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler)
        self._thread = threading.Thread(target=self._serve, name="metrics", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def stop(self) -> None:
        """Stop listening and close what is open."""
        self.shutdown()
        self.server_close()
        self._close_since(before=None)
        self._thread.join(_POLL_S)

    def server_bind(self) -> None:
        """Bind without asking a name server for the own name, which can take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "snn-detect", self.port

    def verify_request(self, _request: Any, _client_address: Any) -> bool:
        """Refuse a connection that would be one too many."""
        with self._lock:
            return len(self._open) < _MOST_AT_ONCE

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own."""
        with self._lock:
            self._open[request] = time.monotonic()
        arguments = (request, client_address)
        threading.Thread(target=self.process_request_thread, args=arguments, name="metrics-client", daemon=True).start()

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection and close it."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that last too long."""
        self._close_since(before=time.monotonic() - _LONGEST_S)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Leave clients that went away to themselves."""
        _log.debug("%s: connection failed", client_address[0], exc_info=True)

    def _serve(self) -> None:
        self.serve_forever(_POLL_S)

    def _close_since(self, before: float | None) -> None:
        with self._lock:
            late = [request for request, since in self._open.items() if before is None or since < before]
        for request in late:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)  # its thread wakes, and closes it


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer
    timeout = _LONGEST_S / 2

    def do_GET(self) -> None:
        """Answer with the page."""
        if not self._is_known():
            self._refuse(HTTPStatus.UNAUTHORIZED, "WWW-Authenticate", 'Bearer realm="snn-detect"')
        elif self.path.partition("?")[0] != _PATH:
            self._refuse(HTTPStatus.NOT_FOUND)
        elif self.command not in ("GET", "HEAD"):
            self._refuse(HTTPStatus.METHOD_NOT_ALLOWED, "Allow", "GET, HEAD")
        else:
            body, content_type = self.server.page(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, body, ("Content-Type", content_type))

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = do_GET  # noqa: N815

    def version_string(self) -> str:
        """Tell no more than a name."""
        return "snn-detect"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Keep quiet: a scrape every few seconds is no news."""
        _log.debug(format, *args)

    def _is_known(self) -> bool:
        if self.server.token is None:
            return True
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        given = token.strip().encode("latin-1", "replace")
        return hmac.compare_digest(given, self.server.token.encode()) and scheme.lower() == "bearer"

    def _refuse(self, code: HTTPStatus, *header: str) -> None:
        length = self.headers.get("Content-Length", "0")
        if length.isdigit():  # closed with something unread, the connection would take the answer with it
            self.rfile.read(min(int(length), _MOST_READ))
        headers = [("Content-Type", "text/plain; charset=utf-8")] + ([(header[0], header[1])] if header else [])
        self._answer(code, f"{code.value} {code.phrase}\n".encode(), *headers)

    def _answer(self, code: HTTPStatus, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(code)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
