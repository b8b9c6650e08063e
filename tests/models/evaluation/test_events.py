"""Evaluation of events: by hand, against sed_scores_eval, and through the commands on a short scene."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from detector.errors import ManifestError
from detector.manifest import SENSITIVITIES, OperatingPoints
from detector.messages import AudioChunk
from detector.network import load_model
from detector.pipeline import Detector, with_threshold
from models.cli.main import cli
from models.evaluation import matching
from models.evaluation import robustness as channels
from models.evaluation import thresholds as tuning
from models.evaluation.dcase import measure, score_tables, sed_scores
from models.evaluation.inference import Detection, ScenePredictions, decode, predict_scenes
from models.evaluation.matching import (
    NOTHING,
    THRESHOLD_GRID,
    UNKNOWN,
    Curve,
    Outcome,
    confusion,
    curves,
    evaluate_detections,
    match,
    reports_per_event,
    sweep,
)
from models.evaluation.report import hourly
from models.evaluation.thresholds import FalseAlarmBudget, allocate_budget
from models.scenes.folder import EventReference, Scenes, ScenesManifest, Span, Stream, StreamFile, read_scenes

HOUR_S = 3600.0
MODEL = load_model().path
DEMO = MODEL.parents[1] / "demo" / "scene.flac"


def ref(onset_s: float, offset_s: float, label: str = "guitar", snr_db: float | None = 10.0) -> EventReference:
    return EventReference(onset_s, offset_s, label, snr_db, -20.0, "room", "x", reverberant=False)


def det(onset_s: float, offset_s: float, label: str = "guitar", late_s: float = 0.2) -> Detection:
    return Detection(label, onset_s, offset_s, onset_s + late_s)


def scenes_of(
    events: list[EventReference],
    unknown: tuple[EventReference, ...] = (),
    seconds: float = HOUR_S,
    contains: tuple[str, ...] = (),
) -> Scenes:
    """Return a scene of one stream over one background."""
    spans = (Span(0.0, seconds, "room", -20.0, contains),)
    stream = Stream(Path("scene-01.wav"), seconds, tuple(events), unknown, spans)
    files = (StreamFile("scene-01.wav", round(seconds * 16000), ""),)
    hours = seconds / HOUR_S
    manifest = ScenesManifest(1, "0", "make", 3, 16000, (), 5, "", {}, hours, {"room": hours}, {}, len(unknown), files)
    return Scenes(Path(), manifest, "0123456789abcdef", (stream,))


def test_found_missed_double_false_and_stray_by_hand() -> None:
    references = [ref(10, 12), ref(20, 22), ref(30, 32), ref(40, 44)]
    detections = [
        det(9.6, 11, late_s=0.7),  # begins within the collar, emitted 0.3 s after the onset
        det(11.5, 12.2),  # the same sound again
        det(15, 16),  # false
        det(18, 21),  # began before the second one's collar and reached into it: neither
        det(32.4, 33),  # begins within the collar behind the third
        det(46, 47),  # false
    ]
    result = match(references, detections)
    assert result.reports.tolist() == [2, 0, 1, 0]
    assert result.found.tolist() == [True, False, True, False]
    assert result.latency_s[[0, 2]] == pytest.approx([0.3, 2.6])
    assert np.isnan(result.latency_s[[1, 3]]).all()
    assert result.is_false.tolist() == [False, False, True, False, False, True]


def test_an_event_that_never_ends_finds_one_thing_at_most() -> None:
    result = match([ref(10 * i, 10 * i + 2) for i in range(1, 9)], [det(0.0, 100.0)])
    assert not result.found.any()
    assert match([ref(1, 2)], []).reports.tolist() == [0]
    assert match([], [det(1, 2)]).is_false.tolist() == [True]


def random_events(seed: int) -> tuple[list[EventReference], list[Detection]]:
    """Return references of two classes, each with no, one or two events in it, and false events between."""
    rng, references, detections = np.random.default_rng(seed), list[EventReference](), list[Detection]()
    for i in range(60):
        label, at = ("guitar", "speech")[i % 2], 10.0 * (i + 1)
        references.append(ref(at, at + 2, label))
        for k in range(int(rng.integers(0, 3))):
            detections.append(det(at + 0.1 + 0.7 * k, at + 0.5 + 0.7 * k, label))
        if rng.random() < 0.4:
            detections.append(det(at + 5, at + 5.5, ("guitar", "speech")[int(rng.integers(2))]))
    return references, detections


def test_misses_and_false_alarms_are_those_of_sed_scores_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a collar, by its intersection criteria: any overlap makes an event true and a reference found."""
    monkeypatch.setattr(matching, "COLLAR_S", 0.0)
    references, detections = random_events(5)
    scenes = scenes_of(references)
    outcome = evaluate_detections([detections], scenes, ("guitar", "speech"))
    scores = score_tables([[detections]], [1.0], scenes.streams, ["guitar", "speech"])
    truth = {"scene-01.wav": [(r.onset_s, r.offset_s, r.label) for r in references]}
    criteria = {"dtc_threshold": 1e-3, "gtc_threshold": 1e-3}
    counts = sed_scores().intersection_based.fscore(scores, truth, 0.5, **criteria)[3]
    for label in ("guitar", "speech"):
        found = sum(j.reports > 0 for j in outcome.of(label))
        assert 0 < found == counts[label]["tps"] < counts[label]["n_ref"]
        assert 0 < outcome.false_alarms(label).events == counts[label]["fps"]


