"""What training makes small: how wrong the scores are, how much the network works, how silent it is.

Shapes: logits (batch, frames, classes), targets and weights alike, idle (batch, frames), spikes (batch,
channels, frames, width).

Read-outs of hidden layers, for training alone: later convolutions learn from the classes directly, too.

What the scores get wrong reaches a layer through the surrogate derivatives of all layers behind it, each of them
wrong by a little. So the convolutions behind the first get read-outs of their own, whose loss passes through fewer
of them (C.-Y. Lee et al., "Deeply-supervised nets", AISTATS 2015). They are no part of the network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.network.csnn import NetworkSpec
from models.network.scan import leaky_readout
from models.recipe import Loss


def frame_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the cross entropy of every frame's scores with its targets, summed over classes, mean over frames."""
    total = functional.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return total / weight.sum() * logits.shape[2]


def clip_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy among classes of the mean membrane over the frames in which something is heard.

    The target of a clip is each class's share of what is heard in it.
    """
    heard = (target.amax(2, keepdim=True) > 0).to(logits.dtype)
    whole = functional.log_softmax((logits * heard).sum(1) / heard.sum(1).clamp(min=1), 1)
    share = target.sum(1) / target.sum((1, 2)).clamp(min=1e-6).unsqueeze(1)
    return -(share * whole).sum(1).mean()


def score_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy of the mean score with the mean target, summed over classes.

    The mean score is what a clip is judged by.
    """
    score = torch.sigmoid(logits).mean(1).clamp(1e-4, 1 - 1e-4)
    return functional.binary_cross_entropy(score, target.mean(1)) * logits.shape[2]


def operations_loss(spikes: Mapping[str, Tensor], fan_out: Mapping[str, float]) -> Tensor:
    """Return the share of the dense synaptic operations behind spiking layers that their spikes cause."""
    total = sum(fan_out.values())
    shares = [spikes[name].mean() * (operations / total) for name, operations in fan_out.items()]
    return torch.stack(shares).sum()


def idle_loss(spikes: Mapping[str, Tensor], fan_out: Mapping[str, float], idle: Tensor) -> Tensor:
    """Return the same share over the frames that ``idle`` (batch, frames) marks with 1; zero where it marks none.

    Nothing else keeps neurons from firing in silence, and then silence costs what sound does.
    """
    total, frames = sum(fan_out.values()), idle.sum().clamp(min=1)
    shares = [(spikes[name].mean((1, 3)) * idle).sum() / frames * (n / total) for name, n in fan_out.items()]
    return torch.stack(shares).sum()


def silence_loss(spikes: Mapping[str, Tensor], least_rate: float) -> Tensor:
    """Return how far neurons stay below the least rate over a batch, as a mean share of it, squared."""
    shortfalls = [functional.relu(1 - s.mean((0, 2)) / least_rate).square().mean() for s in spikes.values()]
    return torch.stack(shortfalls).mean()


def total_loss(  # noqa: PLR0913 - one batch
    loss: Loss,
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    idle: Tensor,
    spikes: Mapping[str, Tensor],
    fan_out: Mapping[str, float],
) -> Tensor:
    """Return the weighted sum of a recipe's terms but ``deep``, which needs read-outs of its own."""
    terms = [logits.new_zeros(())]
    if loss.frame:
        terms.append(loss.frame * frame_loss(logits, target, weight))
    if loss.clip:
        terms.append(loss.clip * clip_loss(logits, target))
    if loss.score:
        terms.append(loss.score * score_loss(logits, target))
    if loss.operations and fan_out:
        terms.append(loss.operations * operations_loss(spikes, fan_out))
    if loss.idle and fan_out:
        terms.append(loss.idle * idle_loss(spikes, fan_out, idle))
    if loss.silence and spikes:
        terms.append(loss.silence * silence_loss(spikes, loss.least_rate))
    return torch.stack(terms).sum()


class HiddenReadouts(nn.Module):
    """One leaky read-out for every convolution but the first."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self._layers, width = nn.ModuleDict(), spec.n_mels
        for number, conv in enumerate(spec.convs, 1):
            width = -(-width // conv.stride)
            if number > 1:
                self._layers[f"conv{number}"] = nn.Linear(conv.channels * width, spec.classes)

    def loss(self, probe: Mapping[str, Tensor], beta: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the frame loss summed over the read-outs.

        ``probe`` has each layer's spikes, (batch, channels, frames, width), ``beta`` the decay of the network's
        own read-out, (classes,); target and weight are (batch, frames, classes).
        """
        losses = [target.new_zeros(())]
        for name, layer in self._layers.items():
            logits, _ = leaky_readout(layer(probe[name].permute(0, 2, 1, 3).flatten(2)), beta.detach())
            losses.append(frame_loss(logits, target, weight))
        return torch.stack(losses).sum()
