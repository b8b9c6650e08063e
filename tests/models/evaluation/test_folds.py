"""Folds put together: every model evaluated on the fold it left out, spiking ones by the streaming pipeline."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from detector.errors import ConfigError
from models import RECIPES
from models.data.clips import Clip
from models.evaluation.clips import ClipPrediction, FoldResult, accuracy, evaluate_fold, folds_table, summary
from models.recipe import load_recipe
from models.training.loop import Run, train


def predictions(label: str, scores: list[list[float]]) -> ClipPrediction:
    return ClipPrediction(Clip(Path("x"), label, "esc10", 1), np.array(scores, np.float32), (), ("rain", "rooster"))


def results(fold: int, seed: int, hits: int, clips: int) -> FoldResult:
    right, wrong = predictions("rain", [[0.9, 0.1]] * 10), predictions("rooster", [[0.9, 0.1]] * 10)
    return FoldResult(f"m{fold}-{seed}", fold, seed, (right,) * hits + (wrong,) * (clips - hits), {})


def test_a_clip_is_its_highest_mean_score_so_far() -> None:
    late = predictions("rooster", [[0.6, 0.5], [0.6, 0.5], [0.1, 0.9], [0.1, 0.9]])
    assert accuracy([late], 2).hits == 0
    assert accuracy([late]).hits == 1
    row = FoldResult("m", 1, 0, (late,), {}).row()
    # Four frames are 5 s: after 2 s one frame is over, after 5 s all.
    assert row["elapsed"] == {"0.5": 0.0, "1.0": 0.0, "2.0": 0.0, "5.0": 1.0}


def test_seeds_and_folds_are_averaged() -> None:
    result = summary([results(1, 0, 8, 10), results(2, 0, 6, 10), results(2, 1, 7, 10), results(1, 1, 9, 10)])
    assert result["by_seed"] == {"0": pytest.approx(0.7), "1": pytest.approx(0.8)}
    assert result["by_fold"] == {"1": pytest.approx(0.85), "2": pytest.approx(0.65)}
    assert result["accuracy"] == pytest.approx(0.75)
    assert result["clips"] == 20
    # Wilson's interval of 15 of 20, by table.
    assert [round(x, 3) for x in result["interval"]] == [0.531, 0.888]
    text = folds_table(result)
    assert "| 0 | 80.0 | 60.0 | 70.0 |" in text
    assert "mean 75.0 % (95 % interval 53.1 to 88.8 %, 20 clips)" in text
    json.dumps(result)


def test_a_seed_without_all_folds_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"seed 1: lacks a model for some of the folds \[1, 2\]"):
        summary([results(1, 0, 8, 10), results(2, 0, 6, 10), results(1, 1, 7, 10)])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("name", ["esc10", "esc10-twin"])
def test_a_run_is_evaluated_by_its_own_recipe_over_whole_clips(name: str, tree: Path, tmp_path: Path) -> None:
    text = (RECIPES / f"{name}.toml").read_text(encoding="utf-8")
    for key, value in {"epochs": "1", "examples_per_epoch": "4", "batch": "4", "frames": "40"}.items():
        text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
    (tmp_path / "short.toml").write_text(text, encoding="utf-8")
    train(load_recipe(tmp_path / "short.toml"), Run(tree, None, tmp_path / "run", 7, 2, workers=0))
    results = evaluate_fold(tmp_path / "run", load_recipe(RECIPES / "esc10-twin.toml"), tree)
    assert (results.fold, results.seed, len(results.predictions)) == (2, 7, 10)
    # A second of sound in frames of 50 ms, every 25 ms: 39 whole ones, nothing to fill up.
    assert {h.scores.shape for h in results.predictions} == {(39, 10)}


def test_a_folder_without_a_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the folder of a finished run"):
        evaluate_fold(tmp_path, load_recipe(RECIPES / "esc10.toml"), tmp_path)
