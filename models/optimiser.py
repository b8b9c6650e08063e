"""The optimiser that all training uses, and its rate over a run."""

from __future__ import annotations

import math

import torch
from torch import nn

LARGEST_GRADIENT = 2.0
"""Norm that gradients are clipped to."""


def make_optimiser(net: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.AdamW:
    """Return AdamW; only weights decay, not biases, norms or time constants."""
    decays: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in net.named_parameters():
        (others if p.ndim == 1 or "logit" in name else decays).append(p)
    groups = [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate)


def set_rate(optimiser: torch.optim.Optimizer, highest: float, progress: float, warm_up: float, floor: float) -> None:
    """Warm up over a share of the run, then follow a cosine down to ``floor`` of the highest rate.

    ``progress`` is the share of the run that is over.
    """
    warm = min(1.0, progress / warm_up + 0.01)
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
    for group in optimiser.param_groups:
        group["lr"] = highest * warm * cosine
