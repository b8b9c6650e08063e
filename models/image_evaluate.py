"""Judge a network that sees still pictures: accuracy with its interval, dead neurons, operations, pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from detector.statistics import Rate
from models.activity import Activity
from models.figures import draw_confusion, draw_curves, new_figure, raster, save
from models.image_data import PictureSet, encode
from models.image_network import ImageNetwork, Response
from models.image_recipe import ImageRecipe, SoundPictures
from models.run_folder import RunFolder

BATCH = 200
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of judging."""

    confusion: NDArray[np.int64]
    """Counts (true class, class found)."""
    activity: Activity
    operations: dict[str, tuple[float, float]]
    """Per layer and picture: (dense, effective) synaptic operations."""
    example: tuple[Tensor, Tensor, Response, int]
    """The first picture (1, rows, columns), its coded input, the response to it, its class."""

    @property
    def accuracy(self) -> Rate:
        """Pictures whose class was found."""
        return Rate(int(np.trace(self.confusion)), int(self.confusion.sum()))


def layered(response: Response) -> dict[str, Tensor]:
    """Return a response's spikes as (batch, 1, steps, neurons), the shape that ``Activity`` counts."""
    return {name: s.detach().flatten(2).unsqueeze(1) for name, s in response.spikes.items()}


@torch.no_grad()
def judge(net: ImageNetwork, recipe: ImageRecipe, pictures: PictureSet) -> Verdict:
    """Show every picture once, unaltered, and count."""
    net.eval()
    classes = len(recipe.pictures.labels)
    confusion = np.zeros((classes, classes), np.int64)
    activity = Activity()
    counts: dict[str, tuple[float, float]] = {}
    for index in tqdm(torch.split(torch.arange(len(pictures.labels)), BATCH), unit="batch", leave=False):
        x = encode(pictures.draw(index, alter=False), recipe)
        response = net(x)
        np.add.at(confusion, (pictures.labels[index].numpy(), response.decide().numpy()), 1)
        activity.add(layered(response))
        for name, (dense, effective) in operations(net, x, response).items():
            before = counts.get(name, (0.0, 0.0))
            counts[name] = (before[0] + dense, before[1] + effective)
    total = len(pictures.labels)
    mean = {name: (dense / total, effective / total) for name, (dense, effective) in counts.items()}
    first = pictures.draw(torch.tensor([0]), alter=False)
    x = encode(first, recipe)
    return Verdict(confusion, activity, mean, (first[0], x[0], net(x), int(pictures.labels[0])))


def operations(net: ImageNetwork, x: Tensor, response: Response) -> dict[str, tuple[float, float]]:
    """Return each layer's (dense, effective) synaptic operations for a batch, and their sum as "total".

    Dense is every multiply-add of every step. Effective counts, for each input that is not zero, the
    synapses that it reaches: what an event-driven machine would do. An input that stays the same is
    worked out once, as here. Biases, neurons and pooling are not counted.
    """
    inputs = [x, *response.spikes.values()]
    found = {}
    for (name, layer), given in zip(net.named_layers, inputs, strict=False):
        events = (given != 0).sum((0, 1)).float()
        reach = _reach(layer.linear, events)
        shown = given.shape[0] * given.shape[1]
        found[name] = (float(reach.sum()) * shown, float((events * reach).sum()))
    found["total"] = (sum(d for d, _ in found.values()), sum(e for _, e in found.values()))
    return found


def _reach(linear: nn.Conv2d | nn.Linear, events: Tensor) -> Tensor:
    """Return how many synapses each input value has, in the shape of ``events`` (planes, rows, columns) or (n,)."""
    if isinstance(linear, nn.Conv2d):
        planes, rows, columns = events.shape
        ones = torch.zeros(1, 1, rows, columns)
        with torch.enable_grad():
            ones.requires_grad_()
            kernel = torch.ones(1, 1, *linear.kernel_size)
            out = functional.conv2d(ones, kernel, padding=linear.padding)
            (reach,) = torch.autograd.grad(out.sum(), ones)
        return reach[0].expand(planes, -1, -1) * linear.out_channels
    return torch.full_like(events, float(linear.out_features))


def metrics(net: ImageNetwork, recipe: ImageRecipe, verdict: Verdict, seconds: float) -> dict[str, Any]:
    """Return what metrics.json says; operations are per picture."""
    low, high = verdict.accuracy.interval
    dense, effective = verdict.operations["total"]
    result: dict[str, Any] = {
        "accuracy": verdict.accuracy.value,
        "n": verdict.accuracy.total,
        "interval": [round(low, _DIGITS), round(high, _DIGITS)],
        "training_seconds": seconds,
        "parameters": sum(p.numel() for p in net.parameters()),
        "dense_operations": round(dense),
        "effective_operations": round(effective),
        "operations_by_layer": {k: [round(v) for v in pair] for k, pair in verdict.operations.items() if k != "total"},
        "dead": _rounded(verdict.activity.dead_shares()),
        "rates": _rounded(verdict.activity.rates()),
    }
    if isinstance(recipe.pictures, SoundPictures):
        result["dense_operations_per_second"] = round(dense / recipe.pictures.seconds)
        result["effective_operations_per_second"] = round(effective / recipe.pictures.seconds)
    return result


def write_results(
    folder: Path, net: ImageNetwork, recipe: ImageRecipe, verdict: Verdict, seconds: float
) -> dict[str, Any]:
    """Write metrics.json and the pictures of a run; return the metrics."""
    result = metrics(net, recipe, verdict, seconds)
    run = RunFolder(folder)
    rows = run.curves()
    curves = {key: [float(row[key]) for row in rows] for key in ("loss", "training_accuracy")}
    curves |= {f"never fired: {name}": [row["dead"][name] for row in rows] for name in rows[-1]["dead"]}
    draw_curves(curves, folder / "curves.png", title=recipe.name)
    title = f"{recipe.name}: {verdict.accuracy}"
    draw_confusion(verdict.confusion, recipe.pictures.labels, folder / "confusion.png", title=title)
    draw_prediction(verdict, recipe, folder / "raster.png")
    run.write("metrics.json", result)
    return result


def draw_prediction(verdict: Verdict, recipe: ImageRecipe, path: Path) -> None:
    """Draw one picture, its spikes, those of the output over the steps (or its potentials), and the scores."""
    picture, x, response, label = verdict.example
    names = recipe.pictures.labels
    figure = new_figure(15, 3.6)
    seen, coded, output, scores = figure.subplots(1, 4)
    seen.imshow(picture[0].numpy(), cmap="gray_r", aspect="auto")
    seen.set_title(f"seen: {names[label]}")
    if len(x) == 1:
        name, spikes = next(iter(response.spikes.items()))
        raster(coded, spikes[0].flatten(1).numpy())
        coded.set_title(f"spikes of {name}")
    else:
        raster(coded, x.flatten(1).numpy())
        coded.set_title("input spikes")
    if recipe.network.readout == "count":
        output.plot(*response.spikes["output"][0].numpy().nonzero(), "k|", markersize=12)
        output.set_xlim(-0.5, recipe.network.steps - 0.5)
        output.set_title("output spikes")
        output.set_yticks(range(len(names)), names)
    else:
        output.plot(response.levels[0].numpy(), label=list(names))
        output.set_title("output potentials")
        output.legend(fontsize=6)
    scores.bar(names, response.scores[0].numpy())
    scores.set_title(f"{recipe.network.readout}: {names[int(response.decide())]}")
    for axes in (coded, output):
        axes.set_xlabel("step")
    save(figure, path)


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(share, _DIGITS) for name, share in shares.items()}
