"""Shadow training: a trained ReLU network made to spike approaches what it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from detector.errors import ConfigError
from models.cli.main import cli
from models.images.conversion import convert
from models.images.network import ImageNetwork
from models.images.recipe import ImageRecipe
from models.images.train import ImageRun, fit_recipe
from tests.models.image_recipes import tiny, write_mnist


def twin(**settings: object) -> tuple[ImageNetwork, ImageRecipe, torch.Tensor]:
    """Return an untrained twin whose batch norm has seen images, its recipe, and images."""
    torch.manual_seed(1)
    recipe = tiny("mnist-cnn", network={"hidden": [6], **settings})
    net, images = ImageNetwork(recipe), torch.rand(30, 1, 28, 28)
    net.train()
    for _ in range(30):
        net(images.unsqueeze(1))
    return net.eval(), recipe, images


@torch.no_grad()
def test_rates_approach_the_activations() -> None:
    """By the error bound of soft reset: a rate is off by at most 1/steps in the first layer, and by little after it."""
    net, recipe, images = twin()
    want = net(images.unsqueeze(1))
    errors = {}
    for steps in (16, 256):
        converted = convert(net, recipe, images, 100.0, steps)
        found = converted.net(images.unsqueeze(1))
        for name, scale in converted.scales.items():
            rate = found.spikes[name].mean(1)
            errors[name, steps] = float((rate - want.spikes[name][:, 0] / scale).abs().mean())
        first = found.spikes["conv1"].mean(1) - want.spikes["conv1"][:, 0] / converted.scales["conv1"]
        assert float(first.abs().max()) <= 1 / steps + 1e-4
        errors["output", steps] = float((found.levels[:, -1] / steps - want.scores).abs().max())
    for name in ("conv1", "conv2", "dense1"):
        assert errors[name, 256] < 0.015
        assert errors[name, 256] < errors[name, 16] / 4
    assert errors["output", 256] < errors["output", 16] / 4


@torch.no_grad()
def test_the_balance_puts_the_percentile_at_one_spike_a_step() -> None:
    net, recipe, images = twin()
    converted = convert(net, recipe, images, 90.0, 64)
    active = net(images.unsqueeze(1)).spikes["conv1"]
    share = float((active <= converted.scales["conv1"]).float().mean())
    assert share == pytest.approx(0.9, abs=0.001)


def test_what_cannot_be_converted_is_reported() -> None:
    net, recipe, images = twin(pooling="max")
    with pytest.raises(ConfigError, match="pools by the maximum"):
        convert(net, recipe, images, 99.9, 8)
    spiking = tiny()
    with pytest.raises(ConfigError, match="only a cnn can be converted"):
        convert(ImageNetwork(spiking), spiking, images, 99.9, 8)


def test_the_command_draws_accuracy_against_steps(tmp_path: Path) -> None:
    data = write_mnist(tmp_path / "data")
    recipe = tiny("mnist-cnn")
    recipe = dataclasses.replace(recipe, schedule=dataclasses.replace(recipe.schedule, epochs=6))
    fit_recipe(recipe, ImageRun(data, tmp_path / "cnn", 0, None))
    fit_recipe(tiny(), ImageRun(data, tmp_path / "csnn", 0, None))
    options = ["--data", data, "--out", tmp_path / "out", "--beside", tmp_path / "csnn", "--steps", 40]
    result = CliRunner().invoke(cli, ["convert", str(tmp_path / "cnn"), *map(str, options)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    conversion_curve = found["converted"]["by_steps"]
    assert list(conversion_curve) == ["1", "2", "4", "8", "16", "32", "40"]
    assert conversion_curve["40"]["accuracy"] >= found["twin"] - 0.1
    assert conversion_curve["1"]["effective_operations"] < conversion_curve["40"]["effective_operations"]
    assert (tmp_path / "out" / "accuracy-vs-steps.png").stat().st_size > 10_000
