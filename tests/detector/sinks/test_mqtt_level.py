"""The level at a real broker: known soon after the first sound and after each announcement, and never a wrong one."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from detector.sinks import mqtt
from detector.sinks.base import SinkWorker
from detector.sinks.mqtt import Mqtt, MqttSink
from tests.broker import HOST, Broker, Watcher, wait_until
from tests.detector.sinks.live_records import STATION, at_work, health, shown, status
from tests.service import RATE, service

BASE = "snn-detect/pi4"
CONFIG = "homeassistant/device/snn_detect_pi4/config"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt, "_SUBSCRIBED_S", 0.1)
    monkeypatch.setattr(mqtt, "_BIRTH_DELAY_S", 0.1)


def running(port: int) -> AbstractContextManager[tuple[SinkWorker, MqttSink]]:
    return at_work(MqttSink(Mqtt(host=HOST, port=port), (STATION,), None))


def levels(watcher: Watcher) -> list[float]:
    return [json.loads(payload)["rms_dbfs"] for payload in watcher.payloads(f"{BASE}/mic/level")]


def test_a_level_follows_the_announcement_as_soon_as_it_is_known(broker: Broker) -> None:
    with Watcher(broker.port) as watcher, running(broker.port) as (worker, sink):
        worker.submit(status("listening"))
        worker.submit(health(60, rms_dbfs=-120.0, peak_dbfs=-120.0))
        wait_until(lambda: sink.wants_state, "the question for the level")
        sink.show((shown(rms_dbfs=-120.0, peak_dbfs=-120.0),))
        wait_until(lambda: sink.wants_state, "another question, since that was no level")
        assert levels(watcher) == []
        sink.show((shown(rms_dbfs=-31.4),))
        wait_until(lambda: levels(watcher) == [-31.4], "the level")
        topics = [m.topic for m in watcher.messages]
        assert topics.index(CONFIG) < topics.index(f"{BASE}/mic/level")
        assert not sink.wants_state


def test_a_level_follows_the_start_of_home_assistant(broker: Broker) -> None:
    with Watcher(broker.port) as watcher, running(broker.port) as (worker, sink):
        worker.submit(status("listening"))
        for count, level in ((1, -31.4), (2, -32.5)):
            wait_until(lambda: sink.wants_state, "the question for the level")
            sink.show((shown(rms_dbfs=level),))
            wait_until(lambda count=count: len(levels(watcher)) == count, "the level")  # type: ignore[misc]
            watcher.publish("homeassistant/status", "online")
        assert levels(watcher) == [-31.4, -32.5]


def test_a_muted_microphone_has_a_level_and_an_absent_one_has_none(broker: Broker) -> None:
    with Watcher(broker.port) as watcher, running(broker.port) as (worker, sink):
        worker.submit(status("listening"))
        wait_until(lambda: sink.wants_state, "the question for the level")
        sink.show((shown(rms_dbfs=-120.0, silent=True),))
        wait_until(lambda: levels(watcher) == [-120.0], "the level of silence")
        worker.submit(status("waiting"))
        watcher.wait_for(f"{BASE}/mic/status", "offline")
        count = len(watcher.payloads(CONFIG))
        watcher.publish("homeassistant/status", "online")
        wait_until(lambda: len(watcher.payloads(CONFIG)) > count, "the announcement")
        worker.submit(status("waiting", active=False))
        wait_until(lambda: sink.wants_state, "the question for the level, now that there is one")
        assert levels(watcher) == [-120.0]


def test_the_service_publishes_the_level_of_the_sound_before_its_second_health_record(
    broker: Broker, tmp_path: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f"""
        node = "pi4"
        [audio]
        device = "-"
        source = "mic"
        [mqtt]
        host = "{HOST}"
        port = {broker.port}
    """)
    noise = np.random.default_rng(1).normal(0, 0.1, 20 * RATE).astype(np.float32)
    with Watcher(broker.port) as watcher, service(config) as child:
        child.play(noise)
        wait_until(lambda: levels(watcher), "a level")
        assert len(watcher.payloads(f"{BASE}/health")) == 1
        assert levels(watcher) == [pytest.approx(-20.0, abs=0.3)]
