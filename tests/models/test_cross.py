"""Folds put together: every model judged on the fold it left out, spiking ones by the pipeline that ships."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detector.errors import ConfigError
from models.cross import Judged, summary, table
from models.datasets import Clip
from models.evaluate import Heard, accuracy


def heard(label: str, scores: list[list[float]]) -> Heard:
    return Heard(Clip(Path("x"), label, "esc10", 1), np.array(scores, np.float32), (), ("rain", "rooster"))


def judged(fold: int, seed: int, hits: int, clips: int) -> Judged:
    right, wrong = heard("rain", [[0.9, 0.1]] * 10), heard("rooster", [[0.9, 0.1]] * 10)
    return Judged(f"m{fold}-{seed}", fold, seed, (right,) * hits + (wrong,) * (clips - hits), {})


def test_a_clip_is_its_highest_mean_score_so_far() -> None:
    late = heard("rooster", [[0.6, 0.5], [0.6, 0.5], [0.1, 0.9], [0.1, 0.9]])
    assert accuracy([late], 2).hits == 0
    assert accuracy([late]).hits == 1
    row = Judged("m", 1, 0, (late,), {}).row()
    # Four frames are 5 s: after 2 s one frame is over, after 5 s all.
    assert row["elapsed"] == {"0.5": 0.0, "1.0": 0.0, "2.0": 0.0, "5.0": 1.0}


def test_seeds_and_folds_are_averaged() -> None:
    result = summary([judged(1, 0, 8, 10), judged(2, 0, 6, 10), judged(2, 1, 7, 10), judged(1, 1, 9, 10)])
    assert result["by_seed"] == {"0": pytest.approx(0.7), "1": pytest.approx(0.8)}
    assert result["by_fold"] == {"1": pytest.approx(0.85), "2": pytest.approx(0.65)}
    assert result["accuracy"] == pytest.approx(0.75)
    assert result["clips"] == 20
    # Wilson's interval of 15 of 20, by table.
    assert [round(x, 3) for x in result["interval"]] == [0.531, 0.888]
    text = table(result)
    assert "| 0 | 80.0 | 60.0 | 70.0 |" in text
    assert "mean 75.0 % (95 % interval 53.1 to 88.8 %, 20 clips)" in text
    json.dumps(result)


def test_a_seed_without_all_folds_is_told() -> None:
    with pytest.raises(ConfigError, match=r"seed 1: has not one model for each of the folds \[1, 2\]"):
        summary([judged(1, 0, 8, 10), judged(2, 0, 6, 10), judged(1, 1, 7, 10)])
