"""Checks of the setup: configuration, model, sinks, addresses, brokers, calibration."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from detector.audio.devices import Device
from detector.config.settings import Settings
from detector.doctor.machine import check_speed, speed_result
from detector.doctor.result import Process, SystemPaths
from detector.doctor.setup import (
    check_addresses,
    check_brokers,
    check_calibration,
    check_configuration,
    check_model,
    check_sinks,
    check_threads,
)
from detector.network import default_model_path
from detector.pipeline import Detector
from tests.broker import HOST, Broker, free_port
from tests.detector.doctor.conftest import write


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove settings and paths from the environment."""
    for variable in os.environ:
        if variable.startswith(("SNN_DETECT_", "XDG_")) or variable.endswith("_DIRECTORY"):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def settings(**sections: Any) -> Settings:
    return Settings.model_validate(sections)


def test_the_sources_of_the_settings_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "config.toml", '[audio]\ndevice = "hw:CARD=Device"\n')
    more = write(tmp_path / "config.d/10-node.toml", 'node = "kitchen"\n')
    monkeypatch.setenv("SNN_DETECT_AUDIO__CHANNEL", "left")
    found, finding = check_configuration(path, {"audio.device": "mic", "model.path": None})
    assert found is not None
    assert (found.settings.audio.device, found.settings.audio.channel, found.settings.node) == (
        "mic",
        "left",
        "kitchen",
    )
    assert (finding.state, finding.found) == ("ok", f"{path}, {more}, SNN_DETECT_AUDIO__CHANNEL, the command line")


def test_a_wrong_setting_is_a_problem_that_names_it(tmp_path: Path) -> None:
    path = write(tmp_path / "config.toml", '[audio]\ndevise = "mic"\n')
    found, finding = check_configuration(path, {})
    assert found is None
    assert (finding.state, finding.exit_code) == ("problem", 2)
    assert "did you mean audio.device?" in finding.found
    assert str(path) in finding.advice


def test_a_former_name_of_a_key_is_a_warning(tmp_path: Path) -> None:
    path = write(tmp_path / "config.toml", "[clips]\nmost_days = 3\n")
    found, finding = check_configuration(path, {})
    assert found is not None
    assert (finding.state, finding.exit_code) == ("warning", 0)
    assert "clips.most_days is now called clips.max_days" in finding.found


def test_a_file_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    found, finding = check_configuration(tmp_path / "none.toml", {})
    assert (found, finding.state, finding.exit_code) == (None, "problem", 2)


def test_a_good_model_is_named_with_its_hash(detector: Detector) -> None:
    found, finding = check_model(settings(model={"path": str(detector.path)}))
    assert found is not None
    assert finding.state == "ok"
    assert detector.sha256[:12] in finding.found
    assert "ms" in finding.found


def test_a_damaged_model_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(default_model_path().read_bytes()[:50_000])
    found, finding = check_model(settings(model={"path": str(path)}))
    assert (found, finding.state, finding.exit_code) == (None, "problem", 2)
    assert str(path) in finding.found


def test_a_threshold_for_an_unknown_sound_is_a_problem(detector: Detector) -> None:
    found, finding = check_model(
        settings(model={"path": str(detector.path)}, listening={"thresholds": {"guitarr": 0.5}})
    )
    assert (found, finding.exit_code, "guitarr" in finding.found) == (None, 2, True)


def test_onnxruntime_has_one_thread_and_is_idle_without_work(detector: Detector) -> None:
    assert check_threads(detector).state == "ok"


def test_the_speed_is_measured_and_rated(detector: Detector) -> None:
    assert "times real time" in check_speed(detector).found
    assert [speed_result(busy, 0.1).state for busy in (0.02, 0.6, 1.2)] == ["ok", "warning", "problem"]
    assert speed_result(1.2, 1.1).exit_code == 2


def test_sinks_that_can_be_made_are_listed(tmp_path: Path, detector: Detector) -> None:
    token = write(tmp_path / "token", "secret\n")
    token.chmod(0o600)
    wanted = settings(
        file=[{"path": "/a.jsonl"}, {"path": "/b.jsonl"}],
        webhook={"url": "http://127.0.0.1/hook", "token_file": str(token)},
        command={"argv": ["sh", "-c", "true"]},
        mqtt={"host": "nowhere.invalid"},
    )
    found = check_sinks(wanted, {"mic": detector})
    assert (found.state, found.found) == ("ok", "stdout, 2 times file, mqtt, webhook, command")


def test_events_without_a_sink_are_a_warning(detector: Detector) -> None:
    assert check_sinks(settings(stdout={"enabled": False}), {"mic": detector}).state == "warning"


def test_a_secret_that_is_not_there_is_a_problem(tmp_path: Path, detector: Detector) -> None:
    hook = {"url": "http://127.0.0.1/hook", "token_file": str(tmp_path / "none")}
    found = check_sinks(settings(webhook=hook), {"mic": detector})
    assert (found.state, found.exit_code, str(tmp_path / "none") in found.found) == ("problem", 2, True)


