"""The fused scan against snnTorch, stepped: values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import snntorch
import torch
from torch import Tensor

from models.network.scan import SurrogateStep, leak_loop, leak_scan, lif_loop, lif_scan
from models.network.spec import SurrogateName

THRESHOLD = 1.0
SURROGATES = {
    "fast_sigmoid": SurrogateStep("fast_sigmoid", 10),
    "atan": SurrogateStep("atan", 2.0),
    "sigmoid": SurrogateStep("sigmoid", 2),  # autograd's own is NaN below -88 / slope
}


def currents(seed: int, drive: float = 1.0) -> Tensor:
    torch.manual_seed(seed)
    return drive * torch.randn(2, 3, 25, 4)


def step_with_snntorch(current: Tensor, beta: Tensor, mem: Tensor, spike_grad: Any) -> tuple[Tensor, Tensor]:
    """Step snn.Leaky without its own reset, then subtract the threshold: the equation of models.network.csnn."""
    neuron = snntorch.Leaky(
        beta=beta[:, None], threshold=THRESHOLD, reset_mechanism="none", spike_grad=spike_grad, learn_beta=False
    )
    spikes = []
    for t in range(current.shape[2]):
        fired, u = neuron(current[:, :, t], mem)
        mem = u - THRESHOLD * fired.detach()
        spikes.append(fired)
    return torch.stack(spikes, 2), mem


@pytest.mark.parametrize("scan", [lif_scan, lif_loop])
@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("drive", [0.3, 1.0, 4.0])
def test_lif_scan_is_stepped_snntorch(scan: Callable[..., Any], name: str, drive: float) -> None:
    """The fused scan, and the loop that other devices than the CPU get."""
    beta, mem0 = torch.tensor([0.5, 0.9, 0.99]), torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(1))
    results = []
    for function in (scan, None):
        x, b = currents(0, drive).requires_grad_(), beta.clone().requires_grad_()
        mem = mem0.clone().requires_grad_()
        if function is None:
            spikes, last = step_with_snntorch(x, b, mem, SURROGATES[name])
        else:
            spikes, last = function(x, b, mem, THRESHOLD, SURROGATES[name])
        weights = torch.linspace(-1, 1, spikes.numel()).view_as(spikes)
        ((spikes * weights).sum() + (last * last).sum()).backward()  # type: ignore[no-untyped-call]
        results.append((spikes, last, x.grad, b.grad, mem.grad))
    (spikes, last, *grads), (wanted_spikes, wanted_last, *wanted_grads) = results
    assert spikes.sum() >= 10
    assert torch.equal(spikes, wanted_spikes)
    assert torch.equal(last, wanted_last)
    for grad, wanted in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-5)


def test_leak_scan_is_a_plain_loop() -> None:
    beta, mem0 = torch.tensor([0.2, 0.9, 0.99]), torch.rand(2, 3, 4)
    results = []
    for scan in (leak_scan, leak_loop):
        x, b = currents(1).requires_grad_(), beta.clone().requires_grad_()
        mem = mem0.clone().requires_grad_()
        out, _ = scan(x, b, mem)
        (out**2).sum().backward()  # type: ignore[no-untyped-call]
        results.append((out, x.grad, b.grad, mem.grad))
    assert torch.equal(results[0][0], results[1][0])
    for grad, wanted in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(grad, wanted, rtol=1e-4, atol=1e-4)


def test_four_frames_by_hand() -> None:
    """Beta 0.5, threshold 1, current 0.8: U = 0.8, 1.2 (spike, V 0.2), 0.9, 1.25 (spike, V 0.25)."""
    spikes, last = lif_scan(
        torch.full((1, 1, 4, 1), 0.8), torch.tensor([0.5]), torch.zeros(1, 1, 1), 1.0, SurrogateStep("fast_sigmoid", 25)
    )
    assert spikes.flatten().tolist() == [0, 1, 0, 1]
    assert last.item() == pytest.approx(0.25)


def test_exactly_at_the_threshold_is_no_spike() -> None:
    spikes, last = lif_scan(
        torch.ones(1, 1, 1, 1), torch.tensor([0.5]), torch.zeros(1, 1, 1), 1.0, SurrogateStep("fast_sigmoid", 25)
    )
    assert spikes.item() == 0
    assert last.item() == 1


def test_sequence_in_two_parts_carries_the_state() -> None:
    x, beta, mem = currents(2), torch.tensor([0.5, 0.9, 0.99]), torch.zeros(2, 3, 4)
    whole, last = lif_scan(x, beta, mem, THRESHOLD, SurrogateStep("fast_sigmoid", 25))
    first, middle = lif_scan(x[:, :, :10], beta, mem, THRESHOLD, SurrogateStep("fast_sigmoid", 25))
    second, end = lif_scan(x[:, :, 10:], beta, middle, THRESHOLD, SurrogateStep("fast_sigmoid", 25))
    assert torch.equal(torch.cat((first, second), 2), whole)
    assert torch.equal(end, last)


@pytest.mark.parametrize("name", SURROGATES)
@pytest.mark.parametrize("slope", [2.0, 7.5])
def test_the_backward_pass_is_snntorchs(name: SurrogateName, slope: float) -> None:
    step = SurrogateStep(name, slope)
    x, gradient = torch.linspace(-3, 3, 61).view(1, -1), torch.linspace(-2, 1, 61).view(1, -1)
    assert torch.equal(step(x), (x > 0).float())
    torch.testing.assert_close(step.backward(gradient, x), gradient * step.derivative(x))


def test_the_fast_sigmoid_by_hand() -> None:
    step = SurrogateStep("fast_sigmoid", 10)
    x = torch.tensor([-0.1, 0.0, 0.9])
    wanted = torch.tensor([0.25, 1.0, 0.01])
    torch.testing.assert_close(step.derivative(x), wanted)
    torch.testing.assert_close(step.backward(torch.ones(3), x), wanted)


@pytest.mark.parametrize("name", SURROGATES)
def test_far_below_the_threshold_the_gradient_is_small_and_finite(name: SurrogateName) -> None:
    gradient = SurrogateStep(name, 25).backward(torch.ones(2), torch.tensor([-40.0, 40.0]))
    assert torch.isfinite(gradient).all()
    assert (gradient.abs() < 1e-4).all()
    assert gradient[0] == gradient[1]
