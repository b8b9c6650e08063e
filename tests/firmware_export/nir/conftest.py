"""A small model with everything that a NIR graph can hold, and spikes for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from detector.messages import Spikes
from detector.network import load_model
from firmware_export.onnx.export import build_manifest, export
from firmware_export.onnx.parity import comparison_sound, encoded
from models import DEMO_SCENE
from models.network.csnn import SpikingConvNet
from tests.firmware_export.onnx.test_export import RECORD, scene, small_recipe


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a small model: a convolution over frames t, t-2, t-4 with synapse and bias, another, a dense layer."""
    recipe = small_recipe(load_model().manifest.features)
    torch.manual_seed(0)
    net = SpikingConvNet(recipe.network, recipe.encoder).train()
    rng = np.random.default_rng(0)
    for _ in range(30):
        net(torch.from_numpy((rng.random((4, 80, 4, recipe.features.n_mfcc)) < 0.05).astype(np.float32)))
    out = tmp_path_factory.mktemp("small") / "small.onnx"
    export(net, lambda finished: build_manifest(recipe, finished, RECORD, {}), scene(), out)
    return out


@pytest.fixture(scope="session")
def spikes(model: Path) -> Spikes:
    return encoded(load_model(model).manifest, comparison_sound((DEMO_SCENE,), 16000))[:800]
