"""Training and evaluation of networks for still images, and comparison of variations of a recipe.

Training is resumable, bit-identical, and keeps the last weights; these are evaluated once: accuracy with its interval,
dead neurons, synaptic operations, plots.
"""

from __future__ import annotations

import copy
import itertools
import json
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from detector.errors import ConfigError
from detector.statistics import Rate
from models.console import Progress, progress
from models.evaluation.results import comparison_table
from models.images.data import ImageSet, encode, open_images
from models.images.network import ImageNetwork, Response
from models.images.recipe import ImageRecipe, SoundImages, as_dict, load_image_recipe, parse_image_recipe
from models.network.activity import Activity
from models.network.device import training_device
from models.plots import draw_confusion, draw_curves, new_figure, raster, save
from models.training.optimiser import Optimiser, clip_gradient, rate_at
from models.training.runs import RunFolder, check_run_folder

BATCH = 200
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Results on the evaluation set."""

    confusion: NDArray[np.int64]
    """Counts (true class, class found)."""
    activity: Activity
    operations: dict[str, tuple[float, float]]
    """By layer, per image: (dense, effective) synaptic operations."""
    example: tuple[Tensor, Tensor, Response, int]
    """The first image (1, rows, columns), its encoded input, the response, and its class."""

    @property
    def accuracy(self) -> Rate:
        """Share of images classified correctly."""
        return Rate(int(np.trace(self.confusion)), int(self.confusion.sum()))


def layered(response: Response) -> dict[str, Tensor]:
    """Return a response's spikes as (batch, 1, steps, neurons), the shape for ``Activity``."""
    return {name: s.detach().flatten(2).unsqueeze(1) for name, s in response.spikes.items()}


@torch.no_grad()
def evaluate(net: ImageNetwork, recipe: ImageRecipe, images: ImageSet) -> Evaluation:
    """Classify every image once, without augmentation."""
    net.eval()
    classes = len(recipe.images.labels)
    confusion = np.zeros((classes, classes), np.int64)
    activity = Activity()
    counts: dict[str, tuple[float, float]] = {}
    for index in progress(torch.split(torch.arange(len(images.labels)), BATCH), "evaluating", "batches"):
        x = encode(images.draw(index, augment=False), recipe)
        response = net(x)
        np.add.at(confusion, (images.labels[index].numpy(), response.decide().numpy()), 1)
        activity.add(layered(response))
        for name, (dense, effective) in operations(net, x, response).items():
            before = counts.get(name, (0.0, 0.0))
            counts[name] = (before[0] + dense, before[1] + effective)
    total = len(images.labels)
    mean = {name: (dense / total, effective / total) for name, (dense, effective) in counts.items()}
    first = images.draw(torch.tensor([0]), augment=False)
    x = encode(first, recipe)
    return Evaluation(confusion, activity, mean, (first[0], x[0], net(x), int(images.labels[0])))


