"""The five models that ship for ESC-10: what the results page says of them is what they do."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.audio.sources import read_sound
from detector.network import load_model
from detector.pipeline import Detector
from models import RECIPES
from models.data.datasets import recordings
from models.data.household import ESC10
from models.evaluation.results import load
from models.recipe import load_recipe

MODELS = sorted((RECIPES.parent / "pretrained").glob("esc10-fold*.onnx"))


def test_there_is_one_for_each_fold_that_has_not_seen_it() -> None:
    assert [load_model(path).manifest.training.folds_left_out for path in MODELS] == [(f,) for f in range(1, 6)]
    for path in MODELS:
        manifest = load_model(path).manifest
        assert manifest.labels == ESC10
        assert path.stat().st_size < 2 * 2**20


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_results_page_agrees_with_the_model(path: Path, data: Path) -> None:
    """Every clip of the fold through ``Detector.score``, the class by the highest mean score."""
    detector, (row,) = Detector.load(path), [r for r in load()["esc10"]["rows"] if r["model"] == path.name]
    clips = [c for c in recordings(load_recipe(RECIPES / "esc10.toml"), data).clips if c.fold == row["fold"]]
    means = [detector.score(read_sound(c.path, detector.sample_rate_hz)).mean(axis=0) for c in clips]
    hits = sum(ESC10[int(mean.argmax())] == c.label for c, mean in zip(clips, means, strict=True))
    assert (hits, len(clips)) == (row["hits"], row["clips"])
