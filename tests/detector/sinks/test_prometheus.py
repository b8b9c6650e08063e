"""Metrics for Prometheus: names, values, authentication, bounds of the server."""

from __future__ import annotations

import builtins
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as families

from detector.errors import ConfigError
from detector.records import HealthRecord, Histogram, ServiceState, State
from detector.sinks import metrics_server
from detector.sinks.base import RetryableError, SinkWorker
from detector.sinks.metrics_server import TokenCheck, weakness
from detector.sinks.prometheus import Metrics, MetricsSink
from tests.broker import wait_until
from tests.detector.sinks.live_records import STATION, clip, gap, health, offset, onset, status

HOST = "127.0.0.1"
TOKEN = "open sesame"  # noqa: S105 - of these tests
SOURCE = {"source": "mic"}
GUITAR = SOURCE | {"class": "guitar"}


@contextmanager
def serving(address: str = f"{HOST}:0", token: str | None = None, **settings: Any) -> Iterator[MetricsSink]:
    sink = MetricsSink(Metrics(address=address, **settings), (STATION,), token)
    sink.open()
    try:
        yield sink
    finally:
        sink.close()


def ask(port: int, path: str = "/metrics", method: str = "GET", host: str = HOST, **headers: str) -> Any:
    """Return status, headers and text of an answer."""
    connection = http.client.HTTPConnection(host, port, timeout=20)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def code_of(port: int, request: str) -> int:
    """Return the status of an answer once the server has closed the connection: before, it counts as a client."""
    with socket.create_connection((HOST, port), 30) as client:
        client.sendall(request.encode())
        with client.makefile("rb") as answer:
            return int(answer.read().split()[1])


def page(sink: MetricsSink) -> list[Metric]:
    code, _, text = ask(sink.port)
    assert code == 200
    return list(families(text))


def value(found: list[Metric], name: str, **labels: str) -> float | None:
    """Return a sample's value; None where there is none."""
    values = [s.value for f in found for s in f.samples if s.name == f"snn_detect_{name}" and s.labels == labels]
    assert len(values) <= 1
    return values[0] if values else None


def test_names_types_and_labels_are_those_of_the_contract() -> None:
    with serving(scores=True) as sink:
        sinks = {"mqtt": {"written": 1, "dropped": 0, "failed": 0, "working": True, "waiting": 0}}
        extra: dict[str, Any] = {
            "frames": 5,
            "scores": {"guitar": 0.5},
            "inference": Histogram((), (1,), 0.1),
        }
        for record in (onset(), offset(), gap(), status("silent"), clip(), health(sinks=sinks, **extra)):
            sink.write(record)
        found = {f.name: f for f in page(sink) if f.name.startswith("snn_detect")}
    described = {
        name: (f.type, tuple(dict.fromkeys(label for s in f.samples for label in s.labels)))
        for name, f in found.items()
    }
    assert described == {
        "snn_detect_build_info": ("gauge", ("model", "model_sha256", "version")),
        "snn_detect_events": ("counter", ("class", "source")),
        "snn_detect_event_active": ("gauge", ("class", "source")),
        "snn_detect_class_score": ("gauge", ("class", "source")),
        "snn_detect_audio_frames": ("counter", ("source",)),
        "snn_detect_audio_overruns": ("counter", ("source",)),
        "snn_detect_audio_lost_seconds": ("counter", ("source",)),
        "snn_detect_audio_reopens": ("counter", ("reason", "source")),
        "snn_detect_audio_level_dbfs": ("gauge", ("kind", "source")),
        "snn_detect_audio_clipped_samples": ("counter", ()),
        "snn_detect_audio_silent": ("gauge", ("source",)),
        "snn_detect_audio_last_frame_timestamp_seconds": ("gauge", ("source",)),
        "snn_detect_source_up": ("gauge", ("source",)),
        "snn_detect_inference_duration_seconds": ("histogram", ("le",)),
        "snn_detect_realtime_factor_ratio": ("gauge", ()),
        "snn_detect_state_resets": ("counter", ("reason",)),
        "snn_detect_detection_latency_seconds": ("histogram", ("le",)),
        "snn_detect_queue_depth_ratio": ("gauge", ()),
        "snn_detect_temperature_celsius": ("gauge", ()),
        "snn_detect_under_voltage": ("gauge", ()),
        "snn_detect_mqtt_connected": ("gauge", ()),
        "snn_detect_mqtt_reconnects": ("counter", ()),
        "snn_detect_mqtt_dropped_messages": ("counter", ()),
        "snn_detect_sink_working": ("gauge", ("sink",)),
        "snn_detect_sink_waiting_records": ("gauge", ("sink",)),
        "snn_detect_sink_written_records": ("counter", ("sink",)),
        "snn_detect_sink_dropped_records": ("counter", ("sink",)),
        "snn_detect_sink_failed_records": ("counter", ("sink",)),
        "snn_detect_audio_clock_drift_ratio": ("gauge", ("source",)),
        "snn_detect_clips_bytes": ("gauge", ()),
        "snn_detect_config_last_reload_successful": ("gauge", ()),
    }
    counters = {s.name for f in found.values() for s in f.samples if f.type == "counter"}
    assert all(name.endswith("_total") for name in counters)
    assert all(f.documentation.endswith(".") for f in found.values())