def operations(net: ImageNetwork, x: Tensor, response: Response) -> dict[str, tuple[float, float]]:
    """Return each layer's (dense, effective) synaptic operations for a batch, and their sum as "total".

    Dense is every multiply-add of every step. Effective counts the synapses of each non-zero input, which is the work
    of an event-driven machine. A constant input is computed once, as here. Biases, neurons and pooling are not
    counted.
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


def metrics(net: ImageNetwork, recipe: ImageRecipe, evaluation: Evaluation, seconds: float) -> dict[str, Any]:
    """Return the content of metrics.json; operations are per image."""
    low, high = evaluation.accuracy.interval
    dense, effective = evaluation.operations["total"]
    result: dict[str, Any] = {
        "accuracy": evaluation.accuracy.value,
        "n": evaluation.accuracy.total,
        "interval": [round(low, _DIGITS), round(high, _DIGITS)],
        "training_seconds": seconds,
        "parameters": sum(p.numel() for p in net.parameters()),
        "dense_operations": round(dense),
        "effective_operations": round(effective),
        "operations_by_layer": {
            k: [round(v) for v in pair] for k, pair in evaluation.operations.items() if k != "total"
        },
        "dead": _rounded(evaluation.activity.dead_shares()),
        "rates": _rounded(evaluation.activity.rates()),
    }
    if isinstance(recipe.images, SoundImages):
        result["dense_operations_per_second"] = round(dense / recipe.images.seconds)
        result["effective_operations_per_second"] = round(effective / recipe.images.seconds)
    return result


def write_results(
    folder: Path, net: ImageNetwork, recipe: ImageRecipe, evaluation: Evaluation, seconds: float
) -> dict[str, Any]:
    """Write metrics.json and the plots of a run; return the metrics."""
    result = metrics(net, recipe, evaluation, seconds)
    run = RunFolder(folder)
    rows = run.curves()
    curves = {key: [float(row[key]) for row in rows] for key in ("loss", "training_accuracy")}
    curves |= {f"never fired: {name}": [row["dead"][name] for row in rows] for name in rows[-1]["dead"]}
    draw_curves(curves, folder / "curves.png", title=recipe.name)
    title = f"{recipe.name}: {evaluation.accuracy}"
    draw_confusion(evaluation.confusion, recipe.images.labels, folder / "confusion.png", title=title)
    draw_prediction(evaluation, recipe, folder / "raster.png")
    run.write("metrics.json", result)
    return result


def draw_prediction(evaluation: Evaluation, recipe: ImageRecipe, path: Path) -> None:
    """Draw one image, its spikes, output spikes (or potentials) over the steps, and the scores."""
    image, x, response, label = evaluation.example
    names = recipe.images.labels
    figure = new_figure(15, 3.6)
    seen, coded, output, scores = figure.subplots(1, 4)
    seen.imshow(image[0].numpy(), cmap="gray_r", aspect="auto")
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


@dataclass(frozen=True, slots=True)
class ImageRun:
    """Where a run reads and writes, and what it leaves out."""

    data: Path
    folder: Path
    seed: int
    leave_out: int | None
    """The held-out fold of sounds; None: the test fold. MNIST has no folds."""


def fit(recipe_path: Path, data: Path, folder: Path, seed: int, leave_out: int | None) -> None:
    """Train by a recipe, or resume from the run folder's checkpoint, and evaluate the last weights.

    Raises ConfigError for an invalid recipe or a folder of another run, SourceError where data is missing.
    """
    fit_recipe(load_image_recipe(recipe_path), ImageRun(data, folder, seed, leave_out))


def fit_recipe(recipe: ImageRecipe, run: ImageRun) -> dict[str, Any]:
    """Do the same for a recipe in memory; return the content of metrics.json."""
    train, held_out = open_images(recipe, run.data, run.leave_out)
    RunFolder(run.folder).claim({"recipe": as_dict(recipe), "seed": run.seed, "leave_out": run.leave_out})
    torch.manual_seed(run.seed)
    trainer = _Trainer(ImageNetwork(recipe).to(training_device()), recipe, run, train)
    trainer.resume()
    trainer.train()
    trainer.net.cpu()
    torch.manual_seed(run.seed)
    evaluation = evaluate(trainer.net, recipe, held_out)
    return write_results(run.folder, trainer.net, recipe, evaluation, round(trainer.seconds, 1))


def load_image_run(folder: Path) -> tuple[ImageNetwork, ImageRecipe, dict[str, Any]]:
    """Return (network, recipe, plan) of a finished run; raises ConfigError where the folder holds none."""
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        recipe = parse_image_recipe(plan["recipe"], str(folder / "plan.json"))
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise ConfigError(f"{folder}: not the folder of a finished run on images ({error})") from error
    if saved["epoch"] < recipe.schedule.epochs:
        raise ConfigError(
            f"{folder}: the run is at epoch {saved['epoch']} of {recipe.schedule.epochs}; finish it first"
        )
    net = ImageNetwork(recipe)
    net.load_state_dict(saved["net"])
    return net.eval(), recipe, plan


def total_loss(response: Response, labels: Tensor, recipe: ImageRecipe) -> Tensor:
    """Return the cross entropy of the scores plus the penalty on firing rates.

    The penalty is the squared distance of each neuron's rate in the batch from the target, averaged over
    a layer's neurons, then over layers. With a target above zero it also revives neurons that never fire.
    """
    loss = functional.cross_entropy(response.scores, labels)
    term = recipe.rate_term
    if term.weight > 0 and response.spikes:
        costs = [(s.mean((0, 1)) - term.target).square().mean() for s in response.spikes.values()]
        loss = loss + term.weight * torch.stack(costs).mean()
    return loss


@dataclass(frozen=True, slots=True)
class Variation:
    """A recipe with one combination of values."""

    name: str
    recipe: ImageRecipe


@dataclass(frozen=True, slots=True)
class VariationResult:
    """Metrics and losses of a variation."""

    name: str
    metrics: dict[str, Any]
    losses: list[float]
    """By epoch."""


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Read "network.surrogate=atan,sigmoid" as a key and its values; "a.b=1;2" where values hold commas.

    Raises ConfigError for other text.
    """
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise ConfigError(f"--vary {text}: write KEY=VALUE,VALUE such as network.surrogate=atan,sigmoid")
    return key.strip(), [_value(v.strip()) for v in values.split(";" if ";" in values else ",")]


