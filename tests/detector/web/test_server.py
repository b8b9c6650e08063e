"""The page's server: bounds on connections and on the time of requests, with real sockets."""

from __future__ import annotations

import contextlib
import http.client
import os
import resource
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from detector import system
from detector.system import BoundedListener
from detector.web import app as app_module
from detector.web.app import WebServer
from tests.service import wait_until

HOST = "127.0.0.1"
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer with the length of the request's body; that of a request for /slow after two seconds."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] == "/slow":
        import asyncio

        await asyncio.sleep(2)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(str(size)))]})
    await send({"type": "http.response.body", "body": str(size).encode()})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(app_module, "_REQUEST_S", 1.0)
    found = WebServer(application, HOST, 0)
    yield found
    found.stop()


def connect(server: WebServer) -> socket.socket:
    sock = socket.create_connection(server.address, 30)
    sock.settimeout(30)
    return sock


def closed_after_s(sock: socket.socket, drip: bytes = b"") -> float:
    """Return when the server closed a connection, while bytes drip into it."""
    began, number = time.monotonic(), 0
    sock.settimeout(0.1)
    while time.monotonic() - began < 20:
        try:
            if drip:
                sock.sendall(drip[number % len(drip) : number % len(drip) + 1])
                number += 1
            if not sock.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    else:
        pytest.fail("the connection is still open")
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("first", "drip"),
    [
        (b"", b""),
        (b"", b"GET / HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n", b"a"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\na\r\n"),
        (REQUEST, b""),
        (REQUEST, b"GET / HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
    ],
    ids=["silent", "drips headers", "drips a body", "drips chunks", "idle", "idle, then drips"],
)
def test_a_connection_without_a_whole_request_is_closed_in_time(server: WebServer, first: bytes, drip: bytes) -> None:
    with connect(server) as sock:
        sock.sendall(first)
        assert 0.8 <= closed_after_s(sock, drip) < 5


def test_an_answer_may_take_longer_than_a_request(server: WebServer) -> None:
    with connect(server) as sock:
        sock.sendall(REQUEST.replace(b"/ ", b"/slow ") + REQUEST)  # the second one waits for the first
        answer = b""
        while answer.count(b"200 OK") < 2 or not answer.endswith(b"0"):
            data = sock.recv(65536)
            assert data, answer
            answer += data


def test_beyond_the_bound_the_longest_silence_is_closed_and_not_the_newcomer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app_module, "_MAX_CONNECTIONS", 10)
    server = WebServer(application, HOST, 0)
    with contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        answering = stack.enter_context(connect(server))
        answering.sendall(REQUEST.replace(b"/ ", b"/slow "))
        time.sleep(0.5)
        silent = [stack.enter_context(connect(server)) for _ in range(100)]
        for _ in range(3):
            assert httpx.get(f"http://{HOST}:{server.address[1]}/", timeout=20).text == "0"
        assert answering.recv(65536).startswith(b"HTTP/1.1 200")

        def is_open(sock: socket.socket) -> bool:
            sock.settimeout(0.01)
            try:
                return sock.recv(1) != b""
            except TimeoutError:
                return True
            except OSError:
                return False

        wait_until(lambda: sum(map(is_open, silent)) <= 10, "the end of the others")


def test_without_a_free_descriptor_connections_are_closed_and_none_is_left_waiting() -> None:
    with BoundedListener(socket.AF_INET, socket.SOCK_STREAM, bound=100) as listener, contextlib.ExitStack() as stack:
        listener.bind((HOST, 0))
        listener.listen()
        listener.setblocking(False)
        clients = [stack.enter_context(socket.create_connection(listener.getsockname(), 30)) for _ in range(20)]
        with no_descriptors():
            for _ in clients:
                with pytest.raises(BlockingIOError):
                    listener.accept()
        for client in clients:
            assert client.recv(1) == b""
        with socket.create_connection(listener.getsockname(), 30), listener.accept()[0]:
            pass


def test_a_listener_has_so_many_connections_open_and_no_more() -> None:
    with BoundedListener(socket.AF_INET, socket.SOCK_STREAM, bound=2) as listener, contextlib.ExitStack() as stack:
        listener.bind((HOST, 0))
        listener.listen()
        for _ in range(3):
            stack.enter_context(socket.create_connection(listener.getsockname(), 30))
        first, second = stack.enter_context(listener.accept()[0]), stack.enter_context(listener.accept()[0])
        with pytest.raises(BlockingIOError):
            listener.accept()
        first.close()
        stack.enter_context(socket.create_connection(listener.getsockname(), 30))
        assert stack.enter_context(listener.accept()[0]).fileno() != second.fileno()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """Leave this process no descriptor, as one with very many open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    taken: list[int] = []
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_few_descriptors_mean_few_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, bound in ((1024, 128), (200, 72), (100, 8)):
        monkeypatch.setattr("detector.system.resource.getrlimit", lambda _, limit=limit: (limit, limit))
        assert system.client_bound(128) == bound


def test_the_server_of_metrics_has_room_for_one_more() -> None:
    from tests.detector.sinks.test_prometheus import serving

    with serving() as sink, contextlib.ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(socket.create_connection((HOST, sink.port), 30))
        for _ in range(3):
            connection = http.client.HTTPConnection(HOST, sink.port, timeout=3)
            connection.request("GET", "/metrics")
            assert connection.getresponse().status == 200
            connection.close()