def test_the_process_is_there_too() -> None:
    with serving() as sink:
        names = {s.name for f in page(sink) for s in f.samples}
    assert {"process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"} <= names


def test_before_the_first_record() -> None:
    with serving() as sink:
        found = page(sink)
    assert value(found, "events_total", **GUITAR) == 0
    assert value(found, "event_active", **SOURCE, **{"class": "speech"}) == 0
    assert value(found, "source_up", **SOURCE) == 0
    assert value(found, "config_last_reload_successful") == 1
    build = {"version": "1.2.0", "model": "household-1.2.0", "model_sha256": "ab" * 32}
    assert value(found, "build_info", **build) == 1
    assert value(found, "audio_last_frame_timestamp_seconds", **SOURCE) is None


def test_events() -> None:
    with serving() as sink:
        for record in (onset(number=1), offset(number=1), onset(number=2)):
            sink.write(record)
        found = page(sink)
        assert value(found, "events_total", **GUITAR) == 2
        assert value(found, "event_active", **GUITAR) == 1
        assert value(found, "detection_latency_seconds_count") == 2
        assert value(found, "detection_latency_seconds_sum") == pytest.approx(0.48)
        assert value(found, "detection_latency_seconds_bucket", le="0.2") == 0
        assert value(found, "detection_latency_seconds_bucket", le="0.3") == 2
        assert value(found, "detection_latency_seconds_bucket", le="+Inf") == 2
        sink.write(offset(number=2))
        sink.write(onset(number=3, latency_s=0.3))
        sink.write(onset(number=4, latency_s=9.0))
        found = page(sink)
        assert value(found, "detection_latency_seconds_bucket", le="0.3") == 3
        assert value(found, "detection_latency_seconds_bucket", le="5.0") == 3
        assert value(found, "detection_latency_seconds_bucket", le="+Inf") == 4


