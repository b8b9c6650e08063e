"""Networks for still images: the neuron over the steps, the encodings, the remedy against dead layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from detector.errors import ConfigError
from models.images.data import encode
from models.images.network import ImageNetwork, Response
from models.images.recipe import as_dict, parse_image_recipe
from models.images.train import operations, total_loss
from tests.models.image_recipes import tiny

PLAIN = {"batch_norm": False, "learn_beta": False, "beta": 0.5}


def network(**settings: object) -> tuple[ImageNetwork, Tensor]:
    torch.manual_seed(3)
    recipe = tiny(network=PLAIN | settings)
    return ImageNetwork(recipe).eval(), torch.rand(4, 1, 28, 28)


def counts_by_a_plain_loop(net: ImageNetwork, x: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
    """Do what snnTorch's tutorials do: for each step, layer by layer, U = beta V + I; S = U > 1; V = U - S."""
    layers = [layer for _, layer in net.named_layers]
    mem: list[Tensor | float] = [0.0] * len(layers)
    total, trains = torch.zeros(len(x), 10), list[Tensor]()
    for _ in range(steps):
        cur: Tensor = x
        for i, layer in enumerate(layers):
            if i == len(layers) - 1:
                cur = functional.linear(cur.flatten(1), layer.linear.weight, layer.linear.bias)
            else:
                conv = functional.conv2d(cur, layer.linear.weight, layer.linear.bias)
                cur = functional.max_pool2d(conv, 2)
            u = 0.5 * mem[i] + cur
            cur = (u > 1).float()
            mem[i] = u - cur
        total += cur
        trains.append(cur)
    return total, trains


def test_the_network_equals_a_plain_loop_over_the_steps() -> None:
    net, images = network()
    for _, layer in net.named_layers:
        layer.scale(6.0)
    response = net(images.unsqueeze(1))
    total, trains = counts_by_a_plain_loop(net, images, 6)
    assert total.sum() > 10
    assert torch.equal(response.scores, total)
    assert torch.equal(response.spikes["output"], torch.stack(trains, 1))
    assert torch.equal(response.levels[:, -1], total)


def test_a_constant_input_may_be_given_once_or_at_every_step() -> None:
    net, images = network()
    net.layers["conv1"].scale(6.0)  # type: ignore[operator]
    once, often = net(images.unsqueeze(1)), net(images.unsqueeze(1).expand(-1, 6, -1, -1, -1))
    for name, spikes in once.spikes.items():
        assert torch.equal(spikes, often.spikes[name])


@pytest.mark.parametrize("surrogate", ["fast_sigmoid", "sigmoid", "atan"])
@pytest.mark.parametrize("readout", ["count", "membrane_mean", "membrane_sum"])
def test_the_gradient_reaches_every_weight(surrogate: str, readout: str) -> None:
    recipe = tiny(network={"surrogate": surrogate, "readout": readout, "slope": 2.0, "hidden": [8]})
    torch.manual_seed(0)
    net = ImageNetwork(recipe)
    response = net(torch.rand(8, 1, 1, 28, 28))
    total_loss(response, torch.arange(8), recipe).backward()  # type: ignore[no-untyped-call]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        # A bias in front of a batch norm has no effect.
        if "linear.bias" not in name or ("output" in name and readout != "count"):
            assert parameter.grad.abs().sum() > 0, name


def test_membrane_readouts_are_the_leaky_sum_of_the_currents() -> None:
    net, images = network(readout="membrane_sum")
    response = net(images.unsqueeze(1))
    assert set(response.spikes) == {"conv1", "conv2"}
    level, levels = torch.zeros(4, 10), []
    for step in range(6):
        level = 0.5 * level + net.layers["output"](response.spikes["conv2"][:, step])
        levels.append(level)
    torch.testing.assert_close(response.levels, torch.stack(levels, 1))
    torch.testing.assert_close(response.scores, torch.stack(levels, 1).sum(1))


def test_equal_counts_are_decided_by_the_potential() -> None:
    scores = torch.tensor([[2.0, 3.0, 3.0], [0.0, 0.0, 0.0]])
    rest = torch.tensor([[9.0, 0.1, 0.2], [0.5, -1.0, 0.4]])
    assert Response(scores, scores[:, None], rest, {}).decide().tolist() == [2, 0]


