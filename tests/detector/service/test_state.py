"""What outlasts a process: listening that was switched off, and the folder that one service uses at a time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from detector.config.settings import Settings
from detector.errors import ConfigError
from detector.messages import Samples
from detector.pipeline import Detector
from detector.service.source import node_info_of
from detector.system import LastingFlag, ProcessLock
from detector.web.schema import describe_model
from tests.broker import Broker, Watcher
from tests.detector.service.conftest import lively, scene, sound  # noqa: F401 - fixtures
from tests.model_files import changed_model, on_trial, with_points, without_points
from tests.service import Child, NotifySocket, service, wait_until

Lively = tuple[Samples, dict[str, float]]
PAUSE = np.zeros(4 * 16000, np.float32)
BASE = "snn-detect/pi4"
STATE = f"{BASE}/listening/state"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as running:
        yield running


def write_config(path: Path, port: int, thresholds: dict[str, float]) -> Path:
    values = ", ".join(f"{label} = {value}" for label, value in thresholds.items())
    lines = (
        *('node = "pi4"', "[audio]", 'device = "-"', "[listening]", f"thresholds = {{ {values} }}"),
        *(
            "[stdout]",
            'types = ["onset", "offset", "status", "health", "clip"]',
            "[health]",
            "interval_s = 1",
            "[mqtt]",
            'host = "127.0.0.1"',
            f"port = {port}",
            "[clips]",
        ),
        *(f'directory = "{path.parent / "clips"}"', "post_roll_s = 0.2"),
    )
    path.write_text("\n".join(lines) + "\n")
    return path


def paused(child: Child) -> bool:
    return ("listening", False) in child.states()


def clips(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "clips").glob("*.flac"))


def test_listening_that_was_switched_off_stays_off_over_power_loss(
    broker: Broker,
    lively: Lively,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path / "config.toml", broker.port, lively[1])
    flag = tmp_path / "state" / "listening-off"
    with Watcher(broker.port) as watcher, service(config) as child:
        child.play(np.concatenate([lively[0], PAUSE]))
        child.wait_for_records(lambda r: any(x["type"] == "clip" for x in r), "a clip")
        watcher.wait_for(STATE, "ON")
        watcher.publish(f"{BASE}/listening/set", "OFF")
        watcher.wait_for(STATE, "OFF")
        assert flag.exists()  # before it is acknowledged
        wait_until(lambda: paused(child), "the pause")
        child.signal(signal.SIGKILL)
        child.wait()
        watcher.wait_for(f"{BASE}/status", "offline")
    before = clips(tmp_path)
    with Watcher(broker.port) as watcher, NotifySocket(tmp_path) as notify, service(config, notify=notify) as child:
        child.play(np.tile(lively[0], 2))
        notify.wait_for("READY=1")  # with nothing to wait for
        child.wait_for_records(lambda r: sum(x["type"] == "health" for x in r) >= 2, "two health records")
        assert [r["active"] for r in child.of("status")] == [False]
        assert child.of("status")[0]["detail"].startswith("listening is switched off since 20")
        assert [r["paused"] for r in child.of("health")][:2] == [True, True]
        assert [r["heard_s"] for r in child.of("health")][:2] == [0, 0]
        assert any(m.startswith("STATUS=paused: listening is switched off since 20") for m in notify.messages)
        assert any("listening is switched off since 20" in line for line in child.errors)
        watcher.wait_for(STATE, "OFF")
        assert watcher.last(f"{BASE}/mic/status") == "offline"
        assert (clips(tmp_path), child.of("onset", "offset", "clip")) == (before, [])
        watcher.wait_for(f"{BASE}/status", "online")
        watcher.publish(f"{BASE}/listening/set", "ON")
        child.wait_for_records(lambda r: any(x["type"] == "onset" for x in r), "an onset")
        watcher.wait_for(STATE, "ON")
        assert not flag.exists()
        assert not child.of("health")[-1]["paused"] or child.of("health")[-1]["heard_s"] == 0
        child.signal(signal.SIGTERM)
        assert child.wait() == 0


def test_the_clip_of_a_sound_is_written_when_listening_is_switched_off_and_none_later(
    broker: Broker,
    lively: Lively,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path / "config.toml", broker.port, lively[1])
    config.write_text(config.read_text().replace("post_roll_s = 0.2", "post_roll_s = 20"))
    with Watcher(broker.port) as watcher, service(config) as child:
        child.play(lively[0])
        child.wait_for_records(lambda r: any(x["type"] == "onset" for x in r), "an onset")
        onsets = len(child.of("onset"))
        watcher.wait_for(f"{BASE}/status", "online")
        watcher.publish(f"{BASE}/listening/set", "OFF")
        wait_until(lambda: paused(child), "the pause")
        switched_s = time.monotonic()
        wait_until(lambda: len(child.of("clip")) == onsets, "the clips")
        assert time.monotonic() - switched_s < 5  # not after their post-roll
        before = clips(tmp_path)
        child.play(np.tile(lively[0], 2))
        time.sleep(3)
        assert clips(tmp_path) == before
        child.signal(signal.SIGTERM)
        assert child.wait() == 0
        assert clips(tmp_path) == before


def test_a_flood_on_the_switch_is_followed_and_not_logged_line_by_line(
    broker: Broker,
    tmp_path: Path,
) -> None:
    config = write_config(tmp_path / "config.toml", broker.port, {})
    with Watcher(broker.port) as watcher, service(config) as child:
        child.play(np.zeros(16000, np.float32))
        watcher.wait_for(STATE, "ON")
        for number in range(400):
            watcher.publish(f"{BASE}/listening/set", "OFF" if number % 2 else "ON")
            time.sleep(0.01)
        watcher.publish(f"{BASE}/listening/set", "OFF")
        time.sleep(1)
        wait_until(lambda: (tmp_path / "state/listening-off").exists() and child.of("health")[-1]["paused"], "the end")
        assert len(child.errors) < 30


def test_two_services_do_not_share_a_folder(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[audio]\ndevice = "-"\n')
    with service(config) as first:
        first.play(np.zeros(16000, np.float32))
        wait_until(lambda: first.of("status"), "the first service")
        with service(config) as second:
            assert second.wait() == 2
        (line,) = second.errors
        assert f"{tmp_path / 'state'} is in use by process {first.process.pid} (" in line
        assert "detector run --config" in line
        assert second.lines == []
        with service(config, environment={"STATE_DIRECTORY": str(tmp_path / "other")}) as third:
            third.play(np.zeros(16000, np.float32))
            third.end_sound()
            assert third.wait() == 0
        first.signal(signal.SIGKILL)
        first.wait()
    with service(config) as next_one:  # the lock ends with its process
        next_one.play(np.zeros(16000, np.float32))
        next_one.end_sound()
        assert next_one.wait() == 0


def test_a_service_runs_where_no_state_can_be_kept_and_says_so_once(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[audio]\ndevice = "-"\n')
    (tmp_path / "file").write_text("")
    with service(config, environment={"STATE_DIRECTORY": str(tmp_path / "file/state")}) as child:
        child.play(np.zeros(16000, np.float32))
        child.end_sound()
        assert child.wait() == 0
    assert sum("a restart switches listening on again" in line for line in child.errors) == 1


def test_the_lock_is_released_with_its_holder(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    first = ProcessLock(folder)
    with pytest.raises(ConfigError, match=f"process {os.getpid()} "):
        ProcessLock(folder)
    first.close()
    ProcessLock(folder).close()


def test_a_lasting_flag_is_on_the_disk_when_it_is_set(tmp_path: Path) -> None:
    path = tmp_path / "new" / "off"
    flag = LastingFlag(path)
    assert not flag.is_set
    flag.set(wanted=True)
    again = LastingFlag(path)
    assert again.is_set
    assert again.since.startswith("20")
    path.write_bytes(b"\xff")  # damaged: still set
    assert LastingFlag(path).is_set
    assert LastingFlag(path).since == "an unknown time"
    again.set(wanted=False)
    assert not path.exists()
    assert [p.name for p in path.parent.iterdir()] == []


def test_a_sensitivity_chosen_by_mqtt_is_applied_and_outlasts_the_process(broker: Broker, tmp_path: Path) -> None:
    """At low sensitivity noise is not reported, at high it is; the choice is kept until it is the configured one."""
    model = changed_model(tmp_path / "points.onnx", lambda m: with_points(m, low=0.9999, high=0.01))
    config = write_config(tmp_path / "config.toml", broker.port, {})
    config.write_text(f'{config.read_text()}[model]\npath = "{model}"\n')
    config.write_text(config.read_text().replace("[listening]", '[listening]\nsensitivity = "low"'))
    kept, topic = tmp_path / "state" / "sensitivity", f"{BASE}/sensitivity"
    noise = (0.1 * np.random.default_rng(3).standard_normal(16000)).astype(np.float32)
    with Watcher(broker.port) as watcher, service(config) as child:
        child.play(noise)
        watcher.wait_for(f"{topic}/state", "low")
        child.wait_for_records(lambda r: any(x["type"] == "health" for x in r), "a health record")
        assert (child.of("health")[-1]["sensitivity"], child.of("onset")) == ("low", [])
        watcher.publish(f"{topic}/set", "high")
        watcher.wait_for(f"{topic}/state", "high")
        assert kept.read_text() == "high\n"
        wait_until(lambda: ("sensitivity", True) in child.states(), "the change")
        child.play(np.tile(noise, 4))
        child.wait_for_records(lambda r: any(x["type"] == "onset" for x in r), "an onset")
        assert {r["threshold"] for r in child.of("onset")} == {0.01}
        child.signal(signal.SIGKILL)
        child.wait()
        watcher.wait_for(f"{BASE}/status", "offline")
    with Watcher(broker.port) as watcher, service(config) as child:
        child.play(np.tile(noise, 4))
        child.wait_for_records(lambda r: {"onset", "health"} <= {x["type"] for x in r}, "an onset")
        assert child.of("health")[-1]["sensitivity"] == "high"
        watcher.wait_for(f"{topic}/state", "high")
        watcher.wait_for(f"{BASE}/status", "online")
        watcher.publish(f"{topic}/set", "low")
        wait_until(lambda: not kept.exists(), "the end of the choice")
        wait_until(lambda: child.of("health")[-1]["sensitivity"] == "low", "the configured sensitivity")
        child.signal(signal.SIGTERM)
        assert child.wait() == 0


def test_a_kept_sensitivity_that_another_model_lacks_is_not_used(tmp_path: Path) -> None:
    config, model = tmp_path / "config.toml", changed_model(tmp_path / "plain.onnx", without_points)
    config.write_text(f'[audio]\ndevice = "-"\n[model]\npath = "{model}"\n[stdout]\ntypes = ["health"]\n')
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "sensitivity").write_text("high\n")
    with service(config) as child:
        child.play(np.zeros(16000, np.float32))
        child.wait_for_records(bool, "a health record")
        assert child.of("health")[0]["sensitivity"] == "balanced"
        child.end_sound()
        assert child.wait() == 0


def test_a_service_reports_classes_on_trial_on_request_only(tmp_path: Path) -> None:
    detector = Detector.load(changed_model(tmp_path / "m.onnx", lambda m: on_trial(m, "guitar", "rain")))

    def labels(**listening: object) -> list[str]:
        settings = Settings.model_validate({"listening": listening})
        return [label for label, _ in node_info_of(settings, detector).classes]

    assert labels() == ["guitar", "rain"]
    assert labels(only=["rain", "drums"]) == ["drums", "rain"]
    assert labels(all_classes=True) == list(detector.labels)
    model = describe_model(detector, node_info_of(Settings(), detector))
    assert [c.label for c in model.classes if c.reported] == ["guitar", "rain"]
    assert {c.label for c in model.classes if c.results and c.results.ready} == {"guitar", "rain"}