def test_the_fields_measures_on_a_tiny_annotation() -> None:
    scenes = scenes_of([ref(10, 12), ref(20, 22), ref(30, 32), ref(40, 42)], seconds=60.0)
    own = [det(10.1, 12.1), det(20.3, 22.0), det(33, 34), det(40.0, 41.0)]
    found = measure([own], [[own]], [1.0], scenes)
    assert found is not None
    # Within 500 ms: 10.1, 20.3 and 40.0 of four events and four references. Strictly: 10.1 alone.
    assert found.onset_f1 == {"guitar": 0.75, "macro_average": 0.75, "micro_average": 0.75}
    assert found.strict_f1["guitar"] == 0.25
    assert found.sed_eval_onset_f1 == {"guitar": 0.75, "micro_average": 0.75}
    assert 0 < found.psds1 < found.psds2 <= 1
    assert measure([own], [[own]], [1.0], scenes_of([])) is None


def predictions_of(scores: np.ndarray, model: Path = MODEL) -> ScenePredictions:
    manifest = load_model(model).manifest
    stored = np.asarray(scores, np.float32)
    return ScenePredictions(manifest, "", (stored,), (tuple(decode(manifest.classes, manifest, stored)),))


def scores_with(levels: dict[int, float], frames: int = 4000) -> np.ndarray:
    """Return scores that are 0 but for two seconds of the guitar's at each of some frames."""
    labels = load_model().manifest.labels
    scores = np.zeros((frames, len(labels)), np.float32)
    for first, level in levels.items():
        scores[first : first + 80, labels.index("guitar")] = level
    return scores


def test_the_curve_is_the_decoders_threshold_by_threshold() -> None:
    """Two guitars at scores of 0.9 and 0.5, and one false event at 0.7, in 100 s."""
    scenes = scenes_of([ref(10, 12), ref(50, 52)], seconds=100.0)
    predictions = predictions_of(scores_with({400: 0.9, 2000: 0.5, 3000: 0.7}))
    curve = curves(sweep(predictions, 1), scenes, predictions.manifest.labels)["guitar"]
    at = {round(t, 3): i for i, t in enumerate(THRESHOLD_GRID)}
    assert [int((curve.reports[at[t]] == 0).sum()) for t in (0.4, 0.6, 0.8, 0.92)] == [0, 1, 1, 2]
    assert [int(curve.false_alarms[at[t]]) for t in (0.4, 0.6, 0.8, 0.92)] == [1, 1, 0, 0]
    quiet, loud = curve.operating_point(0.0), curve.operating_point(100.0)
    assert quiet is not None and loud is not None  # noqa: PT018 - types
    # No false alarm above 0.7: one guitar is found, up to 0.9. One alarm allowed: both, up to 0.5.
    assert curve.thresholds[quiet] == 0.9
    assert curve.thresholds[loud] == 0.5
    assert curve.rate(quiet).bound == pytest.approx(3.0 / (100 / HOUR_S), rel=0.01)


def test_no_rate_is_given_where_every_threshold_has_more_alarms() -> None:
    zeros = np.zeros((2, 1), np.int64)
    curve = Curve("guitar", 1.0, np.array([0.5, 0.9]), zeros, np.array([5, 3]), np.full((2, 1), np.nan))
    assert curve.operating_point(2.9) is None


def test_a_rate_is_never_given_without_its_bound() -> None:
    text = hourly({"events": 0, "hours": 2.0, "per_hour": 0.0, "bound": 1.498})
    assert text == "0 in 2.00 h = 0.00/h (at most 1.50/h)"


