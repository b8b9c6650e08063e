"""The CNN twin: a baseline of the same topology, with ReLU in place of neurons and features in place of spikes.

It has the same maps, kernels, dense layer and leaky read-out as the spiking network, and is trained with the same
examples, loss and schedule; it is causal and gives one score per frame.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.manifest import EncoderParams
from models.network.csnn import SpikingConvNet, band_matrix, initial_readout
from models.network.scan import leaky_readout
from models.network.spec import NetworkSpec


class ConvNet(nn.Module):
    """Maps features to one logit per class and frame."""

    to_bands: Tensor

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer(
            "to_bands", torch.from_numpy(band_matrix((1.0,) * spec.n_mfcc, spec.n_mels, spec.level_gain))
        )
        self.scale = nn.BatchNorm2d(1, affine=False)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        channels, width = 1, spec.n_mels
        for conv in spec.convs:
            window, stride, pad = (conv.frames, conv.bands), (1, conv.stride), (0, conv.bands // 2)
            self.convs.append(nn.Conv2d(channels, conv.channels, window, stride, pad, (conv.dilation, 1)))
            self.norms.append(nn.BatchNorm2d(conv.channels))
            channels, width = conv.channels, -(-width // conv.stride)
        self.dense, self.dense_norm = nn.Linear(channels * width, spec.hidden), nn.BatchNorm1d(spec.hidden)
        self.readout = nn.Linear(spec.hidden, spec.classes)
        self.readout_beta_logit = nn.Parameter(initial_readout(spec))
        self.drop = nn.Dropout(spec.dropout)

    @property
    def readout_beta(self) -> Tensor:
        """Decay of the read-out per frame, (classes,)."""
        return torch.sigmoid(self.readout_beta_logit)

    def forward(self, features: Tensor, _: None = None, probe: dict[str, Tensor] | None = None) -> tuple[Tensor, Any]:
        """Run a sequence: features (batch, frames, n_mfcc) to logits (batch, frames, classes); no state.

        A ``probe`` receives the activations of each layer, (batch, channels, frames, width), by the layer's name.
        """
        probe = {} if probe is None else probe
        x = self.scale((features @ self.to_bands).unsqueeze(1))
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), 1):
            past = self.spec.convs[i - 1].past
            x = probe[f"conv{i}"] = functional.relu(norm(conv(functional.pad(x, (0, 0, past, 0)))))
        x = x.permute(0, 2, 1, 3).flatten(2)
        x = functional.relu(self.dense_norm(self.dense(self.drop(x)).transpose(1, 2)))
        probe["dense"] = x.unsqueeze(-1)
        return leaky_readout(self.readout(self.drop(x.transpose(1, 2))), self.readout_beta)[0], None


Network = SpikingConvNet | ConvNet


def make_network(spec: NetworkSpec, encoder: EncoderParams) -> Network:
    """Return an untrained network: spiking, or the twin where ``spec.kind`` is "cnn"."""
    return ConvNet(spec) if spec.kind == "cnn" else SpikingConvNet(spec, encoder)
