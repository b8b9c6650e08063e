"""The convolutional spiking network, as a step for streaming and as a sequence for training.

The neuron (leaky integrate-and-fire with soft reset), which every other implementation reproduces:

    U[t] = beta * V[t-1] + I[t]
    S[t] = 1 if U[t] > threshold else 0
    V[t] = U[t] - threshold * S[t]

The carried state ``mem`` is V, the potential after the reset. A layer may have a leaky synapse in
front of the neuron (the second-order neuron that snnTorch calls ``Synaptic``):

    syn[t] = alpha * syn[t-1] + (W X)[t],   I[t] = syn[t] + bias

The first layer has one: its input spikes encode *changes* of the spectrum, and a synapse that decays
like the encoder's baseline integrates them to the spectrum itself. Batch norm follows the synapse, so
that all neurons start with currents of one variance whatever the synapse's gain (in front of it, a
network learns half as fast); ``initial_gain`` sets that variance. ``alpha = 0`` is the plain neuron.

Exact sums. Spikes are 0 or 1 and, in a finished network, the weights and the bias of each neuron's
map are multiples of one power of two, chosen so that no sum exceeds float32's 24 bits. A synaptic sum W X
is then exact in any order or blocking; what remains are elementwise operations in a defined order. So
stepping, sequences of any length, torch, onnxruntime and C agree on every spike by construction.
``finished`` makes such a network of a trained one.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.manifest import EncoderParams
from models.network.device import quick_half_precision
from models.network.scan import SurrogateStep, leak_scan, leaky_readout, lif_scan
from models.network.spec import NetworkSpec

THRESHOLD = 1.0
FEWEST_STEPS = 64
"""Smallest number of grid steps for the largest weight of a map: fewer would change the network."""
BAND_BITS = 7
"""The fixed cepstrum-to-bands matrix is rounded to multiples of 2**-7: its outputs stay on that grid."""

State = dict[str, Tensor]
"""Named tensors with a leading batch axis; zeros after a reset."""


class SpikingUnit(nn.Module):
    """The neurons of one layer: optional synapse, batch norm of the current, membrane, spikes.

    In a finished network ``norm`` is the identity, or the bias behind the synapse.
    """

    def __init__(self, channels: int, spec: NetworkSpec, *, synapse: bool, tau_s: tuple[float, ...]) -> None:
        super().__init__()
        taus = torch.logspace(math.log10(tau_s[0]), math.log10(tau_s[1]), channels)[torch.randperm(channels)]
        self.beta_logit = nn.Parameter(torch.logit(torch.exp(-1 / (taus * spec.frame_rate_hz))))
        self.norm: nn.Module = nn.BatchNorm1d(channels)
        with torch.no_grad():
            self.norm.weight.copy_((spec.initial_gain * (1 - self.beta)).clamp(max=1.0))
        self.alpha_logit: nn.Parameter | None = None
        if synapse:
            slow = torch.logspace(math.log10(0.02), math.log10(2.0), channels)
            self.alpha_logit = nn.Parameter(torch.logit(torch.exp(-1 / (slow * spec.frame_rate_hz))))
        self.surrogate = SurrogateStep(spec.surrogate, spec.slope)

    @property
    def beta(self) -> Tensor:
        """Membrane decay per frame, (channels,)."""
        return torch.sigmoid(self.beta_logit)

    @property
    def alpha(self) -> Tensor | None:
        """Synaptic decay per frame, (channels,), where there is a synapse."""
        return None if self.alpha_logit is None else torch.sigmoid(self.alpha_logit)

    def sequence(self, current: Tensor, name: str, state: State, new: State) -> Tensor:
        """Return spikes (batch, channels, frames, width) of currents of that shape."""
        batch, channels, _, width = current.shape
        zeros = current.new_zeros(batch, channels, width)
        if self.alpha is not None:
            current, new[f"{name}_syn"] = leak_scan(current, self.alpha, state.get(f"{name}_syn", zeros))
        current = self.norm(current.flatten(2)).view_as(current)
        spikes, new[f"{name}_mem"] = lif_scan(
            current, self.beta, state.get(f"{name}_mem", zeros), THRESHOLD, self.surrogate
        )
        return spikes

    def step(self, current: Tensor, name: str, state: State, new: State) -> Tensor:
        """Return the spikes (batch, channels, width) of one frame's currents, by the equation above."""
        if self.alpha is not None:
            current = self.alpha[:, None] * state[f"{name}_syn"] + current
            new[f"{name}_syn"] = current
        current = self.norm(current)
        u = self.beta[:, None] * state[f"{name}_mem"] + current
        spikes = self.surrogate(u - THRESHOLD)
        new[f"{name}_mem"] = u - THRESHOLD * spikes.detach()
        return spikes


