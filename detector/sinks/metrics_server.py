"""The HTTP server of metrics that have an address of their own, and the check of tokens, which the page uses, too."""

from __future__ import annotations

import contextlib
import hmac
import io
import ipaddress
import logging
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from detector.system import BoundedListener

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

_log = logging.getLogger(__name__)
_PATH: Final = "/metrics"
_MAX_CLIENTS: Final = 8
"""Beyond it, the connection is closed that has lasted longest."""
_MAX_CONNECTION_S: Final = 10.0
"""After this a connection is closed, however little has been received."""
_POLL_S: Final = 0.5
_MAX_BODY: Final = 65536
_MIN_TOKEN: Final = 16
_GUESSES_PER_S: Final = 10
_DAY_S: Final = 86400.0
_FREE_ATTEMPTS: Final = 5
"""Tokens of an address, none of them right, after which it has to wait."""
_ATTEMPT_S: Final = 1.0
_MAX_WAITING: Final = 4
"""Attempts of one address that may wait; others are refused without a look at their token."""
_MAX_ADDRESSES: Final = 1000

Exposition = Callable[[str], tuple[bytes, str]]
"""Takes the Accept header of a client and returns the metrics and their content type."""


class TokenCheck:
    """Compares tokens that clients give; from an address that gave wrong ones, it takes one a second."""

    def __init__(self, token: str) -> None:
        """Take the right token."""
        self._token = token.encode()
        self._lock = threading.Lock()
        self._attempts: OrderedDict[str, tuple[int, float]] = OrderedDict()
        """Number of tokens an address has given since its last right one, and when it may give the next."""

    def wait_s(self, address: str) -> float | None:
        """Return how long to wait before the next token of an address is looked at; None: too many wait for that.

        The attempt counts from here on: of many at the same time, no more are free than of one after another.
        """
        now = time.monotonic()
        network = _network(address)
        with self._lock:
            count, next_s = self._attempts.pop(network, (0, 0.0))
            wait_s = 0.0 if count < _FREE_ATTEMPTS else max(0.0, next_s - now)
            if wait_s > _MAX_WAITING * _ATTEMPT_S:
                self._attempts[network] = count, next_s
                return None
            self._attempts[network] = count + 1, max(now, next_s if wait_s else now) + _ATTEMPT_S
            while len(self._attempts) > _MAX_ADDRESSES:
                self._attempts.popitem(last=False)
            return wait_s

    def matches(self, given: bytes, address: str) -> bool:
        """Return whether a token is right; one that is ends the waiting of its address."""
        is_right = hmac.compare_digest(given, self._token)
        if is_right:
            with self._lock:
                self._attempts.pop(_network(address), None)
        return is_right


def _network(address: str) -> str:
    """Return what stands for one client: an address, of IPv6 its network of 64 bits."""
    try:
        number = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is None:
        return str(ipaddress.IPv6Network((int(number) >> 64 << 64, 64)))
    return str(getattr(number, "ipv4_mapped", None) or number)


