"""The MQTT sink at a real broker: what subscribers see, through absence, restarts, stalls and death."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from detector.manifest import SENSITIVITIES, Sensitivity
from detector.sinks import mqtt, mqtt_client
from detector.sinks.base import NodeInfo, SensitivityControl, SinkWorker
from detector.sinks.mqtt import Mqtt, MqttSink
from tests.broker import DEADLINE_S, HOST, Broker, Relay, Watcher, retained, wait_until
from tests.detector.sinks.live_records import STATION, at_work, health, offset, onset, status
from tests.service import service

BASE = "snn-detect/pi4"
GUITAR = f"{BASE}/mic/guitar/state"
EVENT = f"{BASE}/mic/event"
CONFIG = "homeassistant/device/snn_detect_pi4/config"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon: the pauses themselves have a test of their own."""
    monkeypatch.setattr(mqtt_client, "_PAUSE_S", (0.1, 0.4))


def running(
    port: int, node_info: NodeInfo = STATION, on_listening: Any = None, sensitivity: Any = None, **settings: Any
) -> AbstractContextManager[tuple[SinkWorker, MqttSink]]:
    return at_work(MqttSink(Mqtt(host=HOST, port=port, **settings), (node_info,), None, on_listening, sensitivity))


def connected(sink: MqttSink) -> bool:
    return bool(sink.stats["connected"])


def numbers(watcher: Watcher) -> list[int]:
    """Return the numbers of the events that have come, in order."""
    return [int(json.loads(p)["event_id"].removeprefix("id-")) for p in watcher.payloads(EVENT)]


def first_times(values: list[int]) -> list[int]:
    """Leave out what was seen before: QoS 1 may deliver twice."""
    return list(dict.fromkeys(values))


def test_the_start_is_announced_in_order(broker: Broker) -> None:
    with Watcher(broker.port) as watcher, running(broker.port, on_listening=lambda _: None):
        watcher.wait_for(f"{BASE}/mic/speech/state", "OFF")
        assert [m.topic for m in watcher.messages] == [
            f"{BASE}/node/get",
            f"{BASE}/status",
            f"{BASE}/node",
            CONFIG,
            f"{BASE}/mic/status",
            f"{BASE}/listening/state",
            f"{BASE}/mic/problem/state",
            GUITAR,
            f"{BASE}/mic/speech/state",
        ]
        assert all(m.qos == 1 for m in watcher.messages)


def test_a_fresh_subscriber_is_given_what_is_true_now_and_no_events(broker: Broker) -> None:
    with Watcher(broker.port) as watcher, running(broker.port) as (worker, _):
        watcher.wait_for(GUITAR, "OFF")
        for record in (status("listening"), health(), onset("speech", 1), offset("speech", 1), onset("guitar", 2)):
            worker.submit(record)
        wait_until(lambda: numbers(watcher) == [1, 2], "two events")
        watcher.wait_for(GUITAR, "ON")
        found = retained(broker.port)
    assert set(found) == {
        CONFIG,
        f"{BASE}/status",
        f"{BASE}/node",
        f"{BASE}/health",
        f"{BASE}/mic/status",
        f"{BASE}/mic/problem/state",
        GUITAR,
        f"{BASE}/mic/guitar/attributes",
        f"{BASE}/mic/speech/state",
        f"{BASE}/mic/speech/attributes",
    }
    assert (found[f"{BASE}/status"], found[f"{BASE}/mic/status"], found[GUITAR]) == ("online", "online", "ON")
    assert json.loads(found[f"{BASE}/mic/speech/attributes"])["duration_s"] == 3.42
    assert watcher.payloads(f"{BASE}/mic/level") == ['{"rms_dbfs":-48.2,"peak_dbfs":-31.0,"clipped":7}']
    qos = {m.topic.removeprefix(f"{BASE}/"): m.qos for m in watcher.messages}
    assert (qos["health"], qos["mic/level"], qos["mic/event"], qos["mic/guitar/state"]) == (0, 0, 1, 1)