def test_health() -> None:
    with serving() as sink:
        sink.write(health(queue_depth=0.25, silent=True))
        found = page(sink)
        expected = {
            "audio_overruns_total": 2,
            "audio_lost_seconds_total": 0.5,
            "audio_silent": 1,
            "source_up": 1,
        }
        assert {name: value(found, name, **SOURCE) for name in expected} == expected
        assert value(found, "audio_clipped_samples_total") == 7
        assert value(found, "realtime_factor_ratio") == 0.11
        assert value(found, "queue_depth_ratio") == 0.25
        assert value(found, "temperature_celsius") == 51.5
        assert value(found, "under_voltage") == 0
        assert value(found, "audio_reopens_total", reason="device", **SOURCE) == 1
        assert value(found, "audio_level_dbfs", kind="rms", **SOURCE) == -48.23
        assert value(found, "audio_level_dbfs", kind="peak", **SOURCE) == -31
        moment = datetime.fromisoformat("2026-11-23T18:05:00+01:00").timestamp()
        assert value(found, "audio_last_frame_timestamp_seconds", **SOURCE) == moment
        sink.write(health(time="2026-11-23T18:06:00+01:00"))  # nothing more was processed
        assert value(page(sink), "audio_last_frame_timestamp_seconds", **SOURCE) == moment
        sink.write(health(time="2026-11-23T18:07:00+01:00", heard_s=100.0))
        assert value(page(sink), "audio_last_frame_timestamp_seconds", **SOURCE) == moment + 120


def test_states_of_the_source_are_exposed_at_once() -> None:
    with serving() as sink:
        changes: tuple[tuple[State, bool, str, int], ...] = (
            ("waiting", False, "source_up", 1),
            ("waiting", True, "source_up", 0),
            ("silent", True, "audio_silent", 1),
            ("silent", False, "audio_silent", 0),
        )
        for state, active, name, expected in changes:
            sink.write(status(state, active=active))
            assert value(page(sink), name, **SOURCE) == expected
        sink.write(status("reloaded", active=False))
        assert value(page(sink), "config_last_reload_successful") == 0
        sink.write(status("reloaded"))
        assert value(page(sink), "config_last_reload_successful") == 1
        sink.write(health())
        sink.write(status("stopping"))
        assert value(page(sink), "source_up", **SOURCE) == 0


def test_resets_have_reasons() -> None:
    with serving() as sink:
        for record in (gap(), gap("device"), gap(), health(resets=5), health(resets=5), gap(), health(resets=6)):
            sink.write(record)
        found = page(sink)
    reasons = {reason: value(found, "state_resets_total", reason=reason) for reason in ("overrun", "device", "other")}
    assert reasons == {"overrun": 3, "device": 1, "other": 2}


def test_brokers_and_clips() -> None:
    counts = {"written": 5, "dropped": 1, "failed": 2, "working": True, "waiting": 0}
    more = counts | {"connected": 0, "reconnects": 4, "messages_dropped": 10}
    with serving() as sink:
        sink.write(health(sinks={"mqtt": counts, "file": counts | {"working": False}}))
        found = page(sink)
        assert value(found, "mqtt_connected") == 1
        assert value(found, "mqtt_dropped_messages_total") == 3
        sink.write(health(sinks={"mqtt": counts, "mqtt-2": more, "clips": counts | {"bytes": 500}}))
        found = page(sink)
        assert value(found, "mqtt_connected") == 0
        assert value(found, "mqtt_reconnects_total") == 4
        assert value(found, "mqtt_dropped_messages_total") == 16
        assert value(found, "clips_bytes") == 500
        sink.write(clip(size=70))
        assert value(page(sink), "clips_bytes") == 570


def test_each_sink_has_its_counts() -> None:
    counts = {"written": 5, "dropped": 1, "failed": 2, "working": False, "waiting": 3}
    with serving() as sink:
        sink.write(health(sinks={"webhook": counts, "webhook-2": counts | {"waiting": 7}}))
        found = page(sink)
        names = ("working", "waiting_records", "written_records_total", "dropped_records_total", "failed_records_total")
        assert [value(found, f"sink_{name}", sink="webhook") for name in names] == [0, 3, 5, 1, 2]
        assert value(found, "sink_waiting_records", sink="webhook-2") == 7
        sink.write(health(sinks={"webhook": counts}))  # the settings have changed
        assert value(page(sink), "sink_waiting_records", sink="webhook-2") is None


