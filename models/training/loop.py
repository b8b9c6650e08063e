"""Training of a streaming network by a recipe: resumable, and the last weights are kept (never a best epoch)."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from detector.errors import ConfigError
from detector.manifest import TrainingRecord
from detector.messages import Samples
from models.console import Progress, report_problems
from models.data.clips import Clip
from models.data.datasets import folds_left_out, load_good_clips, recordings, sources_of
from models.network.activity import Activity, reading_macs
from models.network.csnn import SpikingConvNet
from models.network.device import denormals_flushed, training_device
from models.network.twin import Network, make_network
from models.plots import draw_curves
from models.recipe import MixtureExamples, Recipe, SceneExamples, Stage, as_dict
from models.training.examples import ExampleMaker, MixtureMaker
from models.training.losses import AuxiliaryHeads, total_loss
from models.training.optimiser import Optimiser, clip_gradient, rate_at
from models.training.pool import Batch, ExamplePool
from models.training.runs import RunFolder, load_run, stage_folders, weights_digest
from models.training.streams import streams_of
from models.training.warm_start import auxiliary_heads_of, hard_clips, record_of, restore_norms, weights_of

_PARTS: Final = ("spikes", "target", "weight", "background_frames")
"""What a batch of examples consists of."""
_NORM_BATCHES: Final = 24
"""Batches that the restored batch norms of a model file get their statistics from."""


@dataclass(frozen=True, slots=True)
class Run:
    """Where a run reads and writes, and what it leaves out."""

    data: Path
    material: Path | None
    folder: Path
    seed: int
    leave_out: int | None
    """A fold that is held out in addition to the recipe's test folds."""
    workers: int = 1
    """Processes that make examples beside the training process; 0: it makes them itself."""
    warm_start: Path | None = None
    """Folder of a finished run, or a model file, whose weights this run starts from."""
    previous_stage: Path | None = None
    """Folder of the stage before, which takes the place of ``warm_start``."""
    seed_offset: int = 0
    """Added to the seed by a stage."""

    @property
    def initial_weights(self) -> Path | None:
        """Folder of the run, or model file, whose weights this run starts from; None: random weights."""
        return self.previous_stage or self.warm_start


def train_stages(stages: Sequence[Stage], run: Run) -> Network:
    """Train the stages of a recipe in order, or resume where they were interrupted; return the final network.

    The last stage is in the run's own folder, earlier ones in ``stage1``, ``stage2``, ... below it. Each starts from
    the weights of the one before. Raises what ``train`` raises.
    """
    previous: Path | None = None
    for stage, folder in zip(stages, stage_folders(run.folder, len(stages)), strict=True):
        one = dataclasses.replace(run, folder=folder, previous_stage=previous, seed_offset=stage.seed_offset)
        net = train(stage.recipe, one)
        previous = folder
    return net


def train(recipe: Recipe, run: Run) -> Network:
    """Train, or resume from the run folder's checkpoint; return the network after the last batch, on the CPU.

    Raises ConfigError where the folder holds a run of another recipe, seed, left-out fold or initial weights, or the
    run to start from has another network or front end or was trained on a fold that this one leaves out, and
    SourceError where data is missing. Clips that cannot be used are reported and left out.
    """
    clips = training_clips(recipe, run)
    folder = RunFolder(run.folder)
    seed = run.seed + run.seed_offset
    plan = {"recipe": as_dict(recipe), "seed": seed, "leave_out": run.leave_out}
    torch.manual_seed(seed)
    net = make_network(recipe.network, recipe.encoder)
    if run.initial_weights is not None:
        net.load_state_dict(net.state_dict() | weights_of(run.initial_weights, recipe, run.leave_out))
        plan["warm_start"] = weights_digest(net)
    folder.claim(plan)
    net = net.to(training_device())
    trainer = _Trainer(net, recipe, run, clips)
    trainer.resume()
    with denormals_flushed(), Progress(run.folder.name, recipe.schedule.epochs, "epochs", trainer.epoch) as bar:
        while trainer.epoch < recipe.schedule.epochs:
            row = trainer.one_epoch()
            bar.advance(loss=f"{row['loss']:.4f}")
    _write_results(folder, net, recipe.name)
    folder.write("record.json", dataclasses.asdict(training_record(recipe, run, clips)))
    return net.cpu()


