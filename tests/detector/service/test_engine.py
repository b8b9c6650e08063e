"""The records that an engine publishes, with and without faults."""

from __future__ import annotations

import json
import logging
import time
from datetime import datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.audio.levels import Loudness
from detector.audio.live_source import AudioBlock, AudioGap, SourceCondition, SourceEvent
from detector.errors import SourceError
from detector.messages import AudioChunk, Samples, Trace
from detector.network import ENGINE_VARIABLE
from detector.pipeline import Detector, _PythonStages
from detector.records import StreamInfo, as_dict, event_record
from detector.service.clock import Reading
from tests.detector.service.conftest import MODEL
from tests.detector.service.scripted import RATE, Bench, Record, blocks, silence

Lively = tuple[Samples, dict[str, float]]
ADDED = {"time", "id", "seq", "source", "device", "clock_synced", "level_dbfs"}


def bare(records: list[Record]) -> list[Record]:
    return [{k: v for k, v in r.items() if k not in ADDED} for r in records]


def expected(sound: Samples, thresholds: dict[str, float]) -> list[Record]:
    """Return what a library user gets for the same sound."""
    detector = Detector.load(MODEL, thresholds)
    m = detector.manifest
    origin = StreamInfo("x", "x", RATE, f"{m.name}-{m.version}", detector.sha256)
    events = detector.push(sound) + detector.flush()
    return bare([as_dict(event_record(e, origin, 0)) for e in events])


def paired(records: list[Record]) -> bool:
    onsets = [r["id"] for r in records if r["type"] == "onset"]
    return onsets == list(dict.fromkeys(onsets)) and sorted(onsets) == sorted(
        r["id"] for r in records if r["type"] == "offset"
    )


@given(lengths=st.lists(st.integers(1, 9000), min_size=1, max_size=8))
@settings(max_examples=12)
def test_events_are_those_of_the_library_however_the_sound_is_cut(lively: Lively, lengths: list[int]) -> None:
    sound, thresholds = lively
    items: list[AudioBlock] = []
    at = turn = 0
    while at < len(sound):
        n = lengths[turn % len(lengths)] if turn < 40 else 9000
        items.append(AudioBlock(AudioChunk(sound[at : at + n], at), time.monotonic()))
        at, turn = at + n, turn + 1
    bench = Bench(items, Detector.load(MODEL, thresholds))
    bench.run()
    bench.engine.close_events("end_of_stream")
    assert bare(bench.of("onset", "offset")) == expected(sound, thresholds)
    assert paired(bench.records)


def test_records_have_all_fields(lively: Lively, detector: Detector) -> None:
    sound, _ = lively
    bench = Bench(blocks(sound), detector)
    bench.run()
    bench.engine.close_events("shutdown")
    assert [r["seq"] for r in bench.records] == list(range(1, len(bench.records) + 1))
    head = {"v", "type", "seq", "source", "time", "device", "clock_synced"}
    onset, offset = bench.of("onset")[0], bench.of("offset")[0]
    assert set(onset) == head | {
        *("id", "label", "category", "onset_s", "score", "threshold", "latency_s", "level_dbfs"),
        *("model", "model_sha256"),
    }
    assert set(offset) == head | {
        *("id", "label", "category", "onset_s", "offset_s", "duration_s", "peak", "mean", "reason", "latency_s"),
        "model",
    }
    for record in bench.records:
        assert record["device"] == "usb-id:1234:5678"
        assert record["source"] == "mic"
        assert record["clock_synced"] in {True, False}
        assert datetime.fromisoformat(record["time"]).utcoffset() is not None
        json.dumps(record, allow_nan=False)


def test_times_are_when_the_sound_was_recorded(lively: Lively, detector: Detector) -> None:
    begin = time.time()
    bench = Bench(blocks(lively[0]), detector)
    assert time.time() - begin < 1
    bench.run()
    for r in bench.of("onset"):
        assert datetime.fromisoformat(r["time"]).timestamp() == pytest.approx(begin + r["onset_s"], abs=1)


def test_a_signal_closes_open_events(lively: Lively, detector: Detector) -> None:
    bench = Bench(blocks(lively[0]), detector)
    bench.run()
    assert not paired(bench.records)
    bench.engine.close_events("shutdown")
    assert paired(bench.records)
    assert bench.of("offset")[-1]["reason"] == "shutdown"