def test_a_client_gets_the_present_state() -> None:
    """The service shows its state when it is asked to, which may be long before the next health record."""
    with serving(scores=True) as sink:
        sink.show([state_of(health(queue_depth=0.25), scores={"guitar": 0.1})])
        assert not sink.wants_state
        asked = threading.Thread(target=lambda: found.extend(page(sink)))
        found: list[Metric] = []
        asked.start()
        wait_until(lambda: sink.wants_state, "the question")
        sink.show([state_of(health(queue_depth=0.5, frames=3000), scores={"guitar": 0.2})])
        asked.join()
        assert value(found, "queue_depth_ratio") == 0.5
        assert value(found, "audio_frames_total", **SOURCE) == 3000
        assert value(found, "class_score", **GUITAR) == 0.2
        assert value(page(sink), "queue_depth_ratio") == 0.5  # the service does not answer: the last state


def state_of(record: HealthRecord, **values: Any) -> ServiceState:
    assert record.time is not None
    return ServiceState(
        source="mic",
        time=record.time,
        clock_synced=True,
        device="mic",
        device_rate_hz=48000,
        paused=False,
        conditions=(),
        health=record.health,
        **values,
    )


def test_scores_are_exposed_where_the_settings_ask_for_them() -> None:
    for wanted in (True, False):
        with serving(scores=wanted) as sink:
            sink.write(health(scores={"guitar": 0.25}))
            assert value(page(sink), "class_score", **GUITAR) == (0.25 if wanted else None)


def test_inference_times() -> None:
    with serving() as sink:
        assert value(page(sink), "inference_duration_seconds_count") is None
        sink.write(health(inference=Histogram((0.001, 0.01), (1, 3, 4), 0.05)))
        found = page(sink)
    assert value(found, "inference_duration_seconds_count") == 4
    assert value(found, "inference_duration_seconds_sum") == 0.05
    assert value(found, "inference_duration_seconds_bucket", le="0.01") == 3


def test_labels_may_hold_anything() -> None:
    with serving(scores=True) as sink:
        sink.write(health(scores={'fl\u00fbte "x"\\\n': 0.5}))
        assert value(page(sink), "class_score", **SOURCE, **{"class": 'fl\u00fbte "x"\\\n'}) == 0.5


def test_openmetrics_is_served_where_it_is_accepted() -> None:
    with serving() as sink:
        for record in (onset(), health()):
            sink.write(record)
        _, headers, text = ask(sink.port, Accept="application/openmetrics-text; version=1.0.0")
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        found = list(open_families(text))  # type: ignore[no-untyped-call]
        assert value(found, "events_total", **GUITAR) == 1
        _, headers, _ = ask(sink.port)
        assert headers["Content-Type"].startswith("text/plain; version=")


def test_one_path_and_two_methods() -> None:
    with serving() as sink:
        assert ask(sink.port, "/metrics?x=y")[0] == 200
        for path in ("/", "/metrics/", "/metric", "/../metrics"):
            assert ask(sink.port, path)[0] == 404
        code, headers, text = ask(sink.port, method="HEAD")
        assert (code, text) == (200, "")
        assert int(headers["Content-Length"]) > 1000
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"):
            code, headers, _ = ask(sink.port, method=method)
            assert (code, headers["Allow"]) == (405, "GET, HEAD")
        assert ask(sink.port)[0] == 200


def test_the_answer_to_a_wrong_method_arrives_although_there_is_a_body() -> None:
    with serving() as sink:
        connection = http.client.HTTPConnection(HOST, sink.port, timeout=20)
        connection.request("POST", "/metrics", body=b"x" * 60_000)
        assert connection.getresponse().status == 405
        connection.close()


