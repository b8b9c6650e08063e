"""Records by HTTP, to real servers: good ones, busy ones, wrong ones, and one that never answers."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from detector.errors import ConfigError, DetectorError
from detector.records import as_dict
from detector.sinks import base as worker_module
from detector.sinks.base import RetryableError, SinkWorker
from detector.sinks.webhook import Webhook, WebhookSink
from tests.certificates import Authority, Pair
from tests.detector.sinks.live_records import gap, offset, onset
from tests.service import wait_until


@dataclass
class Answer:
    """What a server says."""

    code: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class Server:
    """A server that keeps what it is sent."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    """The next ones; behind the last, all is well."""
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(body) for body in self.bodies]


def _handler(get: Callable[[], Server]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            server = get()
            server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            server.headers.append({k.lower(): v for k, v in self.headers.items()})
            answer = server.answers.pop(0) if server.answers else Answer()
            self.send_response(answer.code)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def do_GET(self) -> None:
            server = get()
            server.bodies.append(b"a redirect was followed")
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextmanager
def serving(pair: Pair | None = None) -> Iterator[Server]:
    """Run a server; with a certificate and its key, by HTTPS."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(lambda: found)) as http:
        if pair is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair.certificate, pair.key)
            http.socket = context.wrap_socket(http.socket, server_side=True)
        found = Server(f"http{'s' if pair else ''}://127.0.0.1:{http.server_address[1]}/hook?key=secret")
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield found
        finally:
            http.shutdown()
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


def sink_for(url: str, token: str | None = None, **settings: Any) -> WebhookSink:
    return WebhookSink(Webhook(url=url, **settings), token)


def test_each_record_is_posted_as_json(server: Server) -> None:
    sink = sink_for(server.url, types=("onset", "gap"), labels=("guitar",))
    assert (sink.types, sink.labels) == (frozenset({"onset", "gap"}), frozenset({"guitar"}))
    for record in (onset(), gap()):
        sink.write(record)
    assert server.records == [as_dict(onset()), as_dict(gap())]
    for headers in server.headers:
        assert headers["content-type"] == "application/json"
        assert headers["user-agent"] == "snn-detect"
        assert "authorization" not in headers


def test_tries_of_one_record_have_one_key_and_others_have_others(server: Server) -> None:
    sink = sink_for(server.url)
    server.answers = [Answer(503)]
    with pytest.raises(RetryableError):
        sink.write(onset())
    for record in (onset(), offset(), onset(number=2), gap(), gap("queue"), gap()):
        sink.write(record)
    keys = [headers["idempotency-key"] for headers in server.headers]
    assert keys[:4] == ["id-1-onset", "id-1-onset", "id-1-offset", "id-2-onset"]
    assert keys[4] == keys[6] != keys[5]


def test_the_token_is_sent(server: Server) -> None:
    sink_for(server.url, "the-token").write(onset())
    assert server.headers[0]["authorization"] == "Bearer the-token"


@pytest.mark.parametrize("code", [201, 202, 204])
def test_what_means_that_it_has_arrived(server: Server, code: int) -> None:
    server.answers = [Answer(code)]
    sink_for(server.url).write(onset())


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503, 504])
def test_what_means_later(server: Server, code: int) -> None:
    sink, name = sink_for(server.url), rf"^127.0.0.1:\d+: answers {code}"
    server.answers = [Answer(code, body=b"x" * 100_000)]
    with pytest.raises(RetryableError, match=name) as caught:
        sink.write(onset())
    assert "secret" not in str(caught.value)
    sink.write(onset())
    assert len(server.records) == 2


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 413, 422])
def test_what_means_never(server: Server, code: int) -> None:
    server.answers = [Answer(code)]
    with pytest.raises(DetectorError, match=f"answers {code}.*; check url and token_file"):
        sink_for(server.url).write(onset())
    assert len(server.records) == 1


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(server: Server, code: int) -> None:
    server.answers = [Answer(code, {"Location": server.url.replace("127.0.0.1", "localhost")})]
    with pytest.raises(DetectorError, match=f"answers {code}.*to localhost; redirects are not followed"):
        sink_for(server.url, "the-token").write(onset())
    assert len(server.bodies) == 1


