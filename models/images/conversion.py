"""Shadow training: converts a trained ReLU network to a spiking one without further training.

Integrate-and-fire neurons (the neuron of ``models.network.csnn`` with beta = 1) with a constant input fire at a rate
that approaches ReLU of their current, where it lies between 0 and one spike per step. So the weights of every layer
are scaled by the range of its activations, lambda, measured on training images:

    W[l] <- W[l] * lambda[l-1] / lambda[l],   b[l] <- b[l] / lambda[l],   lambda[0] = 1

after P. U. Diehl et al., "Fast-classifying, high-accuracy spiking deep networks through weight and
threshold balancing", IJCNN 2015, with a percentile in place of the maximum, soft reset, biases and the image
as constant currents after B. Rueckauer et al., "Conversion of continuous-valued deep networks to efficient
event-driven networks for image classification", Front. Neurosci. 11, 2017.

Batch norm is folded into weights and biases. Average pooling precedes the neurons, as a part of the linear
synapses, and is exact; the maximum over sums at one step is not the maximum of their means, so a twin with max pooling
is refused. The output does not fire: it integrates its currents.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from detector.errors import ConfigError
from detector.statistics import Rate
from models.console import progress
from models.images.data import ImageSet, Subset, encode, open_images
from models.images.network import ImageNetwork, Layer
from models.images.recipe import ImageRecipe
from models.images.train import evaluate, layered, load_image_run, operations
from models.network.activity import Activity
from models.plots import new_figure, save

SAMPLE = 2000
"""Number of training images on which activations are measured."""
_BATCH = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Converted:
    """A spiking network converted from a twin."""

    net: ImageNetwork
    recipe: ImageRecipe
    scales: dict[str, float]
    """Activation of each hidden layer that corresponds to one spike per step."""


@dataclasses.dataclass(frozen=True, slots=True)
class ConversionCurve:
    """Accuracy and operations of a converted network by the number of steps."""

    accuracy: dict[int, Rate]
    """By number of steps."""
    operations: dict[int, tuple[float, float]]
    """Mean (dense, effective) synaptic operations per image up to that step."""
    dead: dict[str, float]
    """Share of each layer's neurons that never fired."""


@torch.no_grad()
def convert(twin: ImageNetwork, recipe: ImageRecipe, images: Tensor, percentile: float, steps: int) -> Converted:
    """Return the spiking network of a trained twin, balanced on images (n, 1, rows, columns), for ``steps`` steps.

    ``percentile`` (0 to 100) of a layer's positive and zero activations becomes one spike per step; higher ones
    saturate. Raises ConfigError where the recipe is no cnn, pools by the maximum, or a layer is silent.
    """
    if recipe.network.kind != "cnn":
        raise ConfigError(f"{recipe.name}: is a {recipe.network.kind}; only a cnn can be converted")
    if recipe.network.pooling == "max" and any(conv.pool > 1 for conv in recipe.network.convs):
        raise ConfigError(f"{recipe.name}: pools by the maximum, which spikes cannot; train it with pooling 'average'")
    activations = twin.eval()(encode(images, recipe)).spikes
    spec = dataclasses.replace(
        recipe.network, kind="csnn", steps=steps, batch_norm=False, beta=1.0, learn_beta=False, threshold=1.0
    )
    spiking = dataclasses.replace(recipe, name=f"{recipe.name}-converted", network=spec)
    net = ImageNetwork(spiking).eval()
    scales: dict[str, float] = {}
    before = 1.0
    for (name, layer), (_, source) in zip(net.named_layers, twin.named_layers, strict=True):
        after = 1.0
        if name in activations:
            after = scales[name] = _percentile(activations[name], percentile)
            if after <= 0:
                raise ConfigError(f"{recipe.name}: {name} is silent at percentile {percentile}; take a higher one")
        weight, bias = _folded(source)
        layer.linear.weight.copy_(weight * before / after)
        assert layer.linear.bias is not None  # noqa: S101 - for mypy
        layer.linear.bias.copy_(bias / after)
        before = after
    return Converted(net, spiking, scales)


