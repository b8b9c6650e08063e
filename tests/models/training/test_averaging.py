"""The mean of models: each weight by hand, the record of all, and what cannot be averaged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper

from detector.errors import ConfigError
from detector.manifest import DataSource
from detector.network import load_model
from models import RECIPES
from models.cli.main import cli
from models.files import write_with_manifest
from models.recipe import load_recipe
from models.training.averaging import average
from models.training.runs import load_run
from models.training.warm_start import read_model

MODEL = RECIPES.parent / "pretrained" / "household.onnx"
RECIPE = RECIPES / "household.toml"


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a model with other weights of the dense layer, time constants of the read-out and training record."""
    folder = tmp_path_factory.mktemp("other")
    model = onnx.load(MODEL)
    for weights in model.graph.initializer:
        values = numpy_helper.to_array(weights)
        if weights.name == "dense_weight":
            weights.CopyFrom(numpy_helper.from_array(values + np.float32(0.25), weights.name))
        if weights.name == "readout_beta":
            weights.CopyFrom(numpy_helper.from_array(values * np.float32(0.5), weights.name))
    onnx.save(model, folder / "changed.onnx")
    manifest = load_model(MODEL).manifest
    source = DataSource("more recordings", "CC0", "training")
    training = dataclasses.replace(
        manifest.training, epochs=1000, folds_left_out=(5, 3), sources=(*manifest.training.sources, source)
    )
    write_with_manifest(
        folder / "changed.onnx", dataclasses.replace(manifest, training=training), folder / "other.onnx"
    )
    return folder / "other.onnx"


def test_each_weight_is_the_mean_and_the_record_is_of_both(other: Path, tmp_path: Path) -> None:
    recipe = load_recipe(RECIPE)
    average(recipe, [MODEL, other], tmp_path / "run")
    net, _, record = load_run(tmp_path / "run")
    found, first = net.state_dict(), read_model(MODEL, recipe)[0].state_dict()
    np.testing.assert_allclose(found["dense.weight"], first["dense.weight"] + 0.125, atol=1e-6)
    beta = 1 / (1 + np.exp(-first["readout_beta_logit"].double().numpy()))
    odds = np.sqrt(beta / (1 - beta) * (beta / 2) / (1 - beta / 2))  # the mean of logits is the geometric one of odds
    np.testing.assert_allclose(found["readout_beta_logit"], np.log(odds), atol=1e-5)
    for name in ("convs.1.weight", "readout.weight", "dense_unit.beta_logit"):
        np.testing.assert_array_equal(found[name], first[name])
    assert (record.epochs, record.folds_left_out) == (1000, (5,))
    assert record.sources[-1].name == "more recordings"
    assert "snn-train average household.onnx other.onnx --recipe models/recipes/household.toml" in record.command


def test_the_command_makes_a_run_and_replaces_none(other: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    for models, code in (((MODEL, other), 0), ((MODEL, other), 0), ((other, MODEL), 2), ((MODEL, MODEL), 2)):
        result = CliRunner().invoke(cli, ["average", *map(str, models), "--recipe", str(RECIPE), "--run", run])
        failure = result.exception
        found = getattr(failure, "exit_code", result.exit_code) if failure else 0
        assert found == code, result.output


def test_a_model_alone_has_no_mean(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name two model files or more"):
        average(load_recipe(RECIPE), [MODEL], tmp_path / "run")
    assert not (tmp_path / "run").exists()
