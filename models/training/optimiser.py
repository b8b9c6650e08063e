"""The optimiser that all training uses, and its rate over a run."""

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
"""As in Jordan's own runs; what torch takes unless told."""


class Optimiser:
    """AdamW; and Muon for the weights of hidden layers, where some are given.

    Muon's steps have all their singular values alike, so that a layer learns in many directions at once and not
    in the few that are steepest (K. Jordan, "Muon: an optimizer for hidden layers in neural networks", 2024). Their
    size is that of AdamW's (J. Liu et al., "Muon is scalable for LLM training", 2025), so both take one rate.
    """

    def __init__(
        self, net: nn.Module, learning_rate: float, weight_decay: float, hidden: Sequence[Tensor] = ()
    ) -> None:
        """Take the parameters of a network; only weights decay, not biases, norms or time constants.

        ``hidden`` are weights of the network, with two axes or more, that already are on its device: their
        memory is shared. The first axis is that of a layer's outputs.
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
        """Let the next steps be of this size."""
        for optimiser in self._optimisers.values():
            for group in optimiser.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._hidden:
            parameter.grad = None
        for optimiser in self._optimisers.values():
            optimiser.zero_grad()

    def step(self) -> None:
        """Move all parameters by their gradients."""
        for parameter, matrix in zip(self._hidden, self._matrices, strict=True):
            matrix.grad = None if parameter.grad is None else parameter.grad.view(matrix.shape)
        for optimiser in self._optimisers.values():
            optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what a run needs to go on."""
        return {name: optimiser.state_dict() for name, optimiser in self._optimisers.items()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on where another stood; raises ConfigError where that was none of this kind."""
        if "param_groups" in saved:  # as runs wrote it while there was AdamW alone
            saved = {"adamw": saved}
        if saved.keys() != self._optimisers.keys():
            raise ConfigError("the checkpoint is of another optimiser; name another folder for the run")
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(saved[name])


def clip_gradient(net: nn.Module, where: str) -> None:
    """Clip a network's gradient; raises ConfigError where it is not finite, before a weight is spoiled.

    A network of weights that are no numbers is silent, and would pass for one with dead neurons. ``where`` says
    which run, and when.
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
    return torch.optim.AdamW(groups, lr=learning_rate)


def rate_at(progress: float, highest: float, warm_up: float, floor: float) -> float:
    """Return the rate that warms up over a share of the run, then follows a cosine down to ``floor`` of the highest.

    ``progress`` is the share of the run that is over.
    """
    warm = min(1.0, progress / warm_up + 0.01)
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    return highest * warm * cosine