@torch.no_grad()
def evaluate_by_steps(
    converted: Converted, images: ImageSet, marks: Sequence[int], start_membrane: float
) -> ConversionCurve:
    """Classify every image once, after each of ``marks`` steps (the last is that of the network).

    ``start_membrane`` is the potential before the first step, as a share of the threshold: 0.5 rounds rates to
    the nearest instead of down (S. Deng and S. Gu, "Optimal conversion of conventional artificial neural networks
    to spiking neural networks", ICLR 2021).
    """
    net, recipe = converted.net, converted.recipe
    net.start_membrane = start_membrane * recipe.network.threshold
    right = dict.fromkeys(marks, 0)
    sums = {mark: [0.0, 0.0] for mark in marks}
    activity = Activity()
    total = len(images.labels)
    for index in progress(torch.split(torch.arange(total), _BATCH), "evaluating", "batches"):
        x = encode(images.draw(index, augment=False), recipe)
        response = net(x)
        activity.add(layered(response))
        for mark in marks:
            right[mark] += int((response.levels[:, mark - 1].argmax(1) == images.labels[index]).sum())
            part = dataclasses.replace(response, spikes={k: s[:, :mark] for k, s in response.spikes.items()})
            for i, count in enumerate(operations(net, x, part)["total"]):
                sums[mark][i] += count / total
    accuracy = {mark: Rate(hits, total) for mark, hits in right.items()}
    return ConversionCurve(accuracy, {mark: (d, e) for mark, (d, e) in sums.items()}, activity.dead_shares())


def evaluate_conversion(
    run: Path, data: Path, percentile: float, steps: int, examples: int | None
) -> tuple[Rate, dict[str, ConversionCurve], dict[str, float]]:
    """Convert a run's twin; return the twin's accuracy, curves by initial membrane potential, and the scales.

    Evaluated on the set that the recipe names, or its first ``examples``; balanced on training images.
    """
    twin, recipe, plan = load_image_run(run)
    train, held_out = open_images(recipe, data, plan["leave_out"])
    if examples is not None:
        held_out = Subset(held_out, examples)
    sample = torch.arange(min(SAMPLE, len(train.labels)))
    converted = convert(twin, recipe, train.draw(sample, augment=False), percentile, steps)
    marks = [2**i for i in range(steps.bit_length()) if 2**i < steps] + [steps]
    starts = {"converted": 0.0, "converted, membranes start at half the threshold": 0.5}
    conversion_curves = {name: evaluate_by_steps(converted, held_out, marks, start) for name, start in starts.items()}
    return evaluate(twin, recipe, held_out).accuracy, conversion_curves, converted.scales


def draw_conversion(
    conversion_curves: dict[str, ConversionCurve], twin: Rate, beside: dict[str, tuple[int, float]], path: Path
) -> None:
    """Draw accuracy against steps; the twin is a line, networks trained with spikes are points (steps, accuracy)."""
    figure = new_figure(7, 4.5)
    axes = figure.subplots()
    for name, conversion_curve in conversion_curves.items():
        marks = list(conversion_curve.accuracy)
        axes.plot(marks, [100 * conversion_curve.accuracy[m].value for m in marks], marker="o", label=name)
    axes.axhline(100 * twin.value, color="black", linestyle="--", label=f"the twin, {100 * twin.value:.2f} %")
    for name, (steps, accuracy) in beside.items():
        label = f"{name}, trained with spikes: {100 * accuracy:.2f} %"
        axes.plot([steps], [100 * accuracy], marker="*", markersize=13, linestyle="", label=label)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("steps")
    axes.set_ylabel("accuracy in %")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def _folded(layer: Layer) -> tuple[Tensor, Tensor]:
    """Return weight and bias with the batch norm folded in."""
    linear, norm = layer.linear, layer.norm
    assert linear.bias is not None  # noqa: S101 - for mypy
    if not isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
        return linear.weight, linear.bias
    assert norm.running_var is not None  # noqa: S101 - for mypy
    assert norm.running_mean is not None  # noqa: S101 - for mypy
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = linear.weight * scale.view(-1, *[1] * (linear.weight.ndim - 1))
    return weight, (linear.bias - norm.running_mean) * scale + norm.bias


def _percentile(values: Tensor, percentile: float) -> float:
    """Return the percentile, by kthvalue: torch.quantile is limited to 16 million values."""
    flat = values.flatten()
    rank = max(1, min(flat.numel(), round(percentile / 100 * flat.numel())))
    return float(flat.kthvalue(rank).values)
