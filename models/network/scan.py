"""Leaky integrate-and-fire over a whole sequence, fused: one pass over time forward, one backward.

The forward pass is the neuron equation of ``models.network.csnn`` in the same order of rounding, so its
spikes equal those of stepping. The backward pass is the linear recurrence that backpropagation
through time gives when the reset is held constant (F. Zenke and T. Vogels, "The remarkable
robustness of surrogate gradient learning", Neural Computation 33(4), 2021):

    dU[t] = g(U[t] - threshold) * dS[t] + beta * dU[t+1],   dI[t] = dU[t]

with g the surrogate's derivative. Surrogates are snnTorch's; their derivatives are computed by its autograd,
once per value. For the fast sigmoid (F. Zenke and S. Ganguli, "SuperSpike", Neural Computation 30(6), 2018),

    g(x) = 1 / (slope * |x| + 1)**2

is also compiled here, since it took a fifth of the training time; a test checks that both agree.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import torch
from snntorch import surrogate
from torch import Tensor

from models.network.spec import SurrogateName


class SurrogateStep:
    """The step function 1[x > 0], with the surrogate gradient ``name`` of slope ``slope`` (atan: alpha)."""

    def __init__(self, name: SurrogateName, slope: float) -> None:
        self.name, self.slope = name, slope
        make: dict[str, Any] = {
            "fast_sigmoid": lambda: surrogate.fast_sigmoid(slope=slope),
            "sigmoid": lambda: surrogate.sigmoid(slope=slope),
            "atan": lambda: surrogate.atan(alpha=slope),
        }
        self._function = make[name]()

    def __call__(self, x: Tensor) -> Tensor:
        """Return 1 where x > 0, else 0."""
        return self._function(x)  # type: ignore[no-any-return]

    def backward(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Return gradient * g(x), elementwise; float32 on the CPU."""
        if self.name != "fast_sigmoid":
            return gradient * self.derivative(x)
        out = torch.empty_like(x)
        flat = [t.detach().contiguous().view(-1).numpy() for t in (gradient, x, out)]
        _fast_sigmoid_backward(flat[0], flat[1], flat[2], np.float32(self.slope))
        return out

    def derivative(self, x: Tensor) -> Tensor:
        """Return g(x) as snnTorch gives it.

        All three are even; evaluated at |x|, the sigmoid's exponential does not overflow as it does below -88 / slope.
        """
        with torch.enable_grad():
            x = x.detach().abs().requires_grad_()
            (derivative,) = torch.autograd.grad(self(x).sum(), x)
        return derivative


@numba.njit(parallel=True, cache=True)
def _fast_sigmoid_backward(gradient: Any, x: Any, out: Any, slope: Any) -> None:
    one = np.float32(1)
    for i in numba.prange(x.size):
        root = slope * abs(x[i]) + one
        out[i] = gradient[i] / (root * root)


# The compiled loops take arrays of shape (batch, channels, frames, width); the state is the same
# without frames, and the decays are one per channel. Each (batch, channel) pair is independent.


@numba.njit(parallel=True, cache=True)
def _lif_forward(  # noqa: PLR0913 - arrays in, arrays out
    current: Any, beta: Any, threshold: Any, mem: Any, u: Any, spikes: Any
) -> None:
    batch, channels, frames, width = current.shape
    for n in numba.prange(batch * channels):
        b, c = n // channels, n % channels
        for t in range(frames):
            for f in range(width):
                # Two rounded operations, as in the step: no fused multiply-add.
                potential = beta[c] * mem[b, c, f] + current[b, c, t, f]
                u[b, c, t, f] = potential
                fired = np.float32(1.0) if potential > threshold else np.float32(0.0)
                spikes[b, c, t, f] = fired
                mem[b, c, f] = potential - threshold * fired


@numba.njit(parallel=True, cache=True)
def _lif_backward(  # noqa: PLR0913 - arrays in, arrays out
    grad_u: Any, grad_mem: Any, u: Any, spikes: Any, mem0: Any, beta: Any, threshold: Any, d_beta: Any
) -> None:
    """Turn ``grad_u`` (g * dS on entry) into dI in place; ``grad_mem`` (dV at the end) into dV at the start."""
    batch, channels, frames, width = grad_u.shape
    for n in numba.prange(batch * channels):
        b, c = n // channels, n % channels
        total = np.zeros(width)  # one sum per neuron: a single one cannot be vectorised
        for t in range(frames - 1, -1, -1):
            for f in range(width):
                du = grad_u[b, c, t, f] + grad_mem[b, c, f]
                grad_u[b, c, t, f] = du
                grad_mem[b, c, f] = beta[c] * du
                before = mem0[b, c, f] if t == 0 else u[b, c, t - 1, f] - threshold * spikes[b, c, t - 1, f]
                total[f] += du * before
        d_beta[b, c] = total.sum()


@numba.njit(parallel=True, cache=True)
def _leak_forward(current: Any, beta: Any, mem: Any, out: Any) -> None:
    batch, channels, frames, width = current.shape
    for n in numba.prange(batch * channels):
        b, c = n // channels, n % channels
        for t in range(frames):
            for f in range(width):
                level = beta[c] * mem[b, c, f] + current[b, c, t, f]
                out[b, c, t, f] = level
                mem[b, c, f] = level