class Bias(nn.Module):
    """Adds a value per channel to currents (batch, channels, ...): a folded batch norm behind a synapse."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = nn.Parameter(bias)

    def forward(self, current: Tensor) -> Tensor:
        """Return the currents with the bias."""
        return current + self.bias[:, None]


class SpikingConvNet(nn.Module):
    """Maps delta spikes to one score per class and frame."""

    to_bands: Tensor

    def __init__(self, spec: NetworkSpec, encoder: EncoderParams) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer(
            "to_bands", torch.from_numpy(band_matrix(encoder.thresholds[0], spec.n_mels, spec.level_gain))
        )
        self.convs, self.units = nn.ModuleList(), nn.ModuleList()
        channels, width = spec.planes, spec.n_mels
        for conv in spec.convs:
            self.convs.append(
                nn.Conv2d(
                    channels,
                    conv.channels,
                    (conv.frames, conv.bands),
                    (1, conv.stride),
                    (0, conv.bands // 2),
                    (conv.dilation, 1),
                    bias=not conv.synapse,
                )
            )
            self.units.append(SpikingUnit(conv.channels, spec, synapse=conv.synapse, tau_s=spec.membrane_tau_s))
            channels, width = conv.channels, -(-width // conv.stride)
        # Without convolutions, the dense layer is the one that reads the encoder's spikes.
        first = not spec.convs
        self.dense = nn.Linear(channels * width, spec.hidden, bias=not first)
        self.dense_unit = SpikingUnit(spec.hidden, spec, synapse=first, tau_s=spec.dense_tau_s)
        self.readout = nn.Linear(spec.hidden, spec.classes)
        self.readout_beta_logit = nn.Parameter(initial_readout(spec))
        self.drop = nn.Dropout(spec.dropout)
        self._begin_as_decoder(encoder)

    def _begin_as_decoder(self, encoder: EncoderParams) -> None:
        """Initialise the first layer to decode: each plane is weighted by its threshold, down spikes negatively."""
        levels = np.array(encoder.thresholds).mean(axis=1)
        gains = torch.tensor(np.repeat(levels / levels[0], 2), dtype=torch.float32)
        gains[1::2] *= -1
        first, unit = self.conv_layers[0] if self.spec.convs else (self.dense, self.dense_unit)
        with torch.no_grad():
            planes = first.weight.view(len(first.weight), self.spec.planes, -1)
            planes.copy_(planes[:, :1] * gains[None, :, None])
            if unit.alpha_logit is not None and encoder.leak > 0:
                unit.alpha_logit[::2] = math.log((1 - encoder.leak) / encoder.leak)

    @property
    def conv_layers(self) -> list[tuple[nn.Conv2d, SpikingUnit]]:
        """The convolutions with their neurons, in order."""
        return list(zip(self.convs, self.units, strict=True))  # type: ignore[arg-type]

    @property
    def readout_beta(self) -> Tensor:
        """Decay of the read-out per frame, (classes,)."""
        return torch.sigmoid(self.readout_beta_logit)

    def forward(self, spikes: Tensor, state: State | None = None, probe: State | None = None) -> tuple[Tensor, State]:
        """Run a sequence: spikes (batch, frames, planes, n_mfcc) to logits (batch, frames, classes).

        A state of None is that after a reset. Returns the state after the last frame. A ``probe``
        receives each layer's spikes, (batch, channels, frames, width), by the layer's name.
        """
        probe = {} if probe is None else probe
        state, new = state or {}, dict[str, Tensor]()
        x = (spikes @ self.to_bands).transpose(1, 2)
        for i, (conv, unit) in enumerate(self.conv_layers, 1):
            x = _with_past(x, f"conv{i}_past", self.spec.convs[i - 1].past, state, new)
            current = convolved_spikes(conv, x) if i > 1 else conv(x)
            x = probe[f"conv{i}"] = unit.sequence(current, f"conv{i}", state, new)
        x = x.permute(0, 2, 1, 3).flatten(2)
        x = self.dense(self.drop(x)).transpose(1, 2).unsqueeze(-1)
        x = probe["dense"] = self.dense_unit.sequence(x, "dense", state, new)
        x = self.readout(self.drop(x.squeeze(-1).transpose(1, 2)))
        x, new["readout_mem"] = leaky_readout(x, self.readout_beta, state.get("readout_mem"))
        return x, new

    def step(self, spikes: Tensor, state: State, probe: State | None = None) -> tuple[Tensor, State]:
        """Run one frame: spikes (batch, planes, n_mfcc) to scores (batch, classes) in [0, 1].

        A ``probe`` receives each layer's spikes, (batch, channels, width), by the layer's name.
        """
        probe = {} if probe is None else probe
        new: State = {}
        x = spikes @ self.to_bands
        for i, (conv, unit) in enumerate(self.conv_layers, 1):
            window = _with_past(x.unsqueeze(2), f"conv{i}_past", self.spec.convs[i - 1].past, state, new)
            x = probe[f"conv{i}"] = unit.step(conv(window).squeeze(2), f"conv{i}", state, new)
        x = self.dense(self.drop(x.flatten(1))).unsqueeze(-1)
        x = probe["dense"] = self.dense_unit.step(x, "dense", state, new)
        current = self.readout(self.drop(x.squeeze(-1)))
        new["readout_mem"] = self.readout_beta[:, None] * state["readout_mem"] + current.unsqueeze(-1)
        return torch.sigmoid(new["readout_mem"].squeeze(-1)), new

    def initial_state(self, batch: int = 1) -> State:
        """Return the state after a reset: all zeros."""
        return {name: torch.zeros(batch, *shape) for name, shape in state_shapes(self.spec).items()}


def convolved_spikes(conv: nn.Conv2d, spikes: Tensor) -> Tensor:
    """Return the currents that spikes cause; in training computed in bfloat16 where the CPU supports it.

    Spikes are exact in bfloat16 and sums are float32; only the last bits of the weights are lost, which are
    smaller than a step of the optimiser. Inference always uses float32.
    """
    is_quick = conv.training and spikes.device.type == "cpu" and quick_half_precision()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_quick):
        current: Tensor = conv(spikes)
    return current.float()


def initial_readout(spec: NetworkSpec) -> Tensor:
    """Return the read-out's decays at the start of training, (classes,), as logits."""
    return torch.full((spec.classes,), math.exp(-1 / (spec.readout_tau_s * spec.frame_rate_hz))).logit()


