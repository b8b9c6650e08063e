"""Spiking activity of a network: firing rates, dead neurons, synaptic operations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from models.network.spec import NetworkSpec


class Activity:
    """Accumulates the spikes of layers over batches; shapes (batch, channels, frames, width)."""

    def __init__(self) -> None:
        self._spikes: dict[str, Tensor] = {}
        """Sums over batch and frames by layer, (channels, width)."""
        self._frames = 0

    @torch.no_grad()
    def add(self, spikes: Mapping[str, Tensor]) -> None:
        """Count the spikes of one batch."""
        for name, value in spikes.items():
            # Sums of signs take a tenth of the time of sums of booleans; activities are never negative.
            total = torch.sign(value).sum(2).sum(0).double()
            self._spikes[name] = self._spikes[name] + total if name in self._spikes else total
        if spikes:
            batch, _, frames, _ = next(iter(spikes.values())).shape
            self._frames += batch * frames

    def dead_shares(self) -> dict[str, float]:
        """Return the share of dead neurons (never fired) of each layer."""
        return {name: float((total == 0).float().mean()) for name, total in self._spikes.items()}

    def rates(self) -> dict[str, float]:
        """Return the spikes per neuron and frame of each layer."""
        return {name: float(total.float().mean()) / max(1, self._frames) for name, total in self._spikes.items()}


def reading_macs(spec: NetworkSpec) -> dict[str, float]:
    """Return, by spiking layer, the dense multiply-adds per frame of the layer that reads its spikes."""
    macs: dict[str, float] = {}
    channels, width = spec.planes, spec.n_mels
    for i, conv in enumerate(spec.convs, 1):
        out = -(-width // conv.stride)
        if i > 1:
            macs[f"conv{i - 1}"] = out * conv.channels * channels * conv.frames * conv.bands
        channels, width = conv.channels, out
    if spec.convs:
        macs[f"conv{len(spec.convs)}"] = channels * width * spec.hidden
    macs["dense"] = spec.hidden * spec.classes
    return macs