def test_two_streams_of_the_same_sound_have_different_ids(lively: Lively, detector: Detector) -> None:
    first = Bench(blocks(lively[0]), detector)
    first.run()
    second = Bench(blocks(lively[0]), Detector.load(MODEL, lively[1]))
    second.run()
    assert {r["id"] for r in first.of("onset")}.isdisjoint(r["id"] for r in second.of("onset"))


def test_only_selected_labels_are_reported(lively: Lively, detector: Detector) -> None:
    (label,) = lively[1]
    other = next(name for name in detector.labels if name != label)
    bench = Bench(blocks(lively[0]), detector, only=(other,))
    bench.run()
    bench.engine.close_events("shutdown")
    assert {r["label"] for r in bench.of("onset", "offset")} <= {other}


def test_a_gap_closes_events_and_the_detector_restarts_behind_it(lively: Lively, detector: Detector) -> None:
    sound, thresholds = lively
    lost = AudioGap(len(sound), 8000, "overrun")
    behind = len(sound) + 8000
    bench = Bench([*blocks(sound), lost, *blocks(sound, behind)], detector)
    bench.run()
    (gap,) = bench.of("gap")
    assert (gap["at_s"], gap["lost_s"], gap["cause"]) == (len(sound) / RATE, 0.5, "overrun")
    at_gap = [r for r in bench.of("offset") if r["reason"] == "gap"]
    assert at_gap
    assert all(r["seq"] < gap["seq"] and r["offset_s"] <= gap["at_s"] for r in at_gap)
    before = [r for r in bench.of("onset") if r["onset_s"] < gap["at_s"]]
    after = [r for r in bench.of("onset") if r["onset_s"] >= gap["at_s"]]
    assert [r["onset_s"] + behind / RATE for r in before] == [r["onset_s"] for r in after]
    assert bench.counters.gaps == 1
    bench.engine.close_events("end_of_stream")
    assert paired(bench.records)
    assert len(bench.of("onset")) == 2 * len([r for r in expected(sound, thresholds) if r["type"] == "onset"])


def test_a_device_that_is_lost_leaves_no_event_open(lively: Lively, detector: Detector) -> None:
    """It may be absent for long: a light that an onset turned on must not stay on until it returns."""
    waiting = SourceCondition("waiting", active=True, detail="waiting for usb-id:1234:5678")
    bench = Bench([*blocks(lively[0]), waiting], detector)
    bench.run()
    assert paired(bench.records)
    assert bench.of("offset")[-1]["reason"] == "gap"
    status = bench.records[-1]
    assert (status["type"], status["state"], status["active"]) == ("status", "waiting", True)
    assert [c.name for c in bench.engine.conditions] == ["waiting"]


def test_each_change_is_reported_once(detector: Detector, caplog: pytest.LogCaptureFixture) -> None:
    begins = SourceCondition("silent", active=True, detail="nothing but zeros;\ncheck the switch")
    ends = SourceCondition("silent", active=False, detail="there is sound again")
    with caplog.at_level(logging.INFO, "detector"):
        bench = Bench([*blocks(silence(0.5)), begins, *blocks(silence(0.5), 8000), ends], detector)
        bench.run()
    reported = [(r["state"], r["active"], r["detail"]) for r in bench.of("status")]
    assert reported[0][:2] == ("listening", True)
    assert reported[1:] == [
        ("silent", True, "nothing but zeros; check the switch"),
        ("silent", False, "there is sound again"),
    ]
    assert [r.levelno for r in caplog.records] == [logging.INFO, logging.WARNING, logging.INFO]
    assert bench.engine.conditions == ()


def test_many_gaps_are_one_line_in_the_log(detector: Detector, caplog: pytest.LogCaptureFixture) -> None:
    items: list[SourceEvent | SourceError] = []
    for n in range(200):
        items += [AudioGap(n * 640, 320, "overrun"), *blocks(silence(0.02), n * 640 + 320)]
    with caplog.at_level(logging.WARNING, "detector"):
        bench = Bench(items, detector)
        bench.run()
    assert len(bench.of("gap")) == 200
    assert len(caplog.records) == 1


def test_an_error_is_raised_behind_the_sound(lively: Lively, detector: Detector) -> None:
    bench = Bench([*blocks(lively[0]), SourceError("the cable is cut")], detector)
    with pytest.raises(SourceError, match="cable"):
        bench.run()
    assert bench.counters.heard_s == pytest.approx(len(lively[0]) / RATE)