def training_record(recipe: Recipe, run: Run, clips: list[Clip]) -> TrainingRecord:
    """Describe how the weights were trained, for the manifest.

    Epochs include those of earlier stages, sources those of the run or model file that the weights started from.
    """
    options = f"--seed {run.seed}" + ("" if run.leave_out is None else f" --leave-out {run.leave_out}")
    if run.warm_start is not None:
        options += f" --warm-start {run.warm_start.name if run.warm_start.is_file() else 'FIRST-RUN'}"
    material = "" if run.material is None else "--material MATERIAL "
    earlier = 0 if run.previous_stage is None else load_run(run.previous_stage)[2].epochs
    started = () if run.initial_weights is None else record_of(run.initial_weights).sources
    return TrainingRecord(
        command=f"snn-train fit models/recipes/{recipe.name}.toml {material}--run RUN {options}",
        seed=run.seed,
        epochs=recipe.schedule.epochs + earlier,
        clips=len(clips),
        folds_left_out=folds_left_out(recipe, run.leave_out),
        sources=tuple({source.name: source for source in (*started, *sources_of(recipe, clips))}.values()),
    )


def training_clips(recipe: Recipe, run: Run) -> list[Clip]:
    """List the clips to train on, without the test folds and the left-out one; report clips that cannot be used."""
    listing = recordings(recipe, run.data, run.material)
    report_problems(listing.problems)
    left_out = folds_left_out(recipe, run.leave_out)
    return [c for c in listing.clips if c.fold not in left_out]


def _write_results(folder: RunFolder, net: Network, name: str) -> None:
    """Write training metrics and curves; ``snn-train evaluate`` measures how good the network is."""
    rows = folder.curves()
    last = rows[-1]
    parameters = sum(p.numel() for p in net.parameters())
    spent = sum(row["seconds"] for row in rows)
    metrics = {"loss": last["loss"], "training_seconds": round(spent, 1), "parameters": parameters}
    folder.write("metrics.json", metrics | {"dead": last["dead"], "rates": last["rates"]})
    curves = {"loss": [row["loss"] for row in rows]}
    curves |= {f"{layer}: never fired": [row["dead"][layer] for row in rows] for layer in last["dead"]}
    curves |= {f"{layer}: spikes a frame": [row["rates"][layer] for row in rows] for layer in last["rates"]}
    draw_curves(curves, folder.path / "curves.png", title=name)


class _ExampleStream(IterableDataset[Any]):
    """Batches of examples of given numbers; each has its own generator, so the number of workers has no effect."""

    def __init__(self, maker: ExampleMaker | MixtureMaker, batch: int, seed: int, numbers: Iterable[int]) -> None:
        self._maker, self._batch, self._seed, self._numbers = maker, batch, seed, numbers

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        worker = torch.utils.data.get_worker_info()
        own, all_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
        for number in itertools.islice(self._numbers, own, None, all_workers):  # the loader polls its workers in turn
            rng = np.random.default_rng([self._seed, number])
            drawn = [self._maker.draw(rng) for _ in range(self._batch)]
            yield tuple(np.stack([getattr(e, key) for e in drawn]) for key in _PARTS)


