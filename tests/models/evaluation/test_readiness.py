"""Which classes are ready, by hand: the rule, what counts, and the record in the model file."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detector.errors import ConfigError
from detector.manifest import ClassResults, DataSource, Manifest
from detector.network import load_model
from models.evaluation.matching import Curve
from models.evaluation.readiness import (
    check_unseen,
    class_results,
    evaluated_manifest,
    results_table,
    shares_recordings,
)
from models.evaluation.thresholds import tuned_on
from tests.models.evaluation.test_events import ref, scenes_of

LEVELS = (20, 20, 10, 10, None, 5, 0) * 2
SCENES = scenes_of([ref(100.0 * i, 100.0 * i + 2, snr_db=snr) for i, snr in enumerate(LEVELS)])


def curve(*found: int, false: tuple[int, int] = (3, 1), hours: float = 1.0) -> Curve:
    """Return a curve of two thresholds: at the lower one all 14 are found, at the higher one those numbered."""
    reports = np.array([[1] * 14, [int(i in found) for i in range(14)]])
    latency_s = np.where(reports > 0, 0.1 * (1 + np.arange(14) % 7), np.nan)
    return Curve("guitar", hours, np.array([0.5, 0.9]), reports, np.array(false), latency_s)


def test_sounds_at_10_db_and_more_count_at_one_false_event_an_hour() -> None:
    """Ten of the 14 stand out; two false events in three hours are few enough for the lower threshold."""
    assert class_results(curve(0, 1, 2, 7, 8, 9), SCENES) == ClassResults(True, 6, 10, 1.0, 1.0, 0.2)
    assert class_results(curve(0, 1, 2, 7, 8, 5, 6), SCENES) == ClassResults(False, 5, 10, 1.0, 1.0, 0.2)
    assert class_results(curve(5), SCENES) == ClassResults(False, 0, 10, 1.0, 1.0, None)
    assert class_results(curve(0, false=(3, 1), hours=3.0), SCENES) == ClassResults(True, 10, 10, 1.0, 3.0, 0.3)


def test_a_class_of_fewer_than_ten_sounds_is_on_trial_whatever_is_found() -> None:
    few = scenes_of([ref(100.0 * i, 100.0 * i + 2, snr_db=snr) for i, snr in enumerate((0, *LEVELS[1:]))])
    assert class_results(curve(*range(14)), few) == ClassResults(False, 9, 9, 1.0, 1.0, 0.3)


def test_a_class_with_too_many_false_events_is_on_trial_whatever_it_finds() -> None:
    assert class_results(curve(0, 1, 2, 3, false=(9, 4), hours=2.0), SCENES) == ClassResults(False, 0, 10, 2.0, 2.0)


def test_a_class_without_sounds_that_stand_out_has_no_results() -> None:
    faint = scenes_of([ref(100.0 * i, 100.0 * i + 2, snr_db=5.0) for i in range(14)])
    assert class_results(curve(0, 1, 2), faint) is None


def test_the_model_file_says_which_classes_are_ready_and_on_which_scenes() -> None:
    before = load_model().manifest
    after = evaluated_manifest(
        before, {"guitar": curve(*range(6), *range(7, 13))} | _faint(before.labels), SCENES, "snn-train x"
    )
    assert after.ready_labels == before.labels
    assert [c.label for c in after.classes if c.results] == ["guitar"]
    assert Manifest.from_json(after.to_json(), "m.onnx") == after
    assert after.training.sources[-1].name == f"evaluation scenes {SCENES.sha256[:12]}"
    assert "60% of 10 sounds or more at 10 dB and more" in after.training.sources[-1].use
    again = evaluated_manifest(after, {"guitar": curve(0)} | _faint(before.labels), SCENES, "snn-train y")
    assert "guitar" not in again.ready_labels
    assert again.training.sources == after.training.sources
    assert tuned_on(again) == tuned_on(before)
    assert "| guitar | on trial | 1/10 = 10.0 % (2 to 40 %) | 1.00 (at most 4.7) | 0.10 s |" in results_table(again)
    assert "| drums | not evaluated | | | |" in results_table(again)


def test_scenes_on_which_values_were_chosen_are_refused() -> None:
    manifest = load_model().manifest
    check_unseen(manifest, SCENES)
    source = DataSource(f"scenes {SCENES.sha256[:12]}", "", "")
    tuned = replace(manifest, training=replace(manifest.training, sources=(source,)))
    with pytest.raises(ConfigError, match="were chosen on these scenes; evaluate its classes on others"):
        check_unseen(tuned, SCENES)


def test_scenes_of_the_recordings_on_which_values_were_chosen_are_noticed() -> None:
    manifest = load_model().manifest  # its values were chosen on the first half of fold 5
    halves = ((5, "first", True), (5, "second", False), (4, "first", False), (0, "", False))
    for fold, half, expected in halves:
        scenes = replace(SCENES, manifest=replace(SCENES.manifest, fold=fold, half=half))
        assert shares_recordings(manifest, scenes) is expected


def _faint(labels: tuple[str, ...]) -> dict[str, Curve]:
    """Return curves of the other classes, of which the scenes have no sound."""
    none = np.zeros((2, 0), np.int64)
    empty = (np.array([0.5, 0.9]), none, np.array([0, 0]), none.astype(np.float64))
    return {label: Curve(label, 1.0, *empty) for label in labels if label != "guitar"}
