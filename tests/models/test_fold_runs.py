"""A cross-validation: one process a run, ended runs left alone, a failed one told."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from models.cli import cli
from models.fold_runs import FoldError, plan, train_all
from models.run_folder import RunFolder

RECIPES = Path(__file__).parents[2] / "models" / "recipes"


def test_runs_are_named_by_fold_and_seed(tmp_path: Path) -> None:
    runs = plan(tmp_path, [1, 2], [0, 7])
    assert [r.folder.name for r in runs] == ["fold1-seed0", "fold2-seed0", "fold1-seed7", "fold2-seed7"]


def test_a_failed_run_is_told_and_an_ended_one_left_alone(tmp_path: Path) -> None:
    first, second = plan(tmp_path / "runs", [1, 2], [0])
    RunFolder(first.folder).claim({})
    RunFolder(first.folder).add_row({"epoch": 5})
    (first.folder / "record.json").write_text("{}")
    assert first.ended
    assert first.epochs() == 5
    with pytest.raises(FoldError, match=r"fold2-seed0: failed, see .*log\.txt"):
        train_all(RECIPES / "esc10.toml", 5, tmp_path / "nothing", [first, second], 2)
    assert not (first.folder / "log.txt").exists()
    assert "nothing/esc10: no such folder" in (second.folder / "log.txt").read_text()


def test_numbers_are_checked(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["folds", str(RECIPES / "esc10.toml"), "--data", "x", "--runs", str(tmp_path), "--folds", "one"]
    )
    assert "--folds one: wanted whole numbers" in str(done.exception)
