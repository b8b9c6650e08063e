"""The rule for thresholds, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from detector.network import load_model
from models.datasets import Clip
from models.evaluate import Heard
from models.tune import choose, toml

LABELS = load_model().manifest.labels


def heard(label: str, source: str, guitar_score: float) -> Heard:
    scores = np.zeros((60, len(LABELS)), np.float32)
    scores[10:50, LABELS.index("guitar")] = guitar_score
    return Heard(Clip(Path("x"), label, source, 4), scores, (), LABELS)


def test_the_middle_of_the_stretch_above_the_false_events_that_finds_as_many() -> None:
    clips = [heard("guitar", "instruments", 0.9), heard("guitar", "instruments", 0.5)]
    clips += [heard("winds", "instruments", 0.71 if i == 0 else 0.4) for i in range(10)]
    clips += [heard("rain", "esc10", 0.1) for _ in range(90)]
    manifest = load_model().manifest
    guitar = {rate: choose(clips, manifest, rate)[LABELS.index("guitar")] for rate in (0.0, 0.10, 1.0)}
    # At 10 % one of the ten instruments may sound like a guitar, though it is one of a hundred clips;
    # above 0.4 both guitars are found up to 0.5.
    assert guitar[0.10].threshold == 0.46
    assert (guitar[0.10].recall.hits, guitar[0.10].false.hits, guitar[0.10].worst.total) == (2, 1, 10)
    # Above 0.71 one is found up to 0.9, and nothing else is wrong.
    assert guitar[0.0].threshold == 0.82
    assert guitar[0.0].recall.hits == 1
    assert guitar[1.0].threshold == 0.4


def test_choices_are_the_recipes_table() -> None:
    text = toml(choose([heard("guitar", "instruments", 0.5)], load_model().manifest, 0.05))
    assert text.startswith("[decoding.on_thresholds]\nguitar = ")
    assert len(text.splitlines()) == 1 + len(LABELS)