def test_the_cost_of_rates_by_hand() -> None:
    recipe = tiny(rate_term={"target": 0.25, "weight": 2.0})
    # Two neurons over 2 images and 2 steps: rates 0.5 and 0.
    spikes = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    scores = torch.zeros(2, 10)
    response = Response(scores, scores[:, None], None, {"dense1": spikes})
    loss = total_loss(response, torch.tensor([0, 1]), recipe)
    assert float(loss) == pytest.approx(2.302585 + 2.0 * (0.0625 + 0.0625) / 2)


@torch.no_grad()
def test_waking_brings_a_dead_network_to_the_rate() -> None:
    net, images = network()
    for _, layer in net.named_layers:
        layer.scale(0.01)
    x = images.unsqueeze(1)
    assert all(float(s.sum()) == 0 for s in net(x).spikes.values())
    gains = net.scale_to_rate(x, 0.1)
    assert set(gains) == {"conv1", "conv2", "output"}
    assert min(gains.values()) > 5
    for name, spikes in net(x).spikes.items():
        # Ten output neurons of four images can only come near.
        assert float(spikes.mean()) == pytest.approx(0.1, abs=0.06 if name == "output" else 0.02), name


def test_the_codes_by_hand() -> None:
    image = torch.zeros(1, 1, 28, 28)
    image[0, 0, 0, 0], image[0, 0, 0, 1], image[0, 0, 5, 2] = 1.0, 0.5, 1.0
    rate = encode(image, tiny(network={"encoding": "rate"}))[0, :, 0, 0]
    assert rate.shape == (6, 28)
    assert rate[:, 0].tolist() == [1.0] * 6
    assert rate[:, 5].tolist() == [0.0] * 6
    latency = encode(image, tiny(network={"encoding": "latency"}))[0, :, 0, 0]
    assert latency[:, 0].nonzero().tolist() == [[0]]
    assert latency[:, 1].sum() == 1
    assert 0 < int(latency[:, 1].argmax()) < 6
    assert latency[:, 5].sum() == 0
    delta = encode(image, tiny("mnist-delta"))
    assert delta.shape == (1, 28, 2, 1, 28)
    # The first row comes up against zero, and goes down in the second.
    assert delta[0, :, 0, 0].nonzero().tolist() == [[0, 0], [0, 1], [5, 2]]
    assert delta[0, :, 1, 0].nonzero().tolist() == [[1, 0], [1, 1], [6, 2]]


def test_operations_by_hand() -> None:
    net, _ = network(convs=[], kind="fcsnn", hidden=[7], steps=3)
    net.layers["dense1"].scale(0.0)  # type: ignore[operator]
    x = torch.zeros(1, 1, 1, 28, 28)
    x[0, 0, 0, :5, 0] = 1.0
    found = operations(net, x, net(x))
    # Silent neurons: the image's five pixels reach seven neurons once, then nothing happens.
    assert found == {"dense1": (784 * 7, 35.0), "output": (3 * 70, 0.0), "total": (784 * 7 + 210, 35.0)}
    net, _ = network()
    found = operations(net, torch.ones(1, 1, 1, 28, 28), net(torch.ones(1, 1, 1, 28, 28)))
    assert found["conv1"] == (24 * 24 * 25 * 3, 24 * 24 * 25 * 3)
    assert found["conv2"][0] == 6 * 8 * 8 * 25 * 3 * 4


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"kind": "fcsnn"}, "convs must be empty"),
        ({"convs": []}, "convs must not be empty"),
        ({"kind": "cnn"}, "needs network.steps = 1"),
        ({"encoding": "delta"}, "steps must be 28"),
        ({"beta": 1.0, "learn_beta": True}, "beta must be below 1"),
        ({"convs": [{"channels": 3, "size": 29, "padding": 0, "pool": 1}]}, r"convs\[0\] leaves nothing"),
        ({"surrogate": "straight"}, "'network.surrogate' must be 'fast_sigmoid' or"),
    ],
)
def test_recipes_that_contradict_themselves(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        tiny(network=changes)


def test_a_recipe_survives_being_written_down() -> None:
    recipe = tiny("mnist-delta")
    assert parse_image_recipe(as_dict(recipe), "x") == recipe
