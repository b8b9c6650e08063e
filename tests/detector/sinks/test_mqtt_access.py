"""Getting into a broker: passwords, TLS, certificates, and what is said where one is wrong."""

from __future__ import annotations

import builtins
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from detector.errors import BrokerError, ConfigError
from detector.sinks import mqtt, mqtt_client, mqtt_visits
from detector.sinks.base import SinkWorker
from detector.sinks.mqtt import Mqtt, MqttSink
from tests.broker import HOST, Broker, free_port, plugin, wait_until
from tests.certificates import Authority
from tests.detector.sinks.live_records import STATION

STAGES = ["DNS", "TCP", "TLS", "auth", "publish"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_client, "_PAUSE_S", (0.1, 0.4))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other_authority"), "other_authority")


@contextmanager
def tls_broker(directory: Path, authority: Authority, *lines: str, names: str = "IP:127.0.0.1") -> Iterator[Broker]:
    server = authority.issue("server", names)
    own = (f"certfile {server.certificate}", f"keyfile {server.key}", f"cafile {authority.certificate}")
    with Broker(directory, *own, *lines) as broker:
        yield broker


def stages(password: str | None = None, **settings: Any) -> list[tuple[str, bool, str]]:
    found = mqtt_visits.test_connection(Mqtt(host=HOST, **settings), "pi4", password)
    return [(s.name, s.ok, s.text) for s in found]


def trouble(caplog: pytest.LogCaptureFixture, password: str | None = None, **settings: Any) -> list[str]:
    """Run a sink until it is in trouble and a while longer; return what it said."""
    sink = MqttSink(Mqtt(host=HOST, **settings), (STATION,), password)
    worker = SinkWorker("mqtt", sink)
    wait_until(lambda: not worker.counts.working, "the trouble")
    time.sleep(2)
    worker.begin_close(5)
    assert worker.join()
    return [r.message for r in caplog.records if r.levelno >= logging.WARNING]


def enters(password: str | None = None, **settings: Any) -> bool:
    sink = MqttSink(Mqtt(host=HOST, **settings), (STATION,), password)
    worker = SinkWorker("mqtt", sink)
    wait_until(lambda: sink.stats["connected"] or not worker.counts.working, "an answer")
    found = bool(sink.stats["connected"])
    worker.begin_close(5)
    assert worker.join()
    return found


def test_the_right_password(tmp_path: Path) -> None:
    with Broker(tmp_path, users={"ear": "secret"}) as broker:
        assert enters("secret", port=broker.port, username="ear")
        found = stages("secret", port=broker.port, username="ear")
    assert [name for name, ok, _ in found if ok] == STAGES
    assert found[0][2] == "127.0.0.1"
    assert found[2][2] == "off: the password is sent in the clear"
    assert found[3][2] == "accepted as 'ear'"
    assert found[4][2] == "snn-detect/pi4/test was published and came back"


@pytest.mark.parametrize("who", [{"username": "ear"}, {}])
def test_a_wrong_password_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture, who: dict[str, str]) -> None:
    with Broker(tmp_path, users={"ear": "secret"}) as broker:
        password = "wrong" if who else None
        said = trouble(caplog, password, port=broker.port, **who)
        user = "user 'ear'" if who else "clients without a user name"
        refusal = f"{HOST}:{broker.port}: the broker refuses {user}: Not authorized; check username and password_file"
        assert said == [f"mqtt: {refusal}"]
        assert broker.log.count("New connection") >= 4
        assert stages(password, port=broker.port, **who)[-1] == ("auth", False, refusal)


def test_another_trouble_is_logged_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broker = Broker(tmp_path, users={"ear": "secret"})
    sink = MqttSink(Mqtt(host=HOST, port=broker.port), (STATION,), None)
    worker = SinkWorker("mqtt", sink)
    wait_until(lambda: not worker.counts.working, "the trouble")
    with broker:
        wait_until(lambda: "refuses" in caplog.text, "the other trouble")
    worker.begin_close(5)
    assert worker.join()
    assert [r.message.split(": ")[-1].split(";")[0] for r in caplog.records] == [
        "nothing listens there",
        "Not authorized",
    ]


