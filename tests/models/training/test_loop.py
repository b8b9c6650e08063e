"""A run from recordings to a model file: it learns, resumes, and is evaluated by the streaming pipeline."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from detector.errors import ConfigError
from detector.pipeline import Detector
from detector.statistics import Rate
from firmware_export.cli import cli as export_cli
from models import RECIPES
from models.cli.main import cli as train_cli
from models.data.clips import Clip
from models.evaluation.clips import ClipPrediction, confusion, esc10_accuracy, event_rates, metrics, table
from models.network.twin import make_network
from models.recipe import SceneExamples, check_recipe, load_recipe, load_stages
from models.training.loop import Run, _Trainer, train, train_stages
from models.training.runs import RunFolder, load_run
from models.training.warm_start import auxiliary_heads_of

RECIPE = RECIPES / "household-base.toml"
LABELS = load_recipe(RECIPE).labels


@pytest.fixture
def short_recipe(tmp_path: Path) -> Path:
    """Give the shipped recipe, cut to one stage of two short epochs."""
    text = RECIPE.read_text(encoding="utf-8").partition("# From random weights")[0]
    lines = []
    for line in text.splitlines():
        key = line.split("=")[0].strip()
        change = {"epochs": "2", "examples_per_epoch": "8", "batch": "4", "frames": "40"}.get(key)
        lines.append(line if change is None else f"{key} = {change}")
    path = tmp_path / "short.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def invoke(command: object, *arguments: object) -> str:
    result = CliRunner().invoke(command, [str(a) for a in arguments], catch_exceptions=False)  # type: ignore[arg-type]
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_from_recordings_to_an_evaluated_model(tree: Path, short_recipe: Path, tmp_path: Path) -> None:
    run, model = tmp_path / "run", tmp_path / "m.onnx"
    invoke(train_cli, "fit", short_recipe, "--data", tree, "--run", run, "--threads", 1, "--leave-out", 4)
    curves = [json.loads(row) for row in (run / "curves.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in curves] == [1, 2]
    assert "same spikes in 4 layers" in invoke(export_cli, "onnx", run, "--out", model)
    output = invoke(
        train_cli, "evaluate", model, "--data", tree, "--json", tmp_path / "f.json", "--picture", tmp_path / "c.png"
    )
    assert "ESC-10 accuracy" in output
    assert json.loads((tmp_path / "f.json").read_text())["esc10_clips"] == 10
    assert (tmp_path / "c.png").stat().st_size > 10_000
    results = tmp_path / "evaluated.onnx"
    invoke(train_cli, "evaluate", model, "--data", tree, "--out", results)
    assert Detector.load(results).manifest.metrics == json.loads((tmp_path / "f.json").read_text())
    assert "[decoding.on_thresholds]" in invoke(train_cli, "tune", "--evaluate", model, 4, "--data", tree)
    record = Detector.load(model).manifest.training
    assert record.folds_left_out == (4, 5)
    assert {s.name for s in record.sources} == {"esc10", "instruments", "guitar_notes", "speech_digits"}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_run_starts_from_the_weights_of_another(tree: Path, short_recipe: Path, tmp_path: Path) -> None:
    first, second, recipe = tmp_path / "first", tmp_path / "second", load_recipe(short_recipe)
    train(recipe, Run(tree, None, first, 0, 4, workers=0))
    none = replace(recipe, schedule=replace(recipe.schedule, learning_rate=0.0))
    net = train(none, Run(tree, None, second, 1, 4, workers=0, warm_start=first))
    before, after = load_run(first)[0].state_dict(), net.state_dict()
    assert all(torch.equal(before[name], value) for name, value in after.items() if "norm" not in name)
    auxiliary, kept = ((RunFolder(folder).load() or {})["auxiliary_heads"] for folder in (first, second))
    assert auxiliary.keys() == kept.keys()
    assert all(torch.equal(auxiliary[name], kept[name]) for name in auxiliary)
    assert "--warm-start" in load_run(second)[2].command
    with pytest.raises(ConfigError, match="fold 3"):
        train(recipe, Run(tree, None, tmp_path / "third", 1, 3, workers=0, warm_start=first))
    other = replace(recipe, network=replace(recipe.network, slope=9.0))
    with pytest.raises(ConfigError, match="differ in network"):
        train(other, Run(tree, None, tmp_path / "third", 1, 4, workers=0, warm_start=first))
    with pytest.raises(ConfigError, match="another recipe"):
        train(none, Run(tree, None, second, 1, 4, workers=0))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_stages_compute_what_runs_with_a_warm_start_do(tree: Path, short_recipe: Path, tmp_path: Path) -> None:
    with short_recipe.open("a", encoding="utf-8") as file:
        file.write("\n[[stages]]\nseed_offset = 0\nexamples = { brief = 0.0 }\n")
        file.write("\n[[stages]]\nseed_offset = 3\nschedule = { epochs = 1, learning_rate = 0.0005 }\n")
    first, second = load_stages(short_recipe)
    assert (first.recipe.examples, first.recipe.schedule.epochs) != (second.recipe.examples, 1)
    assert load_recipe(short_recipe) == second.recipe
    staged = Run(tree, None, tmp_path / "staged", 2, 4, workers=0)
    net = train_stages([first, second], staged)
    train(first.recipe, Run(tree, None, tmp_path / "one", 2, 4, workers=0))
    by_hand = train(second.recipe, Run(tree, None, tmp_path / "two", 5, 4, workers=0, warm_start=tmp_path / "one"))
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), by_hand.state_dict().values(), strict=True))
    record = load_run(staged.folder)[2]
    assert (record.epochs, record.seed) == (3, 2)
    assert "warm-start" not in record.command
    again = train_stages([first, second], staged)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    assert [len(RunFolder(folder).curves()) for folder in (staged.folder / "stage1", staged.folder)] == [2, 1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_run_of_an_earlier_version_can_be_read(tree: Path, short_recipe: Path, tmp_path: Path) -> None:
    """Its plan has the keys of that version, its checkpoint other names for heads and generator."""
    run, recipe = tmp_path / "run", load_recipe(short_recipe)
    train(recipe, Run(tree, None, run, 0, None, workers=0))
    heads = auxiliary_heads_of(run)
    plan = (run / "plan.json").read_text(encoding="utf-8")
    old = {
        "initial_gain": "drive",
        "deep_supervision": "deep",
        "background_operations": "idle",
        "min_rate": "least_rate",
    }
    old |= {"truncated": "ended", "background_only": "bare", "polyphonic": "crowded", "band_limited": "narrow"}
    for new, name in (old | {"time_reversed": "backwards", "min_rate": "least_rate"}).items():
        assert f'"{new}"' in plan
        plan = plan.replace(f'"{new}"', f'"{name}"')
    added = ',\n   "continued": 0.0,\n   "pool": 0'
    assert added in plan
    plan = plan.replace(added, "")
    (run / "plan.json").write_text(plan, encoding="utf-8")
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    saved |= {"hidden": saved.pop("auxiliary_heads"), "dice": saved.pop("rng_state")}
    torch.save(saved, run / "checkpoint.pt")
    assert load_run(run)[1] == recipe
    assert heads is not None
    assert heads.keys() == (auxiliary_heads_of(run) or {}).keys()


def _once(epoch: Callable[[_Trainer], object]) -> Callable[[_Trainer], object]:
    def interrupted(trainer: _Trainer) -> object:
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        return epoch(trainer)

    return interrupted


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", [(False, 0.0, 0.0), (True, 0.0, 0.0), (True, 0.5, 0.7)])
def test_a_run_goes_on_where_it_was_interrupted(
    tree: Path, short_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: tuple[bool, float, float]
) -> None:
    """To the bit, and however many processes make the examples."""
    (muon, deep_supervision, continued), recipe = way, load_recipe(short_recipe)
    assert isinstance(recipe.examples, SceneExamples)
    recipe = replace(
        recipe,
        examples=replace(recipe.examples, continued=continued, pool=8 if continued else 0),
        schedule=replace(recipe.schedule, muon=muon),
        loss=replace(recipe.loss, deep_supervision=deep_supervision),
    )
    run = Run(tree, None, tmp_path / "run", 0, None, workers=2)
    net = train(recipe, run)
    broken_off = Run(tree, None, tmp_path / "broken-off", 0, None, workers=0)
    with monkeypatch.context() as patch:
        patch.setattr("models.training.loop._Trainer.one_epoch", _once(_Trainer.one_epoch))
        with pytest.raises(KeyboardInterrupt):
            train(recipe, broken_off)
    resumed = train(recipe, broken_off)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), resumed.state_dict().values(), strict=True))
    saved, went_on = (torch.load(f / "checkpoint.pt", weights_only=True) for f in (run.folder, broken_off.folder))
    assert saved["epoch"] == 2
    assert ("auxiliary_heads" in saved) == bool(deep_supervision)
    for name, value in saved.get("auxiliary_heads", {}).items():
        assert torch.equal(value, went_on["auxiliary_heads"][name])
        assert value.any()
    assert (
        load_run(run.folder)[0].state_dict().keys() == make_network(recipe.network, recipe.encoder).state_dict().keys()
    )
    again = train(recipe, run)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))
    assert len((tmp_path / "run" / "curves.jsonl").read_text().splitlines()) == 2


def test_a_folder_without_a_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the folder of a finished run"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("dense_tau_s", "[0.4, 0.02]", r"network\.dense_tau_s is \[0\.4, 0\.02\]; it takes a shortest"),
        ("membrane_tau_s", "[0.1, inf]", r"network\.membrane_tau_s is \[0\.1, inf\]; it takes a shortest"),
        ("membrane_tau_s", "[0.1]", r"network\.membrane_tau_s is \[0\.1\]; it takes a shortest"),
        ("deep_supervision", "-0.1", r"loss\.deep_supervision is -0\.1; it takes a weight"),
        ("pool", "10", r"examples\.pool is 10; it takes a multiple of schedule\.batch"),
        ("hard_negatives", "-0.5", r"examples\.hard_negatives is -0\.5; it takes a probability"),
        ("continued", "1.5", r"examples\.continued is 1\.5; it takes a probability"),
        ("noise_like", '["rain", "hail"]', r"examples\.noise_like: the recipe knows no 'hail'; it knows"),
    ],
)
def test_recipes_refuse_what_cannot_be_trained(short_recipe: Path, key: str, value: str, message: str) -> None:
    text = short_recipe.read_text(encoding="utf-8")
    short_recipe.write_text(re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", text), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_recipe(short_recipe)


def test_auxiliary_heads_need_a_layer_to_read(short_recipe: Path) -> None:
    recipe = load_recipe(short_recipe)
    changed = replace(
        recipe,
        loss=replace(recipe.loss, deep_supervision=0.3),
        network=replace(recipe.network, convs=recipe.network.convs[:1]),
    )
    with pytest.raises(ConfigError, match=r"loss\.deep_supervision needs two convolutions"):
        check_recipe(changed, "recipe")


def test_recipes_refuse_unknown_and_missing_keys(short_recipe: Path) -> None:
    text = short_recipe.read_text(encoding="utf-8")
    short_recipe.write_text(text.replace("[schedule]", "[schedule]\nmomentum = 1.0"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"unknown key 'schedule\.momentum'"):
        load_recipe(short_recipe)
    short_recipe.write_text(re.sub(r"(?m)^hidden = .*\n", "", text), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"lacks the key 'network\.hidden'"):
        load_recipe(short_recipe)
    short_recipe.write_text(text.replace("frame_rate_hz = 40.0", "frame_rate_hz = 50.0"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"network\.frame_rate_hz is 50\.0, but the rest of the recipe needs 40\.0"):
        load_recipe(short_recipe)


@pytest.mark.parametrize(
    ("table", "old", "new"),
    [
        ("network", "drive", "initial_gain"),
        ("loss", "idle", "background_operations"),
        ("examples", "bare", "background_only"),
    ],
)
def test_a_key_of_earlier_recipes_is_refused_with_its_new_name(
    short_recipe: Path, table: str, old: str, new: str
) -> None:
    text = short_recipe.read_text(encoding="utf-8")
    short_recipe.write_text(text.replace(f"{new} =", f"{old} ="), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"short\.toml: {table}\.{old} is now {table}\.{new}; rename the key"):
        load_recipe(short_recipe)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ("schedule = { epochs = 1 }", r"stages\[0\]\.seed_offset must be an integer"),
        ("seed_offset = 0\nnetwork = { slope = 1.0 }", r"stages\[0\]\.network: a stage has seed_offset and tables"),
        ("seed_offset = 0\nschedule = { epoch = 1 }", r"stages\[0\]\.schedule\.epoch: .* no such key"),
        ("seed_offset = 0\nschedule = { epochs = 'x' }", r"'schedule\.epochs' must be an integer"),
    ],
)
def test_a_stage_changes_keys_that_there_are(short_recipe: Path, stage: str, message: str) -> None:
    with short_recipe.open("a", encoding="utf-8") as file:
        file.write(f"\n[[stages]]\n{stage}\n")
    with pytest.raises(ConfigError, match=message):
        load_stages(short_recipe)


def predictions(label: str, source: str, best: str, *onsets: str) -> ClipPrediction:
    scores = np.full((4, len(LABELS)), 0.1, np.float32)
    scores[:, LABELS.index(best)] = 0.9
    return ClipPrediction(Clip(Path("x"), label, source, 5), scores, onsets, LABELS)


def test_figures_by_hand() -> None:
    clips = [
        predictions("rain", "esc10", "rain", "rain"),
        predictions("rooster", "esc10", "guitar", "guitar"),
        predictions("guitar", "instruments", "guitar", "guitar", "guitar"),
        predictions("guitar", "instruments", "winds"),
    ]
    # The rooster's ten-class argmax is the first of nine equal scores: not the rooster.
    assert (esc10_accuracy(clips).hits, esc10_accuracy(clips).total) == (1, 2)
    recall, false = event_rates(clips, "guitar")
    assert (recall.hits, recall.total, false.hits, false.total) == (1, 2, 1, 2)
    assert confusion(clips)[LABELS.index("rooster"), LABELS.index("guitar")] == 1
    assert metrics(clips)["guitar_recall"] == 0.5
    assert "| guitar | 1/2 = 50.0 %" in table(clips)


def test_wilson_interval_by_table() -> None:
    low, high = Rate(8, 10).interval
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
    assert Rate(0, 0).interval == (0.0, 1.0)
