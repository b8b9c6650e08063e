"""Read-outs of hidden layers: what they weigh, whom they teach, and that they are not in the network."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from models.network.csnn import SpikingConvNet
from models.network.spec import ConvSpec
from models.training.losses import AuxiliaryHeads
from tests.models.network.test_csnn import ENCODER, SPEC, spikes


def test_each_layer_but_the_first_is_read() -> None:
    heads = AuxiliaryHeads(SPEC)
    for parameter in heads.parameters():
        torch.nn.init.zeros_(parameter)
    probe = {"conv2": torch.ones(2, 12, 5, 4)}
    target, weight = torch.ones(2, 5, 3), torch.ones(2, 5, 3)
    loss = heads.loss(probe, torch.full((3,), 0.9), target, weight)
    assert loss.item() == pytest.approx(3 * math.log(2))  # scores of 0.5 for three classes, by one layer


def test_a_read_out_adds_up_and_forgets_as_that_of_the_network() -> None:
    heads = AuxiliaryHeads(SPEC)
    (layer,) = heads._layers.values()
    assert isinstance(layer, torch.nn.Linear)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.ones_(layer.bias)
    beta, target = torch.tensor([0.5, 0.5, 0.5]), torch.ones(1, 3, 3)
    loss = heads.loss({"conv2": torch.zeros(1, 12, 3, 4)}, beta, target, torch.ones(1, 3, 3))
    by_hand = [math.log1p(math.exp(-level)) for level in (1, 1.5, 1.75)]
    assert loss.item() == pytest.approx(3 * sum(by_hand) / 3)


def test_layers_in_front_learn_from_them_and_those_behind_do_not() -> None:
    torch.manual_seed(0)
    spec = dataclasses.replace(SPEC, convs=(*SPEC.convs, ConvSpec(6, 2, 1, 3, 1, synapse=False)))
    net, heads, probe = SpikingConvNet(spec, ENCODER).train(), AuxiliaryHeads(spec), dict[str, torch.Tensor]()
    torch.nn.init.zeros_(heads._layers["conv3"].weight)  # type: ignore[arg-type]  # that of conv2 teaches alone
    net(spikes(60, 1)[None], None, probe)
    loss = heads.loss(probe, net.readout_beta, torch.ones(1, 60, 3), torch.ones(1, 60, 3))
    loss.backward()  # type: ignore[no-untyped-call]
    learn = {name.rpartition(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert learn == {"convs.0", "convs.1", "units.0", "units.1", "units.0.norm", "units.1.norm"}


def test_a_network_without_convolutions_has_none() -> None:
    heads = AuxiliaryHeads(dataclasses.replace(SPEC, kind="fcsnn", convs=()))
    assert not list(heads.parameters())
    assert heads.loss({}, torch.ones(3), torch.ones(1, 2, 3), torch.ones(1, 2, 3)).item() == 0
