"""Train a streaming network by a recipe: one loop, resumable, last weights kept (never a best epoch)."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from detector.manifest import TrainingRecord
from models.console import tell
from models.data.datasets import folds_left_out, load_good_clips, recordings, sources_of
from models.data.household import Clip
from models.network.activity import Activity, reading_macs
from models.network.device import training_device
from models.network.twin import Network, make_network
from models.plots import draw_curves
from models.recipe import Mixtures, Recipe, as_dict
from models.training.examples import ExampleMaker, MixtureMaker
from models.training.losses import HiddenReadouts, total_loss
from models.training.optimiser import Optimiser, clip_gradient, rate_at
from models.training.runs import RunFolder, hidden_of, weights_digest, weights_of

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
_PARTS = ("spikes", "target", "weight", "idle")


@dataclass(frozen=True, slots=True)
class Run:
    """Where a run reads and writes, and what it leaves out."""

    data: Path
    material: Path | None
    folder: Path
    seed: int
    leave_out: int | None
    """A fold that is kept besides the recipe's test folds."""
    workers: int = 1
    """Processes that make examples beside the one that trains; 0: it makes them itself."""
    begin: Path | None = None
    """Folder of an ended run, whose weights this one begins with."""


def train(recipe: Recipe, run: Run) -> Network:
    """Train, or go on where the run folder's checkpoint stands, and return the network as the last batch left it.

    Raises ConfigError where the folder holds a run of another recipe, seed or left-out fold, or the run
    to begin with has another network or front end or was trained on what this one leaves out, and
    SourceError where the data is missing. Clips that cannot be used are told and left out.
    """
    clips = training_clips(recipe, run)
    folder = RunFolder(run.folder)
    plan = {"recipe": as_dict(recipe), "seed": run.seed, "leave_out": run.leave_out}
    torch.manual_seed(run.seed)
    net = make_network(recipe)
    if run.begin is not None:
        net.load_state_dict(weights_of(run.begin, recipe, run.leave_out))
        plan["begin"] = weights_digest(net)
    folder.claim(plan)
    net = net.to(training_device())
    trainer = _Trainer(net, recipe, run, clips)
    trainer.resume()
    with tqdm(total=recipe.schedule.epochs, initial=trainer.epoch, unit="epoch") as bar:
        while trainer.epoch < recipe.schedule.epochs:
            row = trainer.one_epoch()
            bar.set_postfix(loss=f"{row['loss']:.4f}")
            bar.update()
    _write_results(folder, net, recipe.name)
    folder.write("record.json", dataclasses.asdict(training_record(recipe, run, clips)))
    return net.cpu()


def _write_results(folder: RunFolder, net: Network, name: str) -> None:
    """Write what the training itself can tell; how good the network is, ``snn-train evaluate`` says."""
    rows = folder.curves()
    last = rows[-1]
    parameters = sum(p.numel() for p in net.parameters())
    spent = sum(row["seconds"] for row in rows)
    figures = {"loss": last["loss"], "training_seconds": round(spent, 1), "parameters": parameters}
    folder.write("metrics.json", figures | {"dead": last["dead"], "rates": last["rates"]})
    curves = {"loss": [row["loss"] for row in rows]}
    curves |= {f"{layer}: never fired": [row["dead"][layer] for row in rows] for layer in last["dead"]}
    curves |= {f"{layer}: spikes a frame": [row["rates"][layer] for row in rows] for layer in last["rates"]}
    draw_curves(curves, folder.path / "curves.png", title=name)


def training_record(recipe: Recipe, run: Run, clips: list[Clip]) -> TrainingRecord:
    """Say how the weights came to be, for the manifest."""
    options = f"--seed {run.seed}" + ("" if run.leave_out is None else f" --leave-out {run.leave_out}")
    options += "" if run.begin is None else " --begin FIRST-RUN"
    material = "" if run.material is None else "--material MATERIAL "
    return TrainingRecord(
        command=f"snn-train fit models/recipes/{recipe.name}.toml {material}--run RUN {options}",
        seed=run.seed,
        epochs=recipe.schedule.epochs,
        clips=len(clips),
        folds_left_out=folds_left_out(recipe, run.leave_out),
        sources=sources_of(recipe, clips),
    )


def training_clips(recipe: Recipe, run: Run) -> list[Clip]:
    """List what may be trained on: neither the test folds nor the one left out; tell what is wrong with others."""
    listing = recordings(recipe, run.data, run.material)
    tell(listing.problems)
    left_out = folds_left_out(recipe, run.leave_out)
    return [c for c in listing.clips if c.fold not in left_out]