def test_false_events_are_counted_by_what_they_coincide_with() -> None:
    scenes = scenes_of([ref(10, 12, "speech"), ref(40, 42)], unknown=(ref(20, 22, ""),))
    labels = ("guitar", "speech")
    outcome = evaluate_detections([[det(10, 11), det(20, 21), det(30, 31), det(40, 41), det(41.5, 42)]], scenes, labels)
    assert sorted(f.over for f in outcome.false) == [NOTHING, "speech", UNKNOWN]
    assert reports_per_event(outcome.of("guitar")) == 2
    counts = confusion(outcome, labels)
    assert counts.tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 0], [1, 0, 0]]


def test_the_rule_of_tuning_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flicker of two frames at 0.95 is kept out by an average or a shortest duration, not by a threshold."""
    monkeypatch.setattr(tuning, "THRESHOLDS", (0.3, 0.5, 0.7, 0.93))
    monkeypatch.setattr(tuning, "SMOOTHINGS", (1, 4))
    scores = scores_with({400: 0.9, 2000: 0.6})
    guitar = load_model().manifest.labels.index("guitar")
    for at in range(2400, 3900, 200):
        scores[at : at + 2, guitar] = 0.95
    scenes = scenes_of([ref(10, 12), ref(50, 52)], seconds=100.0)
    points = tuning.tune(predictions_of(scores), scenes, FalseAlarmBudget(0.0), 1, "average")
    chosen = points["balanced"]
    (best,) = (t for t in chosen if t.spec.label == "guitar")
    assert points["low"][guitar] == points["high"][guitar] == best  # ten times none is none
    assert (best.missed, best.false_alarms, best.references) == (0, 0, 2)
    assert best.spec.decoder.on_threshold < 0.6
    assert best.spec.decoder.min_on_frames * best.spec.decoder.smoothing_frames > 2
    off_ratio = best.spec.decoder.off_threshold / best.spec.decoder.on_threshold
    assert off_ratio == pytest.approx(0.5)
    # A class without reference events keeps its values.
    others = load_model().manifest.classes
    assert [t.spec for t in chosen if t.spec.label != "guitar"] == [c for c in others if c.label != "guitar"]


def test_evidence_is_chosen_where_it_finds_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two frames at 0.95 are above every threshold that finds two seconds at 0.6, but are less evidence."""
    for name, values in {"THRESHOLDS": (0.3, 0.5, 0.7, 0.97), "SMOOTHINGS": (1,), "MIN_ON_FRAMES": (1,)}.items():
        monkeypatch.setattr(tuning, name, values)
    for name, values in {"LEAKS": (0.0, 1 / 64), "WEIGHTS": (1 / 16,), "BIASES": (-1.5,)}.items():
        monkeypatch.setattr(tuning, name, values)
    scores = scores_with({400: 0.6, 2000: 0.6})
    guitar = load_model().manifest.labels.index("guitar")
    for at in range(2400, 3900, 200):
        scores[at : at + 2, guitar] = 0.95
    scenes, predictions = scenes_of([ref(10, 12), ref(50, 52)], seconds=100.0), predictions_of(scores)
    found = {
        smoothing: next(
            t
            for t in tuning.tune(predictions, scenes, FalseAlarmBudget(0.0), 1, smoothing)["balanced"]
            if t.spec.label == "guitar"
        )
        for smoothing in tuning.SMOOTHING
    }
    assert {name: (t.missed, t.false_alarms) for name, t in found.items()} == {
        "average": (2, 0),
        "evidence": (0, 0),
        "either": (0, 0),
    }
    assert found["average"].spec.decoder.evidence is None
    assert found["either"] == found["evidence"]
    # The streaming decoder gives what the search, which accumulates all of a stream at once, has counted.
    spec = found["either"].spec
    assert spec.decoder.evidence is not None
    events = decode([spec], predictions.manifest, predictions.scores[0][:, [guitar]])
    assert [(10 <= e.onset_s <= 12, 50 <= e.onset_s <= 52) for e in events] == [(True, False), (False, True)]


