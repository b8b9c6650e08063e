"""The whole service with everything real: PulseAudio, mosquitto, SQLite, a notify socket; and faults meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

import pytest
import soundfile

from detector.messages import AudioChunk
from detector.pipeline import Detector
from detector.records import StreamInfo, as_dict, event_record
from tests.broker import Broker, Relay, Watcher
from tests.service import COMMAND, Child, NotifySocket, Record, service, wait_until
from tests.sound_server import SoundServer, sound_server  # noqa: F401 - a fixture

RATE = 16000
SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))
CHANGING = {"id", "seq", "source", "time", "device", "clock_synced", "level_dbfs", "reason"}


def events(records: list[Record]) -> list[Record]:
    """Return onsets and offsets without what two runs do not share."""
    found = [r for r in records if r["type"] in {"onset", "offset"}]
    return [{k: v for k, v in r.items() if k not in CHANGING} for r in found]


def heard_again(tee: Path, gaps: list[Record]) -> list[Record]:
    """Return what the library hears in what arrived, from each gap on anew."""
    samples, _ = soundfile.read(tee, dtype="float32")
    detector = Detector.load(os.environ.get("SNN_DETECT_MODEL"))
    m = detector.manifest
    origin = StreamInfo("x", "x", RATE, f"{m.name}-{m.version}", detector.sha256)
    first, found = 0, []
    for gap in gaps:
        at, lost = round(gap["at_s"] * RATE), round(gap["lost_s"] * RATE)
        found += detector.push_chunk(AudioChunk(samples[first:at], first, gap=first > 0))
        first = at + lost
    found += detector.push_chunk(AudioChunk(samples[first:], first, gap=first > 0)) + detector.flush()
    return events([as_dict(event_record(event, origin, 0)) for event in found])


def test_what_is_heard_live_is_what_replay_hears_of_it(sound_server: SoundServer, tmp_path: Path) -> None:  # noqa: F811
    tee = tmp_path / "heard.wav"
    with Child("--device", "mic", "--tee", tee, environment=sound_server.env) as child:
        child.wait_for_records(lambda _: ("listening", True) in child.states(), "listening")
        sound_server.play(SCENE, wait=True)
        time.sleep(2)
        child.signal(signal.SIGINT)
        assert child.wait() == 130
    assert len(child.of("onset")) >= 3
    assert "guitar" in {r["label"] for r in child.of("onset")}
    gaps = child.of("gap")
    assert events(child.records) == heard_again(tee, gaps)
    if not gaps:  # a machine that is busy enough loses sound
        done = subprocess.run([*COMMAND, "replay", tee], capture_output=True, text=True, check=True)
        assert events(child.records) == events([json.loads(line) for line in done.stdout.splitlines()])


def test_a_sound_server_that_hangs_at_the_start_is_told_and_holds_up_no_end(sound_server: SoundServer) -> None:  # noqa: F811
    sound_server.freeze()
    try:
        with Child("--device", "mic", environment=sound_server.env) as child:
            wait_until(lambda: any("has not answered" in line for line in child.errors), "the line that says so")
            child.signal(signal.SIGTERM)
            assert child.wait() == 143
    finally:
        sound_server.thaw()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with Broker(tmp_path) as found:
        yield found


class NodeInfo:
    """The service with all its sinks, and somebody who plays the scene again and again."""

    def __init__(self, child: Child, server: SoundServer, watcher: Watcher, notify: NotifySocket, folder: Path) -> None:
        self.child, self.server, self.watcher, self.notify, self.folder = child, server, watcher, notify, folder

    def keeps_detecting(self) -> None:
        """Play the scene until another sound has been reported."""
        before = len(self.child.of("onset"))
        player = self.server.play(SCENE)
        self.child.wait_for_records(lambda _: len(self.child.of("onset")) > before, "another onset")
        player.terminate()
        player.wait()

    def told(self, state: str, *, active: bool) -> int:
        """Return how often a state has been told."""
        return self.child.states().count((state, active))

    def wait_for_state(self, state: str, *, active: bool, times: int = 1) -> None:
        """Wait until a state has been told so often."""
        wait_until(lambda: self.told(state, active=active) >= times, f"{state} {active} in {self.child.states()}")


@pytest.fixture
def relay(broker: Broker) -> Iterator[Relay]:
    """Give the service's way to the broker."""
    with Relay(broker.port) as way:
        yield way


@pytest.fixture
def node_info(sound_server: SoundServer, relay: Relay, broker: Broker, tmp_path: Path) -> Iterator[NodeInfo]:  # noqa: F811
    config = tmp_path / "config.toml"
    config.write_text(f"""
        node = "test"
        [audio]
        device = "mic"
        [health]
        interval_s = 2
        [database]
        path = "{tmp_path / "events.db"}"
        commit_s = 1
        [[file]]
        path = "{tmp_path / "events.jsonl"}"
        [[file]]
        path = "/dev/full"
        [[mqtt]]
        host = "127.0.0.1"
        port = {relay.port}
        [[command]]
        argv = ["false"]
    """)
    with (
        NotifySocket(tmp_path) as notify,
        Watcher(broker.port) as watcher,
        service(config, notify=notify, watchdog_s=4, environment=sound_server.env) as child,
    ):
        notify.wait_for("READY=1")
        yield NodeInfo(child, sound_server, watcher, notify, tmp_path)