def test_a_clean_end_says_off_and_offline_and_leaves_no_will(broker: Broker) -> None:
    with Watcher(broker.port) as watcher:
        with running(broker.port) as (worker, _):
            watcher.wait_for(GUITAR, "OFF")
            worker.submit(status("listening"))
            worker.submit(onset())
            watcher.wait_for(GUITAR, "ON")
        watcher.wait_for(f"{BASE}/status", "offline")
        last = [(m.topic, m.payload) for m in watcher.messages][-4:]
    assert last == [
        (GUITAR, "OFF"),
        (f"{BASE}/mic/speech/state", "OFF"),
        (f"{BASE}/mic/status", "offline"),
        (f"{BASE}/status", "offline"),
    ]
    wait_until(lambda: "Received DISCONNECT from snn-detect-pi4" in broker.log, "the clean leave in the broker's log")


def test_the_last_will_speaks_for_the_dead(broker: Broker) -> None:
    program = (
        "import sys, time\n"
        "from detector.sinks.mqtt import Mqtt\n"
        "from detector.sinks.mqtt import MqttSink\n"
        "from detector.sinks.base import SinkWorker\n"
        "from tests.detector.sinks.live_records import STATION, onset\n"
        "sink = MqttSink(Mqtt(host='127.0.0.1', port=int(sys.argv[1])), (STATION,), None)\n"
        "SinkWorker('mqtt', sink).submit(onset())\n"
        "time.sleep(300)\n"
    )
    with Watcher(broker.port) as watcher:
        child = subprocess.Popen([sys.executable, "-c", program, str(broker.port)], cwd=ROOT)
        watcher.wait_for(GUITAR, "ON")
        assert watcher.last(f"{BASE}/status") == "online"
        child.send_signal(signal.SIGKILL)
        child.wait()
        watcher.wait_for(f"{BASE}/status", "offline")
        assert retained(broker.port)[f"{BASE}/status"] == "offline"
        with running(broker.port):  # and the next start takes back what was left on
            watcher.wait_for(f"{BASE}/status", "online")
            watcher.wait_for(GUITAR, "OFF")


def test_a_broker_that_comes_late_misses_nothing_within_the_bound(tmp_path: Path) -> None:
    broker = Broker(tmp_path)
    relay = Relay(broker.port)
    with running(relay.port, queue=100) as (worker, sink):
        for number in range(150):
            worker.submit(onset(number=number))
            worker.submit(offset(number=number))
        wait_until(lambda: worker.counts.waiting == 0, "the worker's work")
        assert sink.stats == {
            "connected": 0,
            "reconnects": 0,
            "messages_dropped": 350,
            "messages_waiting": 100,
        }
        with broker, Watcher(broker.port) as watcher, relay:
            wait_until(lambda: 149 in numbers(watcher), "the last event")
            watcher.wait_for(GUITAR, "OFF")
            # Each sound is three lasting messages: at the onset particulars and event, at the offset particulars.
            assert numbers(watcher) == list(range(117, 150))
            assert watcher.payloads(GUITAR) == ["OFF"]
            wait_until(lambda: sink.stats["messages_waiting"] == 0, "the last acknowledgement")


def test_a_restart_under_load_loses_nothing_and_keeps_the_order(broker: Broker) -> None:
    with Relay(broker.port) as relay, Watcher(broker.port, qos=0) as watcher, running(relay.port) as (worker, sink):
        watcher.wait_for(GUITAR, "OFF")
        with load(worker) as sent:
            for _ in range(2):
                seen = len(sent)
                wait_until(lambda: numbers(watcher)[-1:] > [seen], "events")  # noqa: B023 - called at once
                broker.kill()
                relay.close()
                gone = len(sent)
                wait_until(lambda: len(sent) > gone + 50, "load while the broker is away")  # noqa: B023
                broker.start()
                watcher.ready()  # only then may the sink reconnect: without a subscriber, messages are lost
                relay.open()
                wait_until(lambda: connected(sink), "the connection")
        worker.submit(onset("speech", len(sent)))
        wait_until(lambda: numbers(watcher)[-1:] == [len(sent)], "the last event")
        watcher.wait_for(f"{BASE}/mic/speech/state", "ON")
        assert first_times(numbers(watcher)) == list(range(len(sent) + 1))
        assert sink.stats["messages_dropped"] == 0
        assert sink.stats["reconnects"] >= 2
        kept = retained(broker.port)
        assert (kept[GUITAR], kept[f"{BASE}/mic/speech/state"]) == ("OFF", "ON")
        assert kept[f"{BASE}/status"] == "online"
        assert CONFIG in kept


