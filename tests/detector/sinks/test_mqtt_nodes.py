"""Many nodes on one broker: names that collide, what is cleared, and the list of nodes."""

from __future__ import annotations

import dataclasses
import json
import logging
import signal
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.errors import BrokerError
from detector.sinks import mqtt_client, mqtt_visits
from detector.sinks.base import NodeInfo, SinkWorker
from detector.sinks.mqtt import Mqtt, MqttSink
from detector.sinks.mqtt_visits import NodeReport, list_nodes
from tests.broker import HOST, Broker, Relay, Watcher, free_port, retained, wait_until
from tests.detector.sinks.live_records import STATION, at_work, offset, onset, status
from tests.service import RATE, Child, service

BASE = "snn-detect/pi4"
NODE = f"{BASE}/node"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again soon, and take a service for dead soon."""
    monkeypatch.setattr(mqtt_client, "_PAUSE_S", (0.1, 0.4))
    monkeypatch.setattr(mqtt_visits, "_LIVING_S", 2.0)


def running(
    port: int, instance: str, *node_infos: NodeInfo, **settings: Any
) -> AbstractContextManager[tuple[SinkWorker, MqttSink]]:
    """Run a sink as a process of its own would: ``instance`` stands for it."""
    return at_work(MqttSink(Mqtt(host=HOST, port=port, **settings), node_infos or (STATION,), None, instance=instance))


def is_connected(sink: MqttSink) -> bool:
    return bool(sink.stats["connected"])


def sources(*names: str) -> tuple[NodeInfo, ...]:
    return tuple(dataclasses.replace(STATION, source=name) for name in names)


def said(watcher: Watcher) -> list[str]:
    """Return which processes have said that they are the node."""
    return [json.loads(payload)["id"] for payload in watcher.payloads(NODE)]


def test_a_name_that_another_service_has_is_refused_in_one_line(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    with Watcher(broker.port) as watcher, running(broker.port, "first") as (worker, sink):
        watcher.wait_for(f"{BASE}/mic/speech/state", "OFF")
        with running(broker.port, "second") as (other_worker, other):
            wait_until(lambda: not other_worker.counts.working, "the refusal")
            other_worker.submit(onset("speech"))
            worker.submit(onset("guitar"))
            watcher.wait_for(f"{BASE}/mic/guitar/state", "ON")
            wait_until(lambda: other_worker.counts.waiting == 0, "the worker's work")
            assert not is_connected(other)
            assert other.stats["messages_waiting"] > 0
        assert is_connected(sink)
        assert sink.stats["reconnects"] == 0
        assert watcher.payloads(f"{BASE}/status") == ["online"], "the first one has not been disturbed"
        assert watcher.last(f"{BASE}/mic/speech/state") == "OFF"
        assert set(said(watcher)) == {"first"}
    line, last = (r.message for r in caplog.records if r.levelno >= logging.WARNING)
    assert last == f"mqtt: {BASE}: the broker has not acknowledged 2 messages", "the sound of the second one"
    host = json.loads(watcher.payloads(NODE)[0])["host"]
    assert line == (
        f"mqtt: {HOST}:{broker.port}: the node name 'pi4' is in use by another service (on the host {host}); set "
        "another node here, or stop that one"
    )


def test_a_name_is_taken_once_its_service_has_left(broker: Broker) -> None:
    with Watcher(broker.port) as watcher:
        with running(broker.port, "first") as (_, sink):
            wait_until(lambda: is_connected(sink), "the first connection")
            watcher.wait_for(f"{BASE}/status", "online")
            second = MqttSink(Mqtt(host=HOST, port=broker.port), (STATION,), None, instance="second")
            worker = SinkWorker("mqtt", second)
            wait_until(lambda: not worker.counts.working, "the refusal")
        wait_until(lambda: is_connected(second) and worker.counts.working, "the second connection")
        watcher.wait_for(f"{BASE}/status", "online")
        worker.begin_close(5)
        assert worker.join()
        assert said(watcher)[-1] == "second"


def test_a_service_that_lost_its_connection_has_its_name_still(broker: Broker) -> None:
    """The broker does not know yet that the connection is over, and says that the service is online."""
    with Relay(broker.port) as relay, running(relay.port, "first") as (_, sink):
        wait_until(lambda: is_connected(sink) and sink.stats["messages_waiting"] == 0, "the connection")
        with Watcher(broker.port) as watcher:
            relay.close()
            wait_until(lambda: not is_connected(sink), "its end")
            relay.open()
            wait_until(lambda: is_connected(sink), "the next connection")
            watcher.wait_for(f"{BASE}/status", "online")


def test_a_board_that_died_without_its_will_blocks_its_name_for_seconds_alone(broker: Broker) -> None:
    with Watcher(broker.port) as watcher:
        gone = NodeReport("gone", "pi4", "1.2.0", "household-1.2.0", ("mic",), None, "2026-11-23T18:04:05+01:00")
        watcher.publish(NODE, json.dumps({"v": 1, **dataclasses.asdict(gone)}), retain=True)
        watcher.publish(f"{BASE}/status", "online", retain=True)
        with running(broker.port, "second") as (_, sink):
            wait_until(lambda: is_connected(sink), "the connection")
            wait_until(lambda: said(watcher)[-1] == "second", "what it says")


def test_of_two_that_begin_at_once_one_stays(broker: Broker) -> None:
    with running(broker.port, "one") as (one_worker, one), running(broker.port, "two") as (two_worker, two):
        wait_until(
            lambda: (
                (is_connected(one), is_connected(two)) in {(True, False), (False, True)}
                and {one_worker.counts.working, two_worker.counts.working} == {True, False}
            ),
            "one that is connected and one that is refused",
        )


def test_a_broker_that_does_not_let_clients_look_has_the_name_free(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(
        f"topic write {BASE}/#\ntopic write homeassistant/#\nuser watcher\ntopic readwrite #\n"
    )
    with Broker(tmp_path, f"acl_file {tmp_path / 'rules'}") as broker, running(broker.port, "first") as (_, sink):
        wait_until(lambda: is_connected(sink), "the connection")


def test_an_answer_that_is_no_report_is_none(broker: Broker) -> None:
    """Someone else publishes on the topic whatever it is asked."""
    with Watcher(broker.port, topic=f"{NODE}/get") as watcher:
        watcher.publish(f"{BASE}/status", "online", retain=True)
        answers = iter(["x" * 100_000, "[]", '{"id": 1}', "\udcff"])

        def answer(*_: object) -> None:
            watcher.client.publish(NODE, next(answers, "{").encode("utf-8", "surrogateescape"), 1)

        watcher.client.on_message = answer
        with running(broker.port, "first") as (_, sink):
            wait_until(lambda: is_connected(sink), "the connection")


def test_texts_of_another_service_are_safe_for_a_terminal() -> None:
    payload = {"id": "a", "host": "pi\x1b[2J\u202e\n4" + 1000 * "x", "version": 1, "sources": ["mic", "a/b", 3]}
    found = NodeReport.parse(json.dumps(payload).encode())
    assert found is not None
    assert found.host.startswith("pi\ufffd[2J\ufffd 4xxx")
    assert len(found.host) == 200
    assert (found.version, found.sources, found.discovery) == ("", ("mic",), None)
    for other in (b"", b"[1]", b"{}", b'{"id":5}', b"\xff", b"[" * 100_000):
        assert NodeReport.parse(other) is None


def test_what_sources_that_are_gone_have_left_is_cleared(broker: Broker) -> None:
    with Watcher(broker.port) as watcher:
        for topic, payload in {f"{BASE}/notes": "mine", f"{BASE}/shed/lamp/state": "dim"}.items():
            watcher.publish(topic, payload, retain=True)
        with running(broker.port, "first", *sources("kitchen", "garden")) as (worker, _):
            for source in ("kitchen", "garden"):
                worker.submit(status("listening", source=source))
                worker.submit(onset("guitar", source=source))
                worker.submit(offset("guitar", source=source))
            watcher.wait_for(f"{BASE}/garden/guitar/state", "OFF")
        assert any("/garden/" in topic for topic in retained(broker.port))
        with running(broker.port, "second", *sources("kitchen")) as (worker, _):
            watcher.wait_for(f"{BASE}/garden/status", "")
            watcher.wait_for(f"{BASE}/kitchen/speech/state", "OFF")
            found = retained(broker.port)
    assert found[f"{BASE}/status"] == "online"
    assert not any("garden" in topic for topic in found)
    assert "garden" not in found["homeassistant/device/snn_detect_pi4/config"]
    assert json.loads(found[f"{BASE}/kitchen/guitar/attributes"])["event_id"] == "id-1", "of a source that is there"
    assert (found[f"{BASE}/notes"], found[f"{BASE}/shed/lamp/state"]) == ("mine", "dim"), "not of a service"


def test_classes_and_discovery_that_are_no_longer_wanted_are_cleared(broker: Broker) -> None:
    fewer = dataclasses.replace(STATION, classes=(("speech", "voice"),))
    config = "homeassistant/device/snn_detect_pi4/config"
    with Watcher(broker.port) as watcher:
        with running(broker.port, "first") as (worker, _):
            worker.submit(onset("guitar"))
            watcher.wait_for(f"{BASE}/mic/guitar/state", "ON")
        assert config in retained(broker.port)
        with running(broker.port, "second", fewer, discovery_prefix=""):
            watcher.wait_for(config, "")
            watcher.wait_for(f"{BASE}/mic/speech/state", "OFF")
        found = retained(broker.port)
    assert set(found) == {
        f"{BASE}/status",
        NODE,
        f"{BASE}/mic/status",
        f"{BASE}/mic/problem/state",
        f"{BASE}/mic/speech/state",
    }


def states(found: mqtt_visits.Nodes) -> dict[str, str]:
    return {node.node: node.state for node in found.found}


def test_the_list_of_nodes(broker: Broker) -> None:
    settings = Mqtt(host=HOST, port=broker.port)
    assert list_nodes(settings, None) == mqtt_visits.Nodes((), is_complete=True)
    here, gone = sources("kitchen", "garden"), (dataclasses.replace(STATION, node="gone"),)
    with Watcher(broker.port) as watcher, running(broker.port, "first", *here) as (worker, _):
        with running(broker.port, "second", *gone) as (_, sink):
            wait_until(lambda: is_connected(sink), "the second connection")
            watcher.wait_for("snn-detect/gone/mic/speech/state", "OFF")
        worker.submit(status("listening", source="kitchen"))
        watcher.wait_for(f"{BASE}/kitchen/status", "online")
        watcher.publish("snn-detect/dead/status", "online", retain=True)
        dead = {"model": "household-1.0", "version": "1.0", "time": "2026-11-23T18:04:05.120+01:00"}
        watcher.publish("snn-detect/dead/health", json.dumps(dead), retain=True)
        for topic, payload in {"a b/status": "online", "lamp/status": "on", "x/y/status": "online"}.items():
            watcher.publish(f"snn-detect/{topic}", payload, retain=True)
        found = list_nodes(settings, None)
    assert states(found) == {"dead": "no answer", "gone": "offline", "pi4": "online"}
    assert found.is_complete
    dead_node, gone_node, here_node = found.found
    assert (dead_node.version, dead_node.model, dead_node.sources) == ("1.0", "household-1.0", {})
    assert dead_node.last_seen is not None
    assert mqtt_visits._latest(dead_node.last_seen) == mqtt_visits._latest("2026-11-23T18:04:05+01:00")
    assert (here_node.version, here_node.model) == ("1.2.0", "household-1.2.0")
    assert here_node.sources == {"kitchen": "online", "garden": "offline"}
    assert gone_node.sources == {"mic": "offline"}
    assert here_node.last_seen is not None
    assert gone_node.last_seen is not None
    assert here_node.last_seen >= gone_node.last_seen > "2026-11-24"


def test_the_list_is_bounded_in_number_and_memory(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_visits, "MAX_NODES", 5)
    settings = Mqtt(host=HOST, port=broker.port)
    with Watcher(broker.port, topic="none") as watcher:
        for number in range(7):
            watcher.publish(f"snn-detect/n{number}/status", "offline", retain=True)
        found = list_nodes(settings, None)
        assert (len(found.found), found.is_complete) == (5, False)
        monkeypatch.setattr(mqtt_visits, "MAX_NODES", 1000)
        big = watcher.client.publish("snn-detect/n3/health", b"[" * 20_000_000, qos=1, retain=True)
        big.wait_for_publish(60)
        found = list_nodes(settings, None)
        assert (len(found.found), found.is_complete) == (7, True)
        monkeypatch.setattr(mqtt_visits, "_MAX_KEPT", 3)
        assert not list_nodes(settings, None).is_complete


def test_a_list_from_a_broker_that_never_ends_comes_to_an_end(broker: Broker) -> None:
    """Messages that are published meanwhile, faster than any quiet, are no reason to wait."""
    stop = threading.Event()

    def publish(watcher: Watcher) -> None:
        while not stop.wait(0.002):
            watcher.client.publish("snn-detect/pi4/health", "{}", retain=True)

    with Watcher(broker.port, topic="none") as watcher, running(broker.port, "first") as (_, sink):
        wait_until(lambda: is_connected(sink), "the connection")
        thread = threading.Thread(target=publish, args=(watcher,), daemon=True)
        thread.start()
        try:
            assert states(list_nodes(Mqtt(host=HOST, port=broker.port), None)) == {"pi4": "online"}
        finally:
            stop.set()
            thread.join()


def test_a_broker_that_is_absent_cannot_be_listed() -> None:
    with pytest.raises(BrokerError, match="nothing listens there"):
        list_nodes(Mqtt(host=HOST, port=free_port()), None)


def configuration(folder: Path, port: int, node: str) -> Path:
    folder.mkdir()
    config = folder / "config.toml"
    config.write_text(f"""
        node = "{node}"
        audio.device = "-"
        health.interval_s = 1
        stdout.types = ["health"]
        [[mqtt]]
        host = "{HOST}"
        port = {port}
    """)
    return config


def sink_health(child: Child) -> list[dict[str, Any]]:
    return [record["sinks"]["mqtt"] for record in child.of("health")]


def test_three_services_on_one_broker_and_a_fourth_by_a_name_in_use(broker: Broker, tmp_path: Path) -> None:
    """Detection goes on where the name is refused, the health records say so, and a crash is no collision."""
    settings = Mqtt(host=HOST, port=broker.port)
    configs = {name: configuration(tmp_path / name, broker.port, name) for name in ("attic", "barn", "cellar")}
    twin = configuration(tmp_path / "twin", broker.port, "barn")
    with (
        Watcher(broker.port) as watcher,
        service(configs["attic"]) as attic,
        service(configs["barn"]),
        service(configs["cellar"]),
    ):
        for name in configs:
            watcher.wait_for(f"snn-detect/{name}/mic/problem/state", "OFF")
        with service(twin) as child:
            child.play(np.zeros(20 * RATE, np.float32))
            wait_until(lambda: any("is in use by another service" in e for e in child.errors), "the refusal")
            wait_until(lambda: any(s["working"] is False for s in sink_health(child)), "the health of the sink")
            assert child.process.poll() is None
            assert sink_health(child)[-1]["connected"] == 0
            child.signal(signal.SIGTERM)
            assert child.wait() == 0
        assert sum("is in use by another service" in e for e in child.errors) == 1
        assert states(list_nodes(settings, None)) == dict.fromkeys(configs, "online")
        attic.signal(signal.SIGKILL)
        attic.wait()
        watcher.wait_for("snn-detect/attic/status", "offline")
        assert states(list_nodes(settings, None)) == {"attic": "offline", "barn": "online", "cellar": "online"}
        with service(configs["attic"]) as again:
            watcher.wait_for("snn-detect/attic/status", "online")
            assert not any("in use" in e for e in again.errors)
            assert watcher.payloads("snn-detect/barn/status") == ["online"]