def test_tls(tmp_path: Path, authority: Authority) -> None:
    with tls_broker(tmp_path, authority) as broker:
        assert enters(port=broker.port, tls=True, ca_file=authority.certificate)
        found = stages(port=broker.port, tls=True, ca_file=authority.certificate)
    assert [name for name, ok, _ in found if ok] == STAGES
    assert found[2][2].startswith("TLSv1.3, certificate valid until ")


def test_a_certificate_of_another_authority(
    tmp_path: Path, authority: Authority, other_authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with tls_broker(tmp_path, authority) as broker:
        tls: dict[str, Any] = {"port": broker.port, "tls": True, "ca_file": other_authority.certificate}
        (said,) = trouble(caplog, **tls)
        assert said.startswith(f"mqtt: {HOST}:{broker.port}: its certificate is not trusted: ")
        assert said.endswith("; check host, ca_file and clock")
        name, ok, text = stages(**tls)[-1]
    assert (name, ok, f"mqtt: {text}") == ("TLS", False, said)


def test_the_systems_authorities_do_not_know_ours(tmp_path: Path, authority: Authority) -> None:
    with tls_broker(tmp_path, authority) as broker:
        assert not enters(port=broker.port, tls=True)


def test_a_certificate_for_another_name(tmp_path: Path, authority: Authority) -> None:
    with tls_broker(tmp_path, authority, names="DNS:elsewhere.example") as broker:
        tls: dict[str, Any] = {"port": broker.port, "tls": True, "ca_file": authority.certificate}
        assert not enters(**tls)
        name, ok, text = stages(**tls)[-1]
    assert (name, ok) == ("TLS", False)
    assert "IP address mismatch, certificate is not valid for '127.0.0.1'" in text


def test_client_certificates(tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    client = authority.issue("client")
    with tls_broker(tmp_path, authority, "require_certificate true") as broker:
        tls: dict[str, Any] = {"port": broker.port, "tls": True, "ca_file": authority.certificate}
        own: dict[str, Any] = {"certificate_file": client.certificate, "key_file": client.key}
        assert enters(**tls, **own)
        assert [name for name, ok, _ in stages(**tls, **own) if ok] == STAGES
        (said,) = trouble(caplog, **tls)
        assert said.endswith("check port and tls, certificate_file and key_file")
        assert stages(**tls)[-1][:2] == ("auth", False)


def test_tls_where_there_is_none(tmp_path: Path, authority: Authority) -> None:
    with Broker(tmp_path) as broker:
        assert not enters(port=broker.port, tls=True, ca_file=authority.certificate)
        name, ok, text = stages(port=broker.port, tls=True, ca_file=authority.certificate)[-1]
    assert (name, ok) == ("TLS", False)
    assert "8883" in text


def test_no_tls_where_there_is_some(tmp_path: Path, authority: Authority) -> None:
    with tls_broker(tmp_path, authority) as broker:
        name, ok, text = stages(port=broker.port)[-1]
    assert (name, ok) == ("auth", False)
    assert "closed the connection without an answer" in text


def test_files_that_are_wrong(tmp_path: Path, authority: Authority) -> None:
    (tmp_path / "text").write_text("text")
    with pytest.raises(ConfigError, match=r"ca_file .*none: No such file or directory"):
        MqttSink(Mqtt(host=HOST, tls=True, ca_file=tmp_path / "none"), (STATION,), None)
    with pytest.raises(ConfigError, match=r"ca_file .*text: not PEM files that fit"):
        MqttSink(Mqtt(host=HOST, tls=True, ca_file=tmp_path / "text"), (STATION,), None)
    files: dict[str, Any] = {"certificate_file": authority.certificate, "key_file": tmp_path / "text"}
    with pytest.raises(ConfigError, match=r"certificate_file .*, key_file .*: not PEM files that fit"):
        MqttSink(Mqtt(host=HOST, tls=True, **files), (STATION,), None)


def test_a_certificate_that_is_gone_later_prevents_no_connection(tmp_path: Path, authority: Authority) -> None:
    """It is read again only for the look at the broker before a connection."""
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(authority.certificate.read_bytes())
    with tls_broker(tmp_path, authority) as broker:
        sink = MqttSink(Mqtt(host=HOST, port=broker.port, tls=True, ca_file=trusted), (STATION,), None)
        worker = SinkWorker("mqtt", sink)
        wait_until(lambda: sink.stats["connected"], "the connection")
        trusted.unlink()
        broker.kill()
        broker.start()
        wait_until(lambda: sink.stats["reconnects"] == 1, "the next connection")
        worker.begin_close(5)
        assert worker.join()


def test_a_host_name_that_does_not_exist() -> None:
    found = mqtt_visits.test_connection(Mqtt(host="absent.invalid"), "pi4", None)
    assert [(s.name, s.ok) for s in found] == [("DNS", False)]
    assert found[0].text.startswith("absent.invalid:1883: no such host")


def test_a_port_without_a_server() -> None:
    port = free_port()
    name, ok, text = stages(port=port)[-1]
    assert (name, ok) == ("TCP", False)
    assert text == f"{HOST}:{port}: nothing listens there; check host and port, and whether the broker runs"


def test_a_port_that_never_answers(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(mqtt, "_ANSWER_S", 0.5)
    monkeypatch.setattr(mqtt_visits, "_ANSWER_S", 0.5)
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
        assert trouble(caplog, port=port) == [f"mqtt: {HOST}:{port}: no answer; check host, port and firewall"]
        assert stages(port=port)[-1][0] == "auth"


def test_rules_that_forbid_writing_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("topic read snn-detect/pi4/listening/set\n")
    with Broker(tmp_path, f"acl_file {tmp_path / 'rules'}") as broker:
        name, ok, text = stages(port=broker.port)[-1]
    assert (name, ok) == ("publish", False)
    assert text == "nothing came back on snn-detect/pi4/test; do the broker's rules allow to read and write it?"


def test_rules_that_forbid_reading_are_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    access = {"publishClientSend": True, "publishClientReceive": True, "subscribe": False, "unsubscribe": True}
    (tmp_path / "rules.json").write_text(json.dumps({"defaultACLAccess": access}))
    lines = (f"plugin {plugin('mosquitto_dynamic_security.so')}", f"plugin_opt_config_file {tmp_path / 'rules.json'}")
    with Broker(tmp_path, *lines) as broker:
        with pytest.raises(BrokerError, match="may not read snn-detect/pi4/#, homeassistant/device/snn_de"):
            mqtt_visits.purge(Mqtt(host=HOST, port=broker.port), "pi4", None)
        sink = MqttSink(Mqtt(host=HOST, port=broker.port), (STATION,), None)
        worker = SinkWorker("mqtt", sink)
        wait_until(lambda: "may not read homeassistant/status" in caplog.text, "the warning")
        broker.kill()
        broker.start()
        wait_until(lambda: sink.stats["reconnects"] == 1, "the second connection")
        worker.begin_close(5)
        assert worker.join()
    assert caplog.text.count("may not read homeassistant/status") == 1


def test_paho_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    importing = builtins.__import__

    def without_paho(name: str, *rest: Any) -> Any:
        if name.startswith("paho"):
            raise ModuleNotFoundError("No module named 'paho'", name="paho")
        return importing(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_paho)
    with pytest.raises(ConfigError, match=r"MQTT needs paho-mqtt: .*pip install -e '.*\[mqtt\]'"):
        MqttSink(Mqtt(host=HOST), (STATION,), None)


def test_wild_discovery_prefix() -> None:
    with pytest.raises(ConfigError, match=r"discovery_prefix 'ha/\+' must hold no \+, # or NUL"):
        MqttSink(Mqtt(host=HOST, discovery_prefix="ha/+"), (STATION,), None)
