"""Loss terms: errors of the scores, synaptic operations, neurons that never fire, and deep supervision.

Shapes: logits, targets and weights (batch, frames, classes), background frames (batch, frames), spikes (batch,
channels, frames, width).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.network.scan import leaky_readout
from models.network.spec import NetworkSpec
from models.recipe import Loss


def frame_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the binary cross entropy of scores and targets, summed over classes, averaged over weighted frames."""
    total = functional.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return total / weight.sum() * logits.shape[2]


def clip_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy over classes of the membrane potential averaged over the frames with a target.

    The target of a clip is each class's share in it.
    """
    present = (target.amax(2, keepdim=True) > 0).to(logits.dtype)
    whole = functional.log_softmax((logits * present).sum(1) / present.sum(1).clamp(min=1), 1)
    share = target.sum(1) / target.sum((1, 2)).clamp(min=1e-6).unsqueeze(1)
    return -(share * whole).sum(1).mean()


def score_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross entropy of the mean score and the mean target, summed over classes.

    A clip is classified by its mean score.
    """
    score = torch.sigmoid(logits).mean(1).clamp(1e-4, 1 - 1e-4)
    return functional.binary_cross_entropy(score, target.mean(1)) * logits.shape[2]


def operations_loss(spikes: Mapping[str, Tensor], fan_out: Mapping[str, float]) -> Tensor:
    """Return effective over dense synaptic operations, of the layers that read spikes."""
    total = sum(fan_out.values())
    shares = [spikes[name].sum() * (n / total / spikes[name].numel()) for name, n in fan_out.items()]
    return torch.stack(shares).sum()


def background_operations_loss(
    spikes: Mapping[str, Tensor], fan_out: Mapping[str, float], background_frames: Tensor
) -> Tensor:
    """Return the same share over the frames marked in ``background_frames`` (batch, frames); zero where none is.

    No other term keeps neurons from firing in silence, which would make silence as expensive as sound.
    """
    total, frames = sum(fan_out.values()), background_frames.sum().clamp(min=1)
    shares = []
    for name, operations in fan_out.items():
        _, channels, _, width = spikes[name].shape
        # Sums, not means: their gradient takes no division of every spike.
        active = (spikes[name].sum(3).sum(1) * background_frames).sum()
        shares.append(active / frames * (operations / total / channels / width))
    return torch.stack(shares).sum()


def silence_loss(spikes: Mapping[str, Tensor], min_rate: float) -> Tensor:
    """Return the mean squared shortfall of neurons from ``min_rate`` over a batch, as a share of that rate."""
    shortfalls = []
    for s in spikes.values():
        min_sum = min_rate * s.shape[0] * s.shape[2]
        shortfalls.append(functional.relu(1 - s.sum(2).sum(0) / min_sum).square().mean())
    return torch.stack(shortfalls).mean()


def total_loss(  # noqa: PLR0913 - one batch
    loss: Loss,
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    background_frames: Tensor,
    spikes: Mapping[str, Tensor],
    fan_out: Mapping[str, float],
) -> Tensor:
    """Return the weighted sum of a recipe's terms except deep supervision, which needs the auxiliary heads."""
    terms = [logits.new_zeros(())]
    if loss.frame:
        terms.append(loss.frame * frame_loss(logits, target, weight))
    if loss.clip:
        terms.append(loss.clip * clip_loss(logits, target))
    if loss.score:
        terms.append(loss.score * score_loss(logits, target))
    if loss.operations and fan_out:
        terms.append(loss.operations * operations_loss(spikes, fan_out))
    if loss.background_operations and fan_out:
        terms.append(loss.background_operations * background_operations_loss(spikes, fan_out, background_frames))
    if loss.silence and spikes:
        terms.append(loss.silence * silence_loss(spikes, loss.min_rate))
    return torch.stack(terms).sum()


class AuxiliaryHeads(nn.Module):
    """Deep supervision: one leaky read-out for every convolution but the first, used in training only.

    Errors of the scores reach a layer through the surrogate derivatives of all layers behind it, each of them an
    approximation; the loss of an auxiliary head passes through fewer (C.-Y. Lee et al., "Deeply-supervised nets",
    AISTATS 2015).
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self._layers, width = nn.ModuleDict(), spec.n_mels
        for number, conv in enumerate(spec.convs, 1):
            width = -(-width // conv.stride)
            if number > 1:
                self._layers[f"conv{number}"] = nn.Linear(conv.channels * width, spec.classes)

    def loss(self, probe: Mapping[str, Tensor], beta: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Return the frame loss summed over the heads.

        ``probe`` has each layer's spikes, (batch, channels, frames, width), ``beta`` the decay of the network's
        own read-out, (classes,); target and weight are (batch, frames, classes).
        """
        losses = [target.new_zeros(())]
        for name, layer in self._layers.items():
            logits, _ = leaky_readout(layer(probe[name].permute(0, 2, 1, 3).flatten(2)), beta.detach())
            losses.append(frame_loss(logits, target, weight))
        return torch.stack(losses).sum()
