"""The commands about brokers, with a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from detector.cli.diagnose import mqtt
from detector.cli.program import Program
from detector.sinks.base import SinkWorker
from detector.sinks.mqtt import Mqtt, MqttSink
from tests.broker import HOST, Broker, Watcher, free_port, retained
from tests.detector.sinks.live_records import STATION, health, onset


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path, users={"ear": "secret"}) as running:
        yield running


def command(tmp_path: Path, port: int, *arguments: str, line: str = "secret") -> Result:
    (tmp_path / "password").write_text(f"{line}\n")
    (tmp_path / "password").chmod(0o600)
    config = tmp_path / "config.toml"
    config.write_text(
        f'node = "pi4"\n[mqtt]\nhost = "{HOST}"\nport = {port}\nusername = "ear"\n'
        f'password_file = "{tmp_path / "password"}"\n'
    )
    program = Program(commands={"mqtt": mqtt})
    return CliRunner().invoke(program, ["mqtt", *arguments, "--config", str(config)], prog_name="snn-detect")


def test_a_broker_that_works_passes_all_stages(broker: Broker, tmp_path: Path) -> None:
    done = command(tmp_path, broker.port, "test")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == f"{HOST}:{broker.port}"
    assert [line.split()[:2] for line in lines[1:]] == [[n, "ok"] for n in ("DNS", "TCP", "TLS", "auth", "publish")]
    assert "secret" not in done.output


def test_a_broker_that_fails_is_reported_with_its_stage(broker: Broker, tmp_path: Path) -> None:
    done = command(tmp_path, broker.port, "test", "--json", line="wrong")
    assert done.exit_code == 69
    (found,) = json.loads(done.stdout)
    assert (found["host"], found["port"]) == (HOST, broker.port)
    assert [(s["name"], s["ok"]) for s in found["stages"]][-2:] == [("TLS", True), ("auth", False)]


def test_purge_deletes_all_retained_messages_and_nothing_else(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker:
        with Watcher(broker.port) as watcher:
            for topic in ("snn-detect/pi42/status", "snn-detect/pi4", "other"):
                watcher.publish(topic, "stays", retain=True)
            worker = SinkWorker("mqtt", MqttSink(Mqtt(host=HOST, port=broker.port), (STATION,), None))
            worker.submit(health())
            worker.submit(onset())
            watcher.wait_for("snn-detect/pi4/mic/guitar/state", "ON")
            watcher.wait_for("snn-detect/pi4/mic/speech/state", "OFF")
            online = command(tmp_path, broker.port, "purge")
            assert "the service was online, and will publish them again" in online.stderr
            worker.begin_close(5)
            assert worker.join()
        done = command(tmp_path, broker.port, "purge")
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{HOST}:{broker.port}: ")
        assert set(retained(broker.port)) == {"snn-detect/pi42/status", "snn-detect/pi4", "other"}


def test_purge_deletes_the_discovery_message_first(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker, Watcher(broker.port) as watcher:
        left: dict[str, Any] = {f"snn-detect/pi4/mic/{n}/state": "OFF" for n in range(70)}
        left["homeassistant/device/snn_detect_pi4/config"] = "{}"
        for topic, payload in left.items():
            watcher.publish(topic, payload, retain=True)
        assert command(tmp_path, broker.port, "purge").stdout.endswith(": 71 retained messages deleted\n")
        watcher.wait_for("snn-detect/pi4/mic/9/state", "")
        emptied = [m.topic for m in watcher.messages if not m.payload]
        assert emptied[0] == "homeassistant/device/snn_detect_pi4/config"
        assert set(emptied) == set(left)
        assert retained(broker.port) == {}


def test_purge_without_a_broker_is_an_error(tmp_path: Path) -> None:
    port = free_port()
    done = command(tmp_path, port, "purge")
    assert done.exit_code == 69
    assert done.stderr.startswith(f"snn-detect: error: {HOST}:{port}: nothing listens there")


def test_a_configuration_without_a_broker_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('node = "pi4"\n')
    program = Program(commands={"mqtt": mqtt})
    done = CliRunner().invoke(program, ["mqtt", "test", "--config", str(tmp_path / "config.toml")])
    assert done.exit_code == 2
    assert "no [mqtt] section" in done.stderr
