"""The whole detector with the model that ships: chunks, gaps, thresholds, and a guitar in the demo scene."""

from __future__ import annotations

from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings

from detector import Detector, Event
from detector.errors import ConfigError
from detector.messages import AudioChunk, Samples
from tests.strategies import chunk_lengths, cut


@pytest.fixture(scope="module")
def scene() -> Samples:
    path = resources.files("models") / "demo" / "scene.flac"
    wave, _ = soundfile.read(str(path), dtype="float32")
    return np.asarray(wave, np.float32)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load()


def at_once(detector: Detector, sound: Samples) -> list[Event]:
    detector.reset()
    return detector.push(sound) + detector.flush()


def test_it_finds_the_guitar_both_times_while_it_plays(detector: Detector, scene: Samples) -> None:
    onsets = [e for e in at_once(detector, scene) if e.kind == "onset" and e.label == "guitar"]
    heard_s = [e.emitted_sample / detector.sample_rate_hz for e in onsets]
    for begin, end in ((4.06, 11.82), (26.06, 32.72)):
        assert any(begin < t < end for t in heard_s), (begin, end, heard_s)


@settings(max_examples=12)
@given(chunk_lengths(most=9000))
def test_chunking_cannot_show(detector: Detector, scene: Samples, lengths: list[int]) -> None:
    sound = scene[: 16000 * 9]
    wanted = at_once(detector, sound)
    assert wanted
    found: list[Event] = []
    for chunk in cut(sound, lengths):
        found += detector.push(chunk)
    assert found + detector.flush() == wanted


def test_scores_have_the_same_bits_frame_by_frame_and_at_once(detector: Detector, scene: Samples) -> None:
    detector.reset()
    hops = [detector.process(scene[i : i + 400])[0] for i in range(0, len(scene), 400)]
    last, _ = detector.finish()
    assert np.array_equal(np.concatenate([*hops, last]), detector.score(scene))


def test_single_samples_give_the_same_bits(detector: Detector, scene: Samples) -> None:
    sound = scene[64000:72000]
    detector.reset()
    singles = [detector.process(sound[i : i + 1])[0] for i in range(len(sound))]
    last, _ = detector.finish()
    assert np.array_equal(np.concatenate([*singles, last]), detector.score(sound))


def test_score_leaves_the_stream_alone(detector: Detector, scene: Samples) -> None:
    detector.reset()
    events = detector.push(scene[:100000])
    detector.score(scene[:30000])
    events += detector.push(scene[100000:]) + detector.flush()
    assert events == at_once(detector, scene)


def test_reset_is_like_new(detector: Detector, scene: Samples) -> None:
    detector.reset()
    detector.push(scene[50000:90000])
    detector.reset()
    assert detector.push(scene) + detector.flush() == at_once(Detector.load(), scene)


def test_a_gap_closes_events_and_starts_anew(detector: Detector, scene: Samples) -> None:
    detector.reset()
    begin, end = int(26.06 * 16000), 30 * 16000
    before = detector.push_chunk(AudioChunk(scene[begin:end], 0))
    assert any(e.kind == "onset" and e.label == "guitar" for e in before)
    position = end - begin + 5 * 16000
    after = detector.push_chunk(AudioChunk(scene[begin:end], position, gap=True))
    closed = [e for e in after if e.reason == "gap"]
    assert [e.label for e in closed if e.label == "guitar"] == ["guitar"]
    again = [e for e in after if e.kind == "onset"]
    assert [(e.label, e.onset_sample - position) for e in again] == [
        (e.label, e.onset_sample) for e in before if e.kind == "onset"
    ]
    indices = [e.index for e in before + after if e.kind == "onset"]
    assert all(a < b for a, b in pairwise(indices))


def test_thresholds_can_be_overridden(scene: Samples) -> None:
    deaf = Detector.load(thresholds={"guitar": 0.9999})
    assert not [e for e in at_once(deaf, scene) if e.label == "guitar"]
    keen = Detector.load(thresholds={"guitar": 0.05})
    (first, *_) = [e for e in at_once(keen, scene) if e.label == "guitar"]
    assert first.threshold == 0.05


@pytest.mark.parametrize("thresholds", [{"violin": 0.5}, {"guitar": 0.0}, {"guitar": 1.0}, {"guitar": float("nan")}])
def test_thresholds_that_cannot_be_are_refused(thresholds: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"threshold .*(label|must lie between 0 and 1)"):
        Detector.load(thresholds=thresholds)


def test_integer_samples_are_refused(detector: Detector) -> None:
    with pytest.raises(ValueError, match="divide 16-bit samples by 32768"):
        detector.push(np.zeros(100, np.int16))


def test_empty_pushes_are_nothing(detector: Detector) -> None:
    detector.reset()
    assert detector.push(np.empty(0, np.float32)) == []
    assert detector.flush() == []
    assert detector.score(np.empty(0, np.float32)).shape == (0, len(detector.labels))


def test_silence_is_no_event(detector: Detector) -> None:
    assert at_once(detector, np.zeros(16000 * 20, np.float32)) == []
