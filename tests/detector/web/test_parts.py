"""Parts of the page: packing, pictures, the broadcaster; what they keep without viewers, and their bounds."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from detector.errors import ConfigError
from detector.events_db import Wanted
from detector.messages import AudioChunk, Trace
from detector.pipeline import Detector
from detector.records import GapRecord, OffsetRecord, OnsetRecord
from detector.sinks.base import NodeInfo, SourceContext
from detector.web import events as pictures_module
from detector.web.app import _Clip
from detector.web.events import Archive, Events, Pictures
from detector.web.schema import MEMBRANE_STEP
from detector.web.sink import Web, WebSink
from detector.web.stream import Broadcaster, FrameEncoder
from tests.detector.sinks import live_records
from tests.service import wait_until
from tests.web_service import scene

NODE_INFO = NodeInfo("pi", "mic", "mic", (("guitar", "music"),), "household-1", "ab12", "0.1.0")


class TraceRecorder:
    """Keeps the traces that it is given."""

    def __init__(self, *, layers: bool = True) -> None:
        self.wants_layers = layers
        self.traces: list[Trace] = []

    def on_trace(self, trace: Trace) -> None:
        self.traces.append(trace)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load()


@pytest.fixture(scope="module")
def seen(detector: Detector) -> list[Trace]:
    return trace(detector, seconds=9, layers=True)


def trace(detector: Detector, *, seconds: int, layers: bool) -> list[Trace]:
    fresh, recorder = detector.fresh(), TraceRecorder(layers=layers)
    fresh.observer = recorder
    sound = scene()
    for at in range(0, seconds * 16000, 640):
        fresh.push(sound[at : at + 640])
    return recorder.traces


def messages(detector: Detector, traces: list[Trace]) -> list[dict[str, Any]]:
    return [asdict(m) for m in FrameEncoder(detector).messages(traces)]


def unpacked(text: str) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), np.uint8)


def test_what_is_packed_can_be_unpacked(detector: Detector, seen: list[Trace]) -> None:
    (message,) = messages(detector, seen)
    frames = message["frames"]
    assert frames == sum(len(i.scores) for i in seen)
    assert message["end_s"] == 0.05
    encoder = np.unpackbits(unpacked(message["encoder"]).reshape(frames, -1), axis=1, count=240)
    assert np.array_equal(encoder, np.concatenate([i.spikes for i in seen]).reshape(frames, 240))
    for name in ("conv1", "dense"):
        fired = np.concatenate([i.layers[name] for i in seen])
        bits = np.unpackbits(unpacked(message["layers"][name]).reshape(frames, -1), axis=1, count=fired.shape[1])
        assert np.array_equal(bits, fired)
    scores = unpacked(message["scores"]).reshape(frames, 15) / 255
    np.testing.assert_allclose(scores, np.concatenate([i.scores for i in seen]), atol=0.5 / 255 + 1e-6)
    membranes = unpacked(message["membranes"]).view(np.int8).reshape(frames, 15) * MEMBRANE_STEP
    wanted = np.clip(np.concatenate([i.membranes for i in seen]), -8, 7.9375)
    np.testing.assert_allclose(membranes, wanted, atol=MEMBRANE_STEP / 2 + 1e-6)


def test_a_sine_at_full_scale_is_the_brightest_there_is(detector: Detector) -> None:
    fresh, recorder = detector.fresh(), TraceRecorder()
    fresh.observer = recorder
    t = np.arange(16000) / 16000
    fresh.push(np.sin(2 * np.pi * 1000 * t).astype(np.float32))
    (message,) = messages(detector, recorder.traces)
    bands = unpacked(message["mel"]).reshape(-1, 40)
    hz = detector.manifest.features.f_max_hz
    assert hz == 8000
    assert 235 <= bands[10:].max() <= 255
    assert np.median(bands) < 160


def test_gaps_separate_the_messages(detector: Detector, seen: list[Trace]) -> None:
    found = messages(detector, [*seen[:10], *seen[20:30]])
    assert [m["end_s"] for m in found] == pytest.approx([0.05, 0.05 + seen[20].first_sample / 16000])


def test_means_without_a_trace_of_them_are_those_of_the_decoder(detector: Detector, seen: list[Trace]) -> None:
    unseen = trace(detector, seconds=9, layers=False)
    assert all(i.means.size == 0 and not i.layers for i in unseen)
    (plain,), (full,) = (messages(detector, run) for run in (unseen, seen))
    assert plain["means"] == full["means"]
    assert plain["layers"] == {}


def onset(event_id: str, onset_s: float) -> OnsetRecord:
    return live_records.onset(id=event_id, onset_s=onset_s)


def offset(event_id: str, onset_s: float, offset_s: float) -> OffsetRecord:
    return live_records.offset(id=event_id, onset_s=onset_s, offset_s=offset_s)


def shot(pictures: Pictures, event_id: str) -> dict[str, Any]:
    packed = pictures.get(event_id)
    assert packed is not None
    found: dict[str, Any] = json.loads(packed)
    return found


def test_a_picture_is_taken_when_its_sound_has_ended(detector: Detector, seen: list[Trace]) -> None:
    pictures = Pictures(FrameEncoder(detector), 16000, 400)
    for one in seen[:149]:  # the first chunk of the six seconds was no frame yet
        pictures.on_trace(one)
    pictures.on_record(onset("a", 4.0))
    pictures.take()
    assert pictures.has("a")
    going = shot(pictures, "a")["parts"][0]
    assert (going["end_s"], going["frames"]) == (1.05, (6 - 1) * 40 - 1)
    pictures.on_record(offset("a", 4.0, 5.5))
    pictures.take()  # the second behind it is not there yet
    for one in seen[149:]:
        pictures.on_trace(one)
    pictures.take()
    (part,) = shot(pictures, "a")["parts"]
    assert part["frames"] == round((3 + 1.5 + 1) * 40)
    assert shot(pictures, "a")["origin"] == "memory"
    assert pictures.get("b") is None


def test_pictures_are_bounded(detector: Detector, seen: list[Trace], monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = Pictures(FrameEncoder(detector), 16000, 400)
    for one in seen:
        pictures.on_trace(one)
    pictures.on_record(onset("one", 4.0))
    pictures.on_record(offset("one", 4.0, 7.0))
    pictures.take()
    monkeypatch.setattr(pictures_module, "MAX_BYTES", round(3.5 * len(pictures._taken["one"])))
    for number in range(6):
        pictures.on_record(onset(str(number), 4.0))
        pictures.on_record(offset(str(number), 4.0, 7.0))
    pictures.take()
    kept = [number for number in range(6) if pictures.has(str(number))]
    assert kept == [3, 4, 5]
    assert not pictures.has("one")


def test_the_ring_holds_seconds_and_is_cleared_by_another_stream(detector: Detector, seen: list[Trace]) -> None:
    pictures = Pictures(FrameEncoder(detector), 16000, 400)
    for number in range(20):
        for one in seen:
            pictures.on_trace(Trace(one.first_sample + number * len(seen) * 640, *map(one.__getattribute__, NAMES)))
    assert sum(len(i.scores) for i in pictures._ring) <= 40 * 40
    pictures.on_trace(seen[0])
    assert list(pictures._ring) == [seen[0]]


def test_an_event_without_a_time_is_listed_last() -> None:
    events = Events(Archive(None, None))
    for number, time in enumerate((None, datetime.now().astimezone().isoformat(), None)):
        events.on_record(live_records.onset(id=str(number), time=time))
    assert [e.id for e in events.find(Wanted())] == ["1", "0", "2"]
    assert [e.id for e in events.find(Wanted(since=datetime.now().astimezone() - timedelta(hours=1)))] == ["1"]


NAMES = ("frames", "spikes", "layers", "membranes", "scores", "means")


async def with_broadcaster(detector: Detector, act: Callable[[Broadcaster], Any]) -> Any:
    broadcaster = Broadcaster(FrameEncoder(detector))
    task = asyncio.create_task(broadcaster.run())
    try:
        return await act(broadcaster)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_without_viewers_the_broadcaster_keeps_nothing(detector: Detector, seen: list[Trace]) -> None:
    async def act(broadcaster: Broadcaster) -> None:
        broadcaster.on_trace(seen[0])
        broadcaster.on_chunk(AudioChunk(np.ones(400, np.float32), 0))
        broadcaster.on_record(live_records.gap())
        viewer = broadcaster.join()
        assert viewer is not None
        broadcaster.on_trace(seen[1])
        (first, *_) = (await asyncio.wait_for(viewer.take(), 10)).decode().split("\n\n")
        assert json.loads(first.partition("data: ")[2])["end_s"] == seen[1].first_sample / 16000 + 0.05
        broadcaster.leave(viewer)
        broadcaster.on_trace(seen[2])
        assert not broadcaster._arrived

    asyncio.run(with_broadcaster(detector, act))


def test_a_slow_viewer_loses_the_oldest_and_is_counted_and_the_others_lose_nothing(
    detector: Detector,
) -> None:
    async def act(broadcaster: Broadcaster) -> None:
        slow, quick = broadcaster.join(), broadcaster.join()
        assert slow is not None
        assert quick is not None
        got: list[bytes] = []
        for number in range(70):
            broadcaster.on_record(live_records.gap(seq=number))
            broadcaster._send_arrived()
            got.append(await quick.take())
        assert len(got) == 70
        left = (await slow.take()).decode().split("\n\n")[:-1]
        assert [json.loads(m.partition("data: ")[2])["seq"] for m in left] == list(range(20, 70))
        assert (slow.dropped, quick.dropped, broadcaster.dropped) == (20, 0, 20)

    asyncio.run(with_broadcaster(detector, act))


def test_what_waits_for_the_server_is_bounded(detector: Detector, seen: list[Trace]) -> None:
    async def act(broadcaster: Broadcaster) -> None:
        viewer = broadcaster.join()
        assert viewer is not None
        broadcaster.on_record(live_records.gap(seq=1))
        for _ in range(20):
            for one in seen:
                broadcaster.on_trace(one)
        for number in range(2, 602):
            broadcaster.on_record(live_records.gap(seq=number))
        found = broadcaster._arrived.take()
        traces = [item for item in found if isinstance(item, Trace)]
        assert sum(len(t.scores) for t in traces) == 5 * 40, "the newest seconds"
        assert traces[-1] is seen[-1]
        assert [item.seq for item in found if isinstance(item, GapRecord)] == list(range(2, 602))
        assert found[0] is traces[0], "the first record was the oldest of 601"
        assert not broadcaster._arrived

    asyncio.run(with_broadcaster(detector, act))


@pytest.fixture
def _threads_switch_often() -> Iterator[None]:
    """Switch between threads after nearly every instruction, so that what reads a state twice is found out."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_an_event_of_a_clock_that_was_not_set_is_no_error() -> None:
    events = Events(Archive(None, None))
    events.on_record(live_records.onset(id="a", time="1970-01-01T00:00:10.000+00:00"))
    assert events.find(Wanted()) == []