@pytest.mark.parametrize("state", ["all", "one"])
def test_a_state_that_is_not_a_number_is_repaired_within_a_second(
    lively: Lively, monkeypatch: pytest.MonkeyPatch, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A membrane potential that is NaN stays so, fires no spikes, and so need not be visible in a score."""
    monkeypatch.setenv(ENGINE_VARIABLE, "onnxruntime")  # whose state a test can change
    detector = Detector.load()
    sound, _ = lively
    bench = Bench([*blocks(silence(2)), *blocks(silence(1), 32000), *blocks(sound, 48000)], detector)
    for _ in range(100):
        bench.turn()
    assert isinstance(detector._stages, _PythonStages)
    network = detector._stages._network
    values = network._states[network._current]
    for value in values.values() if state == "all" else [next(iter(values.values()))[:1]]:
        value[...] = np.nan
    with caplog.at_level(logging.WARNING, "detector"):
        bench.run()
    assert bench.counters.repairs == 1
    assert "not a number" in caplog.text
    (label,) = lively[1]
    assert label in {r["label"] for r in bench.of("onset")}


def test_a_clock_that_is_set_is_reported_and_durations_stay(lively: Lively, detector: Detector) -> None:
    bench = Bench(blocks(lively[0]), detector)
    clock = bench.engine.clock
    real, step_s = clock._read, 0.0

    def read() -> Reading:
        now = real()
        return Reading(now.monotonic_s, now.boot_s, now.wall_s + step_s)

    clock._read = read
    bench.engine.check_clock()
    while not bench.of("onset"):
        bench.turn()
    step_s = 3600.0
    bench.engine.check_clock()
    bench.engine.check_clock()
    bench.run()
    bench.engine.close_events("shutdown")
    (reported,) = [r for r in bench.of("status") if r["state"] == "clock"]
    assert "forward by 3600.0 s" in reported["detail"]
    onset = bench.of("onset")[0]
    offset = next(r for r in bench.of("offset") if r["id"] == onset["id"])
    assert offset["duration_s"] < 5
    later = datetime.fromisoformat(offset["time"]) - datetime.fromisoformat(onset["time"])
    assert later.total_seconds() == pytest.approx(3600 + offset["duration_s"], abs=0.1)


def test_another_detector_continues_the_same_stream(lively: Lively, detector: Detector) -> None:
    sound, thresholds = lively
    bench = Bench([*blocks(sound), *blocks(sound, len(sound))], detector)
    while bench.counters.heard_s < len(sound) / RATE:
        bench.turn()
    bench.engine.use(Detector.load(MODEL, thresholds))
    assert paired(bench.records)
    bench.run()
    bench.engine.close_events("shutdown")
    onsets = [r["onset_s"] for r in bench.of("onset")]
    half = len(onsets) // 2
    assert [s + len(sound) / RATE for s in onsets[:half]] == onsets[half:]
    assert paired(bench.records)


def test_loudness_is_that_of_the_segment() -> None:
    loudness = Loudness(RATE)
    t = np.arange(RATE, dtype=np.float32) / RATE
    loudness.push(AudioChunk(silence(1), 0))
    loudness.push(AudioChunk((0.1 * np.sin(2 * np.pi * 440 * t)).astype(np.float32), RATE))
    assert loudness.dbfs(RATE, 2 * RATE) == pytest.approx(-23.0, abs=0.1)
    assert loudness.dbfs(0, RATE) == -120
    assert loudness.dbfs(5 * RATE, 6 * RATE) is None


class Broken:
    """Receives sound and traces, and fails with each."""

    wants_layers = True

    def on_chunk(self, chunk: AudioChunk) -> None:
        raise RuntimeError(f"no memory for {len(chunk.samples)} samples")

    def on_trace(self, trace: Trace) -> None:
        raise KeyError(len(trace.scores))


def test_what_receives_sound_and_traces_cannot_stop_detection(
    lively: Lively, detector: Detector, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(blocks(lively[0]), detector)
    bench.engine.taps = (Broken(),)
    bench.engine.observer = Broken()
    bench.run()
    bench.engine.close_events("end_of_stream")
    assert bare(bench.of("onset", "offset")) == expected(*lively)
    assert caplog.text.count("Broken cannot take") == 1, "once a minute, for both"


def test_detection_starts_again_behind_what_it_could_not_process(lively: Lively, detector: Detector) -> None:
    bench = Bench([*blocks(lively[0][:32000]), *blocks(lively[0][32000:], first=32000)], detector)
    bench.run()
    bench.engine.recover()
    assert paired(bench.records)
    assert bench.of("offset")[-1]["reason"] == "gap"
    assert bench.engine.counters.repairs == 1