@pytest.mark.parametrize("length", ["9" * 6000, "-1", "0x10", "\xb2", ""])
def test_a_length_that_is_none_is_answered(length: str) -> None:
    with serving() as sink, socket.create_connection((HOST, sink.port), 30) as client:
        client.sendall(f"POST /metrics HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode("latin-1") + b"x" * 70000)
        assert client.recv(65536).startswith(b"HTTP/1.0 405")


def test_the_server_header_is_only_a_name() -> None:
    with serving() as sink:
        assert ask(sink.port)[1]["Server"] == "snn-detect"


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        ("Bearer", 401),
        ("Bearer \u00e4", 401),
        (None, 401),
    ],
)
def test_tokens(given: str | None, code: int) -> None:
    with serving(token=TOKEN) as sink:
        headers = {} if given is None else {"Authorization": given}
        found, answer, text = ask(sink.port, **headers)
        assert found == code
        if code == 401:
            assert answer["WWW-Authenticate"] == 'Bearer realm="snn-detect"'
            assert "snn_detect" not in text
            assert ask(sink.port, "/nothing", **headers)[0] == 401
            assert ask(sink.port, method="POST", **headers)[0] == 401


@pytest.mark.parametrize("address", ["0.0.0.0:0", ":0", "[::]:0", "192.0.2.1:9464", "example.org:9464"])
def test_beyond_loopback_a_token_is_needed(address: str) -> None:
    with pytest.raises(ConfigError, match=r"is open to others: set token_file, or use 127\.0\.0\.1"):
        MetricsSink(Metrics(address=address), (STATION,), None)
    MetricsSink(Metrics(address=address), (STATION,), TOKEN)


def test_with_a_token_other_machines_are_served() -> None:
    with serving("0.0.0.0:0", TOKEN) as sink:
        assert ask(sink.port)[0] == 401
        assert ask(sink.port, Authorization=f"Bearer {TOKEN}")[0] == 200


@pytest.mark.parametrize("host", ["localhost", "[::1]", "127.0.0.2"])
def test_loopback_has_many_names(host: str) -> None:
    try:
        with serving(f"{host}:0") as sink:
            assert ask(sink.port, host=host.strip("[]"))[0] == 200
    except RetryableError as error:
        if "Cannot assign" not in str(error):
            raise
        pytest.skip(str(error))  # a machine without IPv6


def test_a_name_that_only_looks_like_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    server = metrics_server.MetricsServer
    monkeypatch.setattr(metrics_server, "MetricsServer", lambda _host, *rest: server("", *rest))
    sink = MetricsSink(Metrics(address="localhost:0"), (STATION,), None)
    with pytest.raises(ConfigError, match="is not loopback here"):
        sink.open()
    assert sink.port == 0


def test_addresses_that_are_none() -> None:
    for address in ("127.0.0.1", "9464", "127.0.0.1:x", "::1:9464"):
        with pytest.raises(ConfigError):
            MetricsSink(Metrics(address=address), (STATION,), None)


def test_an_address_that_is_taken_is_waited_for() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        sink = MetricsSink(Metrics(address=f"{HOST}:{port}"), (STATION,), None)
        with pytest.raises(RetryableError, match=f"metrics cannot listen on {HOST}:{port}: Address already in use"):
            sink.open()
        sink.close()


def test_slow_clients_are_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_server, "_MAX_CONNECTION_S", 1.0)
    with serving() as sink, socket.create_connection((HOST, sink.port), 30) as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        wait_until(lambda: not talks(client), "the end of the connection")
        wait_until(lambda: not threads("metrics-client"), "the end of its thread")


def test_connections_are_bounded() -> None:
    with serving() as sink:
        idle = [socket.create_connection((HOST, sink.port), 30) for _ in range(30)]
        wait_until(lambda: len(threads("metrics-client")) == 8, "eight clients")
        time.sleep(0.5)
        assert len(threads("metrics-client")) == 8
        for client in idle:
            client.close()
        wait_until(lambda: not threads("metrics-client"), "their end")
        assert ask(sink.port)[0] == 200


