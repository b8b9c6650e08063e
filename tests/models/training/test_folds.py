"""A cross-validation: one process a run, finished runs left alone, failed ones reported."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from models import RECIPES
from models.cli.main import cli
from models.training.folds import FoldError, plan, train_all
from models.training.runs import RunFolder
from tests.service import DEADLINE_S, wait_until


def test_runs_are_named_by_fold_and_seed(tmp_path: Path) -> None:
    runs = plan(tmp_path, [1, 2], [0, 7])
    assert [r.folder.name for r in runs] == ["fold1-seed0", "fold2-seed0", "fold1-seed7", "fold2-seed7"]


def test_a_failed_run_is_reported_and_a_finished_one_left_alone(tmp_path: Path) -> None:
    first, second = plan(tmp_path / "runs", [1, 2], [0])
    RunFolder(first.folder).claim({})
    RunFolder(first.folder).add_row({"epoch": 5})
    (first.folder / "record.json").write_text("{}")
    assert first.finished
    assert first.epochs() == 5
    with pytest.raises(FoldError, match=r"fold2-seed0: failed, see .*log\.txt"):
        train_all(RECIPES / "esc10.toml", 5, tmp_path / "nothing", [first, second], 2)
    assert not (first.folder / "log.txt").exists()
    assert "nothing/esc10: no such folder" in (second.folder / "log.txt").read_text()


def test_a_terminated_cross_validation_leaves_no_run_behind(tmp_path: Path, tree: Path) -> None:
    arguments = ["folds", RECIPES / "esc10.toml", "--data", tree, "--runs", tmp_path, "--seeds", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "models.cli.main", *map(str, arguments)], stderr=subprocess.DEVNULL
    )
    wait_until(lambda: len(_children(process.pid)) == 2, "two runs")
    children = _children(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE_S) == 143
    wait_until(lambda: not any(Path(f"/proc/{child}").exists() for child in children), "their end")


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_numbers_are_checked(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        cli, ["folds", str(RECIPES / "esc10.toml"), "--data", "x", "--runs", str(tmp_path), "--folds", "one"]
    )
    assert "--folds one: expected whole numbers" in done.stderr
