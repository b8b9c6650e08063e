"""Train a network that sees still pictures: one loop, resumable to the bit, last weights kept, judged once.

Judge a network that sees still pictures: accuracy with its interval, dead neurons, operations, pictures.

Vary keys of a recipe for still pictures, train each variation, and lay the outcomes side by side.
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
from tqdm import tqdm

from detector.errors import ConfigError
from detector.statistics import Rate
from models.images.data import PictureSet, encode, open_pictures
from models.images.network import ImageNetwork, Response
from models.images.recipe import ImageRecipe, SoundPictures, as_dict, load_image_recipe, parse_image_recipe
from models.network.activity import Activity
from models.network.device import training_device
from models.plots import draw_confusion, draw_curves, new_figure, raster, save
from models.training.optimiser import Optimiser, clip_gradient, rate_at
from models.training.runs import RunFolder

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


@dataclass(frozen=True, slots=True)
class ImageRun:
    """Where a run reads and writes, and what it leaves out."""

    data: Path
    folder: Path
    seed: int
    leave_out: int | None
    """The fold of sounds to judge by; None is the test fold. MNIST has none."""


def fit(recipe_path: Path, data: Path, folder: Path, seed: int, leave_out: int | None) -> None:
    """Train by a recipe, or go on where the run folder's checkpoint stands, and judge the last weights.

    Raises ConfigError for a wrong recipe or a folder of another run, SourceError where data is missing.
    """
    fit_recipe(load_image_recipe(recipe_path), ImageRun(data, folder, seed, leave_out))


def fit_recipe(recipe: ImageRecipe, run: ImageRun) -> dict[str, Any]:
    """Do what ``fit`` does with a recipe in memory; return what is written to metrics.json."""
    train, judged = open_pictures(recipe, run.data, run.leave_out)
    RunFolder(run.folder).claim({"recipe": as_dict(recipe), "seed": run.seed, "leave_out": run.leave_out})
    torch.manual_seed(run.seed)
    trainer = _Trainer(ImageNetwork(recipe).to(training_device()), recipe, run, train)
    trainer.resume()
    trainer.train()
    trainer.net.cpu()
    torch.manual_seed(run.seed)
    verdict = judge(trainer.net, recipe, judged)
    return write_results(run.folder, trainer.net, recipe, verdict, round(trainer.seconds, 1))


def load_image_run(folder: Path) -> tuple[ImageNetwork, ImageRecipe, dict[str, Any]]:
    """Return (network, recipe, plan) of an ended run; raises ConfigError where the folder holds none."""
    try:
        plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
        saved = torch.load(folder / "checkpoint.pt", weights_only=True)
        recipe = parse_image_recipe(plan["recipe"], str(folder / "plan.json"))
    except (OSError, json.JSONDecodeError, KeyError) as error:
        raise ConfigError(f"{folder}: not the folder of an ended run on pictures ({error})") from error
    if saved["epoch"] < recipe.schedule.epochs:
        raise ConfigError(
            f"{folder}: the run stands at epoch {saved['epoch']} of {recipe.schedule.epochs}; end it first"
        )
    net = ImageNetwork(recipe)
    net.load_state_dict(saved["net"])
    return net.eval(), recipe, plan


def total_loss(response: Response, labels: Tensor, recipe: ImageRecipe) -> Tensor:
    """Return the cross entropy of the scores, and the cost of rates away from the target.

    The cost is the squared distance of each neuron's rate in the batch from the target, averaged over
    a layer's neurons, then over layers. With a target above zero it also wakes neurons that never fire.
    """
    loss = functional.cross_entropy(response.scores, labels)
    term = recipe.rate_term
    if term.weight > 0 and response.spikes:
        costs = [(s.mean((0, 1)) - term.target).square().mean() for s in response.spikes.values()]
        loss = loss + term.weight * torch.stack(costs).mean()
    return loss


@dataclass(frozen=True, slots=True)
class Variation:
    """One choice of values."""

    name: str
    recipe: ImageRecipe


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    name: str
    metrics: dict[str, Any]
    losses: list[float]
    """By epoch."""


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Read "network.surrogate=atan,sigmoid" as a key and its values; "a.b=1;2" where values hold commas.

    Raises ConfigError where it is no such thing.
    """
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise ConfigError(f"--vary {text}: write KEY=VALUE,VALUE such as network.surrogate=atan,sigmoid")
    return key.strip(), [_value(v.strip()) for v in values.split(";" if ";" in values else ",")]


def variations(base: dict[str, Any], axes: Sequence[str], where: str) -> list[Variation]:
    """Return every combination of the axes' values as a recipe; keys joined by "&" change together.

    "network.surrogate&network.slope=atan&2;sigmoid&25" has two values, each for both keys. Raises
    ConfigError that names a wrong key or value.
    """
    parsed = [parse_axis(axis) for axis in axes]
    return list(_combinations(base, parsed, where))


