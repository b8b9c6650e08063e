"""The optimiser: torch's own steps, of matrices where layers have four axes, and the rate over a run."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from models.training.optimiser import Optimiser, rate_at


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(2, 8, 3), nn.Linear(8 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.linear(self.conv(x).flatten(1))
        return scores


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def learn(net: Network, optimiser: Optimiser | torch.optim.Optimizer, steps: int = 5) -> None:
    x, y = torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
    for _ in range(steps):
        loss: Tensor = nn.functional.cross_entropy(net(x), y)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()


def test_without_hidden_weights_it_is_adamw() -> None:
    ours, theirs = network(), network()
    learn(ours, Optimiser(ours, 0.01, 0.1))
    groups = [{"params": [p for p in theirs.parameters() if p.ndim > 1], "weight_decay": 0.1}]
    groups.append({"params": [p for p in theirs.parameters() if p.ndim == 1], "weight_decay": 0.0})
    learn(theirs, torch.optim.AdamW(groups, lr=0.01))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # one pass rounds otherwise than a dozen


def test_hidden_weights_move_in_all_directions_alike_and_others_by_adamw() -> None:
    net, plain = network(), network()
    before = net.conv.weight.detach().clone()
    learn(net, Optimiser(net, 0.01, 0.0, [net.conv.weight]), steps=1)
    learn(plain, Optimiser(plain, 0.01, 0.0), steps=1)
    moved = [torch.linalg.svdvals((p.conv.weight.detach() - before).flatten(1)) for p in (net, plain)]
    assert moved[0].max() < 2 * moved[0].min()
    assert moved[1].max() > 4 * moved[1].min()
    root_mean_square = (net.conv.weight.detach() - before).square().mean().sqrt()
    assert root_mean_square.item() == pytest.approx(0.2 * 0.01, rel=0.2)  # what AdamW's come to in the long run
    assert torch.equal(net.linear.weight, plain.linear.weight)
    assert net.conv.bias is not None
    assert plain.conv.bias is not None
    assert torch.equal(net.conv.bias, plain.conv.bias)


def test_muons_steps_are_torchs_on_matrices() -> None:
    ours, theirs = network(), network()
    optimiser = Optimiser(ours, 0.01, 0.1, [ours.conv.weight])
    learn(ours, optimiser, steps=3)
    matrix = nn.Parameter(theirs.conv.weight.detach().flatten(1).clone())
    muon = torch.optim.Muon([matrix], 0.01, 0.1, adjust_lr_fn="match_rms_adamw")
    adamw = Optimiser(theirs, 0.01, 0.1)
    for _ in range(3):
        x, y = torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3
        with torch.no_grad():
            theirs.conv.weight.copy_(matrix.view_as(theirs.conv.weight))
        adamw.zero_grad()
        nn.functional.cross_entropy(theirs(x), y).backward()  # type: ignore[no-untyped-call]
        assert theirs.conv.weight.grad is not None
        matrix.grad = theirs.conv.weight.grad.flatten(1)
        adamw.step()
        muon.step()  # type: ignore[no-untyped-call]
    assert torch.equal(ours.conv.weight, matrix.view_as(ours.conv.weight))
    assert torch.equal(ours.linear.weight, theirs.linear.weight)


def test_it_goes_on_from_what_was_saved() -> None:
    whole, parts = network(), network()
    optimiser = Optimiser(whole, 0.01, 0.1, [whole.conv.weight])
    learn(whole, optimiser, steps=6)
    first = Optimiser(parts, 0.01, 0.1, [parts.conv.weight])
    learn(parts, first, steps=3)
    second = Optimiser(parts, 0.01, 0.1, [parts.conv.weight])
    second.load_state_dict(first.state_dict())
    learn(parts, second, steps=3)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True))
    alone = Optimiser(parts, 0.01, 0.1)
    learn(parts, alone, steps=1)
    plain = alone.state_dict()["adamw"]
    Optimiser(parts, 0.01, 0.1).load_state_dict(plain)  # as it was written while there was AdamW alone
    with pytest.raises(ConfigError, match="another optimiser"):
        Optimiser(parts, 0.01, 0.1).load_state_dict(first.state_dict())


def test_the_rate_is_of_the_next_step() -> None:
    net = network()
    before = [p.detach().clone() for p in net.parameters()]
    optimiser = Optimiser(net, 0.01, 0.1, [net.conv.weight])
    optimiser.set_rate(0.0)
    learn(net, optimiser, steps=1)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_the_rate_warms_up_and_comes_down() -> None:
    rates = [rate_at(progress, 2.0, warm_up=0.05, floor=0.01) for progress in (0.0, 0.025, 0.05, 0.5, 1.0)]
    assert rates[0] == pytest.approx(0.02)
    assert rates[0] < rates[1] < rates[2] > rates[3] > rates[4]
    assert rates[3] == pytest.approx(2.0 * (0.01 + 0.99 / 2))
    assert rates[4] == pytest.approx(0.02)