class _Stream(IterableDataset[Any]):
    """Endless batches of examples, made in worker processes, whose number does not show: each batch has its dice."""

    def __init__(self, maker: ExampleMaker | MixtureMaker, batch: int, seed: int, first: int) -> None:
        self._maker, self._batch, self._seed, self._first = maker, batch, seed, first

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        worker = torch.utils.data.get_worker_info()
        own, all_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
        for number in itertools.count(self._first + own, all_workers):  # the loader asks its workers in turn
            rng = np.random.default_rng([self._seed, number])
            drawn = [self._maker.draw(rng) for _ in range(self._batch)]
            yield tuple(np.stack([getattr(e, key) for e in drawn]) for key in _PARTS)


class _Trainer:
    def __init__(self, net: Network, recipe: Recipe, run: Run, clips: list[Clip]) -> None:
        self._recipe, self._run, self._net, self._clips = recipe, run, net, clips
        self._folder, self._device = RunFolder(run.folder), training_device()
        self._fan_out = reading_macs(recipe.network)
        s = recipe.schedule
        self._batches = max(1, s.examples_per_epoch // s.batch)
        self._hidden = HiddenReadouts(recipe.network).to(self._device) if recipe.loss.deep else None
        learners = [net] if self._hidden is None else [net, self._hidden]
        weights = [layer.weight for layer in (*net.convs, net.dense)] if s.muon else []
        self._optimiser = Optimiser(nn.ModuleList(learners), s.learning_rate, s.weight_decay, weights)
        self.epoch = 0
        self._loader: Iterator[Batch] | None = None

    def resume(self) -> None:
        """Load the checkpoint of the run folder, if there is one; else read-outs of the run to begin with, if any.

        New read-outs would pull at the network's weights until they have learnt.
        """
        begin = self._run.begin
        if begin is not None and self._hidden is not None and (hidden := hidden_of(begin)) is not None:
            self._hidden.load_state_dict(hidden)
        if saved := self._folder.load():
            self._net.load_state_dict(saved["net"])
            if self._hidden is not None:
                self._hidden.load_state_dict(saved["hidden"])
            self._optimiser.load_state_dict(saved["optimiser"])
            self.epoch = saved["epoch"]
            torch.set_rng_state(saved["dice"])

    def one_epoch(self) -> dict[str, Any]:
        """Run one epoch, append its row to the curves, write the checkpoint."""
        self._net.train()
        began, losses, activity = time.perf_counter(), [], Activity()
        batches = self._batches_of_examples()
        for i in range(self._batches):
            progress = (self.epoch + i / self._batches) / self._recipe.schedule.epochs
            self._optimiser.set_rate(rate_at(progress, self._recipe.schedule.learning_rate, warm_up=0.05, floor=0.005))
            losses.append(self._one_batch(next(batches), activity))
        self.epoch += 1
        row: dict[str, Any] = {"epoch": self.epoch, "loss": float(np.mean(losses))}
        row |= {"seconds": time.perf_counter() - began, "dead": activity.dead_shares(), "rates": activity.rates()}
        self._folder.add_row(row)
        state = {"net": self._net.state_dict(), "optimiser": self._optimiser.state_dict(), "epoch": self.epoch}
        if self._hidden is not None:
            state["hidden"] = self._hidden.state_dict()
        state["dice"] = torch.get_rng_state()  # of the dropout, on a CPU
        self._folder.save(state)
        return row

    def _one_batch(self, batch: Batch, activity: Activity) -> float:
        given, target, weight, idle = (part.to(self._device).float() for part in batch)
        probe: dict[str, Tensor] = {}
        logits, _ = self._net(given, None, probe)
        loss = total_loss(self._recipe.loss, logits, target, weight, idle, probe, self._fan_out)
        if self._hidden is not None:
            hidden = self._hidden.loss(probe, self._net.readout_beta, target, weight)
            loss = loss + self._recipe.loss.deep * hidden
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # Not those of hidden read-outs: no surrogate lies between these and their loss.
        clip_gradient(self._net, f"{self._recipe.name}, epoch {self.epoch + 1}")
        self._optimiser.step()
        activity.add(probe)
        return loss.item()

    def _batches_of_examples(self) -> Iterator[Batch]:
        if self._loader is None:
            first = self.epoch * self._batches
            stream = _Stream(self._maker(), self._recipe.schedule.batch, self._run.seed, first)
            workers = self._run.workers
            ahead = 4 if workers else None
            dice = torch.Generator()  # without its own, a loader takes from those of the dropout
            loader = DataLoader(stream, None, num_workers=workers, prefetch_factor=ahead, generator=dice)
            self._loader = iter(loader)
        return self._loader

    def _maker(self) -> ExampleMaker | MixtureMaker:
        clips, waves, problems = load_good_clips(self._clips, self._recipe.features.sample_rate_hz)
        tell(problems)
        examples = self._recipe.examples
        if isinstance(examples, Mixtures):
            return MixtureMaker(clips, waves, self._recipe, examples)
        return ExampleMaker(clips, waves, self._recipe, examples)
