"""The optimiser of all training runs, and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detector.errors import ConfigError

_LARGEST_GRADIENT = 2.0
"""Norm that gradients are clipped to."""
_MOMENTUM = 0.95
"""As in Jordan's own runs; the default of torch."""


class Optimiser:
    """AdamW; and Muon for the weights of hidden layers, where some are given.

    Muon orthogonalises its steps: all singular values are equal, so that a layer learns in many directions at once
    and not only in the few steepest ones (K. Jordan, "Muon: an optimizer for hidden layers in neural networks",
    2024). Their size is that of AdamW's (J. Liu et al., "Muon is scalable for LLM training", 2025), so that both
    share one learning rate.
    """

    def __init__(
        self, net: nn.Module, learning_rate: float, weight_decay: float, hidden: Sequence[Tensor] = ()
    ) -> None:
        """Take the parameters of a network; weight decay excludes biases, norms and time constants.

        ``hidden`` are weights of the network, with two axes or more, on their final device: memory is
        shared. The first axis is that of a layer's outputs.
        """
        self._hidden = list(hidden)
        # Muon takes matrices: one row for each of a layer's outputs. They share the weights' memory.
        self._matrices = [nn.Parameter(p.detach().view(len(p), -1)) for p in self._hidden]
        self._optimisers: dict[str, torch.optim.Optimizer] = {
            "adamw": _adamw(net, learning_rate, weight_decay, self._hidden)
        }
        if self._hidden:
            self._optimisers["muon"] = torch.optim.Muon(
                self._matrices, learning_rate, weight_decay, _MOMENTUM, adjust_lr_fn="match_rms_adamw"
            )

    def set_rate(self, rate: float) -> None:
        """Set the learning rate."""
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for parameter in self._hidden:
            parameter.grad = None
        for optimiser in self._optimisers.values():
            optimiser.zero_grad()

    def step(self) -> None:
        """Update all parameters by their gradients."""
        for parameter, matrix in zip(self._hidden, self._matrices, strict=True):
            matrix.grad = None if parameter.grad is None else parameter.grad.view(matrix.shape)
        for optimiser in self._optimisers.values():
            optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {name: optimiser.state_dict() for name, optimiser in self._optimisers.items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore a state; raises ConfigError where it is that of another kind of optimiser."""
        if "param_groups" in saved:  # format of runs before Muon was added
            saved = {"adamw": saved}
        if saved.keys() != self._optimisers.keys():
            raise ConfigError("the checkpoint is of another optimiser; name another folder for the run")
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(saved[name])


def clip_gradient(net: nn.Module, where: str) -> None:
    """Clip a network's gradient norm; raises ConfigError where it is not finite, before weights become NaN.

    A network of NaN weights is silent, and would look like one of dead neurons. ``where`` names run and epoch.
    """
    norm = nn.utils.clip_grad_norm_(net.parameters(), _LARGEST_GRADIENT)
    if not torch.isfinite(norm):
        raise ConfigError(f"{where}: the gradient is not finite; lower schedule.learning_rate or network.slope")


def _adamw(net: nn.Module, learning_rate: float, weight_decay: float, others: Iterable[Tensor]) -> torch.optim.AdamW:
    left_out = {id(p) for p in others}
    named = [(name, p) for name, p in net.named_parameters() if id(p) not in left_out]
    still = [p for name, p in named if p.ndim == 1 or "logit" in name]
    decaying = [p for name, p in named if p.ndim > 1 and "logit" not in name]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": still, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)  # one pass over the parameters, not a dozen


def rate_at(progress: float, highest: float, warm_up: float, floor: float) -> float:
    """Return the learning rate: linear warm-up, multiplied by a cosine decay to ``floor`` of the highest.

    ``progress`` is the completed share of the run, ``warm_up`` the share spent on warming up.
    """
    warm = min(1.0, progress / warm_up + 0.01)
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    return highest * warm * cosine
