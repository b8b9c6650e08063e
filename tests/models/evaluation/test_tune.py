"""The rule for thresholds, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detector.network import load_model
from models.data.clips import Clip
from models.data.segments import first_active_sample
from models.evaluation.clips import ClipPrediction, choose_thresholds, evaluate_settings, select_setting, toml

LABELS = load_model().manifest.labels


def predictions(label: str, source: str, guitar_score: float) -> ClipPrediction:
    scores = np.zeros((60, len(LABELS)), np.float32)
    scores[10:50, LABELS.index("guitar")] = guitar_score
    return ClipPrediction(Clip(Path("x"), label, source, 4), scores, (), LABELS)


def test_the_middle_of_the_range_above_the_false_events_with_equal_recall() -> None:
    clips = [predictions("guitar", "instruments", 0.9), predictions("guitar", "instruments", 0.5)]
    clips += [predictions("winds", "instruments", 0.71 if i == 0 else 0.4) for i in range(10)]
    clips += [predictions("rain", "esc10", 0.1) for _ in range(90)]
    manifest = load_model().manifest
    guitar = {rate: choose_thresholds(clips, manifest, rate)[LABELS.index("guitar")] for rate in (0.0, 0.10, 1.0)}
    # At 10 % one of the ten instruments may sound like a guitar, though it is one of a hundred clips;
    # above 0.4 both guitars are found up to 0.5.
    assert guitar[0.10].threshold == 0.46
    assert (guitar[0.10].recall.hits, guitar[0.10].false.hits, guitar[0.10].worst.total) == (2, 1, 10)
    # Above 0.71 one is found up to 0.9, and nothing else is wrong.
    assert guitar[0.0].threshold == 0.82
    assert guitar[0.0].recall.hits == 1
    assert guitar[1.0].threshold == 0.4


def test_choices_are_the_recipes_table() -> None:
    text = toml(choose_thresholds([predictions("guitar", "instruments", 0.5)], load_model().manifest, 0.05))
    assert text.startswith("[decoding.on_thresholds]\nguitar = ")
    assert len(text.splitlines()) == 1 + len(LABELS)


def test_the_shortest_smoothing_with_equal_recall_is_taken() -> None:
    """Other sounds' scores flicker: an average of four frames separates them, one of a single frame does not."""
    manifest = load_model().manifest
    least = manifest.classes[LABELS.index("guitar")].decoder.min_on_frames
    clips = [predictions("guitar", "instruments", 0.9) for _ in range(4)]
    flicker = predictions("winds", "instruments", 0.0)
    flicker.scores[10:50, LABELS.index("guitar")] = np.resize([*[1] * max(3, least), 0], 40)
    settings = evaluate_settings([*clips, flicker], [4000] * 5, manifest, 0.0, (12, 1, 4))
    assert [s.smoothing_frames for s in settings] == [1, 4, 12]
    assert [s.recall.hits for s in settings] == [0, 4, 4]
    chosen = select_setting(settings)
    assert chosen.smoothing_frames == 4
    # Frame 10 begins at 4000; the average meets the threshold with its fourth frame, the event when it has held.
    threshold = chosen.choices[LABELS.index("guitar")].threshold
    frames = 10 + int(np.ceil(threshold / 0.9 * 4)) - 1 + least - 1
    expected = (frames * 400 + 800 - 4000) / 16000
    assert chosen.delays_s.tolist() == [expected] * 4
    assert "latency" in str(chosen)


def test_where_a_sound_begins() -> None:
    wave = np.concatenate([np.full(3200, 1e-4), np.full(8000, 0.5)]).astype(np.float32)
    assert first_active_sample(wave, 16000) == 3200
    assert first_active_sample(wave[:10], 16000) == 0
