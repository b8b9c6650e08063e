"""Runs on still images: all files are there, they resume to the bit, they are compared, errors are one line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from detector.errors import ConfigError, SourceError
from models.cli.main import cli
from models.images import train as image_train
from models.images.data import open_images
from models.images.recipe import ImageRecipe, as_dict
from models.images.train import ImageRun, fit, fit_recipe, load_image_run, parse_axis, variations
from tests.models.image_recipes import tiny, write_mnist, write_recipe

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
Changes = dict[str, dict[str, Any]]
FILES = {
    "plan.json",
    "origin.json",
    "curves.jsonl",
    "checkpoint.pt",
    "metrics.json",
    "curves.png",
    "confusion.png",
    "raster.png",
}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a small MNIST."""
    return write_mnist(tmp_path_factory.mktemp("digits"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Networks this small are slowest where threads wait for each other."""
    torch.set_num_threads(1)
    numba.set_num_threads(1)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawing out: it takes most of a short run's time."""
    for name in ("draw_curves", "draw_confusion", "draw_prediction"):
        monkeypatch.setattr(f"models.images.train.{name}", lambda *_, **__: None)


def with_epochs(recipe: ImageRecipe, epochs: int) -> ImageRecipe:
    return dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, epochs=epochs))


def test_a_run_leaves_all_its_files_and_learns(digits: Path, tmp_path: Path) -> None:
    recipe = with_epochs(tiny(), 8)
    folder = tmp_path / "run"
    fit(write_recipe(recipe, tmp_path / "r.toml"), digits, folder, 0, None)
    assert {p.name for p in folder.iterdir()} == FILES
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["n"] == 60
    assert metrics["accuracy"] > 0.8
    assert metrics["interval"][0] < metrics["accuracy"] <= metrics["interval"][1]
    assert 0 < metrics["effective_operations"] < metrics["dense_operations"]
    assert set(metrics["dead"]) == {"conv1", "conv2", "output"}
    rows = [json.loads(row) for row in (folder / "curves.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert set(rows[0]["rates"]) == {"conv1", "conv2", "output"}
    net, found, plan = load_image_run(folder)
    assert found == recipe
    assert plan["seed"] == 0
    assert not net.training


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_ends_with_the_same_weights(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_epochs(tiny(network={"encoding": "rate", "dropout": 0.2}), 2)
    run = ImageRun(digits, tmp_path / "whole", 1, None)
    fit_recipe(recipe, run)

    def interrupted(self: Any, bar: Any) -> Any:
        if self._epoch == 1:
            raise KeyboardInterrupt
        return one_epoch(self, bar)

    one_epoch = image_train._Trainer._one_epoch
    monkeypatch.setattr(image_train._Trainer, "_one_epoch", interrupted)
    broken = dataclasses.replace(run, folder=tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        fit_recipe(recipe, broken)
    with pytest.raises(ConfigError, match="is at epoch 1 of 2"):
        load_image_run(broken.folder)
    monkeypatch.undo()
    fit_recipe(recipe, broken)
    weights = [load_image_run(r.folder)[0].state_dict() for r in (run, broken)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0].values(), weights[1].values(), strict=True))
    with pytest.raises(ConfigError, match="another recipe"):
        fit_recipe(recipe, dataclasses.replace(broken, seed=2))


@pytest.mark.parametrize("base", ["mnist-cnn", "mnist-delta", "mnist-latency"])
def test_every_kind_of_recipe_runs(base: str, digits: Path, tmp_path: Path) -> None:
    changes = {"steps": 4} if base == "mnist-latency" else {}
    metrics = fit_recipe(tiny(base, network=changes), ImageRun(digits, tmp_path, 0, None))
    assert metrics["n"] == 60
    assert (tmp_path / "raster.png").is_file()


@pytest.mark.usefixtures("undrawn")
def test_dead_layers_and_their_remedies(digits: Path, tmp_path: Path) -> None:
    """With a threshold far above all currents nothing fires or learns; either remedy brings the layers to life."""
    settings = {"batch_norm": False, "threshold": 8.0}
    cure: dict[str, Changes] = {
        "dead": {"network": settings},
        "woken": {"network": settings | {"start_rate": 0.1}},
        "paid": {"network": settings | {"slope": 0.5}, "rate_term": {"target": 0.2, "weight": 100.0}},
    }
    dead = {}
    for name, changes in cure.items():
        recipe = with_epochs(tiny("mnist-direct", **changes, schedule={"batch": 25, "learning_rate": 0.03}), 5)
        dead[name] = fit_recipe(recipe, ImageRun(digits, tmp_path / name, 0, None))["dead"]
    assert dead["dead"] == {"conv1": 1.0, "conv2": 1.0, "output": 1.0}
    for name in ("woken", "paid"):
        assert max(dead[name].values()) < 0.7, (name, dead[name])


def test_a_gradient_that_is_no_number_ends_the_run(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that are no numbers give a silent network: its dead share must not be taken for a finding."""
    monkeypatch.setattr(image_train, "total_loss", lambda response, *_: response.scores.sum() * float("nan"))
    with pytest.raises(ConfigError, match="epoch 1: the gradient is not finite; lower"):
        fit_recipe(tiny(), ImageRun(digits, tmp_path, 0, None))
    assert not (tmp_path / "metrics.json").exists()


def test_digits_for_comparisons_are_not_trained_on(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.images.data.VALIDATION", 100)
    train, held_out = open_images(tiny(images={"evaluate_on": "validation", "examples": 150}), digits, None)
    assert (len(train.labels), len(held_out.labels)) == (150, 100)
    test = open_images(tiny(), digits, None)[1]
    assert len(test.labels) == 60


def test_augmented_digits_keep_their_middle(digits: Path) -> None:
    still = open_images(tiny(), digits, None)[0]
    moved = open_images(tiny(images={"shift_pixels": 2.0}), digits, None)[0]
    index = torch.arange(100)
    plain = still.draw(index, augment=False)
    torch.testing.assert_close(still.draw(index, augment=True), plain, atol=1e-5, rtol=0)
    columns = torch.arange(28.0)
    bright = [(p > 0.5).float() for p in (plain, moved.draw(index, augment=True))]
    centres = [(b.sum((1, 2)) * columns).sum(1) / b.sum((1, 2, 3)) for b in bright]
    distance = (centres[1] - centres[0]).abs()
    assert 0.5 < float(distance.max()) < 3


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_writes_one_table(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.images.data.VALIDATION", 100)
    recipe = write_recipe(tiny(), tmp_path / "r.toml")
    options = ["--data", digits, "--run", tmp_path / "out", "--epochs", 1, "--examples", 100, "--threads", 1]
    options += ["--vary", "network.surrogate&network.slope=atan&2;sigmoid&25"]
    result = CliRunner().invoke(cli, ["compare", str(recipe), *map(str, options)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| surrogate atan, slope 2 |" in table
    assert "| surrogate sigmoid, slope 25 |" in table
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [row["n"] for row in found] == [100, 100]
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 10_000


def test_variations_are_all_combinations() -> None:
    base = as_dict(tiny())
    found = variations(base, ["network.beta=0.5,0.9", "rate_term.weight=0,1,10"], "r.toml")
    assert [v.name for v in found][:2] == ["beta 0.5; weight 0", "beta 0.5; weight 1"]
    assert len(found) == 6
    assert found[-1].recipe.network.beta == 0.9
    assert parse_axis("network.hidden=[8];[8, 4]") == ("network.hidden", [[8], [8, 4]])


@pytest.mark.parametrize(
    ("axis", "text"),
    [
        ("network.betta=0.5", "recipe has no such key"),
        ("beta", "write KEY=VALUE"),
        ("network.beta.x=1", "'beta' is no table"),
        ("network.beta=high", "'network.beta' must be a number"),
        ("network.beta&network.slope=0.5", "needs 2 values"),
    ],
)
def test_wrong_variations_are_reported(axis: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        variations(as_dict(tiny()), [axis], "r.toml")


def test_errors_name_file_and_key(tmp_path: Path) -> None:
    path = write_recipe(tiny(), tmp_path / "r.toml")
    with pytest.raises(SourceError, match=r"no such file; name the folder that holds mnist/"):
        fit(path, tmp_path, tmp_path / "run", 0, None)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="MNIST has no folds"):
        fit(path, tmp_path, tmp_path / "run", 0, 2)
    text = path.read_text()
    path.write_text(text.replace("[images]", "[pictures]"))
    with pytest.raises(ConfigError, match=r"r\.toml: \[pictures\] is now \[images\]; rename it"):
        fit(path, tmp_path, tmp_path / "run", 0, None)
    path.write_text(text.replace("evaluate_on =", "judge_on ="))
    with pytest.raises(ConfigError, match=r"r\.toml: images\.judge_on is now images\.evaluate_on"):
        fit(path, tmp_path, tmp_path / "run", 0, None)
    path.write_text(text.replace("[schedule]", "[schedule]\nmomentum = 1"))
    with pytest.raises(ConfigError, match=r"r\.toml: the recipe has the unknown key 'schedule\.momentum'"):
        fit(path, tmp_path, tmp_path / "run", 0, None)
    path.write_text(path.read_text().replace('"image"', '"stream"'))
    with pytest.raises(ConfigError, match="kind must be 'image', not 'stream'"):
        fit(path, tmp_path, tmp_path / "run", 0, None)
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        fit(tmp_path / "none.toml", tmp_path, tmp_path / "run", 0, None)


@pytest.fixture
def themes(tmp_path: Path) -> Path:
    """Give three classes of short tones, four clips in each of two folds."""
    rng = np.random.default_rng(0)
    rows = ["path,label,fold"]
    for i in range(24):
        label = ("animals", "music", "things")[i % 3]
        t = np.arange(8000 + 400 * (i % 5)) / 16000
        wave = 0.3 * np.sin(2 * np.pi * (300, 1000, 3000)[i % 3] * t) + 0.01 * rng.normal(size=t.size)
        soundfile.write(tmp_path / f"{i}.wav", wave.astype(np.float32), 16000)
        rows.append(f"{i}.wav,{label},{1 + i // 12}")
    (tmp_path / "themes.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.usefixtures("undrawn")
def test_sounds_as_images(themes: Path) -> None:
    images = {"manifest": str(themes / "themes.csv"), "seconds": 1.5, "mask_frames": 4}
    convs = [{"channels": 8, "size": 5, "padding": 0, "pool": 2}]
    network = {"steps": 4, "dropout": 0.0, "convs": convs}
    schedule = {"batch": 6, "learning_rate": 0.01}
    recipe = tiny("themes-report-augmented", images=images, network=network, schedule=schedule)
    metrics = fit_recipe(with_epochs(recipe, 15), ImageRun(themes, themes / "run", 0, 2))
    assert metrics["n"] == 12
    assert metrics["accuracy"] > 0.6
    assert metrics["dense_operations_per_second"] == pytest.approx(metrics["dense_operations"] / 1.5, abs=1)
    train, held_out = open_images(recipe, themes, 2)
    drawn = train.draw(torch.arange(12), augment=False)
    assert drawn.shape == (12, 1, *recipe.images.shape)
    assert drawn.mean((0, 1, 3)).abs().max() < 1e-4
    assert drawn.std((0, 1, 3)).sub(1).abs().max() < 1e-4
    assert held_out.labels.tolist() == [0, 1, 2] * 4
    with pytest.raises(SourceError, match="no clips in fold 4"):
        open_images(recipe, themes, 4)
