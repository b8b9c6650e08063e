"""The terms of the loss by hand, and how often neurons fire."""

from __future__ import annotations

import math

import pytest
import torch

from models import RECIPES
from models.network.activity import Activity, reading_macs
from models.recipe import Loss, load_recipe
from models.training.losses import (
    background_operations_loss,
    clip_loss,
    frame_loss,
    operations_loss,
    score_loss,
    silence_loss,
    total_loss,
)

ZERO = torch.zeros(1, 2, 2)
FIRST = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])


def test_terms_by_hand() -> None:
    # Logits of zero: a score of a half everywhere costs ln 2 for each of two classes.
    assert frame_loss(ZERO, FIRST, torch.ones(1, 2, 2)).item() == pytest.approx(2 * math.log(2))
    assert score_loss(ZERO, FIRST).item() == pytest.approx(2 * math.log(2))
    assert clip_loss(ZERO, FIRST).item() == pytest.approx(math.log(2))
    # A mean membrane of (1, 0) over both frames.
    logits = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]])
    assert clip_loss(logits, FIRST).item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_frames_without_weight_do_not_count() -> None:
    logits, weight = torch.tensor([[[0.0, 0.0], [50.0, 50.0]]]), torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    assert frame_loss(logits, FIRST, weight).item() == pytest.approx(2 * math.log(2))


def test_the_clip_loss_counts_frames_with_a_target() -> None:
    target = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    logits = torch.tensor([[[3.0, 0.0], [-50.0, 50.0]]])
    assert clip_loss(logits, target).item() == pytest.approx(math.log(1 + math.exp(-3)))


def test_operations_are_weighed_by_what_reads_the_spikes() -> None:
    spikes = {"conv1": torch.ones(1, 2, 3, 4), "dense": torch.zeros(1, 5, 3, 1)}
    assert operations_loss(spikes, {"conv1": 300.0, "dense": 100.0}).item() == pytest.approx(0.75)


def test_background_operations_count_in_background_frames() -> None:
    spikes = {"conv1": torch.zeros(1, 2, 3, 4), "dense": torch.zeros(1, 5, 3, 1)}
    spikes["conv1"][:, :, 0] = 1
    spikes["dense"][:, :, 2] = 1
    fan_out = {"conv1": 300.0, "dense": 100.0}
    assert background_operations_loss(spikes, fan_out, torch.tensor([[1.0, 1.0, 0.0]])).item() == pytest.approx(
        0.75 / 2
    )
    assert background_operations_loss(spikes, fan_out, torch.tensor([[0.0, 0.0, 1.0]])).item() == pytest.approx(0.25)
    assert background_operations_loss(spikes, fan_out, torch.zeros(1, 3)).item() == 0
    target, weight, background_frames = torch.zeros(1, 3, 2), torch.ones(1, 3, 2), torch.tensor([[1.0, 0.0, 0.0]])
    own = total_loss(
        Loss(0, 0, 0, 0, 0, 2.0, 0, 0.1), torch.zeros(1, 3, 2), target, weight, background_frames, spikes, fan_out
    )
    assert own.item() == pytest.approx(2 * 0.75)


def test_silence_pulls_only_neurons_below_the_minimum_rate() -> None:
    spikes = torch.zeros(1, 2, 10, 1)
    spikes[0, 0, :5] = 1
    spikes.requires_grad_()
    loss = silence_loss({"a": spikes}, 0.1)
    assert loss.item() == pytest.approx(0.5)
    (gradient,) = torch.autograd.grad(loss, spikes)
    assert (gradient[0, 0] == 0).all()
    assert (gradient[0, 1] < 0).all()


def test_a_term_of_weight_zero_is_left_out() -> None:
    weight = torch.ones(1, 2, 2)
    background_frames = torch.zeros(1, 2)
    both = total_loss(Loss(1.0, 0.5, 0, 0, 0, 0, 0, 0.1), ZERO, FIRST, weight, background_frames, {}, {})
    assert both.item() == pytest.approx(2.5 * math.log(2))
    assert total_loss(Loss(0, 0, 0, 0, 0, 0, 0, 0.1), ZERO, FIRST, weight, background_frames, {}, {}).item() == 0


def test_activity_counts_over_batches() -> None:
    activity = Activity()
    first, second = torch.zeros(2, 3, 4, 1), torch.zeros(2, 3, 4, 1)
    first[0, 0, :2] = 1
    second[1, 1, 3] = 1
    activity.add({"a": first})
    activity.add({"a": second})
    assert activity.dead_shares() == {"a": pytest.approx(1 / 3)}
    assert activity.rates() == {"a": pytest.approx(3 / (3 * 16))}


def test_macs_behind_each_layer() -> None:
    """The household's network by hand: 20, 10 and 5 bands after each stride of two."""
    macs = reading_macs(load_recipe(RECIPES / "household.toml").network)
    assert macs["conv1"] == 10 * 80 * 40 * 3 * 5
    assert macs["conv2"] == 5 * 96 * 80 * 3 * 3
    assert macs["conv3"] == 5 * 96 * 256
    assert macs["dense"] == 256 * 15