@numba.njit(parallel=True, cache=True)
def _leak_backward(  # noqa: PLR0913 - arrays in, arrays out
    grad: Any, grad_mem: Any, out: Any, mem0: Any, beta: Any, d_beta: Any
) -> None:
    batch, channels, frames, width = grad.shape
    for n in numba.prange(batch * channels):
        b, c = n // channels, n % channels
        total = np.zeros(width)
        for t in range(frames - 1, -1, -1):
            for f in range(width):
                d = grad[b, c, t, f] + grad_mem[b, c, f]
                grad[b, c, t, f] = d
                grad_mem[b, c, f] = beta[c] * d
                total[f] += d * (mem0[b, c, f] if t == 0 else out[b, c, t - 1, f])
        d_beta[b, c] = total.sum()


class _LifScan(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913 - autograd passes them one by one
        ctx: Any, current: Tensor, beta: Tensor, mem: Tensor, threshold: float, surrogate: SurrogateStep
    ) -> tuple[Tensor, Tensor]:
        current, mem0 = current.contiguous(), mem.contiguous()
        u, spikes, last = torch.empty_like(current), torch.empty_like(current), mem0.clone()
        theta = np.float32(threshold)
        _lif_forward(*_arrays(current, beta), theta, *_arrays(last, u, spikes))  # type: ignore[call-arg]  # numba's stub
        ctx.save_for_backward(u, spikes, beta, mem0)
        ctx.threshold, ctx.surrogate = theta, surrogate
        return spikes, last

    @staticmethod
    def backward(ctx: Any, grad_spikes: Tensor, grad_last: Tensor) -> Any:
        u, spikes, beta, mem0 = ctx.saved_tensors
        grad_u = ctx.surrogate.backward(grad_spikes, u - float(ctx.threshold))
        grad_mem = grad_last.contiguous().clone()
        d_beta = torch.empty(u.shape[:2])
        arrays = _arrays(grad_u, grad_mem, u, spikes, mem0, beta)
        _lif_backward(*arrays, ctx.threshold, *_arrays(d_beta))  # type: ignore[call-arg]  # numba's stub
        return grad_u, d_beta.sum(0), grad_mem, None, None


class _LeakScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: Tensor, beta: Tensor, mem: Tensor) -> tuple[Tensor, Tensor]:
        current, mem0 = current.contiguous(), mem.contiguous()
        out, last = torch.empty_like(current), mem0.clone()
        _leak_forward(*_arrays(current, beta, last, out))
        ctx.save_for_backward(out, beta, mem0)
        return out, last

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, grad_last: Tensor) -> Any:
        out, beta, mem0 = ctx.saved_tensors
        grad, grad_mem = grad_out.contiguous().clone(), grad_last.contiguous().clone()
        d_beta = torch.empty(out.shape[:2])
        _leak_backward(*_arrays(grad, grad_mem, out, mem0, beta, d_beta))
        return grad, d_beta.sum(0), grad_mem


def lif_scan(
    current: Tensor, beta: Tensor, mem: Tensor, threshold: float, surrogate: SurrogateStep
) -> tuple[Tensor, Tensor]:
    """Return the spikes (batch, channels, frames, width) of a sequence of currents, and the last mem.

    ``beta`` is (channels,), ``mem`` (batch, channels, width); float32. Fused on the CPU, ``lif_loop`` on
    other devices.
    """
    if current.device.type != "cpu":
        return lif_loop(current, beta, mem, threshold, surrogate)
    spikes, last = _LifScan.apply(current, beta, mem, threshold, surrogate)  # type: ignore[no-untyped-call]
    return spikes, last


def leak_scan(current: Tensor, beta: Tensor, mem: Tensor) -> tuple[Tensor, Tensor]:
    """Return the leaky sums y[t] = beta * y[t-1] + x[t] of a sequence, and the last one; shapes as in lif_scan."""
    if current.device.type != "cpu":
        return leak_loop(current, beta, mem)
    out, last = _LeakScan.apply(current, beta, mem)  # type: ignore[no-untyped-call]
    return out, last


def leaky_readout(current: Tensor, beta: Tensor, mem: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return logits (batch, frames, classes) of currents of that shape, and the membranes after the last frame.

    ``beta`` is (classes,), ``mem`` (batch, classes, 1); None is the state after a reset.
    """
    x = current.transpose(1, 2).unsqueeze(-1)
    logits, mem = leak_scan(x, beta, x.new_zeros(*x.shape[:2], 1) if mem is None else mem)
    return logits.squeeze(-1).transpose(1, 2), mem


def lif_loop(
    current: Tensor, beta: Tensor, mem: Tensor, threshold: float, surrogate: SurrogateStep
) -> tuple[Tensor, Tensor]:
    """Compute ``lif_scan`` frame by frame with autograd; on any device."""
    spikes = []
    for now in current.unbind(2):
        u = beta[:, None] * mem + now
        spikes.append(surrogate(u - threshold))
        mem = u - threshold * spikes[-1].detach()
    return torch.stack(spikes, 2), mem


def leak_loop(current: Tensor, beta: Tensor, mem: Tensor) -> tuple[Tensor, Tensor]:
    """Compute ``leak_scan`` frame by frame with autograd; on any device."""
    levels = []
    for now in current.unbind(2):
        mem = beta[:, None] * mem + now
        levels.append(mem)
    return torch.stack(levels, 2), mem


def _arrays(*tensors: Tensor) -> list[Any]:
    return [t.detach().numpy() for t in tensors]
