"""The page's API as clients use it: answers, authentication, bounds, and clients that misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
import soundfile
from hypothesis import HealthCheck, given, settings
from schemathesis.generation import GenerationMode

from detector.events_db import FIELDS
from detector.messages import Samples
from detector.web.app import Api
from detector.web.auth import HEADERS
from detector.web.events import Archive, Events
from detector.web.schema import Event
from detector.web.sink import Web
from tests.service import RATE, Child, service, wait_until
from tests.web_service import play_scene, scene, url_of, web_service

TOKEN = "correct horse battery staple"  # noqa: S105 - of these tests
Running = tuple[Child, httpx.Client]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Give the service after the scene, with its clips."""
    with web_service(tmp_path_factory.mktemp("web")) as (child, client):
        play_scene(child)
        wait_until(
            # A sound that goes on at the end has none.
            lambda: all(e["clip"] or e["reason"] is None for e in client.get("/api/events").json()["events"]),
            "the clips",
        )
        yield child, client


@pytest.fixture(scope="module")
def client(running: Running) -> httpx.Client:
    return running[1]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "token").write_text(f"{TOKEN}\n")
    (folder / "token").chmod(0o600)
    with web_service(folder, f'token_file = "{folder / "token"}"') as (_, client):
        yield client


def guitar(client: httpx.Client) -> dict[str, Any]:
    """Return the first guitar of the scene, from the API."""
    found: dict[str, Any] = client.get("/api/events", params={"label": "guitar"}).json()["events"][-1]
    return found