def test_each_operating_point_keeps_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four guitars at 0.95, 0.85, 0.75 and 0.65, other sounds at 0.9 (once) and 0.7 (six times) let two or three."""
    monkeypatch.setattr(tuning, "THRESHOLDS", (0.6, 0.8, 0.92))
    monkeypatch.setattr(tuning, "SMOOTHINGS", (1,))
    monkeypatch.setattr(tuning, "MIN_ON_FRAMES", (1,))
    references = {400: 0.95, 1200: 0.85, 2000: 0.75, 2800: 0.65}
    scores = scores_with(references | {3600: 0.9} | {4400 + 800 * i: 0.7 for i in range(6)}, frames=10_000)
    scenes = scenes_of([ref(at / 40, at / 40 + 2) for at in references], seconds=3600.0)
    points = tuning.tune(predictions_of(scores), scenes, FalseAlarmBudget(1.0), 1, "average")
    guitar = {name: next(t for t in found if t.spec.label == "guitar") for name, found in points.items()}
    assert {name: (t.missed, t.false_alarms) for name, t in guitar.items()} == {
        "low": (3, 0),
        "balanced": (2, 1),
        "high": (0, 7),
    }
    assert {name: t.spec.decoder.on_threshold for name, t in guitar.items()} == {
        "low": 0.92,
        "balanced": 0.8,
        "high": 0.6,
    }


def test_low_and_high_are_chosen_beside_values_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scores of the test above, with a balanced threshold that is neither the best one nor of the grid."""
    monkeypatch.setattr(tuning, "THRESHOLDS", (0.6, 0.72, 0.92))
    references = {400: 0.95, 1200: 0.85, 2000: 0.75, 2800: 0.65}
    scores = scores_with(references | {3600: 0.9} | {4400 + 800 * i: 0.7 for i in range(6)}, frames=10_000)
    scenes = scenes_of([ref(at / 40, at / 40 + 2) for at in references], seconds=3600.0)
    predictions = predictions_of(scores)
    kept = tuple(with_threshold(c, 0.78) for c in predictions.manifest.classes)
    predictions = replace(predictions, manifest=replace(predictions.manifest, classes=kept))
    points = tuning.tune_around(predictions, scenes, FalseAlarmBudget(1.0), 1)
    thresholds = {name: {t.spec.label: t.spec.decoder.on_threshold for t in own} for name, own in points.items()}
    assert thresholds["balanced"] == dict.fromkeys(predictions.manifest.labels, 0.78)
    assert {name: own["guitar"] for name, own in thresholds.items()} == {"low": 0.92, "balanced": 0.78, "high": 0.6}
    # Of other classes nothing is known here.
    assert {name: own["speech"] for name, own in thresholds.items()} == dict.fromkeys(thresholds, 0.78)
    for own in points.values():
        for t, before in zip(own, kept, strict=True):
            d, b = t.spec.decoder, before.decoder
            assert d.off_threshold / d.on_threshold == pytest.approx(b.off_threshold / b.on_threshold)
            assert replace(d, on_threshold=b.on_threshold, off_threshold=b.off_threshold) == b


def test_alarms_are_allocated_where_they_find_most() -> None:
    points = [
        [(0, 10), (1, 9), (4, 2), (9, 1), (4, 5)],  # three alarms more find seven of ten
        [(0, 50), (1, 44), (2, 43)],  # one alarm finds six of fifty
        [(3, 0)],
        [(0, 0), (5, 0)],  # no references
    ]
    references = [10, 50, 5, 0]
    assert allocate_budget(points, references, 3) == [0, 0, 3, 0]
    assert allocate_budget(points, references, 4) == [0, 1, 3, 0]
    assert allocate_budget(points, references, 7) == [4, 0, 3, 0]
    assert allocate_budget(points, references, 8) == [4, 1, 3, 0]
    assert allocate_budget(points, references, 100) == [9, 2, 3, 0]
    assert allocate_budget(points, references, 0) == [0, 0, 3, 0]


def test_channels_do_what_their_names_say() -> None:
    wave = np.asarray(0.25 * np.sin(np.arange(32000) / 5), np.float32)
    changed = next(channels._scaled([AudioChunk(wave, 0)], 16000, gain=8.0)).samples
    assert changed.max() == 1 - 2.0**-15
    assert changed.min() == -1
    for rate_hz in (8000, 44100, 48000):
        chunks = [AudioChunk(wave[i : i + 5000], i) for i in range(0, 32000, 5000)]
        back = list(channels._through(chunks, 16000, rate_hz=rate_hz))
        assert [c.first_sample for c in back] == np.cumsum([0, *(len(c.samples) for c in back[:-1])]).tolist()
        whole = np.concatenate([c.samples for c in back])
        assert whole.size == pytest.approx(32000, abs=4)
        assert np.abs(whole[2000:30000] - wave[2000:30000]).max() < 2e-3
    (chunk,) = channels._with_offset([AudioChunk(wave, 0)], 16000)
    assert chunk.samples.mean() == pytest.approx(wave.mean() + 0.05, abs=1e-4)


