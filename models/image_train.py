"""Train a network that sees still pictures: one loop, resumable to the bit, last weights kept, judged once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from detector.errors import ConfigError
from models.activity import Activity
from models.device import training_device
from models.image_data import PictureSet, encode, open_pictures
from models.image_evaluate import judge, layered, write_results
from models.image_network import ImageNetwork, Response
from models.image_recipe import ImageRecipe, as_dict, load_image_recipe, parse_image_recipe
from models.optimiser import Optimiser, clip_gradient, rate_at
from models.run_folder import RunFolder


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
