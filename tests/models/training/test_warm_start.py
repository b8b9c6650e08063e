"""A model file as a warm start: the same scores, with batch norms that can be trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from detector.errors import ConfigError
from models import RECIPES
from models.network.twin import Network
from models.recipe import Recipe, SceneExamples, load_recipe
from models.training import loop
from models.training.loop import Run, train
from models.training.runs import load_run
from models.training.warm_start import hard_clips, read_model, restore_norms, weights_of
from tests.models.conftest import write
from tests.models.data.test_recordings import write_index

MODEL = RECIPES.parent / "pretrained" / "household.onnx"


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(RECIPES / "household-base.toml")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_run_starts_from_a_model_file(recipe: Recipe, tree: Path, tmp_path: Path) -> None:
    """With a learning rate of zero, a run leaves the weights as they are, and it names what they came from."""
    schedule = dataclasses.replace(recipe.schedule, epochs=1, examples_per_epoch=4, batch=2, learning_rate=0.0)
    short = dataclasses.replace(recipe, schedule=schedule, examples=dataclasses.replace(recipe.examples, frames=40))
    run = Run(tree, None, tmp_path / "run", 0, None, workers=0, warm_start=MODEL)
    trained = train(short, run).state_dict()
    loaded, manifest = read_model(MODEL, recipe)
    for name, value in loaded.state_dict().items():
        if name.endswith("logit") or name.startswith("readout"):
            assert torch.equal(trained[name], value)
    record = load_run(run.folder)[2]
    assert "--warm-start household.onnx" in record.command
    assert {source.name for source in record.sources} >= {source.name for source in manifest.training.sources}
    assert "rendered" in {source.name for source in record.sources}
    resumed = train(short, run).state_dict()  # nothing is left to train; the restored norms are in the checkpoint
    assert all(torch.equal(resumed[name], value) for name, value in trained.items())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_interrupted_warm_start_resumes_to_the_bit(
    recipe: Recipe, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch, an interruption and another epoch end with the weights of two epochs without one."""
    schedule = dataclasses.replace(recipe.schedule, epochs=2, examples_per_epoch=4, batch=2)
    short = dataclasses.replace(recipe, schedule=schedule, examples=dataclasses.replace(recipe.examples, frames=40))
    whole = train(short, Run(tree, None, tmp_path / "whole", 0, None, workers=0, warm_start=MODEL)).state_dict()
    one_epoch = loop._Trainer.one_epoch

    def interrupted(trainer: loop._Trainer) -> dict[str, Any]:
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        return one_epoch(trainer)

    run = Run(tree, None, tmp_path / "resumed", 0, None, workers=0, warm_start=MODEL)
    monkeypatch.setattr(loop._Trainer, "one_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(short, run)
    monkeypatch.undo()
    resumed = train(short, run).state_dict()
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    assert not torch.equal(whole["dense.weight"], read_model(MODEL, recipe)[0].state_dict()["dense.weight"])


def test_hard_negatives_are_the_clips_with_a_high_score(recipe: Recipe) -> None:
    net, _ = read_model(MODEL, recipe)
    restore_norms(net, [some_spikes(recipe)])
    scene = soundfile.read(RECIPES.parent / "demo" / "scene.flac", dtype="float32")[0]
    silence = np.zeros(30_000, np.float32)
    assert hard_clips(net, recipe, [silence, scene, scene], [0, 1]) == [1]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_hard_negatives_are_found_by_the_weights_of_a_run(recipe: Recipe, tree: Path, tmp_path: Path) -> None:
    schedule = dataclasses.replace(recipe.schedule, epochs=1, examples_per_epoch=4, batch=2)
    assert isinstance(recipe.examples, SceneExamples)
    examples = dataclasses.replace(recipe.examples, frames=40)
    short = dataclasses.replace(recipe, schedule=schedule, examples=examples)
    hard = dataclasses.replace(short, examples=dataclasses.replace(examples, hard_negatives=0.5))
    first = tmp_path / "first"
    train(short, Run(tree, None, first, 0, None, workers=0))
    for before in (None, MODEL):
        with pytest.raises(ConfigError, match="are found by the weights of a run; add --warm-start"):
            train(hard, Run(tree, None, tmp_path / f"no {before is None}", 0, None, workers=0, warm_start=before))
    first_net = load_run(first)[0]
    run = Run(tree, None, tmp_path / "second", 0, None, workers=0, warm_start=first)
    found: list[list[int]] = []

    def spied(net: Network, *arguments: Any) -> list[int]:
        assert all(torch.equal(value, first_net.state_dict()[name]) for name, value in net.state_dict().items())
        found.append(hard_clips(net, *arguments))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "hard_clips", spied)
        train(hard, run)
    assert len(found) == 1


def some_spikes(recipe: Recipe) -> torch.Tensor:
    shape = (4, 60, recipe.network.planes, recipe.network.n_mfcc)
    return torch.from_numpy(np.asarray(np.random.default_rng(0).random(shape) < 0.1, np.float32))