@pytest.fixture(scope="module")
def scene(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give 72 s of tones and the small tree's noises: what a model makes of them is not the point."""
    out = tmp_path_factory.mktemp("scenes") / "scene"
    options = ["--for", str(MODEL), "--data", str(tree), "--rendered", "none", "--hours", "0.02", "--segment", "24"]
    options += ["--background", "rain,room,hum", "--unknown", "0", "--level", "-20", "-20"]
    done = CliRunner().invoke(cli, ["make-scenes", str(out), *options])
    assert done.exit_code == 0, done.output
    return out


def test_evaluate_events_gives_every_figure_and_picture(scene: Path, tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    arguments = ["evaluate-events", str(MODEL), str(scene), "--json", str(target)]
    done = CliRunner().invoke(cli, [*arguments, "--pictures", str(tmp_path / "p"), "--processes", "1"])
    assert done.exit_code == 0, done.output
    figures, made = json.loads(target.read_text()), read_scenes(scene)
    assert figures["events"] == sum(made.manifest.events.values())
    assert figures["scenes"]["sha256"] == made.sha256
    assert figures["model"]["sha256"] == load_model().sha256
    assert set(figures["by_class"]) == set(made.manifest.events)
    assert sum(row["own"]["found"]["of"] for row in figures["by_class"].values()) == figures["events"]
    _, table = done.output.split("| missed at 1 per h |")
    for label, row in figures["by_class"].items():
        point = row["at_false_alarms_per_hour"]["1"]
        (line,) = re.findall(rf"^\| {label} \|.*$", table.split("\n\n")[0], re.MULTILINE) if point else ("",)
        missed = [tuple(map(int, share)) for share in re.findall(r"(\d+)/(\d+) =", line)]
        whole = point["miss_rate"] if point else {"hits": 0, "of": 0}
        assert [sum(column) for column in zip(*missed, strict=True)] in ([whole["hits"], whole["of"]], [])
    micro = figures["standard"]["onset_f1"]["micro_average"]
    assert micro == pytest.approx(figures["standard"]["sed_eval_onset_f1"]["micro_average"], abs=1e-3)
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == ["p-confusion.png", "p-det.png", "p-precision.png", "p-timeline.png"]


def test_where_a_background_contains_a_class_it_is_not_evaluated(scene: Path) -> None:
    scenes = read_scenes(scene)
    predictions = predict_scenes(MODEL, scenes, processes=1)
    (stream,) = scenes.streams
    (rainy,) = (s for s in stream.spans if "rain" in s.contains)
    frames = slice(int(rainy.onset_s * 40), int(rainy.offset_s * 40))
    rain = predictions.manifest.labels.index("rain")
    assert not predictions.scores[0][frames, rain].any()
    assert predictions.scores[0][frames].any()
    assert isinstance(evaluate_detections(predictions.detections, scenes, predictions.manifest.labels), Outcome)


def test_tune_events_writes_a_model_with_rule_and_scenes_in_its_record(scene: Path, tmp_path: Path) -> None:
    out, record = tmp_path / "tuned.onnx", tmp_path / "choice.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "THRESHOLDS", (0.3, 0.6, 0.9))
        patch.setattr(tuning, "SMOOTHINGS", (4,))
        patch.setattr(tuning, "LEAKS", (1 / 64,))
        patch.setattr(tuning, "BIASES", (-1.5,))
        arguments = ["tune-events", str(MODEL), str(scene), "--max-false-alarms", "2", "--out", str(out)]
        version = ["--model-version", "9.8.7"]
        done = CliRunner().invoke(cli, [*arguments, "--json", str(record), "--processes", "1", *version])
    assert done.exit_code == 0, done.output
    before, after = load_model().manifest, load_model(out).manifest
    assert (after.labels, after.network) == (before.labels, before.network)
    assert (after.name, after.version) == (before.name, "9.8.7")
    last = after.training.sources[-1]
    assert last.name == f"scenes {read_scenes(scene).sha256[:12]}"
    assert "at no more than 2 false alarms per hour" in last.use
    assert "fold 5" in last.use
    choices = json.loads(record.read_text())["choices"]
    assert {c.label: c.decoder.on_threshold for c in after.classes} == {
        label: choice["on_threshold"] for label, choice in choices.items()
    }
    assert after.operating_points == OperatingPoints(0.2, 2.0, 20.0, "class")
    points = json.loads(record.read_text())["points"]
    assert points["balanced"] == choices
    for name in ("low", "high"):
        assert [c.at(name).decoder.on_threshold for c in after.classes] == [
            choice["on_threshold"] for choice in points[name].values()
        ]
    evidence = {label: c["evidence"] for label, c in choices.items() if c["evidence"]}
    assert {c.label for c in after.classes if c.decoder.evidence} == evidence.keys()
    assert tuning.tuned_on(after) == [read_scenes(scene).sha256[:12]]
    # A second tuning replaces the first in the record.
    none: tuning.Choices = {name: [] for name in SENSITIVITIES}
    other = replace(read_scenes(scene), sha256="f" * 64)
    again = tuning.tuned_manifest(
        replace(after, classes=()), none, other, FalseAlarmBudget(1.0), "snn-train tune-events b"
    )
    assert tuning.tuned_on(again) == ["f" * 12]
    assert again.training.command.count("tune-events") == 1


def test_a_model_may_keep_what_it_was_tuned_to(scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.onnx"
    arguments = ["tune-events", str(MODEL), str(scene), "--keep-balanced", "--out", str(out), "--processes", "1"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    before, after = load_model().manifest, load_model(out).manifest
    assert [c.decoder for c in after.classes] == [c.decoder for c in before.classes]
    assert after.metrics == before.metrics
    assert after.operating_points == OperatingPoints(0.1, 1.0, 10.0, "class")
    for c in after.classes:
        low, balanced, high = (c.at(name).decoder.on_threshold for name in SENSITIVITIES)
        assert low >= balanced >= high
    assert tuning.tuned_on(after) == [*tuning.tuned_on(before), read_scenes(scene).sha256[:12]]
    assert after.training.command.startswith(f"{before.training.command} && ")
    evaluated = tmp_path / "high.json"
    arguments = ["evaluate-events", str(out), str(scene), "--sensitivity", "high", "--json", str(evaluated)]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    scenes = read_scenes(scene)
    sensitive = predict_scenes(out, scenes, 1, sensitivity="high")
    as_high = [c.at("high") for c in after.classes]
    assert sensitive.detections == tuple(tuple(decode(as_high, after, scores)) for scores in sensitive.scores)
    (events,) = predict_scenes(out, scenes, 1).detections
    assert (events,) == predict_scenes(MODEL, scenes, 1).detections
    sound, _ = soundfile.read(DEMO, dtype="float32")
    more, fewer = (Detector.load(out, sensitivity=name).push(sound) for name in ("high", "balanced"))
    assert len(more) >= len(fewer)
    assert more[0].onset_sample < fewer[0].onset_sample


def test_values_are_kept_in_the_model_that_has_them(tmp_path: Path) -> None:
    arguments = ["tune-events", str(MODEL), str(tmp_path), "--keep-balanced", "--into", str(MODEL), "--out", "x.onnx"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert "--keep-balanced and --into" in done.output


def test_a_version_that_cannot_be_shown_is_refused_before_the_tuning(scene: Path, tmp_path: Path) -> None:
    arguments = ["tune-events", str(MODEL), str(scene), "--out", str(tmp_path / "x.onnx"), "--model-version", ""]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == ManifestError.exit_code
    assert "1 to 64 printable characters" in done.stderr
    assert not (tmp_path / "x.onnx").exists()


def test_tune_events_takes_one_limit(tmp_path: Path) -> None:
    goals = ["--max-false-alarms", "1", "--total", "10", "--out", str(tmp_path / "x.onnx")]
    done = CliRunner().invoke(cli, ["tune-events", str(MODEL), str(tmp_path), *goals])
    assert done.exit_code == 2
    assert "--max-false-alarms and --total: name one of them." in done.output


def test_evaluate_channels_compares_with_the_clean_scene(scene: Path, tmp_path: Path) -> None:
    target = tmp_path / "channels.json"
    arguments = ["evaluate-channels", str(MODEL), str(scene), "--json", str(target), "--processes", "1"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    rows = {row["channel"]: row for row in json.loads(target.read_text())["channels"]}
    assert len(rows) == 8
    assert rows["clean"]["change"] == 0
    assert rows["clean"]["kept"] == rows["clean"]["found"]


@pytest.mark.parametrize(("command", "options"), [("evaluate-events", []), ("tune-events", ["--out", "x.onnx"])])
def test_a_folder_without_a_scene_is_reported(command: str, options: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, [command, str(MODEL), str(tmp_path), *options])
    assert "no scene" in done.stderr