def variations(base: dict[str, Any], axes: Sequence[str], where: str) -> list[Variation]:
    """Return every combination of the axes' values as a recipe; keys joined by "&" vary together.

    "network.surrogate&network.slope=atan&2;sigmoid&25" has two values, each for both keys. Raises
    ConfigError that names a wrong key or value.
    """
    parsed = [parse_axis(axis) for axis in axes]
    return list(_combinations(base, parsed, where))


def compare(found: Sequence[Variation], run: ImageRun) -> list[VariationResult]:
    """Train each variation in its own folder below the run's; write table.md, metrics.json and comparison.png."""
    check_run_folder(run.folder, "01/plan.json", "")
    results = []
    for number, variation in enumerate(found, 1):
        folder = run.folder / f"{number:02d}"
        metrics = fit_recipe(variation.recipe, ImageRun(run.data, folder, run.seed, run.leave_out))
        losses = [float(row["loss"]) for row in RunFolder(folder).curves()]
        results.append(VariationResult(variation.name, metrics, losses))
    written = [{"name": r.name, "folder": f"{i:02d}", **r.metrics} for i, r in enumerate(results, 1)]
    (run.folder / "metrics.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    (run.folder / "table.md").write_text(table(results) + "\n", encoding="utf-8")
    draw(results, run.folder / "comparison.png")
    return results


def table(results: Sequence[VariationResult]) -> str:
    """Return the results as a Markdown table."""
    return comparison_table([{"name": r.name, **r.metrics} for r in results])


def draw(results: Sequence[VariationResult], path: Path) -> None:
    """Draw each variation's loss over the epochs, and its accuracy against its effective operations."""
    figure = new_figure(12, 4.5)
    curves, plane = figure.subplots(1, 2)
    for r in results:
        curves.plot(range(1, len(r.losses) + 1), r.losses, label=r.name)
        low, high = (100 * v for v in r.metrics["interval"])
        value = 100 * r.metrics["accuracy"]
        bar = [[max(0.0, value - low)], [max(0.0, high - value)]]
        plane.errorbar([r.metrics["effective_operations"]], [value], yerr=bar, marker="o", capsize=3, label=r.name)
    curves.set_xlabel("epoch")
    curves.set_title("training loss")
    curves.set_yscale("log")
    plane.set_xlabel("effective synaptic operations per image")
    plane.set_title("accuracy in %, with its 95 % interval")
    for axes in (curves, plane):
        axes.grid(alpha=0.3)
    curves.legend(fontsize=8)
    save(figure, path)


def _reach(linear: nn.Conv2d | nn.Linear, events: Tensor) -> Tensor:
    """Return the number of synapses of each input, in the shape of ``events``: (planes, rows, columns) or (n,)."""
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


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(share, _DIGITS) for name, share in shares.items()}


