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


def nodes(port: int, *arguments: str) -> Result:
    """Run the list of the nodes on a broker that the options name."""
    program = Program(commands={"mqtt": mqtt})
    return CliRunner().invoke(
        program, ["mqtt", "list", "--host", HOST, "--port", str(port), *arguments], prog_name="snn-detect"
    )


def test_the_list_is_a_table_and_one_document(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker, Watcher(broker.port) as watcher:
        assert nodes(broker.port).stdout == f"{HOST}:{broker.port}: no nodes below snn-detect\n"
        garden = {"id": "a", "host": "g\x1b[2J", "version": "1.2.0", "model": "m-1", "sources": ["mic", "yard"]}
        garden["time"] = "2026-11-23T18:04:05+00:00"
        watcher.publish("snn-detect/garden/node", json.dumps(garden), retain=True)
        watcher.publish("snn-detect/garden/status", "offline", retain=True)
        watcher.publish("snn-detect/attic/status", "online", retain=True)
        watcher.publish("ears/x/status", "offline", retain=True)
        done = nodes(broker.port)
        other = nodes(broker.port, "--prefix", "ears")
        document = json.loads(nodes(broker.port, "--json").stdout)
    assert (done.exit_code, done.stderr) == (0, "")
    head, columns, attic, found = done.stdout.splitlines()
    assert head == f"{HOST}:{broker.port}"
    assert columns.split() == ["node", "state", "version", "last", "seen", "model", "sources"]
    assert attic.split() == ["attic", "no", "answer", "-", "-", "-", "-"]
    assert found.split()[:3] == ["garden", "offline", "1.2.0"]
    assert found.endswith("m-1    mic (offline), yard (offline)")
    assert other.stdout.splitlines()[2].split()[:2] == ["x", "offline"]
    (broker_nodes,) = document
    assert {k: v for k, v in broker_nodes.items() if k != "nodes"} == {
        "v": 1,
        "host": HOST,
        "port": broker.port,
        "prefix": "snn-detect",
        "complete": True,
    }
    assert [n["node"] for n in broker_nodes["nodes"]] == ["attic", "garden"]
    assert [broker_nodes["nodes"][0][key] for key in ("version", "model", "host", "last_seen")] == [None] * 4
    assert broker_nodes["nodes"][1]["sources"] == {"mic": "offline", "yard": "offline"}
    assert broker_nodes["nodes"][1]["host"] == "g\ufffd[2J"


def test_a_list_without_a_broker_is_one_line_and_69() -> None:
    port = free_port()
    done = nodes(port, "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (69, [])
    assert done.stderr.startswith(f"snn-detect: error: {HOST}:{port}: nothing listens there")
    assert len(done.stderr.splitlines()) == 1


def test_options_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for arguments, words in (
        (("--host", "mqtt://x"), "must be the name or address of the broker alone"),
        (("--host", HOST, "--ca-file", "x.pem"), "need tls = true"),
        (("--host", HOST, "--config", "x.toml"), "--host names another broker than --config"),
        (("--host", HOST, "--port", "0"), "0 is not in the range"),
        (("--host", HOST, "--username", "a", "--password-file", str(tmp_path / "none")), "none"),
    ):
        program = Program(commands={"mqtt": mqtt})
        done = CliRunner().invoke(program, ["mqtt", "list", *arguments], prog_name="snn-detect")
        assert done.exit_code == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_options_override_the_broker_of_the_configuration(broker: Broker, tmp_path: Path) -> None:
    (tmp_path / "right").write_text("secret\n")
    (tmp_path / "right").chmod(0o600)
    assert command(tmp_path, broker.port, "list", line="wrong").exit_code == 69
    options = ("list", "--password-file", str(tmp_path / "right"))
    assert command(tmp_path, broker.port, *options, line="wrong").exit_code == 0


def test_purge_of_another_node_clears_that_one_alone(tmp_path: Path) -> None:
    with Broker(tmp_path) as broker, Watcher(broker.port) as watcher:
        left = ["snn-detect/barn/node", "snn-detect/barn/mic/a/state", "homeassistant/device/snn_detect_barn/config"]
        for topic in (*left, "snn-detect/barn2/status", "homeassistant/device/snn_detect_pi4/config"):
            watcher.publish(topic, "{}", retain=True)
        done = command(tmp_path, broker.port, "purge", "barn")
        assert done.stdout == f"{HOST}:{broker.port}: 3 retained messages deleted\n"
        assert set(retained(broker.port)) == {"snn-detect/barn2/status", "homeassistant/device/snn_detect_pi4/config"}
        for name in ("barn", "bran"):
            again = command(tmp_path, broker.port, "purge", name)
            assert again.exit_code == 2
            assert f"holds anything of a node '{name}'; snn-detect mqtt list shows the nodes" in again.stderr
        assert command(tmp_path, broker.port, "purge", "barn/#").exit_code == 2


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