def test_closing_ends_connections_and_threads() -> None:
    sink = MetricsSink(Metrics(address=f"{HOST}:0"), (STATION,), None)
    worker = SinkWorker("metrics", sink)
    wait_until(lambda: sink.port, "the server")
    port = sink.port
    worker.submit(onset())
    wait_until(lambda: value(page(sink), "events_total", **GUITAR) == 1, "the event")
    with socket.create_connection((HOST, port), 30) as idle:
        wait_until(lambda: threads("metrics-client"), "the client")
        worker.begin_close(5)
        assert worker.join()
        with contextlib.suppress(ConnectionResetError):  # it may never have been let in
            assert idle.recv(1) == b""
    wait_until(lambda: not threads("metrics"), "the end of the threads")
    with serving(f"{HOST}:{port}") as again:  # and the port is free at once
        assert ask(again.port)[0] == 200


def test_values_are_consistent_while_they_change() -> None:
    stop = threading.Event()
    with serving() as sink:

        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                sink.write(onset(number=number))
                sink.write(health(number, scores={str(number): 0.1}))

        writer = threading.Thread(target=write, daemon=True)
        writer.start()
        seen = [page(sink) for _ in range(20)]
        stop.set()
        writer.join()
    for found in seen:
        assert value(found, "events_total", **GUITAR) == value(found, "detection_latency_seconds_count")


def test_without_prometheus_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ModuleNotFoundError("No module named 'prometheus_client'", name="prometheus_client")
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install -e '.*\[metrics\]'"):
        MetricsSink(Metrics(), (STATION,), None)


def talks(client: socket.socket) -> bool:
    """Send one more header after a while, within its time; return whether the connection is still open."""
    time.sleep(0.2)
    try:
        client.sendall(b"X: y\r\n")
    except OSError:
        return False
    return True


def threads(prefix: str) -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(prefix)]


def test_wrong_tokens_are_slowed_down() -> None:
    with serving(token=TOKEN) as sink, ThreadPoolExecutor(8) as pool:
        given = [f"GET /metrics HTTP/1.0\r\nAuthorization: Bearer wrong-{number}\r\n\r\n" for number in range(24)]
        began = time.monotonic()
        codes = list(pool.map(lambda request: code_of(sink.port, request), given))
        assert set(codes) == {401, 429}
        assert codes.count(401) <= 6 + time.monotonic() - began


def test_addresses_of_one_network_count_together() -> None:
    check = TokenCheck(TOKEN)
    for number in range(5):
        assert not check.wait_s(f"2001:db8:1:2::{number}")
        assert not check.matches(b"wrong", f"2001:db8:1:2::{number}")
    assert check.wait_s("2001:db8:1:2::ffff")
    assert not check.wait_s("2001:db8:1:3::1")
    assert check.matches(TOKEN.encode(), "2001:db8:1:2::1")
    assert check.wait_s("2001:db8:1:2::ffff") == 0


def test_addresses_are_not_remembered_without_end() -> None:
    check = TokenCheck(TOKEN)
    for number in range(3000):
        assert check.wait_s(f"10.0.{number // 256}.{number % 256}") == 0
    assert len(check._attempts) == 1000


def test_attempts_at_the_same_time_are_no_more_than_one_after_another() -> None:
    check = TokenCheck(TOKEN)
    waits = [check.wait_s("192.0.2.1") for _ in range(24)]
    assert waits[:5] == [0.0] * 5
    assert 9 <= len([wait for wait in waits if wait is not None]) <= 10
    assert all(wait is None or 0 < wait < 5 for wait in waits[5:])


@pytest.mark.parametrize(
    ("token", "days"),
    [
        ("1234", "0.0058"),
        ("sesame", "1.8e+02"),
        ("open sesame", "1.7e+13"),
        ("a" * 16, None),
        ("Tr0ub4dor&3xyz99", None),
    ],
)
def test_a_short_token_is_weak(token: str, days: str | None) -> None:
    found = weakness(token)
    assert (found is None) == (days is None)
    assert days is None or f"find it in {days} days" in str(found)