@pytest.mark.usefixtures("_threads_switch_often")
def test_pictures_are_whole_while_viewers_come_and_go(detector: Detector) -> None:
    sink = WebSink(Web(address="127.0.0.1:0"), Archive(None, None), (SourceContext(NODE_INFO, detector),), None)
    fresh, over = detector.fresh(), threading.Event()
    view = sink._views[NODE_INFO.source]
    fresh.observer = view

    def come_and_go() -> None:
        while not over.is_set():
            viewer = view.broadcaster.join()
            assert viewer is not None
            view.broadcaster.leave(viewer)

    toggling = threading.Thread(target=come_and_go)
    toggling.start()
    sound = scene()
    sink.write(onset("a", 2.0))
    try:
        for at in range(0, 20 * 16000, 160):
            fresh.push(sound[at : at + 160])
    finally:
        over.set()
        toggling.join()
    sink.write(offset("a", 2.0, 18.0))
    parts = shot(view.pictures, "a")["parts"]
    assert sum(p["frames"] for p in parts) >= 17 * 40
    assert len({bool(p["layers"]) for p in parts}) == 2, "viewers came and went"
    classes, layers = 15, {layer.name: layer.neurons for layer in detector.manifest.network.layers if layer.spikes}
    for part in parts:
        frames = part["frames"]
        assert len(unpacked(part["scores"])) == len(unpacked(part["means"])) == frames * classes
        assert len(unpacked(part["membranes"])) == (frames * classes if part["layers"] else 0)
        assert part["layers"].keys() in (layers.keys(), set())
        for name, bits in part["layers"].items():
            assert len(unpacked(bits)) == frames * -(-layers[name] // 8)


@pytest.mark.usefixtures("_threads_switch_often")
def test_levels_are_those_of_whole_chunks(detector: Detector) -> None:
    async def act(broadcaster: Broadcaster) -> None:
        assert broadcaster.join() is not None
        chunk = AudioChunk(np.full(160, 0.5, np.float32), 0)
        over = threading.Event()

        def give() -> None:
            while not over.is_set():
                broadcaster.on_chunk(chunk)

        giving = threading.Thread(target=give)
        giving.start()
        try:
            levels = [broadcaster._level() for _ in range(20_000)]
        finally:
            over.set()
            giving.join()
        found = {(level["rms_dbfs"], level["peak_dbfs"]) for level in levels}
        assert (-6.0, -6.0) in found
        assert len(found) <= 2, found  # nothing at all, or whole chunks

    asyncio.run(with_broadcaster(detector, act))


def test_a_clip_that_is_deleted_on_the_way_is_none(tmp_path: Path) -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "headers": []}
    asyncio.run(_Clip(tmp_path / "gone.flac", media_type="audio/flac")(scope, receive, send))
    assert sent[0]["status"] == 404
    assert b"no clip" in sent[1]["body"]