class _Trainer:
    def __init__(self, net: ImageNetwork, recipe: ImageRecipe, run: ImageRun, images: ImageSet) -> None:
        self.net, self._recipe, self._run, self._images = net, recipe, run, images
        self._folder, self._device = RunFolder(run.folder), training_device()
        s = recipe.schedule
        self._optimiser = Optimiser(net, s.learning_rate, s.weight_decay)
        # An incomplete last batch would disturb the batch norm; each epoch leaves out other images.
        self._batches = max(1, len(images.labels) // s.batch)
        self._epoch = 0
        self.seconds = 0.0
        """Training time, over all resumptions."""

    def resume(self) -> None:
        """Load the checkpoint of the run folder, if there is one."""
        if saved := self._folder.load():
            self.net.load_state_dict(saved["net"])
            self._optimiser.load_state_dict(saved["optimiser"])
            self._epoch, self.seconds = saved["epoch"], saved["seconds"]

    def train(self) -> None:
        """Run the epochs that are left."""
        epochs = self._recipe.schedule.epochs
        with Progress("training", epochs * self._batches, "batches", self._epoch * self._batches) as bar:
            while self._epoch < epochs:
                began = time.monotonic()
                row = self._one_epoch(bar)
                self.seconds += time.monotonic() - began
                self._folder.add_row(row | {"seconds": round(self.seconds, 1)})
                saved = {"net": self.net.state_dict(), "optimiser": self._optimiser.state_dict()}
                self._folder.save(saved | {"epoch": self._epoch, "seconds": self.seconds})

    def _one_epoch(self, bar: Progress) -> dict[str, Any]:
        """Run one epoch; return its row of curves.jsonl."""
        # Each epoch seeds the generator, so that a resumed run ends with the same weights.
        torch.manual_seed(self._run.seed * 100_003 + self._epoch)
        self.net.train()
        activity = Activity()
        losses, right = 0.0, 0
        for i, (x, labels) in enumerate(self._drawn_batches()):
            if self._epoch == i == 0 and self._recipe.network.start_rate > 0:
                self.net.scale_to_rate(x, self._recipe.network.start_rate)
            share = (self._epoch + i / self._batches) / self._recipe.schedule.epochs
            self._optimiser.set_rate(rate_at(share, self._recipe.schedule.learning_rate, warm_up=0.03, floor=0.01))
            response = self.net(x)
            loss = total_loss(response, labels, self._recipe)
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            clip_gradient(self.net, f"{self._recipe.name}, epoch {self._epoch + 1}")
            self._optimiser.step()
            losses += loss.item()
            right += int((response.decide() == labels).sum())
            activity.add(layered(response))
            bar.advance(epoch=self._epoch + 1, loss=f"{losses / (i + 1):.4f}")
        self._epoch += 1
        seen = self._batches * min(self._recipe.schedule.batch, len(self._images.labels))
        return {
            "epoch": self._epoch,
            "loss": losses / self._batches,
            "training_accuracy": right / seen,
            "dead": activity.dead_shares(),
            "rates": activity.rates(),
        }

    def _drawn_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._images.labels))
        size = self._recipe.schedule.batch
        for i in range(self._batches):
            index = order[i * size : (i + 1) * size]
            x = encode(self._images.draw(index, augment=True), self._recipe)
            yield x.to(self._device), self._images.labels[index].to(self._device)


def _combinations(base: dict[str, Any], axes: list[tuple[str, list[Any]]], where: str) -> Iterator[Variation]:
    for values in itertools.product(*(v for _, v in axes)):
        data = copy.deepcopy(base)
        parts = []
        for (keys, _), value in zip(axes, values, strict=True):
            settings = list(zip(keys.split("&"), _split(value, keys, where), strict=True))
            for key, single in settings:
                _set(data, key.strip(), single, where)
            parts.append(", ".join(f"{k.strip().rpartition('.')[2]} {v}" for k, v in settings))
        yield Variation("; ".join(parts), parse_image_recipe(data, where))


def _value(text: str) -> Any:
    """Parse a number, boolean or list as TOML; anything else is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _split(value: Any, keys: str, where: str) -> list[Any]:
    count = keys.count("&") + 1
    parts = [_value(v.strip()) for v in value.split("&")] if count > 1 and isinstance(value, str) else [value]
    if len(parts) != count:
        raise ConfigError(f"{where}: --vary {keys} needs {count} values joined by '&', not {value!r}")
    return parts


def _set(data: dict[str, Any], key: str, value: Any, where: str) -> None:
    *path, last = key.split(".")
    for name in path:
        data = data.get(name, {})
        if not isinstance(data, dict):
            raise ConfigError(f"{where}: --vary {key}: {name!r} is no table of the recipe")
    if last not in data:
        raise ConfigError(f"{where}: --vary {key}: the recipe has no such key")
    data[last] = value
