"""Networks for still images shown for some steps: spiking convolutions, spiking dense layers, and a ReLU twin.

The neuron is that of ``models.network.csnn``, run over all steps by ``models.network.scan.lif_scan``. A layer is a
linear map, pooling and batch norm of the currents, then the neurons: Conv - pool - LIF, as in J. Eshraghian et al.,
"Training spiking neural networks using lessons from deep learning", Proc. IEEE 111(9), 2023. A layer has one decay,
fixed or learned. Where the input is constant over the steps, the first layer's currents are computed once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.images.recipe import Conv, ImageNetworkSpec, ImageRecipe, layer_shapes
from models.network.scan import SurrogateStep, leak_scan, lif_scan

_GAIN_RANGE, _GAIN_HALVINGS = 10.0, 20
"""Search range (exponents of 2) and bisection steps for initial gains."""


class Layer(nn.Module):
    """A linear map, then pooling and batch norm: images (n, planes, rows, columns) to currents (n, ...)."""

    beta: Tensor

    def __init__(self, linear: nn.Conv2d | nn.Linear, pool: nn.Module, spec: ImageNetworkSpec, *, norm: bool) -> None:
        super().__init__()
        self.linear, self.pool = linear, pool
        self.norm: nn.Module = nn.Identity()
        if norm:
            conv = isinstance(linear, nn.Conv2d)
            self.norm = nn.BatchNorm2d(linear.out_channels) if conv else nn.BatchNorm1d(linear.out_features)  # type: ignore[arg-type]
        self.beta_logit: nn.Parameter | None = None
        self.register_buffer("beta", torch.tensor([spec.beta]))
        if spec.learn_beta:
            self.beta_logit = nn.Parameter(torch.logit(torch.tensor([spec.beta])))

    def forward(self, x: Tensor) -> Tensor:
        """Return the input currents of the neurons."""
        if isinstance(self.linear, nn.Linear):
            x = x.flatten(1)
        current: Tensor = self.norm(self.pool(self.linear(x)))
        return current

    @property
    def decay(self) -> Tensor:
        """Membrane decay per step, (1,)."""
        return self.beta if self.beta_logit is None else torch.sigmoid(self.beta_logit)

    def scale(self, gain: float) -> None:
        """Multiply all currents by a positive gain."""
        owner = self.linear if isinstance(self.norm, nn.Identity) else self.norm
        with torch.no_grad():
            for parameter in owner.parameters():
                parameter.mul_(gain)


@dataclass(frozen=True, slots=True)
class Response:
    """Scores, potentials and spikes for a batch."""

    scores: Tensor
    """(batch, classes): output spike counts, or the output potential averaged or summed over the steps."""
    levels: Tensor
    """(batch, steps, classes): cumulated output spikes, or the output potential, after each step."""
    rest: Tensor | None
    """(batch, classes): membrane potential of spiking output neurons after the last step."""
    spikes: dict[str, Tensor]
    """By layer, (batch, steps, ...); in a cnn the activations."""

    def decide(self) -> Tensor:
        """Return the class of each image, (batch,): the highest score, ties resolved by the potential."""
        tie_break = 0.0 if self.rest is None else 0.5 * torch.sigmoid(self.rest)
        return (self.scores + tie_break).argmax(1)


class ImageNetwork(nn.Module):
    """A recipe's network."""

    def __init__(self, recipe: ImageRecipe) -> None:
        super().__init__()
        spec = self.spec = recipe.network
        self.surrogate = SurrogateStep(spec.surrogate, spec.slope)
        self.start_membrane = 0.0
        """Membrane potential of every spiking neuron before the first step."""
        self.layers = nn.ModuleDict()
        planes, rows, columns = recipe.input_shape
        for i, (conv, shape) in enumerate(zip(spec.convs, layer_shapes(recipe), strict=True), 1):
            self.layers[f"conv{i}"] = _convolution(planes, conv, spec, flat=rows == 1)
            planes, rows, columns = shape
        size = planes * rows * columns
        for i, neurons in enumerate(spec.hidden, 1):
            self.layers[f"dense{i}"] = Layer(nn.Linear(size, neurons), nn.Identity(), spec, norm=spec.batch_norm)
            size = neurons
        output = nn.Linear(size, len(recipe.images.labels))
        self.layers["output"] = Layer(output, nn.Identity(), spec, norm=spec.batch_norm and spec.readout == "count")
        self.drop = nn.Dropout(spec.dropout)

    @property
    def named_layers(self) -> list[tuple[str, Layer]]:
        """The layers from input to output."""
        return list(self.layers.items())  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Response:
        """Process a batch (batch, steps, planes, rows, columns); one step stands for a constant input."""
        spikes: dict[str, Tensor] = {}
        for name, layer in self.named_layers[:-1]:
            x = spikes[name] = self.fire(layer, self._current(layer, x))[0]
        layer = self.named_layers[-1][1]
        current = self._current(layer, x)
        if self.spec.readout == "count":
            fired, rest = self.fire(layer, current)
            spikes["output"] = fired
            return Response(fired.sum(1), fired.cumsum(1), rest, spikes)
        current = self._over_steps(current)
        levels, _ = leak_scan(current, layer.decay, current.new_zeros(len(current), 1, current.shape[3]))
        levels = levels.squeeze(1)
        scores = levels.mean(1) if self.spec.readout == "membrane_mean" else levels.sum(1)
        return Response(scores, levels, None, spikes)

    def fire(self, layer: Layer, current: Tensor) -> tuple[Tensor, Tensor]:
        """Return the spikes (batch, steps, ...) of currents (batch, steps or 1, ...), and the last potentials.

        A cnn returns its activations twice.
        """
        if self.spec.kind == "cnn":
            active = torch.relu(current)
            return active, active
        over = self._over_steps(current)
        mem = over.new_full((len(over), 1, over.shape[3]), self.start_membrane)
        spikes, rest = lif_scan(over, layer.decay, mem, self.spec.threshold, self.surrogate)
        return spikes.view(len(over), -1, *current.shape[2:]), rest.squeeze(1)

    def _current(self, layer: Layer, x: Tensor) -> Tensor:
        """Return currents (batch, steps, ...) of inputs (batch, steps, ...), with dropout before dense layers."""
        flat = x.flatten(0, 1)
        if isinstance(layer.linear, nn.Linear):
            flat = self.drop(flat)
        current: Tensor = layer(flat)
        return current.view(*x.shape[:2], *current.shape[1:])

    def _over_steps(self, current: Tensor) -> Tensor:
        """Return currents (batch, steps or 1, ...) in the layout of the scan: (batch, 1, steps, neurons)."""
        steps = self.spec.steps if current.shape[1] == 1 else current.shape[1]
        return current.flatten(2).unsqueeze(1).expand(-1, -1, steps, -1)

    @torch.no_grad()
    def scale_to_rate(self, x: Tensor, rate: float) -> dict[str, float]:
        """Scale each layer's weights so that its neurons fire at ``rate`` spikes per step on this batch; return gains.

        A remedy for layers that are dead initially, without training: D. Mishkin and J. Matas, "All you need is a
        good init", ICLR 2016, with the firing rate in place of the variance. The rate is monotonic in the gain, so
        bisection finds it.
        """
        gains = {}
        for name, layer in self.named_layers:
            if name == "output" and self.spec.readout != "count":
                break
            current = self._current(layer, x)
            low, high = -_GAIN_RANGE, _GAIN_RANGE
            for _ in range(_GAIN_HALVINGS):
                middle = (low + high) / 2
                found = float(self.fire(layer, current * 2**middle)[0].mean())
                low, high = (middle, high) if found < rate else (low, middle)
            gains[name] = 2**high
            layer.scale(gains[name])
            x = self.fire(layer, current * gains[name])[0]
        return gains


def _convolution(planes: int, conv: Conv, spec: ImageNetworkSpec, *, flat: bool) -> Layer:
    size, padding = (1 if flat else conv.size, conv.size), (0 if flat else conv.padding, conv.padding)
    window = (1 if flat else conv.pool, conv.pool)
    pool: nn.Module = nn.Identity()
    if conv.pool > 1:
        pool = nn.MaxPool2d(window) if spec.pooling == "max" else nn.AvgPool2d(window)
    linear = nn.Conv2d(planes, conv.channels, size, padding=padding)
    return Layer(linear, pool, spec, norm=spec.batch_norm)
