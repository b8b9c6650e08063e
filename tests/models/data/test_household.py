"""Which clip belongs to which class and fold, and that the test fold is never trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from detector.errors import SourceError
from models import RECIPES
from models.data.datasets import load_good_clips
from models.data.household import ESC10, TEST_FOLD, list_clips
from models.recipe import load_recipe
from models.training.loop import Run, training_clips

HOUSEHOLD = RECIPES / "household.toml"


def test_classes_have_categories_and_include_esc10() -> None:
    classes = load_recipe(HOUSEHOLD).classes
    assert set(ESC10) < set(classes)
    assert {"guitar", "speech", "drums", "bowed_strings", "winds"} < set(classes)
    assert {"animals", "music", "things", "people", "nature"} == set(classes.values())


def test_every_clip_has_a_fold(tree: Path) -> None:
    clips = list_clips(tree)
    assert Counter(c.fold for c in clips if c.source == "esc10") == dict.fromkeys(range(1, 6), 10)
    assert Counter(c.fold for c in clips if c.source == "instruments") == dict.fromkeys(range(1, 6), 10)
    assert {c.path.stem.split("_")[1] for c in clips if c.source == "speech_digits" and c.fold == TEST_FOLD} == {
        "theo",
        "yweweler",
    }


@pytest.mark.parametrize("leave_out", [None, 1, 4])
def test_training_leaves_the_test_fold_alone(tree: Path, leave_out: int | None) -> None:
    folds = {c.fold for c in training_clips(load_recipe(HOUSEHOLD), Run(tree, None, tree, 0, leave_out))}
    assert TEST_FOLD not in folds
    assert leave_out not in folds
    assert len(folds) == (4 if leave_out is None else 3)


def test_clips_are_decoded_to_the_rate(tree: Path) -> None:
    clips = list_clips(tree)[:3]
    kept, waves, problems = load_good_clips(clips, 8000, processes=1)
    assert (kept, problems) == (clips, [])
    assert [w.size for w in waves] == [8000] * 3
    assert all(w.dtype == "float32" for w in waves)


def test_missing_and_broken_folders_are_reported(tmp_path: Path, tree: Path) -> None:
    with pytest.raises(SourceError, match=r"baby_cry.*--data"):
        list_clips(tmp_path)
    with pytest.raises(SourceError, match=r"index\.csv.*models\.rendering"):
        list_clips(tree, tmp_path)


def test_recordings_are_all_there(data: Path) -> None:
    clips = list_clips(data)
    assert Counter(c.label for c in clips if c.source == "esc10") == dict.fromkeys(ESC10, 40)
    assert sum(c.fold == TEST_FOLD for c in clips) > 300
