"""The whole detector with the model that ships: chunks, gaps, thresholds, and a guitar in the demo scene."""

from __future__ import annotations

from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings

from detector import Detector, Event
from detector.encoder import DeltaEncoder
from detector.errors import ConfigError
from detector.features import MfccExtractor
from detector.manifest import SENSITIVITIES
from detector.messages import AudioChunk, Samples, Trace
from detector.network import ENGINE_VARIABLE, load_model, trace
from tests.model_files import changed_model, with_points, without_points
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


def test_a_gap_closes_events_and_restarts_the_detector(detector: Detector, scene: Samples) -> None:
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
    with pytest.raises(ConfigError, match=r"threshold .*(knows no|must lie between 0 and 1)"):
        Detector.load(thresholds=thresholds)


@pytest.mark.parametrize("rate_hz", [8000, 11025, 22050.5, 44100, 48000])
def test_another_rate_gives_the_events_of_the_whole_clip_resampled_however_it_is_divided(
    detector: Detector, scene: Samples, rate_hz: float
) -> None:
    sound = soxr.resample(scene[16000 * 24 : 16000 * 33], 16000, rate_hz).astype(np.float32)
    there = soxr.resample(sound, rate_hz, 16000, quality="HQ").astype(np.float32)
    wanted = at_once(detector, there)
    assert {("onset", "guitar"), ("offset", "guitar")} <= {(e.kind, e.label) for e in wanted}
    for lengths in ([len(sound)], [1, 0, 479, 44100, 7], [4410]):
        found = [e for chunk in cut(sound, lengths) for e in detector.push(chunk, rate_hz=rate_hz)]
        assert found + detector.flush() == wanted
    scores = [detector.process(chunk, rate_hz=rate_hz)[0] for chunk in cut(sound, [12345])]
    assert np.array_equal(np.concatenate([*scores, detector.finish()[0]]), detector.score(there))
    assert np.array_equal(detector.score(sound, rate_hz=rate_hz), detector.score(there))


def test_positions_in_seconds_are_those_in_samples(detector: Detector, scene: Samples) -> None:
    onset, offset = at_once(detector, scene[: 16000 * 9])
    assert (onset.onset_s, onset.offset_s) == (onset.onset_sample / 16000, None)
    assert (offset.onset_s, offset.offset_s) == (onset.onset_s, 9.0)
    unknown = Event("onset", 0, "guitar", "music", 16000, 17000, 0.9, 0.8)
    with pytest.raises(ValueError, match="no rate_hz"):
        _ = unknown.onset_s


def test_a_stream_has_one_rate_until_its_end_and_a_gap_ends_it(detector: Detector, scene: Samples) -> None:
    detector.reset()
    with pytest.raises(ValueError, match="divide 16-bit samples"):
        detector.push(np.zeros(10, np.int16), rate_hz=44100)
    detector.push(scene[:1000], rate_hz=48000)
    for other in (None, 16000, 44100):
        with pytest.raises(ValueError, match=r"16000|44100 Hz in a stream of 48000 Hz: end it with flush\(\)"):
            detector.push(scene[:1000], rate_hz=other)
    detector.push(scene[1000:2000], rate_hz=48000)
    detector.push_chunk(AudioChunk(scene[:1000], 16000, gap=True))
    detector.flush()
    for impossible in (0, -48000, 3999, 384001, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="outside 4000 to 384000"):
            detector.push(scene[:1000], rate_hz=impossible)
    assert detector.push(scene[:1000], rate_hz=16000) == []
    detector.reset()


def test_the_loudest_sound_at_another_rate_is_taken_although_resampling_raises_it(detector: Detector) -> None:
    loudest = np.float32(31.6) * np.where(np.arange(48000) % 480 < 240, 1, -1).astype(np.float32)
    assert np.abs(soxr.resample(loudest, 48000, 16000)).max() > 31.7
    detector.reset()
    detector.push(loudest, rate_hz=48000)
    detector.flush()


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


class Looker:
    """Keeps what it sees."""

    def __init__(self, *, layers: bool) -> None:
        self.wants_layers = layers
        self.seen: list[Trace] = []

    def on_trace(self, trace: Trace) -> None:
        self.seen.append(trace)


