"""Examples that continue one another are one stream, to the encoder and to the network."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from models import RECIPES
from models.network.csnn import SpikingConvNet
from models.recipe import Recipe, SceneExamples, load_recipe
from models.training.frontend import BulkEncoder
from models.training.streams import Streams, streams_of

LANES, PARTS, FRAMES = 4, 3, 50


def recipe() -> Recipe:
    given = load_recipe(RECIPES / "household.toml")
    return dataclasses.replace(given, schedule=dataclasses.replace(given.schedule, batch=LANES))


def features(given: Recipe) -> torch.Tensor:
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(0, 1.5, (LANES, PARTS * FRAMES, given.features.n_mfcc)), 1)
    return torch.from_numpy((walk + np.array(given.encoder.rest)).astype(np.float32))


def run(given: Recipe, continued: float) -> torch.Tensor:
    torch.manual_seed(0)
    net, streams, found = SpikingConvNet(given.network, given.encoder).eval(), Streams(given, continued, 0), []
    with torch.no_grad():
        for number, part in enumerate(torch.split(features(given), FRAMES, 1)):
            spikes, state = streams.encode(part, number)
            logits, state = net(spikes, state)
            streams.keep(state)
            found.append(logits)
    return torch.cat(found, 1)


def whole(given: Recipe, parts: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(0)
    net = SpikingConvNet(given.network, given.encoder).eval()
    spikes = np.stack([BulkEncoder(given.encoder).encode(frames) for frames in parts.numpy()])
    with torch.no_grad():
        logits: torch.Tensor = net(torch.from_numpy(spikes).float())[0]
    return logits


def test_lanes_that_go_on_are_streams() -> None:
    given = recipe()
    assert torch.equal(run(given, 1.0), whole(given, features(given)))


def test_lanes_that_do_not_begin_after_a_reset() -> None:
    given = recipe()
    parts = [whole(given, part) for part in torch.split(features(given), FRAMES, 1)]
    assert torch.equal(run(given, 0.0), torch.cat(parts, 1))
    assert not torch.equal(run(given, 1.0), torch.cat(parts, 1))


def test_some_lanes_go_on() -> None:
    """Which ones depends on the seed and on the number of the batch alone."""
    given = recipe()
    once, again = run(given, 0.5), run(given, 0.5)
    assert torch.equal(once, again)
    parts = torch.cat([whole(given, part) for part in torch.split(features(given), FRAMES, 1)], 1)
    same = [(once[:, at : at + FRAMES] == parts[:, at : at + FRAMES]).flatten(1).all(1) for at in (FRAMES, 2 * FRAMES)]
    assert 0 < int(torch.stack(same).sum()) < 2 * LANES


def test_recipes_without_the_key_have_none() -> None:
    given = recipe()
    assert isinstance(given.examples, SceneExamples)
    assert streams_of(given, 0) is not None
    assert (
        streams_of(dataclasses.replace(given, examples=dataclasses.replace(given.examples, continued=0.0)), 0) is None
    )
    assert streams_of(load_recipe(RECIPES / "household-base.toml"), 0) is None