def test_a_secret_that_all_can_read_is_a_warning_without_the_secret(tmp_path: Path, detector: Detector) -> None:
    token = write(tmp_path / "token", "squeamish\n")
    token.chmod(0o644)
    found = check_sinks(settings(webhook={"url": "http://127.0.0.1/hook", "token_file": str(token)}), {"mic": detector})
    assert (found.state, found.advice) == ("warning", f"chmod o= {token}")
    assert "squeamish" not in str(found)


def test_a_program_that_is_not_there_is_a_problem(detector: Detector) -> None:
    found = check_sinks(settings(command={"argv": ["/usr/local/bin/nothing-here"]}), {"mic": detector})
    assert (found.state, found.exit_code, "/usr/local/bin/nothing-here" in found.found) == ("problem", 2, True)


def test_there_is_no_server_by_default() -> None:
    assert check_addresses(settings(), ()).found == "nothing accepts connections"


def test_loopback_needs_no_token_and_others_do(tmp_path: Path) -> None:
    port = free_port()
    found = check_addresses(settings(metrics={"address": f"127.0.0.1:{port}"}), ())
    assert (found.state, "from this machine only" in found.found) == ("ok", True)
    found = check_addresses(settings(metrics={"address": f"0.0.0.0:{port}"}), ())
    assert (found.state, found.exit_code) == ("problem", 2)
    assert "without a token" in found.found
    token = write(tmp_path / "token", "secret\n")
    found = check_addresses(settings(metrics={"address": f"0.0.0.0:{port}", "token_file": str(token)}), ())
    assert (found.state, "with the token" in found.found) == ("ok", True)


def test_a_port_in_use_is_a_problem_unless_the_service_uses_it() -> None:
    with socket.create_server((HOST, 0)) as server:
        wanted = settings(metrics={"address": f"{HOST}:{server.getsockname()[1]}"})
        found = check_addresses(wanted, ())
        assert (found.state, found.exit_code) == ("problem", 69)
        assert check_addresses(wanted, (Process(1, "snn-detect", ("snn-detect", "run")),)).state == "ok"


def test_an_address_of_another_machine_is_a_problem(tmp_path: Path) -> None:
    token = write(tmp_path / "token", "secret\n")
    found = check_addresses(settings(metrics={"address": "192.0.2.1:9464", "token_file": str(token)}), ())
    assert (found.state, found.exit_code) == ("problem", 69)


def test_a_broker_that_works_is_reported_stage_by_stage(tmp_path: Path, paths: SystemPaths) -> None:
    with Broker(tmp_path) as broker:
        (found,) = check_brokers(settings(mqtt={"host": HOST, "port": broker.port}), paths)
    assert found.state == "ok", found
    assert all(f"{stage}:" in found.found for stage in ("DNS", "TCP", "TLS", "auth", "publish"))


def test_a_broker_that_does_not_work_is_reported_with_its_stage(tmp_path: Path, paths: SystemPaths) -> None:
    with Broker(tmp_path, users={"snn": "right"}) as broker:
        wanted = settings(
            mqtt=[
                {"host": "nowhere.invalid"},
                {"host": HOST, "port": free_port()},
                {"host": HOST, "port": broker.port},
                {"host": "localhost", "port": broker.port, "username": "snn"},
            ]
        )
        found = check_brokers(wanted, paths)
        assert [(f.state, f.exit_code) for f in found] == [("problem", 69)] * 4
        assert [f.found.partition(":")[0] for f in found] == ["DNS", "TCP", "auth", "auth"]
        assert all(f.advice for f in found)
        assert "/etc/snn-detect/mqtt.password" in found[3].advice
        write(paths.etc / "snn-detect/mqtt.password", "right\n")
        assert check_brokers(wanted, paths)[3].state == "ok", "as systemd would give it to the service"


def test_without_a_broker_none_is_tried(paths: SystemPaths) -> None:
    assert [f.state for f in check_brokers(settings(), paths)] == ["skipped"]


def test_a_calibration_is_compared_with_model_and_device(detector: Detector) -> None:
    manifest = detector.manifest
    known = {
        "date": "2026-11-24T07:00:00+01:00",
        "hours": 8,
        "rate_per_hour": 1,
        "promise_per_hour": 1,
        "device": "usb-id:0d8c:0014",
        "model": f"{manifest.name}-{manifest.version}",
        "model_sha256": detector.sha256,
    }
    device = Device(3, "USB", ("usb-id:0D8C:0014",), 1, 48000, is_default=False, is_hardware=True)
    assert not list(check_calibration(settings(), detector, device))
    (same,) = check_calibration(settings(calibration=known), detector, device)
    assert (same.state, "from 8 h" in same.found) == ("ok", True)
    (unknown,) = check_calibration(settings(calibration=known), detector, None)
    assert "could not be compared" in unknown.found
    for change in ({"device": "hw:CARD=Other"}, {"model_sha256": 64 * "a"}):
        (other,) = check_calibration(settings(calibration=known | change), detector, device)
        assert other.state == "warning"
        assert "2026-11-24" in other.found