@pytest.mark.parametrize("chunk", [640, 16000, 1])
@pytest.mark.parametrize("layers", [True, False])
def test_to_look_inside_changes_no_bit(detector: Detector, scene: Samples, chunk: int, *, layers: bool) -> None:
    sound = scene[16000 * 3 : 16000 * (4 if chunk == 1 else 11)]
    wanted_scores, wanted = detector.score(sound), at_once(detector, sound)
    detector.reset()
    detector.observer = looker = Looker(layers=layers)
    try:
        events = [e for at in range(0, len(sound), chunk) for e in detector.push(sound[at : at + chunk])]
        events += detector.flush()
    finally:
        detector.observer = None
    assert events == wanted
    assert np.array_equal(np.concatenate([i.scores for i in looker.seen]), wanted_scores)
    assert [i.first_sample for i in looker.seen] == [
        400 * n for n in np.cumsum([0, *(len(i.scores) for i in looker.seen[:-1])])
    ]


def test_what_is_seen_inside_is_what_the_network_did(detector: Detector, scene: Samples) -> None:
    detector.reset()
    detector.observer = looker = Looker(layers=True)
    try:
        # A second before the guitar is unobserved: the state goes on all the same.
        detector.push(scene[: 16000 * 2])
        looker.wants_layers = False
        detector.push(scene[16000 * 2 : 16000 * 3])
        looker.wants_layers = True
        detector.push(scene[16000 * 3 : 16000 * 8])
    finally:
        detector.observer = None
        detector.reset()
    model = load_model()
    frames = MfccExtractor(model.manifest.features).push(scene[: 16000 * 8])
    spikes = DeltaEncoder(model.manifest.encoder).push(frames)
    assert np.array_equal(np.concatenate([i.spikes for i in looker.seen]), spikes)
    first, middle, last = looker.seen
    assert not middle.layers
    assert middle.means.shape == (len(middle.scores), 0)
    traced = list(trace(model, spikes))
    for name in ("conv1", "conv2", "conv3", "dense"):
        rows = np.array([layers[name] for layers in traced])
        assert set(np.unique(rows)) == {0.0, 1.0}
        assert np.array_equal(first.layers[name], rows[: len(first.scores)])
        assert np.array_equal(last.layers[name], rows[-len(last.scores) :])
    # The read-out's membrane is the score before the sigmoid.
    np.testing.assert_allclose(1 / (1 + np.exp(-last.membranes)), last.scores, atol=1e-5)
    on = [c.decoder.on_threshold for c in detector.classes]
    onsets = [e for e in at_once(detector, scene[: 16000 * 8]) if e.kind == "onset"]
    unseen = np.full((len(middle.scores), len(on)), np.nan)
    means = np.concatenate([first.means, unseen, last.means])
    assert onsets
    for event in onsets:
        frame, c = (event.emitted_sample + 1 - 800) // 400, detector.labels.index(event.label)
        assert means[frame, c] == event.score >= on[c]


@pytest.mark.parametrize("engine", ["core", "onnxruntime"])
@pytest.mark.parametrize("beyond", [1, 100, 399])
def test_no_event_lies_behind_the_end_of_the_stream(
    monkeypatch: pytest.MonkeyPatch, scene: Samples, engine: str, beyond: int
) -> None:
    """The last frame is padded with zeros, which are no part of the stream."""
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    own = Detector.load()
    sound = scene[: 7 * own.sample_rate_hz + beyond]
    events = at_once(own, sound)
    (offset,) = (e for e in events if e.reason == "end_of_stream")
    assert offset.offset_sample == len(sound)
    assert max(e.emitted_sample for e in events) == len(sound) - 1


def test_an_operating_point_sets_all_thresholds_and_single_ones_override(tmp_path: Path) -> None:
    path = changed_model(tmp_path / "m.onnx", with_points)
    found = Detector.load(path, {"guitar": 0.5}, "high")
    assert found.sensitivity == found.fresh().sensitivity == "high"
    by_label = {c.label: (c.decoder.on_threshold, c.decoder.off_threshold) for c in found.classes}
    assert by_label.pop("guitar") == (0.5, 0.25)
    assert set(by_label.values()) == {(0.02, 0.01)}
    assert {c.decoder.on_threshold for c in found.at("low").classes} == {0.999}
    assert Detector.load(path).classes == Detector.load(path, sensitivity="balanced").classes


def test_a_model_without_operating_points_refuses_all_but_the_balanced_one(tmp_path: Path) -> None:
    path = changed_model(tmp_path / "m.onnx", without_points)
    assert Detector.load(path).sensitivity == "balanced"
    with pytest.raises(ConfigError, match=r"^sensitivity 'low': .*m\.onnx has no operating points"):
        Detector.load(path, sensitivity="low")


def test_the_three_points_differ_in_what_they_report(scene: Samples, tmp_path: Path) -> None:
    path = changed_model(tmp_path / "m.onnx", with_points)
    low, balanced, high = (
        sum(e.kind == "onset" for e in at_once(Detector.load(path, sensitivity=point), scene))
        for point in SENSITIVITIES
    )
    assert low < balanced < high