@contextmanager
def load(worker: SinkWorker) -> Iterator[list[int]]:
    """Have many sounds all the time; give the list of their numbers."""
    stop = threading.Event()
    sent: list[int] = []

    def submit() -> None:
        while not stop.wait(0.01):
            worker.submit(onset(number=len(sent)))
            worker.submit(offset(number=len(sent)))
            sent.append(len(sent))

    thread = threading.Thread(target=submit, name="load", daemon=True)
    thread.start()
    try:
        yield sent
    finally:
        stop.set()
        thread.join()


def test_a_state_that_is_resent_does_not_outlive_a_later_one(broker: Broker) -> None:
    """The broker dies with an ON unacknowledged, and the sound ends while it is away: OFF has to come last."""
    with Relay(broker.port) as relay, Watcher(broker.port) as watcher, running(relay.port) as (worker, sink):
        watcher.wait_for(GUITAR, "OFF")
        with broker.frozen():
            worker.submit(onset())
            wait_until(lambda: worker.counts.waiting == 0 and sink.stats["messages_waiting"], "the message on its way")
            relay.close()
            wait_until(lambda: not connected(sink), "the end of the connection")
            worker.submit(offset())
            wait_until(lambda: worker.counts.waiting == 0, "the offset")
        seen = len(watcher.messages)
        relay.open()
        wait_until(lambda: connected(sink) and not sink.stats["messages_waiting"], "all acknowledgements")
        assert retained(broker.port)[GUITAR] == "OFF"
        assert [m.payload for m in watcher.messages[seen:] if m.topic == GUITAR][-1] == "OFF"
        assert set(numbers(watcher)) == {1}


def test_a_broker_that_hangs_stops_nothing_else(broker: Broker) -> None:
    with Watcher(broker.port) as watcher, running(broker.port, queue=50) as (worker, sink):
        watcher.wait_for(GUITAR, "OFF")
        with broker.frozen():
            for number in range(500):
                worker.submit(onset(number=number))
            wait_until(lambda: worker.counts.waiting == 0, "the worker's work")
            assert sink.stats["messages_waiting"] <= 50 + 20 + 500
        wait_until(lambda: numbers(watcher)[-1:] == [499], "the last event")
        assert numbers(watcher) == sorted(numbers(watcher))
        watcher.wait_for(GUITAR, "ON")


def test_a_broker_that_hangs_for_long_is_given_up_and_found_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt, "_KEEPALIVE_S", 1)
    with Watcher(broker.port) as watcher, running(broker.port) as (worker, sink):
        watcher.wait_for(GUITAR, "OFF")
        with broker.frozen():
            wait_until(lambda: not worker.counts.working, "the trouble")
            worker.submit(onset())
        watcher.wait_for(GUITAR, "ON")
        assert set(numbers(watcher)) == {1}
        wait_until(lambda: connected(sink) and worker.counts.working, "the connection")


def test_the_end_does_not_wait_for_a_broker_that_hangs(broker: Broker) -> None:
    with Watcher(broker.port) as watcher:
        sink = MqttSink(Mqtt(host=HOST, port=broker.port), (STATION,), None)
        sink.open()
        wait_until(lambda: connected(sink), "the connection")
        with broker.frozen():
            sink.write(onset())
            sink.close()
        watcher.wait_for(f"{BASE}/status", "offline")  # by the will