def test_tries_are_bounded(server: Server) -> None:
    sink, record = sink_for(server.url, max_attempts=3), onset()
    server.answers = [Answer(503)] * 4
    for _ in range(2):
        with pytest.raises(RetryableError):
            sink.write(record)
    with pytest.raises(DetectorError, match="answers 503 Service Unavailable; given up after 3 attempts"):
        sink.write(record)
    with pytest.raises(RetryableError):  # the next record has its own tries
        sink.write(onset(number=2))
    sink.write(onset(number=3))


@pytest.mark.parametrize("how", ["seconds", "date"])
def test_a_server_that_asks_for_a_pause_gets_it(server: Server, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    later = "20" if how == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=21), usegmt=True)
    server.answers = [Answer(429, {"Retry-After": later})]
    sink, record = sink_for(server.url, max_attempts=2), onset()
    for moment in (1000.0, 1010.0, 1018.0):
        now = moment
        with pytest.raises(RetryableError, match="answers 429"):
            sink.write(record)
    assert len(server.records) == 1  # and tries that were not made are not counted
    now = 1022.0
    sink.write(record)
    assert len(server.records) == 2


@pytest.mark.parametrize("later", ["86400", "Fri, 01 Jan 2100 00:00:00 GMT"])
def test_but_not_for_ever(server: Server, monkeypatch: pytest.MonkeyPatch, later: str) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    server.answers = [Answer(503, {"Retry-After": later})]
    sink, record = sink_for(server.url), onset()
    with pytest.raises(RetryableError):
        sink.write(record)
    now += 301
    sink.write(record)
    assert len(server.records) == 2


@pytest.mark.parametrize(
    "later",
    [
        *("soon", "-5", "", "Thu, 01 Jan 1970 00:00:00 GMT", "9" * 5000 + "x"),
        *("Mon, 01 Jan 0001 00:00:00 +2359", "Mon, 01 Jan 2024 00:00:00 +9999", "Mon, 99 Foo 2024 25:61:61 GMT"),
    ],
)
def test_pauses_that_are_none(server: Server, later: str) -> None:
    server.answers = [Answer(503, {"Retry-After": later})]
    sink, record = sink_for(server.url), onset()
    with pytest.raises(RetryableError):
        sink.write(record)
    sink.write(record)


@pytest.mark.parametrize("location", ["http://[::1", "//[", "", "\x1b[31m", "http://h:port/"])
def test_a_redirect_to_no_address_is_named_all_the_same(server: Server, location: str) -> None:
    server.answers = [Answer(302, {"Location": location})]
    with pytest.raises(DetectorError, match="redirects are not followed"):
        sink_for(server.url).write(onset())


@contextmanager
def dripping(first: bytes, rest: bytes) -> Iterator[str]:
    """Answer with ``first`` at once, and then a byte of ``rest`` every 50 ms for ever."""

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            connection.sendall(first)
            for number in itertools.count():
                connection.sendall(rest[number % len(rest) :][:1])
                time.sleep(0.05)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=answer, args=listening.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("first", "rest"),
    [
        (b"", b"HTTP/1.1 200 OK" + b" " * 1000),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["status", "headers", "continue"],
)
def test_an_answer_that_drips_has_a_deadline(first: bytes, rest: bytes) -> None:
    with dripping(first, rest) as url:
        sink, began = sink_for(url, timeout_s=0.5), time.monotonic()
        with pytest.raises(RetryableError, match="gives no answer in time"):
            sink.write(onset())
        assert 0.4 < time.monotonic() - began < 20


def test_a_body_that_drips_has_a_deadline_and_the_record_has_arrived() -> None:
    with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x") as url:
        sink, began = sink_for(url, timeout_s=0.5), time.monotonic()
        sink.write(onset())
        assert 0.4 < time.monotonic() - began < 20


