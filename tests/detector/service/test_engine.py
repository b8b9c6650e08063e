"""What an engine makes of what arrives: records, in good times and in bad."""

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
from detector.messages import AudioChunk, Samples
from detector.pipeline import Detector
from detector.records import StreamInfo, as_dict, event_record
from detector.service.clock import Reading
from tests.detector.service.conftest import MODEL
from tests.detector.service.scripted import RATE, Bench, Record, heard, silence

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


def test_records_say_all_that_was_agreed(lively: Lively, detector: Detector) -> None:
    sound, _ = lively
    bench = Bench(heard(sound), detector)
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


def test_times_are_when_the_sound_was_heard(lively: Lively, detector: Detector) -> None:
    begin = time.time()
    bench = Bench(heard(lively[0]), detector)
    assert time.time() - begin < 1
    bench.run()
    for r in bench.of("onset"):
        assert datetime.fromisoformat(r["time"]).timestamp() == pytest.approx(begin + r["onset_s"], abs=1)


def test_a_signal_closes_what_is_open(lively: Lively, detector: Detector) -> None:
    bench = Bench(heard(lively[0]), detector)
    bench.run()
    assert not paired(bench.records)
    bench.engine.close_events("shutdown")
    assert paired(bench.records)
    assert bench.of("offset")[-1]["reason"] == "shutdown"


def test_two_streams_of_the_same_sound_have_different_ids(lively: Lively, detector: Detector) -> None:
    first = Bench(heard(lively[0]), detector)
    first.run()
    second = Bench(heard(lively[0]), Detector.load(MODEL, lively[1]))
    second.run()
    assert {r["id"] for r in first.of("onset")}.isdisjoint(r["id"] for r in second.of("onset"))


def test_only(lively: Lively, detector: Detector) -> None:
    (label,) = lively[1]
    other = next(name for name in detector.labels if name != label)
    bench = Bench(heard(lively[0]), detector, only=(other,))
    bench.run()
    bench.engine.close_events("shutdown")
    assert {r["label"] for r in bench.of("onset", "offset")} <= {other}


def test_a_gap_closes_events_and_the_detector_begins_anew_at_its_place(lively: Lively, detector: Detector) -> None:
    sound, thresholds = lively
    lost = AudioGap(len(sound), 8000, "overrun")
    behind = len(sound) + 8000
    bench = Bench([*heard(sound), lost, *heard(sound, behind)], detector)
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


def test_a_device_that_goes_leaves_nothing_open(lively: Lively, detector: Detector) -> None:
    """How long it is away nobody knows: a light that the onset turned on must not burn until it comes back."""
    waiting = SourceCondition("waiting", active=True, detail="waiting for usb-id:1234:5678")
    bench = Bench([*heard(lively[0]), waiting], detector)
    bench.run()
    assert paired(bench.records)
    assert bench.of("offset")[-1]["reason"] == "gap"
    status = bench.records[-1]
    assert (status["type"], status["state"], status["active"]) == ("status", "waiting", True)
    assert [c.name for c in bench.engine.conditions] == ["waiting"]


def test_each_change_is_told_once(detector: Detector, caplog: pytest.LogCaptureFixture) -> None:
    begins = SourceCondition("silent", active=True, detail="nothing but zeros;\ncheck the switch")
    ends = SourceCondition("silent", active=False, detail="it can be heard again")
    with caplog.at_level(logging.INFO, "detector"):
        bench = Bench([*heard(silence(0.5)), begins, *heard(silence(0.5), 8000), ends], detector)
        bench.run()
    told = [(r["state"], r["active"], r["detail"]) for r in bench.of("status")]
    assert told[0][:2] == ("listening", True)
    assert told[1:] == [
        ("silent", True, "nothing but zeros; check the switch"),
        ("silent", False, "it can be heard again"),
    ]
    assert [r.levelno for r in caplog.records] == [logging.INFO, logging.WARNING, logging.INFO]
    assert bench.engine.conditions == ()


def test_a_storm_of_gaps_is_one_line_in_the_log(detector: Detector, caplog: pytest.LogCaptureFixture) -> None:
    items: list[SourceEvent | SourceError] = []
    for n in range(200):
        items += [AudioGap(n * 640, 320, "overrun"), *heard(silence(0.02), n * 640 + 320)]
    with caplog.at_level(logging.WARNING, "detector"):
        bench = Bench(items, detector)
        bench.run()
    assert len(bench.of("gap")) == 200
    assert len(caplog.records) == 1


def test_a_fault_comes_behind_the_sound(lively: Lively, detector: Detector) -> None:
    bench = Bench([*heard(lively[0]), SourceError("the cable is cut")], detector)
    with pytest.raises(SourceError, match="cable"):
        bench.run()
    assert bench.counters.heard_s == pytest.approx(len(lively[0]) / RATE)


@pytest.mark.parametrize("state", ["all", "one"])
def test_a_state_that_is_no_number_is_mended_within_a_second(
    lively: Lively, detector: Detector, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A membrane that is NaN stays so and, where it hides behind spikes, shows in no score."""
    sound, _ = lively
    bench = Bench([*heard(silence(2)), *heard(silence(1), 32000), *heard(sound, 48000)], detector)
    for _ in range(100):
        bench.turn()
    network = detector._front._network
    values = network._states[network._current]
    for value in values.values() if state == "all" else [next(iter(values.values()))[:1]]:
        value[...] = np.nan
    with caplog.at_level(logging.WARNING, "detector"):
        bench.run()
    assert bench.counters.repairs == 1
    assert "not a number" in caplog.text
    (label,) = lively[1]
    assert label in {r["label"] for r in bench.of("onset")}


def test_a_clock_that_is_set_is_told_and_lengths_stay(lively: Lively, detector: Detector) -> None:
    bench = Bench(heard(lively[0]), detector)
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
    (told,) = [r for r in bench.of("status") if r["state"] == "clock"]
    assert "forward by 3600.0 s" in told["detail"]
    onset = bench.of("onset")[0]
    offset = next(r for r in bench.of("offset") if r["id"] == onset["id"])
    assert offset["duration_s"] < 5
    later = datetime.fromisoformat(offset["time"]) - datetime.fromisoformat(onset["time"])
    assert later.total_seconds() == pytest.approx(3600 + offset["duration_s"], abs=0.1)


def test_another_detector_goes_on_with_the_same_stream(lively: Lively, detector: Detector) -> None:
    sound, thresholds = lively
    bench = Bench([*heard(sound), *heard(sound, len(sound))], detector)
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


def test_loudness_is_that_of_the_stretch() -> None:
    loudness = Loudness(RATE)
    t = np.arange(RATE, dtype=np.float32) / RATE
    loudness.push(AudioChunk(silence(1), 0))
    loudness.push(AudioChunk((0.1 * np.sin(2 * np.pi * 440 * t)).astype(np.float32), RATE))
    assert loudness.dbfs(RATE, 2 * RATE) == pytest.approx(-23.0, abs=0.1)
    assert loudness.dbfs(0, RATE) == -120
    assert loudness.dbfs(5 * RATE, 6 * RATE) is None