def fault_server_killed(node_info: NodeInfo) -> None:
    node_info.server.kill()
    node_info.wait_for_state("waiting", active=True)
    node_info.watcher.wait_for("snn-detect/test/mic/status", "offline")
    fed = node_info.notify.count("WATCHDOG=1")
    wait_until(lambda: node_info.notify.count("WATCHDOG=1") >= fed + 2, "signs of life while it waits")
    node_info.server.restart()
    node_info.wait_for_state("waiting", active=False)
    node_info.watcher.wait_for("snn-detect/test/mic/status", "online")
    node_info.keeps_detecting()
    assert [g["cause"] for g in node_info.child.of("gap")].count("device") == 1


def fault_server_frozen(node_info: NodeInfo) -> None:
    """Stall the capture though nothing is away: systemd is not told that all is well, not even once it is known."""
    node_info.server.freeze()
    node_info.wait_for_state("waiting", active=True)
    before = node_info.notify.count("WATCHDOG=1")
    time.sleep(6)  # more than the watchdog's patience
    assert node_info.notify.count("WATCHDOG=1") == before
    node_info.server.thaw()
    node_info.wait_for_state("waiting", active=False)
    node_info.keeps_detecting()


def fault_stopped_for_ten_seconds(node_info: NodeInfo) -> None:
    before = len(node_info.child.of("gap"))
    node_info.child.signal(signal.SIGSTOP)
    time.sleep(10)
    node_info.child.signal(signal.SIGCONT)
    node_info.keeps_detecting()
    gaps = node_info.child.of("gap")[before:]
    assert sum(g["lost_s"] for g in gaps) == pytest.approx(10, abs=4)
    assert [g["cause"] for g in gaps].count("suspended") == 1


def fault_configuration_broken(node_info: NodeInfo) -> None:
    config = node_info.folder / "config.toml"
    good = config.read_text()
    config.write_text(good + "\n[nonsense]\n")
    node_info.child.signal(signal.SIGHUP)
    node_info.wait_for_state("reloaded", active=False)
    config.write_text(good)
    node_info.keeps_detecting()


def fault_twenty_times_off_and_on(node_info: NodeInfo) -> None:
    """Close and open the device by the switch of Home Assistant; nothing of it stays behind."""
    process = Path("/proc") / str(node_info.child.process.pid)

    def parts() -> tuple[int, int]:
        return sum(1 for _ in (process / "fd").iterdir()), sum(1 for _ in (process / "task").iterdir())

    topic = "snn-detect/test/listening/set"
    counts = []
    for times in range(1, 21):
        node_info.watcher.publish(topic, "OFF")
        node_info.wait_for_state("listening", active=False, times=times)
        before = node_info.told("listening", active=True)
        node_info.watcher.publish(topic, "ON")
        node_info.wait_for_state("listening", active=True, times=before + 1)
        counts.append(parts())
    assert max(counts[10:]) <= max(counts[:10])
    node_info.keeps_detecting()


FAULTS: list[Callable[[NodeInfo], None]] = [
    fault_server_killed,
    fault_server_frozen,
    fault_stopped_for_ten_seconds,
    fault_configuration_broken,
    fault_twenty_times_off_and_on,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_faults(node_info: NodeInfo, broker: Broker, fault: Callable[[NodeInfo], None]) -> None:
    node_info.keeps_detecting()
    fault(node_info)
    finish(node_info, broker)


def test_broker_killed(node_info: NodeInfo, broker: Broker, relay: Relay) -> None:
    node_info.keeps_detecting()
    broker.kill()
    relay.close()
    node_info.keeps_detecting()
    broker.start()
    node_info.watcher.ready()  # only then may the service come back: what nobody subscribes to is nobody's
    seen = len(node_info.watcher.payloads("snn-detect/test/status"))
    relay.open()
    wait_until(lambda: len(node_info.watcher.payloads("snn-detect/test/status")) > seen, "the service at the broker")
    node_info.keeps_detecting()
    lost = [line for line in node_info.child.errors if "mqtt" in line and "warning" in line]
    assert len(lost) == 1
    finish(node_info, broker)


def finish(node_info: NodeInfo, broker: Broker) -> None:
    """End the service, and compare what has come out of it in all places."""
    child = node_info.child
    child.signal(signal.SIGTERM)
    assert child.wait() == 0, child.errors
    onsets, offsets = child.of("onset"), child.of("offset")
    ids = [r["id"] for r in onsets]
    assert len(set(ids)) == len(ids)
    assert sorted(r["id"] for r in offsets) == sorted(ids)
    with contextlib.closing(sqlite3.connect(node_info.folder / "events.db")) as connection:
        stored = connection.execute("SELECT id, reason FROM events").fetchall()
    assert sorted(stored) == sorted((r["id"], r["reason"]) for r in offsets)
    lines = [json.loads(line) for line in (node_info.folder / "events.jsonl").read_text().splitlines()]
    assert [r["id"] for r in lines if r["type"] == "onset"] == ids
    published = [json.loads(p)["event_id"] for p in node_info.watcher.payloads("snn-detect/test/mic/event")]
    assert set(published) == set(ids)
    assert node_info.watcher.last("snn-detect/test/status") == "offline"
    for label in {r["label"] for r in onsets}:
        assert node_info.watcher.last(f"snn-detect/test/mic/{label}/state") == "OFF"
    complaints = [line for line in child.errors if "/dev/full" in line or "false" in line]
    assert len(complaints) == 2, complaints
    assert not any("Traceback" in line for line in child.errors)
    assert broker.log