def test_a_server_that_has_ended_is_started_again(detector: Detector, caplog: pytest.LogCaptureFixture) -> None:
    sink = WebSink(Web(address="127.0.0.1:0"), Archive(None, None), (SourceContext(NODE_INFO, detector),), None)
    sink.open()
    try:
        server = sink._server
        assert server is not None
        wait_until(lambda: server._loop is not None, "the server's start")
        assert server._loop is not None
        server._loop.call_soon_threadsafe(sys.exit)
        wait_until(lambda: not server.is_running, "the end of the server's thread")
        sink.tick()
        assert httpx.get(f"http://127.0.0.1:{sink.port}/api/model", timeout=20).status_code == 200
        assert "the page has ended and is started again" in caplog.text
    finally:
        sink.close()


def test_an_open_address_needs_a_token(detector: Detector) -> None:
    with pytest.raises(ConfigError, match="set token_file"):
        WebSink(Web(address="0.0.0.0:0"), Archive(None, None), (SourceContext(NODE_INFO, detector),), None)


def test_without_the_extra_it_is_named(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r"pip install -e '.*\[web\]'"):
        WebSink(Web(), Archive(None, None), (SourceContext(NODE_INFO, detector),), None)


def test_the_web_framework_is_imported_only_to_serve_the_page() -> None:
    found = """
import sys
import detector.cli.replay, detector.cli.run, detector.cli.terminal, detector.service.runtime, detector.web.sink
from detector.web.sink import Web
from detector.pipeline import Detector
from detector.sinks.base import NodeInfo, SourceContext
from detector.web.events import Archive
source = SourceContext(NodeInfo("n", "s", "d", (), "m", "a", "1"), Detector.load())
detector.web.sink.WebSink(Web(), Archive(None, None), (source,), None)
print({"fastapi", "starlette", "uvicorn", "prometheus_client"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", found], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("set()", "")


def test_the_page_is_light() -> None:
    static = Path(pictures_module.__file__).parent / "static"
    files = list(static.iterdir())
    assert sum(f.stat().st_size for f in files) < 150_000
    for file in files:  # nothing comes from elsewhere
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