def compare(found: Sequence[Variation], run: ImageRun) -> list[Outcome]:
    """Train each variation in a folder of its own below the run's, and write table.md, metrics.json, comparison.png."""
    outcomes = []
    for number, variation in enumerate(found, 1):
        folder = run.folder / f"{number:02d}"
        metrics = fit_recipe(variation.recipe, ImageRun(run.data, folder, run.seed, run.leave_out))
        losses = [float(row["loss"]) for row in RunFolder(folder).curves()]
        outcomes.append(Outcome(variation.name, metrics, losses))
    written = [{"name": o.name, "folder": f"{i:02d}", **o.metrics} for i, o in enumerate(outcomes, 1)]
    (run.folder / "metrics.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    (run.folder / "table.md").write_text(table(outcomes) + "\n", encoding="utf-8")
    draw(outcomes, run.folder / "comparison.png")
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the outcomes as a Markdown table."""
    rows = ["| variation | accuracy (95 %) | operations, dense | effective | never fire, by layer | training |"]
    rows += ["|---|---|---|---|---|---|"]
    for o in outcomes:
        m = o.metrics
        low, high = (100 * v for v in m["interval"])
        dead = ", ".join(f"{name} {100 * share:.1f} %" for name, share in m["dead"].items())
        rows.append(
            f"| {o.name} | {100 * m['accuracy']:.2f} % ({low:.2f} to {high:.2f} %) | {m['dense_operations']:,} "
            f"| {m['effective_operations']:,} | {dead} | {m['training_seconds']:.0f} s |"
        )
    return "\n".join(rows)


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw each variation's loss over the epochs, and its accuracy against its effective operations."""
    figure = new_figure(12, 4.5)
    curves, plane = figure.subplots(1, 2)
    for o in outcomes:
        curves.plot(range(1, len(o.losses) + 1), o.losses, label=o.name)
        low, high = (100 * v for v in o.metrics["interval"])
        value = 100 * o.metrics["accuracy"]
        bar = [[max(0.0, value - low)], [max(0.0, high - value)]]
        plane.errorbar([o.metrics["effective_operations"]], [value], yerr=bar, marker="o", capsize=3, label=o.name)
    curves.set_xlabel("epoch")
    curves.set_title("training loss")
    curves.set_yscale("log")
    plane.set_xlabel("effective synaptic operations per picture")
    plane.set_title("accuracy in %, with its 95 % interval")
    for axes in (curves, plane):
        axes.grid(alpha=0.3)
    curves.legend(fontsize=8)
    save(figure, path)


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


def _rounded(shares: dict[str, float]) -> dict[str, float]:
    return {name: round(share, _DIGITS) for name, share in shares.items()}


class _Trainer:
    def __init__(self, net: ImageNetwork, recipe: ImageRecipe, run: ImageRun, pictures: PictureSet) -> None:
        self.net, self._recipe, self._run, self._pictures = net, recipe, run, pictures
        self._folder, self._device = RunFolder(run.folder), training_device()
        s = recipe.schedule
        self._optimiser = Optimiser(net, s.learning_rate, s.weight_decay)
        # A last batch that is not whole would disturb the batch norm; other pictures are left out in each epoch.
        self._batches = max(1, len(pictures.labels) // s.batch)
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
        with tqdm(total=epochs * self._batches, initial=self._epoch * self._batches, unit="batch") as bar:
            while self._epoch < epochs:
                began = time.monotonic()
                row = self._one_epoch(bar)
                self.seconds += time.monotonic() - began
                self._folder.add_row(row | {"seconds": round(self.seconds, 1)})
                saved = {"net": self.net.state_dict(), "optimiser": self._optimiser.state_dict()}
                self._folder.save(saved | {"epoch": self._epoch, "seconds": self.seconds})

    def _one_epoch(self, bar: Any) -> dict[str, Any]:
        """Show every picture once; return the epoch's row of curves.jsonl."""
        # Each epoch's dice are its own, so a resumed run ends with the same weights.
        torch.manual_seed(self._run.seed * 100_003 + self._epoch)
        self.net.train()
        activity = Activity()
        losses, right = 0.0, 0
        for i, (x, labels) in enumerate(self._drawn_batches()):
            if self._epoch == i == 0 and self._recipe.network.start_rate > 0:
                self.net.wake(x, self._recipe.network.start_rate)
            progress = (self._epoch + i / self._batches) / self._recipe.schedule.epochs
            self._optimiser.set_rate(rate_at(progress, self._recipe.schedule.learning_rate, warm_up=0.03, floor=0.01))
            response = self.net(x)
            loss = total_loss(response, labels, self._recipe)
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            clip_gradient(self.net, f"{self._recipe.name}, epoch {self._epoch + 1}")
            self._optimiser.step()
            losses += loss.item()
            right += int((response.decide() == labels).sum())
            activity.add(layered(response))
            bar.update()
            bar.set_postfix(epoch=self._epoch + 1, loss=f"{losses / (i + 1):.4f}", refresh=False)
        self._epoch += 1
        seen = self._batches * min(self._recipe.schedule.batch, len(self._pictures.labels))
        return {
            "epoch": self._epoch,
            "loss": losses / self._batches,
            "training_accuracy": right / seen,
            "dead": activity.dead_shares(),
            "rates": activity.rates(),
        }

    def _drawn_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self._pictures.labels))
        size = self._recipe.schedule.batch
        for i in range(self._batches):
            index = order[i * size : (i + 1) * size]
            x = encode(self._pictures.draw(index, alter=True), self._recipe)
            yield x.to(self._device), self._pictures.labels[index].to(self._device)


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
    """Read a number, a truth value or a list as TOML does; anything else is a text."""
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