def weakness(token: str) -> str | None:
    """Return why a token is too short, with the time in which it is found by guesses; None where it is not."""
    if len(token) >= _MIN_TOKEN:
        return None
    kinds = ((str.isdigit, 10), (str.islower, 26), (str.isupper, 26), (lambda c: not c.isalnum(), 33))
    letters = sum(count for holds, count in kinds if any(map(holds, token)))
    days = max(letters, 10) ** len(token) / 2 / _GUESSES_PER_S / _DAY_S
    return (
        f"the token has {len(token)} characters, at least {_MIN_TOKEN} are advised: {_GUESSES_PER_S} guesses a second, "
        f"from as many addresses, find it in {days:.2g} days; openssl rand -hex 16 makes a new one"
    )


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves ``/metrics`` to a few clients at a time, each of them for a few seconds at most."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, host: str, port: int, token: str | None, exposition: Exposition) -> None:
        """Listen on an address; raises OSError. With a token, other requests are refused."""
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._token, self._exposition = None if token is None else TokenCheck(token), exposition
        self._open: dict[Any, float] = {}
        self._lock = threading.Lock()
        super().__init__((host, port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = BoundedListener(self.address_family, socket.SOCK_STREAM, bound=2 * _MAX_CLIENTS)
        try:
            self.server_bind()
            self.server_activate()
            self.set_app(self._answer)
            self._thread = threading.Thread(target=self.serve_forever, args=(_POLL_S,), name="metrics", daemon=True)
            self._thread.start()
        except BaseException:
            self.server_close()
            raise

    def stop(self) -> None:
        """Stop listening and close all connections."""
        self.shutdown()
        self.server_close()
        self._close_older_than(0.0)
        self._thread.join(_POLL_S)

    def server_bind(self) -> None:
        """Bind without the look-up of the machine's name in the base class, which can take long."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "snn-detect", int(self.server_address[1])
        self.setup_environ()

    def verify_request(self, _request: Any, _client_address: Any) -> bool:
        """Take a connection; beyond the largest number, close the one that has lasted longest."""
        with self._lock:
            surplus = sorted(self._open, key=self._open.__getitem__)[: max(0, len(self._open) + 1 - _MAX_CLIENTS)]
        for request in surplus:
            _end(request)
        return True

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a new thread."""
        with self._lock:
            self._open[request] = time.monotonic()
        arguments = (request, client_address)
        threading.Thread(target=self.process_request_thread, args=arguments, name="metrics-client", daemon=True).start()

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that last too long."""
        self._close_older_than(_MAX_CONNECTION_S)

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Log what a client did wrong for those who debug."""
        _log.debug("%s: connection failed", client_address[0], exc_info=True)

    def _close_older_than(self, age_s: float) -> None:
        before = time.monotonic() - age_s
        with self._lock:
            old = [request for request, since in self._open.items() if since <= before]
        for request in old:
            _end(request)

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """Answer a request: the WSGI application."""
        code, headers = self._check(environ)
        if code is HTTPStatus.OK:
            body, content_type = self._exposition(environ.get("HTTP_ACCEPT", ""))
        else:
            body, content_type = f"{code.value} {code.phrase}\n".encode(), "text/plain; charset=utf-8"
            # Closed with unread data, the connection would be reset before the answer arrives.
            environ["wsgi.input"].read(_body_bytes(environ.get("CONTENT_LENGTH") or ""))
        headers |= {"Content-Type": content_type, "Content-Length": str(len(body)), "Server": "snn-detect"}
        start_response(f"{code.value} {code.phrase}", list(headers.items()))
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    def _check(self, environ: WSGIEnvironment) -> tuple[HTTPStatus, dict[str, str]]:
        """Return the status of the answer to a request, and headers that go with it."""
        is_authenticated = self._authenticate(environ.get("HTTP_AUTHORIZATION", ""), environ["REMOTE_ADDR"])
        if is_authenticated is None:
            return HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": "60"}
        if not is_authenticated:
            return HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": 'Bearer realm="snn-detect"'}
        if environ["PATH_INFO"] != _PATH:
            return HTTPStatus.NOT_FOUND, {}
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            return HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD"}
        return HTTPStatus.OK, {}

    def _authenticate(self, authorization: str, address: str) -> bool | None:
        """Return whether a request has the token; None where too many wrong ones came from its address."""
        if self._token is None:
            return True
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return False
        wait_s = self._token.wait_s(address)
        if wait_s is None:
            return None
        time.sleep(wait_s)
        return self._token.matches(token.strip().encode("latin-1", "replace"), address)


def _body_bytes(length: str) -> int:
    """Return how much of a body to read, by its Content-Length, which may be of any length itself."""
    if not (length.isascii() and length.isdigit()):
        return 0
    return _MAX_BODY if len(length) > len(str(_MAX_BODY)) else min(int(length), _MAX_BODY)


def _end(request: Any) -> None:
    """End a connection; its thread wakes up and closes it."""
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(WSGIRequestHandler):
    timeout = _MAX_CONNECTION_S / 2

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class calls it so
        """Log a request for those who debug."""
        _log.debug(format, *args)

    def get_stderr(self) -> io.StringIO:
        """Return where wsgiref writes tracebacks, which are not for users."""
        return io.StringIO()