def test_home_assistants_start_is_answered(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "randbelow", lambda most: most // 10)  # of 5 s
    with Watcher(broker.port) as watcher, running(broker.port) as (worker, _):
        watcher.wait_for(GUITAR, "OFF")
        worker.submit(onset())
        watcher.wait_for(GUITAR, "ON")
        watcher.publish("homeassistant/status", "offline")
        watcher.publish("homeassistant/status", "online")
        asked = time.monotonic()
        wait_until(lambda: len(watcher.payloads(CONFIG)) == 2, "the second announcement")
        assert time.monotonic() - asked >= 0.45
        wait_until(lambda: watcher.payloads(GUITAR) == ["OFF", "ON", "ON"], "the states")
        assert watcher.payloads(f"{BASE}/status") == ["online"]


def test_home_assistants_start_of_long_ago_is_not(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "randbelow", lambda _: 0)
    with Relay(broker.port) as relay, Watcher(broker.port) as watcher:
        watcher.publish("homeassistant/status", "online", retain=True)
        with running(relay.port) as (_, sink):
            watcher.wait_for(GUITAR, "OFF")
            relay.close()
            wait_until(lambda: not connected(sink), "the end of the connection")
            relay.open()
            wait_until(lambda: len(watcher.payloads(CONFIG)) == 2, "the announcement of the second connection")
            time.sleep(2.5)  # a tick or two, which would answer
            assert len(watcher.payloads(CONFIG)) == 2


def test_a_class_that_is_gone_leaves_no_ghost(broker: Broker) -> None:
    fewer = dataclasses.replace(STATION, classes=(("speech", "voice"),))
    with Watcher(broker.port) as watcher:
        with running(broker.port) as (worker, _):
            worker.submit(onset())
            watcher.wait_for(f"{BASE}/mic/speech/state", "OFF")
        with running(broker.port, fewer):
            wait_until(lambda: len(watcher.payloads(CONFIG)) == 3, "the announcements")
            watcher.wait_for(f"{BASE}/mic/speech/state", "OFF")
            step, last = (json.loads(p)["cmps"] for p in watcher.payloads(CONFIG)[1:])
    assert step["mic_guitar"] == {"p": "binary_sensor"}
    assert "mic_guitar" not in last
    assert "mic_speech" in last
    found = retained(broker.port)
    assert not any("guitar" in topic for topic in found)
    assert json.loads(found[CONFIG])["cmps"] == last


def test_without_discovery_nothing_is_announced(broker: Broker) -> None:
    with Watcher(broker.port) as watcher, running(broker.port, discovery_prefix=""):
        watcher.wait_for(f"{BASE}/mic/speech/state", "OFF")
        assert not any(m.topic.startswith("homeassistant") for m in watcher.messages)


def test_listening_can_be_turned_off_and_on(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    run_options: list[bool] = []
    with Watcher(broker.port) as watcher:
        watcher.publish(f"{BASE}/listening/set", "OFF", retain=True)
        with running(broker.port, on_listening=run_options.append) as (worker, _):
            watcher.wait_for(f"{BASE}/listening/state", "ON")
            watcher.publish(f"{BASE}/listening/set", "OFF")
            watcher.wait_for(f"{BASE}/listening/state", "OFF")
            watcher.publish(f"{BASE}/listening/set", "perhaps")
            watcher.publish(f"{BASE}/listening/set", "ON")
            watcher.wait_for(f"{BASE}/listening/state", "ON")
            worker.submit(status("listening", active=False))  # turned off elsewhere
            watcher.wait_for(f"{BASE}/listening/state", "OFF")
    assert run_options == [False, True]
    assert [r.message for r in caplog.records if "perhaps" in r.message] == [
        f"{BASE}/listening/set: ON and OFF are understood, not b'perhaps'"
    ]


def test_a_flood_on_the_switch_leaves_the_connection_free(broker: Broker) -> None:
    """Each change is written to the disk: the last one counts, those before it are done only now and then."""
    done: list[bool] = []
    begin = time.monotonic()
    with Watcher(broker.port) as watcher, running(broker.port, on_listening=done.append) as (worker, _):
        watcher.wait_for(f"{BASE}/listening/state", "ON")
        for _ in range(400):
            watcher.publish(f"{BASE}/listening/set", "OFF")
            watcher.publish(f"{BASE}/listening/set", "ON")
        watcher.publish(f"{BASE}/listening/set", "OFF")
        worker.submit(onset())
        watcher.wait_for(GUITAR, "ON")
        wait_until(lambda: watcher.payloads(f"{BASE}/listening/state")[-1] == "OFF", "the last state")
        wait_until(lambda: len(done) > 10 or not done[-1], "the last change")
        assert done[-1] is False
    assert 2 <= len(done) <= 12 + 2 * (time.monotonic() - begin)


def test_a_switch_command_that_fails_changes_nothing(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_on: bool) -> None:
        raise RuntimeError("no")

    with Watcher(broker.port) as watcher, running(broker.port, on_listening=fail) as (worker, _):
        watcher.wait_for(f"{BASE}/listening/state", "ON")
        watcher.publish(f"{BASE}/listening/set", "OFF")
        worker.submit(onset())
        watcher.wait_for(GUITAR, "ON")
        assert watcher.payloads(f"{BASE}/listening/state") == ["ON"]
    assert "listening could not be turned off: no" in caplog.text


def test_an_operating_point_can_be_chosen(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    chosen: list[Sensitivity] = ["balanced"]
    control = SensitivityControl(SENSITIVITIES, lambda: chosen[-1], chosen.append)
    topic = f"{BASE}/sensitivity"
    with Watcher(broker.port) as watcher:
        watcher.publish(f"{topic}/set", "high", retain=True)
        with running(broker.port, sensitivity=control) as (worker, _):
            watcher.wait_for(f"{topic}/state", "balanced")
            wait_until(lambda: watcher.last(CONFIG), "the announcement")
            assert json.loads(watcher.last(CONFIG) or "")["cmps"]["sensitivity"]["p"] == "select"
            watcher.publish(f"{topic}/set", "HIGH")
            watcher.publish(f"{topic}/set", "low")
            watcher.wait_for(f"{topic}/state", "low")
            chosen.append("high")
            worker.submit(status("sensitivity", detail="sensitivity: high"))  # chosen elsewhere
            watcher.wait_for(f"{topic}/state", "high")
    assert chosen == ["balanced", "low", "high"]
    assert [r.message for r in caplog.records if "HIGH" in r.message] == [
        f"{topic}/set: one of low, balanced, high is understood, not b'HIGH'"
    ]


def test_absence_is_logged_once_and_its_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    broker = Broker(tmp_path)
    where = f"{HOST}:{broker.port}"
    with running(broker.port) as (worker, sink):
        wait_until(lambda: not worker.counts.working, "the trouble")
        worker.submit(onset())
        time.sleep(3)  # a few more tries and ticks
        assert [r.message for r in caplog.records] == [
            f"mqtt: {where}: nothing listens there; check host and port, and whether the broker runs"
        ]
        with broker:
            wait_until(lambda: worker.counts.working, "the end of the trouble")
            assert connected(sink)
            assert [r.message for r in caplog.records][1:] == [f"mqtt: {where}: connected", "mqtt: works again"]


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[float] = []
    monkeypatch.setattr(mqtt_client, "_PAUSE_S", (0.2, 0.8))
    with socket.create_server((HOST, 0)) as server:
        threading.Thread(target=close_at_once, args=(server, attempts), daemon=True).start()
        with running(server.getsockname()[1]):
            wait_until(lambda: len(attempts) >= 9, "five attempts")
        server.shutdown(socket.SHUT_RDWR)
    pauses = [b - a for a, b in itertools.pairwise(attempts[::2])]  # a look comes before each connection
    for pause, shortest in zip(pauses, (0.2, 0.4, 0.8, 0.8), strict=False):
        assert shortest <= pause < shortest + DEADLINE_S


def close_at_once(server: socket.socket, attempts: list[float]) -> None:
    with contextlib.suppress(OSError):
        while True:
            server.accept()[0].close()
            attempts.append(time.monotonic())


def test_a_steady_connection_makes_the_pause_short_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    with Relay(broker.port) as relay, running(relay.port) as (_, sink):
        for steady_s, pause_s in ((60, 0.2), (60, 0.4), (0, 0.1)):
            monkeypatch.setattr(mqtt_client, "_STEADY_S", steady_s)
            wait_until(lambda: connected(sink), "the connection")
            relay.close()
            wait_until(lambda: not connected(sink), "its end")
            assert sink._link.pause_s == pause_s
            relay.open()


def test_two_of_a_name_do_not_fight_at_full_speed(broker: Broker) -> None:
    """Each throws the other out: the pauses must grow although each try succeeds."""
    with running(broker.port) as (_, one), running(broker.port) as (_, other):
        wait_until(lambda: other.stats["reconnects"] + one.stats["reconnects"] >= 3, "some reconnects")
        wait_until(lambda: one._link.pause_s == other._link.pause_s == 0.4, "the longest pause")


def test_threads_and_sockets_end_with_the_sink(broker: Broker) -> None:
    def names() -> set[str]:
        return {thread.name for thread in threading.enumerate()}

    own = "paho-mqtt-client-snn-detect-pi4"
    wait_until(lambda: own not in names(), "the end of an earlier test's thread")
    before = names()
    for _ in range(3):
        with running(broker.port) as (_, sink):
            wait_until(partial(connected, sink), "the connection")
            assert own in names()
        wait_until(lambda: names() <= before, "the threads' end")  # one of an earlier test may end meanwhile


def test_an_end_right_after_the_connection_leaves_the_will(broker: Broker) -> None:
    """Nothing but ``online`` has been sent then, and the broker has not acknowledged it."""
    with Watcher(broker.port) as watcher:
        sink = MqttSink(Mqtt(host=HOST, port=broker.port), (STATION,), None)
        connect = sink._client.on_connect
        reached, closed = threading.Event(), threading.Event()

        def pause(*arguments: Any) -> None:
            assert connect is not None
            connect(*arguments)
            reached.set()
            closed.wait(30)

        sink._client.on_connect = pause
        sink.open()
        assert reached.wait(30)
        sink.close()
        closed.set()
        wait_until(lambda: watcher.payloads(f"{BASE}/status")[-1:] == ["offline"], "the will")


@pytest.mark.parametrize("is_there", [False, True])
def test_a_client_that_connects_only_after_the_end_leaves_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """The end comes while paho resolves the name, whatever becomes of the attempt then."""
    asked, answer, resolve = threading.Event(), threading.Event(), socket.getaddrinfo

    def hang(*arguments: Any, **named: Any) -> Any:
        asked.set()
        answer.wait(30)
        return resolve(*arguments, **named)

    broker = Broker(tmp_path)
    if is_there:
        broker.start()
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    sink = MqttSink(Mqtt(host=HOST, port=broker.port), (STATION,), None)
    before = set(threading.enumerate())
    sink.open()
    assert asked.wait(30)
    (thread,) = set(threading.enumerate()) - before
    sink.close()
    assert not answer.is_set()
    answer.set()
    wait_until(lambda: not thread.is_alive(), "the thread's end")
    if is_there:
        assert "Received DISCONNECT from snn-detect-pi4" in broker.log
        broker.kill()


def test_a_large_message_takes_no_memory_and_delays_nothing(broker: Broker, tmp_path: Path) -> None:
    """The broker keeps 100 MB on the topic of the switch; the service is a process of its own."""
    config = tmp_path / "config.toml"
    config.write_text(f"""
        node = "pi4"
        audio.device = "-"
        [[mqtt]]
        host = "127.0.0.1"
        port = {broker.port}
    """)
    with Watcher(broker.port, topic=f"{BASE}/listening/state") as watcher:
        setting = watcher.client.publish(f"{BASE}/listening/set", b"x" * 100_000_000, qos=1, retain=True)
        setting.wait_for_publish(60)
        with service(config) as child:
            watcher.wait_for(f"{BASE}/listening/state", "ON")
            watcher.publish(f"{BASE}/listening/set", "y" * 5_000_000)
            wait_until(lambda: any("are understood, not b'yyy" in e for e in child.errors), "the warning")
            watcher.publish(f"{BASE}/listening/set", "OFF")
            watcher.wait_for(f"{BASE}/listening/state", "OFF")
            assert broker.log.count("as snn-detect-pi4 (") == 1, "one connection did for all of it"
            status = Path(f"/proc/{child.process.pid}/status").read_text()
            assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) < 200_000  # type: ignore[index]


def test_a_packet_that_is_broken_ends_the_connection_and_not_the_client() -> None:
    """A publish packet without a topic, from what calls itself a broker; the next connection is made all the same."""
    connections: list[bytes] = []
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connections.append(connection.recv(65536))
                        connection.sendall(b"\x20\x02\x00\x00" + b"\x30\x01\x00")
                        connection.recv(65536)

        threading.Thread(target=serve, daemon=True).start()
        with running(server.getsockname()[1]):
            wait_until(lambda: len(connections) >= 2, "another connection")
        server.shutdown(socket.SHUT_RDWR)


def test_the_end_of_paho_s_thread_is_not_the_end_of_the_connection(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    with Watcher(broker.port) as watcher, running(broker.port) as (worker, sink):
        watcher.wait_for(GUITAR, "OFF")

        def fail(*_: object) -> None:
            raise ValueError("filedescriptor out of range in select()")

        monkeypatch.setattr(sink._client, "_loop", fail)
        wait_until(lambda: sink._client._thread is None, "the end of the thread")
        monkeypatch.undo()
        worker.submit(onset())
        watcher.wait_for(GUITAR, "ON")