def test_records_that_a_dripping_server_makes_wait_are_not_lost_in_silence(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_PAUSE_S", (0.01, 0.05))
    with dripping(b"", b"H") as url:
        worker = SinkWorker("webhook", sink_for(url, timeout_s=0.2, max_attempts=1), bound=10)
        for number in range(26):
            worker.submit(onset(number=number))
        wait_until(lambda: worker.counts.failed, "the first one that is given up")
        worker.begin_close(0.5)
        assert worker.join()
        counts = worker.counts
        assert counts.dropped + counts.failed == 26
        # One that is still being posted when the time is over is reported as dropped, whatever becomes of it.
        reported = sum(int(n) for n in re.findall(r"webhook: (\d+) records? w", caplog.text))
        assert reported in {counts.dropped, counts.dropped + 1}
        assert "gives no answer in time; given up after 1 attempts" in caplog.text


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def test_no_server_listens() -> None:
    with pytest.raises(RetryableError, match=r"cannot be reached \(connection refused\)"):
        sink_for(f"http://127.0.0.1:{free_port()}/").write(onset())


def test_no_such_host() -> None:
    with pytest.raises(RetryableError, match=r"^no.such.host.invalid: cannot be reached"):
        sink_for("http://no.such.host.invalid/").write(onset())


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Give the port of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield int(listening.getsockname()[1])


def test_a_server_that_hangs(silent_port: int) -> None:
    with pytest.raises(RetryableError, match="gives no answer in time"):
        sink_for(f"http://127.0.0.1:{silent_port}/", timeout_s=0.2).write(onset())


def test_a_server_that_hangs_blocks_no_other(silent_port: int, server: Server) -> None:
    hung = SinkWorker("hung", sink_for(f"http://127.0.0.1:{silent_port}/", timeout_s=60))
    good = SinkWorker("good", sink_for(server.url))
    for number in range(5):
        for worker in (hung, good):
            worker.submit(onset(number=number))
    wait_until(lambda: len(server.records) == 5, "all records at the good one")
    hung.begin_close(0.2)
    good.begin_close(20)
    assert not hung.join()
    assert good.join()


@pytest.mark.parametrize("words", [b"220 mail.example.org ESMTP\r\n", b"", b"HTTP/1.1 200", b"\x00" * 100])
def test_a_server_of_another_kind(words: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                # The whole of it: a socket closed over unread bytes resets, and takes what it said back.
                request = connection.recv(65536)
                while not request.endswith(b"}\n"):
                    request += connection.recv(65536)
                connection.sendall(words)

        thread = threading.Thread(target=answer)
        thread.start()
        sink = sink_for(f"http://127.0.0.1:{listening.getsockname()[1]}/", timeout_s=10)
        if words.startswith(b"HTTP"):
            sink.write(onset())  # what it said was enough
        else:
            with pytest.raises(RetryableError, match=r"cannot be reached|no answer"):
                sink.write(onset())
        thread.join()


def test_an_outage_loses_nothing_within_the_bounds(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_PAUSE_S", (0.01, 0.05))
    server.answers = [Answer(503)] * 20
    worker = SinkWorker("webhook", sink_for(server.url, max_attempts=100))
    for number in range(30):
        worker.submit(onset(number=number))
    wait_until(lambda: worker.counts.written == 30, "all records")
    worker.begin_close(20)
    assert worker.join()
    arrived = list(dict.fromkeys(record["id"] for record in server.records))
    assert arrived == [f"id-{number}" for number in range(30)]


@pytest.mark.parametrize(
    "url", ["http://user:secret@example.org/", "http://example.org:port/", "http:///path", "http://[::1/"]
)
def test_urls_that_cannot_be(url: str) -> None:
    with pytest.raises(ConfigError, match="webhook url") as caught:
        sink_for(url)
    assert "secret" not in str(caught.value)


def test_https_and_whom_it_trusts(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with serving(authority.issue("server")) as server:
        sink_for(server.url, "the-token", ca_file=authority.certificate).write(onset())
        assert server.records == [as_dict(onset())]
        with pytest.raises(RetryableError, match="its certificate is not trusted"):
            sink_for(server.url, "the-token").write(onset())
    with serving(authority.issue("another", "DNS:example.org")) as server:
        with pytest.raises(RetryableError, match="its certificate is not trusted"):
            sink_for(server.url, "the-token", ca_file=authority.certificate).write(onset())
        assert server.records == []


def test_certificates_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"text.pem: holds no certificates"):
        sink_for("https://example.org/", ca_file=tmp_path / "text.pem")
    with pytest.raises(ConfigError, match=r"none.pem: cannot be read \(no such file or directory\)"):
        sink_for("https://example.org/", ca_file=tmp_path / "none.pem")


@pytest.mark.parametrize(
    "url", ["http://h/\xe4", "http://m\xfcnchen.example/", "http://a..b/", f"http://{'a' * 300}/", "http://h/\x1b[2J"]
)
def test_an_address_that_cannot_be_asked_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^webhook url: ") as error:
        sink_for(url)
    assert str(error.value).isprintable()


def test_a_token_may_hold_any_letters(server: Server) -> None:
    sink_for(server.url, "öffne dich, Sesam → 犬").write(onset())
    assert server.headers[0]["authorization"].encode("latin-1").decode() == "Bearer öffne dich, Sesam → 犬"