def test_the_network_with_norms_has_the_models_scores(recipe: Recipe) -> None:
    net, _ = read_model(MODEL, recipe)
    net.eval()
    spikes = some_spikes(recipe)
    probes: list[dict[str, torch.Tensor]] = [{}, {}]
    with torch.no_grad():
        before, _ = net(spikes, None, probes[0])
        restore_norms(net, [spikes[:2], spikes[2:]])
        after, _ = net(spikes, None, probes[1])
    # Rounding may flip single spikes, and nothing else.
    differ = sum(int((probes[0][name] != probes[1][name]).sum()) for name in probes[0])
    assert differ <= 1e-5 * sum(spikes_.numel() for spikes_ in probes[0].values())
    assert float((torch.sigmoid(before) - torch.sigmoid(after)).abs().mean()) < 1e-3
    assert before.std() > 0.1


def test_weights_have_the_size_of_untrained_ones(recipe: Recipe) -> None:
    net, _ = read_model(MODEL, recipe)
    restore_norms(net, [some_spikes(recipe)])
    for layer in (*net.convs, net.dense):
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        expected = (3 * layer.weight[0].numel()) ** -0.5
        sizes = layer.weight.detach().flatten(1).square().mean(1).sqrt()
        assert torch.allclose(sizes, torch.full_like(sizes, expected), rtol=1e-4)


def test_the_norms_statistics_are_those_of_the_spikes(recipe: Recipe) -> None:
    net, _ = read_model(MODEL, recipe)
    spikes = some_spikes(recipe)
    restore_norms(net, [spikes])
    net.eval()
    with torch.no_grad():
        evaluated, _ = net(spikes)
        net.train()
        trained, _ = net(spikes)
    assert float((torch.sigmoid(evaluated) - torch.sigmoid(trained)).abs().mean()) < 0.02


def test_another_front_end_network_or_fold_is_refused(recipe: Recipe) -> None:
    louder = dataclasses.replace(recipe.features, preemphasis=0.5)
    with pytest.raises(ConfigError, match=r"household.onnx: .* differ in features"):
        read_model(MODEL, dataclasses.replace(recipe, features=louder))
    wider = dataclasses.replace(recipe.network, hidden=300)
    with pytest.raises(ConfigError, match=r"dense_weight is \(256, 480\), but the recipe's network has \(300, 480\)"):
        read_model(MODEL, dataclasses.replace(recipe, network=wider))
    with pytest.raises(ConfigError, match=r"without spikes"):
        read_model(MODEL, dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, kind="cnn")))
    with pytest.raises(ConfigError, match=r"was trained on fold 4, which this run leaves out"):
        weights_of(MODEL, recipe, 4)
    assert weights_of(MODEL, recipe, None).keys() == read_model(MODEL, recipe)[0].state_dict().keys()


@pytest.mark.usefixtures("few_conditions")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_run_on_kinds_gives_all_layers_but_the_read_out(tree: Path, tmp_path: Path) -> None:
    """Its folds are not those of the other data set, so any of them can be left out."""
    kinds, esc10 = load_recipe(RECIPES / "kinds.toml"), load_recipe(RECIPES / "esc10.toml")
    for seed, name in enumerate(("rain", "door")):
        write(tmp_path / "recordings" / f"{name}.flac", seed)
    write_index(
        tmp_path / "recordings",
        {"path": "rain.flac", "label": "rain", "fold": "1"},
        {"path": "door.flac", "label": "none", "kind": "door", "recording": "two", "fold": "2"},
    )
    first, second = (
        Run(tmp_path, None, tmp_path / "first", 0, None, workers=0),
        Run(tree, None, tmp_path / "second", 0, 1),
    )
    trained = train(_briefly(kinds), first).state_dict()
    started = train(_briefly(esc10), dataclasses.replace(second, workers=0, warm_start=first.folder)).state_dict()
    logits = [name for name in trained if name.endswith("logit") and not name.startswith("readout")]
    assert logits
    assert all(torch.equal(started[name], trained[name]) for name in logits)
    assert started["readout.weight"].shape != trained["readout.weight"].shape
    assert {"esc10", "recordings"} == {source.name for source in load_run(second.folder)[2].sources}
    wider = dataclasses.replace(esc10, network=dataclasses.replace(esc10.network, hidden=300))
    with pytest.raises(ConfigError, match=r"esc10 cannot start from it, since they differ in network"):
        weights_of(first.folder, wider, 1)


def _briefly(recipe: Recipe) -> Recipe:
    """Train on four examples with a learning rate of zero."""
    schedule = dataclasses.replace(recipe.schedule, epochs=1, examples_per_epoch=4, batch=2, learning_rate=0.0)
    return dataclasses.replace(recipe, schedule=schedule, examples=dataclasses.replace(recipe.examples, frames=40))
