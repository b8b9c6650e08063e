"""Several sources in one service: streams that a test feeds, stops and takes away, beside one that is to go on."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from detector.audio.sources import read_sound
from detector.config.sections import Audio
from detector.config.settings import Settings
from detector.errors import ConfigError
from detector.messages import Samples
from detector.pipeline import Detector
from detector.service.runtime import ServiceRuntime
from detector.service.source import RunOptions, check_source
from tests.broker import HOST, Broker, Watcher, free_port, retained
from tests.model_files import changed_model, with_points
from tests.service import Child, Record, service, wait_until
from tests.streams import HttpServer, paced

RATE = 16000
SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))
TYPES = '["onset", "offset", "gap", "status", "health", "clip"]'
BASE = "snn-detect/pi4"


@pytest.fixture(scope="module")
def sound() -> Samples:
    return read_sound(SCENE, RATE)


def as_pcm(samples: Samples) -> bytes:
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def from_pcm(data: bytes) -> Samples:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def onsets_in(samples: Samples, **options: Any) -> list[tuple[str, float]]:
    """Return label and position of the sounds in samples, as one detector finds them in one piece."""
    detector = Detector.load(None, **options)
    events = detector.push(samples) + detector.flush()
    return sorted((e.label, e.onset_s) for e in events if e.kind == "onset")


def onsets_of(records: list[Record], source: str) -> list[tuple[str, float]]:
    return sorted((r["label"], r["onset_s"]) for r in records if r["type"] == "onset" and r["source"] == source)


class Feeds:
    """Streams of raw samples at the pace of a microphone, one a path; each can be stopped and resumed."""

    def __init__(self, **sounds: Samples) -> None:
        self.data = {name: as_pcm(samples) for name, samples in sounds.items()}
        self.flowing = {name: threading.Event() for name in sounds}
        for flows in self.flowing.values():
            flows.set()
        self.server = HttpServer(self._send)

    def __enter__(self) -> Feeds:
        self.server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for flows in self.flowing.values():
            flows.set()
        self.server.__exit__()

    def device(self, name: str) -> str:
        return f"{self.server.url}/{name}"

    def section(self, name: str, *more: str) -> str:
        raw = ('sample_format = "s16le"', f"rate_hz = {RATE}", "stall_s = 1.5")
        return "\n".join([f"[sources.{name}]", f'device = "{self.device(name)}"', *raw, *more])

    def _send(self, path: str, write: Callable[[bytes], object]) -> None:
        name = path.strip("/")

        def when_flowing(data: bytes) -> None:
            self.flowing[name].wait()
            write(data)

        paced(self.data[name], 2 * RATE, when_flowing)
        paced(bytes(2 * RATE * 120), 2 * RATE, when_flowing)  # silence behind it: the stream goes on


def write(path: Path, *sections: str) -> Path:
    head = ('node = "pi4"', "[health]", "interval_s = 1", "[stdout]", 'format = "json"', f"types = {TYPES}")
    path.write_text("\n".join([*head, *sections]) + "\n")
    return path


def wait_for_onsets(child: Child, **wanted: list[tuple[str, float]]) -> None:
    """Wait until each source has reported its sounds; there may be no others before."""
    child.wait_for_records(
        lambda rs: all(len(onsets_of(rs, name)) >= len(found) for name, found in wanted.items()), "the sounds"
    )
    assert {name: onsets_of(child.records, name) for name in wanted} == wanted


def end(child: Child) -> None:
    child.signal(signal.SIGTERM)
    assert child.wait() == 0
    assert not any("Traceback" in line for line in child.errors)


def test_each_source_is_named_everywhere(tmp_path: Path, sound: Samples) -> None:
    kitchen, garden = sound[2 * RATE : 11 * RATE], sound[10 * RATE : 18 * RATE]
    database, port = tmp_path / "events.db", free_port()
    with Feeds(kitchen=kitchen, garden=garden) as feeds, Broker(tmp_path) as broker, Watcher(broker.port) as watcher:
        config = write(
            tmp_path / "config.toml",
            feeds.section("kitchen", "thresholds = { guitar = 0.9 }"),
            feeds.section("garden", 'only = ["speech"]'),
            f'[database]\npath = "{database}"\ncommit_s = 0',
            f'[mqtt]\nhost = "{HOST}"\nport = {broker.port}',
            f'[metrics]\naddress = "{HOST}:{port}"',
            f'[clips]\ndirectory = "{tmp_path / "clips"}"\npost_roll_s = 0.2',
        )
        with service(config) as child:
            found = onsets_in(from_pcm(as_pcm(kitchen)), thresholds={"guitar": 0.9})
            speech = [(label, s) for label, s in onsets_in(from_pcm(as_pcm(garden))) if label == "speech"]
            wait_for_onsets(child, kitchen=found, garden=speech)
            child.wait_for_records(
                lambda rs: {r["source"] for r in rs if r["type"] == "clip"} == {"kitchen", "garden"}, "a clip of each"
            )
            wait_until(lambda: watcher.last(f"{BASE}/garden/speech/state") == "OFF", "the end of the speech")
            metrics = httpx.get(f"http://{HOST}:{port}/metrics", timeout=20).text
            states = retained(broker.port)
            end(child)
    assert {r["threshold"] for r in child.of("onset") if r["label"] == "guitar"} == {0.9}
    assert {r["source"] for r in child.of("health")} == {"kitchen", "garden"}
    numbers = [r["seq"] for r in child.records]
    assert numbers == sorted(set(numbers))
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT source, label FROM events").fetchall()
    assert sorted(rows) == sorted([("kitchen", label) for label, _ in found] + [("garden", "speech") for _ in speech])
    check_metrics(metrics, len(found), len(speech))
    check_topics(watcher, states)
    check_clips(tmp_path / "clips", child.of("clip"))
    assert any(line.startswith("snn-detect: kitchen: listening to http") for line in child.errors)


def check_metrics(text: str, kitchen: int, garden: int) -> None:
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("snn_detect_"))

    def total(source: str) -> float:
        begin = 'snn_detect_events_total{class="'
        return sum(float(n) for key, n in lines.items() if key.startswith(begin) and f'source="{source}"' in key)

    assert (total("kitchen"), total("garden")) == (kitchen, garden)
    for source in ("kitchen", "garden"):
        assert float(lines[f'snn_detect_source_up{{source="{source}"}}']) == 1
        assert f'snn_detect_realtime_factor_ratio{{source="{source}"}}' in lines
        assert f'snn_detect_inference_duration_seconds_bucket{{le="+Inf",source="{source}"}}' in lines


def check_topics(watcher: Watcher, states: dict[str, str]) -> None:
    assert [json.loads(p)["source"] for p in watcher.payloads(f"{BASE}/garden/event")] == ["garden"]
    assert (states[f"{BASE}/kitchen/status"], states[f"{BASE}/garden/status"]) == ("online", "online")
    config = json.loads(states["homeassistant/device/snn_detect_pi4/config"])
    entities = config["cmps"]
    assert {"kitchen_guitar", "kitchen_speech", "kitchen_level", "garden_speech", "garden_problem", "status"} <= set(
        entities
    )
    assert "garden_guitar" not in entities  # the garden reports speech alone
    assert entities["garden_speech"]["name"] == "Garden speech"
    assert {a["topic"] for a in entities["garden_speech"]["availability"]} == {
        f"{BASE}/status",
        f"{BASE}/garden/status",
    }
    assert config["availability"] == [{"topic": f"{BASE}/status"}]
    ids = [entity["unique_id"] for entity in entities.values()]
    assert len(ids) == len(set(ids))
    assert watcher.last(f"{BASE}/status") == "offline"
    assert watcher.last(f"{BASE}/kitchen/status") == "offline"


def check_clips(folder: Path, records: list[Record]) -> None:
    for record in records:
        path = Path(record["path"])
        assert path.parent == folder
        assert f"Z_{record['source']}_{record['label']}_" in path.name
        assert soundfile.info(path).duration > 1


def test_a_source_that_stalls_and_one_that_is_absent_change_nothing_for_the_others(
    tmp_path: Path, sound: Samples
) -> None:
    steady = sound[: 18 * RATE]
    absent = f"http://{HOST}:{free_port()}/nothing"
    with Feeds(steady=steady, weak=sound[: 30 * RATE]) as feeds:
        config = write(
            tmp_path / "config.toml",
            feeds.section("steady"),
            feeds.section("weak"),
            f'[sources.absent]\ndevice = "{absent}"\nsample_format = "s16le"\nrate_hz = {RATE}',
        )
        with service(config) as child:
            child.wait_for_records(lambda rs: onsets_of(rs, "weak"), "a sound of the weak source")
            feeds.flowing["weak"].clear()
            child.wait_for_records(lambda rs: ("weak", "waiting", True) in conditions(rs), "the stall")
            wait_for_onsets(child, steady=onsets_in(from_pcm(as_pcm(steady))))
            feeds.flowing["weak"].set()
            child.wait_for_records(lambda rs: ("weak", "waiting", False) in conditions(rs), "the return")
            end(child)
    assert ("absent", "waiting", True) in conditions(child.records)
    assert not [r for r in child.of("gap") if r["source"] == "steady"]
    up = {r["source"]: r["up"] for r in child.of("health")}
    assert (up["steady"], up["absent"]) == (True, False)


def conditions(records: list[Record]) -> list[tuple[str, str, bool]]:
    return [(r["source"], r["state"], r["active"]) for r in records if r["type"] == "status"]


def test_a_reload_leaves_the_other_sources_alone_to_the_sample(tmp_path: Path, sound: Samples) -> None:
    kitchen = sound[: 26 * RATE]
    with Feeds(kitchen=kitchen, garden=sound[2 * RATE : 28 * RATE], hall=sound[6 * RATE :]) as feeds:
        path, database = tmp_path / "config.toml", f'[database]\npath = "{tmp_path / "events.db"}"\ncommit_s = 0'
        sections = {name: feeds.section(name) for name in ("kitchen", "garden", "hall")}
        write(path, sections["kitchen"], sections["garden"], database)
        with service(path) as child:
            child.wait_for_records(lambda rs: onsets_of(rs, "kitchen") and onsets_of(rs, "garden"), "sounds of both")
            write(path, sections["kitchen"], sections["hall"], database)
            child.signal(signal.SIGHUP)
            child.wait_for_records(lambda rs: ("all", "reloaded", True) in conditions(rs), "the reload")
            child.wait_for_records(lambda rs: onsets_of(rs, "hall"), "a sound of the new source")
            write(path, sections["kitchen"], '[sources.wrong]\ndevice = "ftp://x"', database)
            child.signal(signal.SIGHUP)
            child.wait_for_records(lambda rs: ("all", "reloaded", False) in conditions(rs), "the refusal")
            wait_for_onsets(child, kitchen=onsets_in(from_pcm(as_pcm(kitchen))))
            end(child)
    records = child.records
    gone = next(n for n, r in enumerate(records) if conditions([r]) == [("garden", "stopping", True)])
    assert not [r for r in records[gone + 1 :] if r["source"] == "garden"]
    assert [r["reason"] for r in records if r["type"] == "offset" and r["source"] == "garden"][-1] == "shutdown"
    assert not [r for r in records if r["type"] == "gap"]
    assert [r for r in conditions(records) if r[:2] == ("kitchen", "listening")] == [("kitchen", "listening", True)]
    assert next(r["reason"] for r in child.of("offset") if r["source"] == "kitchen") == "ended"


def test_the_switch_is_for_all_sources(tmp_path: Path, sound: Samples) -> None:
    with Feeds(a=sound, b=sound) as feeds, Broker(tmp_path) as broker, Watcher(broker.port) as watcher:
        config = write(
            tmp_path / "config.toml",
            feeds.section("a"),
            feeds.section("b"),
            f'[mqtt]\nhost = "{HOST}"\nport = {broker.port}',
        )
        with service(config) as child:
            child.wait_for_records(lambda rs: onsets_of(rs, "a") and onsets_of(rs, "b"), "sounds of both")
            watcher.wait_for(f"{BASE}/status", "online")
            watcher.publish(f"{BASE}/listening/set", "OFF")
            paused = {("a", "listening", False), ("b", "listening", False)}
            child.wait_for_records(lambda rs: paused <= set(conditions(rs)), "the pause")
            for source in ("a", "b"):
                watcher.wait_for(f"{BASE}/{source}/status", "offline")
            watcher.publish(f"{BASE}/listening/set", "ON")
            for source in ("a", "b"):
                watcher.wait_for(f"{BASE}/{source}/status", "online")
            end(child)
    for source in ("a", "b"):
        states = [active for name, state, active in conditions(child.records) if (name, state) == (source, "listening")]
        assert states == [True, False, True]


def test_a_named_pipe_fails_and_the_files_beside_it_are_played(tmp_path: Path, sound: Samples) -> None:
    files = {name: tmp_path / f"{name}.wav" for name in ("one", "two")}
    clips = {"one": sound[3 * RATE : 6 * RATE], "two": sound[4 * RATE : 8 * RATE]}
    for name, path in files.items():
        soundfile.write(path, clips[name], RATE, "FLOAT")
    os.mkfifo(tmp_path / "pipe.wav")
    devices = [f"--device={path}" for path in (*files.values(), tmp_path / "pipe.wav")]
    with Child("--json", *devices) as child:
        assert child.wait() == 66  # the files have ended, and what is left has failed
    for name in files:
        assert onsets_of(child.records, name) == onsets_in(clips[name])
    assert ("pipe", "waiting", True) in conditions(child.records)
    said = [line.split(": ")[1] for line in child.errors if "is a pipe, not a file" in line]
    assert said == ["warning", "error"]


def test_where_no_source_is_left_the_failure_ends_the_service(tmp_path: Path) -> None:
    for name in ("a", "b"):
        os.mkfifo(tmp_path / name)
    with Child("--json", f"--device={tmp_path / 'a'}", f"--device={tmp_path / 'b'}") as child:
        assert child.wait() == 66
    assert any("is a pipe, not a file" in line for line in child.errors)


def test_a_device_that_is_given_twice_and_a_recording_of_several_are_refused(tmp_path: Path) -> None:
    for options, words in (
        (["--device=mic", "--device=mic"], "is given more than once"),
        (["--device=mic", "--device=-", "--tee", str(tmp_path / "x.wav")], "--tee records one device"),
    ):
        with Child(*options) as child:
            assert child.wait() == 2
        assert any(words in line for line in child.errors)


@contextlib.contextmanager
def runtime(**sources: dict[str, Any]) -> Iterator[ServiceRuntime]:
    settings = Settings.model_validate({"stdout": {"enabled": False}, "sources": sources})
    made = ServiceRuntime(settings, RunOptions())
    try:
        yield made
    finally:
        made.end("shutdown", None, 1.0)


def test_sources_with_one_model_file_share_its_weights_and_nothing_else(tmp_path: Path) -> None:
    other = changed_model(tmp_path / "other.onnx", lambda m: with_points(m, low=0.9, high=0.1))
    with runtime(a={}, b={"thresholds": {"guitar": 0.5}}, c={"model": str(other)}) as made:
        a, b, c = (source.detector for source in made.sources)
        assert a is not b
        assert a._model is b._model
        assert c._model is not a._model
        made.change(Settings.model_validate({"stdout": {"enabled": False}, "sources": {"d": {}, "a": {}}}))
        d, again = (source.detector for source in made.sources)
        assert again is a
        assert d._model is a._model


def test_a_sound_file_is_not_waited_for_as_a_microphone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sound.wav", "Microphone"):  # that one may be a part of a device's name
        Path(name).write_bytes(b"RIFF")
    with pytest.raises(ConfigError, match=r"sound\.wav is a file, not a device; use snn-detect replay"):
        check_source(Audio(device="sound.wav"))
    check_source(Audio(device="Microphone"))
