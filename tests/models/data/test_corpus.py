"""Recordings with faults: each reported in a line, the good ones trained on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from detector.errors import ConfigError
from models import RECIPES
from models.cli.main import cli
from models.data.datasets import folds_left_out, recordings, sources_of
from models.recipe import load_recipe
from tests.models.conftest import write


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Give a folder per class: a broken clip, an empty one, an empty class, a class that the recipe lacks."""
    root = tmp_path / "data" / "mine"
    for seed, name in enumerate(f"{label}/{i}.wav" for label in ("animals", "music", "cars") for i in range(6)):
        write(root / name, seed)
    (root / "animals" / "broken.wav").write_bytes(b"RIFF no sound")
    (root / "things").mkdir()
    shutil.copy(root / "animals" / "broken.wav", root / "music" / "worse.flac")
    return root


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Give the recipe of three classes over such folders, cut to one short epoch."""
    change = {"epochs": "1", "examples_per_epoch": "8", "batch": "4", "frames": "40"}
    lines = []
    for line in (RECIPES / "themes.toml").read_text(encoding="utf-8").splitlines():
        key = line.split("=")[0].strip()
        changed = {"layout": '"folders"', "path": '"mine"', **change}.get(key)
        lines.append(line if changed is None else f"{key} = {changed}")
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_faults_are_reported_in_a_line_each_and_the_rest_is_trained_on(
    folders: Path, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    options = ["--data", str(folders.parent), "--run", str(run), "--threads", "1", "--workers", "0"]
    done = CliRunner().invoke(cli, ["fit", str(recipe), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    reported = [line for line in done.stderr.splitlines() if line.startswith("snn-train: ")]
    assert sum("broken.wav" in line for line in reported) == 1
    assert sum("worse.flac" in line for line in reported) == 1
    assert sum("'things': an empty class" in line for line in reported) == 1
    assert sum("label 'cars' (6 clips) is none of animals, music, things" in line for line in reported) == 1
    assert len(reported) == 4
    assert json.loads((run / "record.json").read_text())["clips"] == 12
    assert {"plan.json", "origin.json", "curves.jsonl", "curves.png", "metrics.json"} <= {p.name for p in run.iterdir()}


def test_a_fold_is_left_out_beside_the_recipes_own() -> None:
    household, esc10 = (load_recipe(RECIPES / f"{name}.toml") for name in ("household", "esc10"))
    assert folds_left_out(household, None) == (5,)
    assert folds_left_out(household, 3) == (3, 5)
    assert folds_left_out(household, 5) == (5,)
    assert folds_left_out(esc10, None) == ()
    assert folds_left_out(esc10, 2) == (2,)


def test_a_label_that_the_household_recipe_lacks_is_reported(tree: Path) -> None:
    household = load_recipe(RECIPES / "household.toml")
    fewer = {label: category for label, category in household.classes.items() if label != "speech"}
    listing = recordings(dataclasses.replace(household, classes=fewer), tree)
    assert [p for p in listing.problems if "'speech'" in p]
    assert all(c.label != "speech" for c in listing.clips)
    assert listing.clips


def test_rendered_material_is_for_the_household(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rendered material belongs to the layout household"):
        recordings(load_recipe(RECIPES / "esc10.toml"), tree, tmp_path)


def test_sources_and_their_licences_are_named(tree: Path) -> None:
    esc10, themes = (load_recipe(RECIPES / f"{name}.toml") for name in ("esc10", "themes"))
    (source,) = sources_of(esc10, recordings(esc10, tree).clips)
    assert source.name == "esc10"
    assert "CC BY 3.0" in source.licence
    mine = dataclasses.replace(themes.data, licence="mine")
    clips = [dataclasses.replace(recordings(esc10, tree).clips[0], source="street")]
    assert sources_of(dataclasses.replace(themes, data=mine), clips)[0].licence == "mine"
