"""Read-outs of hidden layers, for training alone: later convolutions learn from the classes directly, too.

What the scores get wrong reaches a layer through the surrogate derivatives of all layers behind it, each of them
wrong by a little. So the convolutions behind the first get read-outs of their own, whose loss passes through fewer
of them (C.-Y. Lee et al., "Deeply-supervised nets", AISTATS 2015). They are no part of the network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.losses import frame_loss
from models.network import NetworkSpec
from models.scan import leaky_readout


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