def state_shapes(spec: NetworkSpec) -> dict[str, tuple[int, ...]]:
    """Name every state tensor and its shape without the batch axis."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels, width = spec.planes, spec.n_mels
    for i, conv in enumerate(spec.convs, 1):
        if conv.past:
            shapes[f"conv{i}_past"] = (channels, conv.past, width)
        channels, width = conv.channels, -(-width // conv.stride)
        if conv.synapse:
            shapes[f"conv{i}_syn"] = (channels, width)
        shapes[f"conv{i}_mem"] = (channels, width)
    if not spec.convs:
        shapes["dense_syn"] = (spec.hidden, 1)
    shapes["dense_mem"] = (spec.hidden, 1)
    shapes["readout_mem"] = (spec.classes, 1)
    return shapes


def band_matrix(thresholds: tuple[float, ...], n_mels: int, level_gain: float = 1.0) -> Any:
    """Return the inverse DCT of spikes that are worth ``thresholds``, (n_mfcc, n_mels) float32, on the grid.

    It maps cepstral spikes to neighbouring mel bands; the mean of the bands, which is the level, is scaled by
    ``level_gain``.
    """
    k, n = np.arange(len(thresholds))[:, None], np.arange(n_mels)[None, :]
    inverse = np.sqrt(2 / n_mels) * np.cos(np.pi * k * (2 * n + 1) / (2 * n_mels))
    inverse[0] *= level_gain / math.sqrt(2)
    inverse *= np.array(thresholds)[:, None]
    return (np.round(inverse * 2**BAND_BITS) / 2**BAND_BITS).astype(np.float32)


def _with_past(x: Tensor, name: str, frames: int, state: State, new: State) -> Tensor:
    """Prepend the last ``frames`` frames to x (batch, channels, frames, width), and store the new last ones."""
    if frames == 0:
        return x
    batch, channels, _, width = x.shape
    past = state.get(name)
    joined = torch.cat((x.new_zeros(batch, channels, frames, width) if past is None else past, x), 2)
    new[name] = joined[:, :, -frames:]
    return joined


def finished(trained: SpikingConvNet) -> SpikingConvNet:
    """Return a copy for inference: batch norm folded, weights on the grid of exact sums.

    Raises ConfigError where a layer's weights are so large that sums in 24 bits leave too few steps for them.
    """
    net = copy.deepcopy(trained).eval()
    pairs: list[tuple[nn.Conv2d | nn.Linear, SpikingUnit]] = [*net.conv_layers, (net.dense, net.dense_unit)]
    with torch.no_grad():
        for layer, unit in pairs:
            fold_norm(layer, unit)
        for i, layer in enumerate([*(p[0] for p in pairs), net.readout]):
            round_to_grid(layer, float(net.to_bands.abs().sum(0).max()) * 2**BAND_BITS if i == 0 else 1.0)
    return net


def fold_norm(layer: nn.Conv2d | nn.Linear, unit: SpikingUnit) -> None:
    """Fold a unit's batch norm into the weights in front of it, and its offset into the bias."""
    norm = unit.norm
    if not isinstance(norm, nn.BatchNorm1d):
        return
    assert norm.running_var is not None  # noqa: S101 - for mypy
    assert norm.running_mean is not None  # noqa: S101 - for mypy
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    layer.weight.mul_(_like(scale, layer.weight))
    offset = norm.bias - norm.running_mean * scale
    if layer.bias is None:
        unit.norm = Bias(offset)
    else:
        layer.bias.copy_(layer.bias * scale + offset)
        unit.norm = nn.Identity()


