"""Surrogate gradients by name: the step forward, a smooth function's derivative backward.

The functions are snnTorch's. Their derivatives are found by asking its autograd, once per value; for
the fast sigmoid, F. Zenke and S. Ganguli, "SuperSpike", Neural Computation 30(6), 2018,

    g(x) = 1 / (slope * |x| + 1)**2

is written out and compiled as well, since a fifth of the training time went there. A test holds the
two together.
"""

from __future__ import annotations

from typing import Any, Literal

import numba
import numpy as np
import torch
from snntorch import surrogate
from torch import Tensor

SurrogateName = Literal["fast_sigmoid", "sigmoid", "atan"]


class SurrogateStep:
    """The step function 1[x > 0] with the surrogate gradient of ``name`` and ``slope`` (atan: alpha)."""

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

        All three are even; asked at |x|, the sigmoid's exponential cannot overflow as it does below -88 / slope.
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