class _Trainer:
    """One run's network, optimiser, auxiliary heads and position."""

    def __init__(self, net: Network, recipe: Recipe, run: Run, clips: list[Clip]) -> None:
        self._recipe, self._run, self._net, self._clips = recipe, run, net, clips
        self._folder, self._device = RunFolder(run.folder), training_device()
        self._fan_out = reading_macs(recipe.network)
        s = recipe.schedule
        self._batches = max(1, s.examples_per_epoch // s.batch)
        self._heads = AuxiliaryHeads(recipe.network).to(self._device) if recipe.loss.deep_supervision else None
        learners = [net] if self._heads is None else [net, self._heads]
        weights = [layer.weight for layer in (*net.convs, net.dense)] if s.muon else []
        self._optimiser = Optimiser(nn.ModuleList(learners), s.learning_rate, s.weight_decay, weights)
        self._seed = run.seed + run.seed_offset
        self._streams = streams_of(recipe, self._seed)
        examples = recipe.examples
        size = examples.pool if isinstance(examples, SceneExamples) else 0
        self._pool = ExamplePool(run.folder / "examples", size, s.batch, self._seed) if size else None
        self.epoch = 0
        self._loader: Iterator[Batch] | None = None
        self._examples: ExampleMaker | MixtureMaker | None = None

    def resume(self) -> None:
        """Load the run folder's checkpoint; without one, complete the weights to start from, if any.

        The auxiliary heads of a run are copied: untrained ones would disturb the network's weights until they have
        converged. The batch norms of a model file are restored.
        """
        before = self._run.initial_weights
        if before is not None and self._heads is not None and (heads := auxiliary_heads_of(before)) is not None:
            self._heads.load_state_dict(heads)
        if saved := self._folder.load():
            self._net.load_state_dict(saved["net"])
            if self._heads is not None:
                self._heads.load_state_dict(saved["auxiliary_heads"])
            self._optimiser.load_state_dict(saved["optimiser"])
            self.epoch = saved["epoch"]
            torch.set_rng_state(saved["rng_state"])
        elif before is not None and before.is_file() and isinstance(self._net, SpikingConvNet):
            restore_norms(self._net, self._inputs(_NORM_BATCHES))
            self._loader = None  # the first epoch uses these batches again, as a resumed run does

    def one_epoch(self) -> dict[str, Any]:
        """Run one epoch, append its row to the curves, write the checkpoint; return the row."""
        self._net.train()
        began, losses, activity = time.perf_counter(), [], Activity()
        batches = self._batches_of_examples()
        if self._streams is not None:
            self._streams.reset()
        for i in range(self._batches):
            progress = (self.epoch + i / self._batches) / self._recipe.schedule.epochs
            self._optimiser.set_rate(rate_at(progress, self._recipe.schedule.learning_rate, warm_up=0.05, floor=0.005))
            losses.append(self._one_batch(next(batches), self.epoch * self._batches + i, activity))
        self.epoch += 1
        row: dict[str, Any] = {"epoch": self.epoch, "loss": float(np.mean(losses))}
        row |= {"seconds": time.perf_counter() - began, "dead": activity.dead_shares(), "rates": activity.rates()}
        self._folder.add_row(row)
        state = {"net": self._net.state_dict(), "optimiser": self._optimiser.state_dict(), "epoch": self.epoch}
        if self._heads is not None:
            state["auxiliary_heads"] = self._heads.state_dict()
        state["rng_state"] = torch.get_rng_state()  # for dropout, on a CPU
        self._folder.save(state)
        return row

    def _inputs(self, count: int) -> Iterator[Tensor]:
        """Yield the network's input of so many batches; where examples continue one another, they are encoded here."""
        batches = self._batches_of_examples()
        for number in range(count):
            given = next(batches)[0].to(self._device)
            yield given if self._streams is None else self._streams.encode(given, number)[0]

    def _one_batch(self, batch: Batch, number: int, activity: Activity) -> float:
        given, target, weight, background = (part.to(self._device).float() for part in batch)
        probe: dict[str, Tensor] = {}
        state = None
        if self._streams is not None:
            given, state = self._streams.encode(given, number)
        logits, state = self._net(given, state, probe)
        if self._streams is not None:
            self._streams.keep(state)
        loss = total_loss(self._recipe.loss, logits, target, weight, background, probe, self._fan_out)
        if self._heads is not None:
            auxiliary = self._heads.loss(probe, self._net.readout_beta, target, weight)
            loss = loss + self._recipe.loss.deep_supervision * auxiliary
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        # Not the gradient of the auxiliary heads: no surrogate lies between them and their loss.
        clip_gradient(self._net, f"{self._recipe.name}, epoch {self.epoch + 1}")
        self._optimiser.step()
        activity.add(probe)
        return loss.item()

    def _batches_of_examples(self) -> Iterator[Batch]:
        if self._loader is None:
            first = self.epoch * self._batches
            self._loader = (
                self._made(itertools.count(first)) if self._pool is None else self._pool.batches(first, self._made)
            )
        return self._loader

    def _made(self, numbers: Iterable[int]) -> Iterator[Batch]:
        """Make the batches of these numbers, in workers if there are any."""
        stream = _ExampleStream(self._maker(), self._recipe.schedule.batch, self._seed, numbers)
        workers = self._run.workers
        ahead = 4 if workers else None
        generator = torch.Generator()  # of its own: otherwise the loader advances the one of dropout
        return iter(DataLoader(stream, None, num_workers=workers, prefetch_factor=ahead, generator=generator))

    def _maker(self) -> ExampleMaker | MixtureMaker:
        if self._examples is None:
            self._examples = self._make_maker()
        return self._examples

    def _make_maker(self) -> ExampleMaker | MixtureMaker:
        clips, waves, problems = load_good_clips(self._clips, self._recipe.features.sample_rate_hz)
        report_problems(problems)
        examples = self._recipe.examples
        if isinstance(examples, MixtureExamples):
            return MixtureMaker(clips, waves, self._recipe, examples)
        return ExampleMaker(clips, waves, self._recipe, examples, self._hard_negatives(clips, waves))

    def _hard_negatives(self, clips: Sequence[Clip], waves: Sequence[Samples]) -> list[int]:
        """Return the out-of-class clips that the weights this run started from take for a class."""
        examples, before = self._recipe.examples, self._run.initial_weights
        if not isinstance(examples, SceneExamples) or not examples.hard_negatives:
            return []
        if before is None or before.is_file():  # a model file has no batch norms to evaluate it with
            raise ConfigError(
                f"{self._recipe.name}: examples.hard_negatives are found by the weights of a run; add --warm-start RUN"
            )
        with torch.random.fork_rng(devices=[]):  # a resumed run has the state of its checkpoint
            net = make_network(self._recipe.network, self._recipe.encoder)
        net.load_state_dict(weights_of(before, self._recipe, self._run.leave_out))
        return hard_clips(net, self._recipe, waves, [i for i, clip in enumerate(clips) if clip.label is None])