def round_to_grid(layer: nn.Conv2d | nn.Linear, largest_input: float) -> None:
    """Round each output's weights and bias to the finest grid whose sums are exact.

    ``largest_input`` is in units of the input's own grid. Each output has its own grid: weights behind a slow
    synapse are a hundredth of those behind a fast one.
    """
    units = _largest_sums(layer, largest_input)
    steps = torch.exp2(24 - torch.ceil(torch.log2(units.clamp(min=2.0**-40))))
    weight, bias = layer.weight.clone(), None if layer.bias is None else layer.bias.clone()
    while True:
        layer.weight.copy_(torch.round(weight * _like(steps, weight)) / _like(steps, weight))
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(torch.round(bias * steps) / steps)
        # Rounding up may exceed the bound.
        too_large = _largest_sums(layer, largest_input) * steps > 2**24
        if not bool(too_large.any()):
            break
        steps = torch.where(too_large, steps / 2, steps)
    largest = weight.abs().flatten(1).amax(1) * steps
    if bool((largest < FEWEST_STEPS).logical_and(largest > 0).any()):
        raise ConfigError("weights are so many and so large that exact sums in float32 leave too few steps for them")


def _largest_sums(layer: nn.Conv2d | nn.Linear, largest_input: float) -> Tensor:
    """Return the largest possible sum of each output, in units of the input's grid."""
    units = layer.weight.abs().flatten(1).double().sum(1) * largest_input
    if layer.bias is not None:
        units = units + layer.bias.abs() * (2**BAND_BITS if largest_input > 1 else 1)
    return units


def _like(values: Tensor, weight: Tensor) -> Tensor:
    return values.view(-1, *[1] * (weight.ndim - 1))