def sse(client: httpx.Client, **options: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the messages of the stream."""
    with client.stream("GET", "/api/stream", **options) as answer:
        assert answer.status_code == 200
        kind = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line[7:]
            elif line.startswith("data: "):
                yield kind, json.loads(line[6:])


def raw(client: httpx.Client, request: bytes) -> bytes:
    """Send bytes as they are, and return those of the answer."""
    with socket.create_connection((client.base_url.host, client.base_url.port), timeout=30) as sock:
        sock.sendall(request)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer


def test_events_are_those_of_the_records(running: Running) -> None:
    child, client = running
    onsets = {r["id"]: r for r in child.of("onset")}
    found = {e["id"]: e for e in client.get("/api/events").json()["events"]}
    assert found.keys() == onsets.keys()
    for offset in child.of("offset"):
        event, onset = found[offset["id"]], onsets[offset["id"]]
        assert (event["label"], event["onset_time"], event["offset_time"]) == (
            onset["label"],
            onset["time"],
            offset["time"],
        )
        assert (event["score"], event["peak"], event["duration_s"]) == (
            onset["score"],
            offset["peak"],
            offset["duration_s"],
        )
        assert client.get(f"/api/events/{event['id']}").json() == event


def test_events_are_chosen_by_label_category_time_and_number(client: httpx.Client) -> None:
    def ids(**params: Any) -> list[str]:
        return [e["id"] for e in client.get("/api/events", params=params).json()["events"]]

    everything = client.get("/api/events").json()["events"]
    assert everything == sorted(everything, key=lambda e: e["onset_time"], reverse=True)
    assert ids(label="guitar") == [e["id"] for e in everything if e["label"] == "guitar"] != []
    both = [e["id"] for e in everything if e["label"] in {"guitar", "speech"}]
    assert ids(label=["guitar", "speech"]) == both != ids(label="guitar")
    assert ids(category="people") == [e["id"] for e in everything if e["category"] == "people"] != []
    assert ids(limit=2) == [e["id"] for e in everything[:2]]
    middle = everything[2]
    assert ids(since=middle["onset_time"]) == [e["id"] for e in everything[:3]]
    assert ids(until=middle["onset_time"]) == [e["id"] for e in everything[3:]]
    assert ids(label="unicorn") == []


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("lable=guitar", "unknown parameter 'lable'"),
        ("limit=0", "from 1 to 5000"),
        ("limit=many", "from 1 to 5000"),
        (f"limit={'9' * 6000}", "limit is a number from 1 to 5000"),
        ("limit=%C2%B2", "limit is a number from 1 to 5000"),
        ("since=yesterday", "a time such as"),
        ("since=2026-11-23T18:04:05", "a time such as"),
        ("until=9999-12-31T23:59:59-23:59", "a time such as"),
        ("label=", "1 to 64 characters"),
    ],
)
def test_a_wrong_parameter_is_named(client: httpx.Client, query: str, reason: str) -> None:
    answer = client.get(f"/api/events?{query}")
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


def test_a_picture_and_a_clip_cover_the_event(client: httpx.Client) -> None:
    event = guitar(client)
    picture = client.get(event["picture"]).json()
    assert picture["origin"] == "memory"
    frames = sum(p["frames"] for p in picture["parts"])
    assert picture["parts"][0]["end_s"] <= event["onset_s"] - 2.5
    assert frames * 0.025 == pytest.approx(3 + event["duration_s"] + 1, abs=0.3)
    whole = client.get(event["clip"])
    assert whole.headers["content-type"] == "audio/flac"
    part = client.get(event["clip"], headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, whole.content[4:8])


def test_events_of_an_earlier_run_have_their_picture_from_their_clip(tmp_path: Path) -> None:
    with web_service(tmp_path) as (child, client):
        play_scene(child)
        wait_until(lambda: guitar(client)["clip"], "the clip")
        child.end_sound()
        assert child.wait() == 0
    with web_service(tmp_path) as (_, client):
        event = guitar(client)
        picture = client.get(event["picture"]).json()
        assert picture["origin"] == "clip"
        (part,) = picture["parts"]
        assert set(part["layers"]) == {x["name"] for x in client.get("/api/model").json()["layers"] if x["spikes"]}
        (tmp_path / "clips" / Path(client.get(event["clip"]).headers["content-disposition"].split('"')[1])).unlink()
        assert client.get(event["picture"]).status_code == client.get(event["clip"]).status_code == 404


def play_slowly(child: Child, sound: Samples) -> None:
    """Play sound at two to three times its pace: as fast as it is taken, more frames would come than may wait."""
    for at in range(0, len(sound), RATE // 10):
        child.play(sound[at : at + RATE // 10])
        time.sleep(0.04)


def test_the_stream_has_frames_states_and_records(running: Running) -> None:
    child, client = running
    first: float | None = None
    frames = 0
    kinds: set[str] = set()
    layers: set[str] = set()
    threading.Thread(target=play_slowly, args=(child, scene()), daemon=True).start()
    for kind, message in sse(client):
        kinds.add(kind)
        if kind == "frames":
            first = message["end_s"] if first is None else first
            # No frame is missing between batches.
            assert message["end_s"] == pytest.approx(first + 0.025 * frames, abs=1e-3)
            frames += message["frames"]
            layers = layers or set(message["layers"])  # frames from before the viewer joined have none
            assert set(message["layers"]) == layers
        if kinds == {"frames", "state", "record"} and frames > 200:
            break
    assert layers == {"conv1", "conv2", "conv3", "dense"}
    wait_until(lambda: client.get("/api/health").json()["viewers"] == 0, "the end of the stream")


def test_health_and_model(running: Running) -> None:
    child, client = running
    wait_until(lambda: client.get("/api/health").json()["sinks"]["stdout"]["written"] == len(child.lines), "the count")
    health = client.get("/api/health").json()
    assert health["device"] == "stdin"
    assert health["rss_bytes"] > 1e7
    assert health["operations"] is None  # there are no viewers
    model = client.get("/api/model").json()
    assert (model["node"], model["source"]) == ("test", "pipe")
    assert len(model["features"]["mel_hz"]) == 40


def test_the_api_is_as_it_is_described(client: httpx.Client) -> None:
    """Call each operation with valid and invalid parameters, and validate the answers by the description."""
    description = client.get("/api/openapi.json").json()
    event_id = guitar(client)["id"]
    stream = description["paths"].pop("/api/stream")
    assert set(stream["get"]["responses"]) == {"200", "400", "401", "404", "503"}
    schema = schemathesis.openapi.from_dict(description)
    tried: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]  # an Err would fail here
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode == GenerationMode.NEGATIVE and "parameters" not in description["paths"][operation.path]["get"]:
                continue  # there is nothing to get wrong

            @settings(max_examples=8, suppress_health_check=list(HealthCheck), derandomize=True)
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                answer = case.call_and_validate(base_url=str(client.base_url))
                tried.setdefault(case.operation.path, set()).add(answer.status_code)

            ask()
        if "{id}" in operation.path:  # of all ids there are, chance finds none that is known
            answer = operation.Case(path_parameters={"id": event_id}).call_and_validate(base_url=str(client.base_url))
            tried[operation.path].add(answer.status_code)
    assert tried.keys() == description["paths"].keys()
    assert all(200 in codes for codes in tried.values()), tried
    assert 400 in tried["/api/events"]
    assert 404 in tried["/api/events/{id}"]


def test_the_description_names_every_route_and_no_page_of_documentation_is_served(client: httpx.Client) -> None:
    api: Any = Api.__new__(Api)
    routes = {r.path for r in api.application(None, ()).routes}
    assert {r for r in routes if r.startswith("/api/")} == set(client.get("/api/openapi.json").json()["paths"])
    assert not {r for r in routes if "docs" in r or r in {"/openapi.json", "/redoc"}}


def test_the_web_framework_sends_no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    api: Any = Api.__new__(Api)
    settings = vars(api.application(None, ())).get("_telemetry")
    if settings is None:
        pytest.skip("this version of FastAPI has no telemetry")
    switches = {name: on for name, on in settings.items() if isinstance(on, bool)}
    assert {name for name, is_on in switches.items() if is_on} <= {"operation_spans"}  # spans are part of tracing
    assert {"auto_configure", "tracing", "metrics", "logs"} <= switches.keys()


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/events", "/api/health", "/nothing", "/api/events/x/clip"])
def test_every_answer_has_the_headers_for_security(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers
    assert {name: headers.get(name) for name in HEADERS} == HEADERS
    assert "unsafe" not in headers["content-security-policy"]
    assert "server" not in headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1", "localhost.evil"]
)
def test_another_host_name_is_refused(client: httpx.Client, host: str) -> None:
    answer = raw(client, f"GET /api/events HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 421")
    assert b"guitar" not in answer


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "127.0.0.1", "[::1]:80", "192.168.1.5:8765", socket.gethostname()]
)
def test_own_host_names_are_answered(client: httpx.Client, host: str) -> None:
    answer = raw(client, f"GET /api/events HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200")


def test_requests_from_other_sites_are_refused(client: httpx.Client) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/api/events", headers=foreign).status_code == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/../config.toml",
        "/..%2f..%2fconfig.toml",
        "/%2e%2e/app.py",
        "/static/../app.py",
        "//etc/passwd",
        "/app.py",
        "/index.html",
        "/api/events/..%2f..%2f..%2fetc%2fpasswd/clip",
        "/api/events/%00/picture",
    ],
)
def test_no_path_leads_out_of_the_page(client: httpx.Client, path: str) -> None:
    answer = raw(client, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 404"), answer


def test_methods_that_change_things_are_refused(client: httpx.Client) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = client.request(method, "/api/events")
        assert answer.status_code == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_without_the_token_only_the_login_page_is_served(guarded: httpx.Client) -> None:
    for path in ("/api/events", "/api/health", "/api/stream", "/api/openapi.json", "/main.js", "/?x=1#", "/nothing"):
        answer = guarded.get(path)
        assert answer.status_code in {401, 303}, path
        assert b"guitar" not in answer.content
    assert guarded.get("/").headers["location"] == "login"
    assert guarded.get("/login").status_code == 200
    assert guarded.get("/api/events", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("given_token", ["-", "wrong", TOKEN[:-1], f"{TOKEN}x", "\xff\xfe"])
def test_a_wrong_token_is_refused(guarded: httpx.Client, given_token: str) -> None:
    headers = [(b"Authorization", f"Bearer {given_token}".encode("latin-1"))]
    assert guarded.get("/api/events", headers=headers).status_code == 401
    answer = guarded.post("/login", data={"token": given_token})
    assert (answer.status_code, answer.headers["location"]) == (303, "login?wrong=1")
    assert "set-cookie" not in answer.headers
    forged = {"Cookie": f"snn_detect={TOKEN}"}
    assert guarded.get("/api/events", headers=forged).status_code == 401


@pytest.mark.parametrize("way", ["form", "address"])
def test_the_token_becomes_a_cookie(guarded: httpx.Client, way: str) -> None:
    answer = (
        guarded.post("/login", data={"token": TOKEN}) if way == "form" else guarded.get("/", params={"token": TOKEN})
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    cookie = answer.headers["set-cookie"]
    assert "secure" not in cookie.lower()
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    known = {"Cookie": cookie.partition(";")[0]}
    assert guarded.get("/", headers=known).status_code == 200
    assert guarded.get("/api/events", headers=known).status_code == 200
    assert guarded.get("/api/events", headers={"Cookie": f"{known['Cookie'][:-1]}0"}).status_code == 401
    guarded.cookies.clear()


@pytest.mark.parametrize(
    "headers",
    [{"X-Forwarded-Proto": "https"}, {"Forwarded": 'for=192.0.2.1;proto="https"'}, {"Forwarded": "Proto=HTTPS"}],
)
def test_behind_a_proxy_with_tls_the_cookie_is_for_tls_alone(guarded: httpx.Client, headers: dict[str, str]) -> None:
    cookie = guarded.post("/login", data={"token": TOKEN}, headers=headers).headers["set-cookie"]
    assert "Secure" in cookie
    assert "Path" not in cookie, "it is that of the page, below the proxy's path"
    guarded.cookies.clear()


def test_wrong_tokens_from_an_address_are_slowed_down_and_those_from_others_are_not(guarded: httpx.Client) -> None:
    with httpx.Client(base_url=guarded.base_url, timeout=60, limits=httpx.Limits(max_connections=30)) as clients:

        def attempt(address: str, given: str) -> int:
            headers = {"Authorization": f"Bearer {given}", "X-Forwarded-For": f"203.0.113.9, {address}"}
            return clients.get("/api/model", headers=headers).status_code

        assert {attempt("192.0.2.1", f"wrong-{number}") for number in range(5)} == {401}
        with ThreadPoolExecutor(30) as pool:
            began = time.monotonic()
            codes = list(pool.map(lambda number: attempt("192.0.2.1", f"other-{number}"), range(30)))
            elapsed_s = time.monotonic() - began
        assert set(codes) == {401, 429}
        assert codes.count(401) <= 2 + elapsed_s
        assert attempt("192.0.2.2", TOKEN) == 200
        time.sleep(5)
        assert attempt("192.0.2.1", TOKEN) == 200
        assert attempt("192.0.2.1", "wrong") == 401


def test_a_login_is_bounded(guarded: httpx.Client) -> None:
    assert guarded.post("/login", content=b"token=" + b"x" * 10_000).status_code == 413


@pytest.mark.parametrize("length", ["9" * 6000, "9" * 25, "-1", "0x10", "\xb2"])
def test_a_length_that_is_none_ends_the_connection_and_nothing_else(running: Running, length: str) -> None:
    child, client = running
    before = len(child.errors)
    head = f"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
    answer = raw(client, head.encode("latin-1"))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert client.get("/api/health").status_code == 200
    assert child.errors[before:] == []


def read_frames(client: httpx.Client, frames: int, counts: list[int], at: int) -> None:
    with contextlib.suppress(AssertionError, httpx.HTTPError):
        for kind, message in sse(client):
            counts[at] += message["frames"] if kind == "frames" else 0
            if counts[at] >= frames:
                return


def test_fifty_viewers_receive_all_and_one_beyond_the_bound_is_refused(running: Running) -> None:
    child, client = running
    counts = [0] * 50
    url = str(client.base_url)
    limits = httpx.Limits(max_connections=100)
    with httpx.Client(base_url=url, timeout=60, limits=limits) as many:
        threads = [threading.Thread(target=read_frames, args=(many, 100, counts, i)) for i in range(50)]
        for thread in threads:
            thread.start()
        wait_until(lambda: client.get("/api/health").json()["viewers"] == 50, "fifty viewers")
        silent = [socket.create_connection((client.base_url.host, client.base_url.port)) for _ in range(14)]
        for sock in silent:
            sock.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: client.get("/api/health").json()["viewers"] == 64, "the largest number of viewers")
        assert client.get("/api/stream").status_code == 503
        child.play(scene())
        for thread in threads:
            thread.join(120)
        for sock in silent:
            sock.close()
    assert min(counts) >= 100
    wait_until(lambda: client.get("/api/health").json()["viewers"] == 0, "the end of the streams")


def test_a_viewer_that_stops_reading_does_not_delay_others(running: Running) -> None:
    child, client = running
    with socket.socket() as stalled:
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect((client.base_url.host, client.base_url.port))
        stalled.sendall(b"GET /api/stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: client.get("/api/health").json()["viewers"] == 1, "the viewer")
        before = len(child.of("offset"))
        until = time.monotonic() + 200
        while client.get("/api/health").json()["dropped_messages"] == 0:  # buffers of the system fill first
            assert time.monotonic() < until, "nothing was dropped"
            child.play(np.tile(scene(), 3))
            wait_until(lambda: client.get("/api/health").json()["queue_depth"] == 0, "the sound's end")
        counts = [0]
        child.play(scene())
        read_frames(client, 60, counts, 0)
        assert counts[0] >= 60
        assert len(child.of("offset")) > before
    wait_until(lambda: client.get("/api/health").json()["viewers"] == 0, "the end of the stream")


def test_the_command_without_a_configuration_makes_a_token_for_other_machines(tmp_path: Path) -> None:
    environment = {"STATE_DIRECTORY": str(tmp_path / "state")}
    with Child("--device", "-", "--web", "0.0.0.0:0", environment=environment) as child:
        port = url_of(child).rpartition(":")[2]
        token = (tmp_path / "state" / "web.token").read_text().strip()
        assert (tmp_path / "state" / "web.token").stat().st_mode & 0o777 == 0o600
        assert not any(token in line for line in child.errors)
        url = f"http://127.0.0.1:{port}/api/model"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_a_token_may_hold_any_letters(tmp_path: Path) -> None:
    token = "öffne dich, Sesam → 犬"  # noqa: S105 - of this test
    (tmp_path / "token").write_text(f"{token}\n")
    (tmp_path / "token").chmod(0o600)
    with web_service(tmp_path, f'token_file = "{tmp_path / "token"}"') as (_, client):
        assert client.get("/api/model", headers=[(b"Authorization", f"Bearer {token}".encode())]).status_code == 200
        assert client.post("/login", data={"token": token}).headers["location"] == "./"


def test_a_short_token_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("1234\n")
    (tmp_path / "token").chmod(0o600)
    with web_service(tmp_path, f'token_file = "{tmp_path / "token"}"') as (child, _):
        (line,) = [e for e in child.errors if "the token has 4 characters, at least 16 are advised" in e]
        assert "find it in 0.0058 days" in line
        assert "1234" not in line


def test_pages_of_other_origins_may_frame_it_where_the_settings_say_so(tmp_path: Path) -> None:
    origins = 'frame_ancestors = ["https://home.example:8123", "http://*.lan"]'
    with web_service(tmp_path, origins) as (_, client):
        headers = client.get("/").headers
    assert "x-frame-options" not in headers
    assert "frame-ancestors https://home.example:8123 http://*.lan" in headers["content-security-policy"]
    expected = {k: v for k, v in HEADERS.items() if k not in {"X-Frame-Options", "Content-Security-Policy"}}
    assert {name: headers.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    "origin", ["*", "home.example", "https://a;script-src *", "https://a b", "https://a/path", "'self'"]
)
def test_an_origin_that_is_none_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="frame_ancestors"):
        Web(frame_ancestors=(origin,))


def event(**values: Any) -> Event:
    everything: dict[str, Any] = dict.fromkeys((*FIELDS, "picture")) | values
    return Event(**everything)


def test_a_clip_elsewhere_is_not_served(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    secret = tmp_path / "secret.flac"
    soundfile.write(secret, np.zeros(100), 16000)
    (folder / "link.flac").symlink_to(secret)
    (folder / "own.flac").write_bytes(secret.read_bytes())
    events = Events(Archive(None, folder))
    for name in (str(secret), "../secret.flac", str(folder / ".." / "secret.flac"), "link.flac", "/etc/passwd", ""):
        assert events.clip(event(clip=name)) is None, name
    assert events.clip(event(clip="/elsewhere/own.flac")) == folder / "own.flac"
    assert events.clip(event(clip=None)) is None
    assert Events(Archive(None, None)).clip(event(clip="own.flac")) is None
    assert events.get(str(uuid.uuid4())) is None


def exposed(client: httpx.Client) -> str:
    return client.get("/metrics").text


def test_metrics_with_the_address_of_the_page_are_served_by_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "token").chmod(0o600)
    web = f'token_file = "{tmp_path / "token"}"\n[metrics]\naddress = "127.0.0.1:0"\nscores = true'
    with web_service(tmp_path, web) as (child, client):
        child.play(scene())
        child.wait_for_records(lambda rs: any(r["type"] == "onset" for r in rs), "an onset")
        assert client.get("/metrics").status_code == 401
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        label = child.of("onset")[0]["label"]
        wait_until(
            lambda: re.search(rf'snn_detect_events_total{{class="{label}",source="pipe"}} [1-9]', exposed(client)),
            "the count",
        )
        assert client.get("/api/health").json()["heard_s"] > 5  # long before the second health record
        text = client.get("/metrics").text
        (frames,) = re.findall(r'^snn_detect_audio_frames_total{source="pipe"} (\S+)$', text, re.MULTILINE)
        assert float(frames) > 200
        assert 'snn_detect_sink_waiting_records{sink="database"} 0.0' in text
        assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=")
        accepts = {"Accept": "application/openmetrics-text; version=1.0.0"}
        assert client.get("/metrics", headers=accepts).text.endswith("# EOF\n")
        assert set(client.post("/metrics").headers["allow"].split(", ")) == {"GET", "HEAD"}
        assert not any("metrics" in line for line in child.errors)


def test_the_page_and_its_metrics_have_one_token(tmp_path: Path) -> None:
    for name in ("web", "metrics"):
        (tmp_path / name).write_text(f"{name}\n")
        (tmp_path / name).chmod(0o600)
    config = tmp_path / "config.toml"
    config.write_text(f"""
        audio.device = "-"
        web = {{ address = "127.0.0.1:0", token_file = "{tmp_path / "web"}" }}
        metrics = {{ address = "127.0.0.1:0", token_file = "{tmp_path / "metrics"}" }}
    """)
    with service(config) as child:
        assert child.wait() == 2
        assert "metrics.token_file: the page at 127.0.0.1:0 serves the metrics, too" in child.errors[-1]
