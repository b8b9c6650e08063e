"""Train the network by a recipe: one loop, resumable, last weights kept (never a best epoch)."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from detector.errors import ConfigError
from detector.manifest import TrainingRecord
from models.datasets import SOURCES, TEST_FOLD, Clip, list_clips, load_clips
from models.examples import ExampleMaker
from models.network import SpikingConvNet
from models.recipe import Recipe, as_dict

Batch = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Run:
    """Where a run reads and writes, and what it leaves out."""

    data: Path
    material: Path | None
    folder: Path
    seed: int
    leave_out: int | None
    """A fold of 1 to 4 kept for choosing settings; None trains on all but the test fold."""


def train(recipe: Recipe, run: Run) -> SpikingConvNet:
    """Train, or go on where the run folder's checkpoint stands, and return the network as the last batch left it.

    Raises ConfigError where the folder holds a run of another recipe, seed or left-out fold, and
    SourceError where the data is missing.
    """
    clips = training_clips(run)
    _claim_folder(recipe, run)
    torch.manual_seed(run.seed)
    net = SpikingConvNet(recipe.network, recipe.encoder)
    trainer = _Trainer(net, recipe, run, clips)
    trainer.resume()
    with tqdm(total=recipe.schedule.epochs, initial=trainer.epoch, unit="epoch") as bar:
        while trainer.epoch < recipe.schedule.epochs:
            row = trainer.one_epoch()
            bar.set_postfix(loss=f"{row['loss']:.4f}")
            bar.update()
    record = training_record(recipe, run, clips)
    (run.folder / "record.json").write_text(json.dumps(dataclasses.asdict(record), indent=1), encoding="utf-8")
    return net


def _claim_folder(recipe: Recipe, run: Run) -> None:
    """Write down what the run is; a folder that holds another one is refused."""
    plan = {"recipe": as_dict(recipe), "seed": run.seed, "leave_out": run.leave_out}
    text, path = json.dumps(plan, indent=1), run.folder / "plan.json"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise ConfigError(f"{run.folder}: holds a run of another recipe, seed or left-out fold; name another folder")
    run.folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def training_record(recipe: Recipe, run: Run, clips: list[Clip]) -> TrainingRecord:
    """Say how the weights came to be, for the manifest."""
    left_out = () if run.leave_out is None else (run.leave_out,)
    options = f"--seed {run.seed}" + "".join(f" --leave-out {fold}" for fold in left_out)
    return TrainingRecord(
        command=f"snn-train fit models/recipes/{recipe.name}.toml --material MATERIAL --run RUN {options}",
        seed=run.seed,
        epochs=recipe.schedule.epochs,
        clips=len(clips),
        folds_left_out=(*left_out, TEST_FOLD),
        sources=tuple(s for s in SOURCES if any(c.source == s.name for c in clips)),
    )


def training_clips(run: Run) -> list[Clip]:
    """List what may be trained on: neither the test fold nor the one left out."""
    return [c for c in list_clips(run.data, run.material) if c.fold not in (TEST_FOLD, run.leave_out)]


class _Stream(IterableDataset[Any]):
    """Endless batches of examples, made in a worker process."""

    def __init__(self, maker: ExampleMaker, batch: int, seed: int) -> None:
        self._maker, self._batch, self._seed = maker, batch, seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, ...]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self._seed, worker.id if worker else 0])
        torch.set_num_threads(1)
        while True:
            drawn = [self._maker.draw(rng) for _ in range(self._batch)]
            yield tuple(np.stack([getattr(e, key) for e in drawn]) for key in ("spikes", "target", "weight"))


class _Trainer:
    def __init__(self, net: SpikingConvNet, recipe: Recipe, run: Run, clips: list[Clip]) -> None:
        self._recipe, self._run, self._net, self._clips = recipe, run, net, clips
        s = recipe.schedule
        self._batches = s.examples_per_epoch // s.batch
        decays: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, p in net.named_parameters():
            (others if p.ndim == 1 or "logit" in name else decays).append(p)
        groups = [{"params": decays, "weight_decay": s.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._optimiser = torch.optim.AdamW(groups, lr=s.learning_rate)
        self.epoch = 0
        self._loader: Iterator[Batch] | None = None

    def resume(self) -> None:
        """Load the checkpoint of the run folder, if there is one."""
        path = self._run.folder / "checkpoint.pt"
        if path.is_file():
            saved = torch.load(path, weights_only=True)
            self._net.load_state_dict(saved["net"])
            self._optimiser.load_state_dict(saved["optimiser"])
            self.epoch = saved["epoch"]

    def one_epoch(self) -> dict[str, float]:
        """Run one epoch, append its row to curves.jsonl, write the checkpoint."""
        self._net.train()
        losses = []
        batches = self._batches_from_worker()
        for i in range(self._batches):
            self._set_rate((self.epoch + i / self._batches) / self._recipe.schedule.epochs)
            spikes, target, weight = next(batches)
            loss = self._loss(self._net(spikes.float())[0], target.float(), weight.float())
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._net.parameters(), 2.0)
            self._optimiser.step()
            losses.append(loss.item())
        self.epoch += 1
        row = {"epoch": self.epoch, "loss": float(np.mean(losses))}
        with (self._run.folder / "curves.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._save()
        return row

    def _batches_from_worker(self) -> Iterator[Batch]:
        if self._loader is None:
            r = self._recipe
            waves = load_clips(self._clips, r.features.sample_rate_hz)
            maker = ExampleMaker(
                self._clips,
                waves,
                r.features,
                r.encoder,
                r.schedule.frames,
                r.sampling.class_weights,
                r.sampling.source_weights,
            )
            # A resumed run draws other examples than the ones it has seen.
            stream = _Stream(maker, r.schedule.batch, self._run.seed * 1000 + self.epoch)
            self._loader = iter(DataLoader(stream, batch_size=None, num_workers=1, prefetch_factor=4))
        return self._loader

    def _set_rate(self, progress: float) -> None:
        """Warm up over the first 3 % of the run, then follow a cosine to a hundredth."""
        warm = min(1.0, progress / 0.03 + 0.01)
        cosine = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self._optimiser.param_groups:
            group["lr"] = self._recipe.schedule.learning_rate * warm * cosine

    def _loss(self, logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        frame = functional.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
        frame = frame / weight.sum()
        heard = (target.amax(2, keepdim=True) > 0).float()
        frames = heard.sum(1).clamp(min=1)
        whole = functional.log_softmax((logits * heard).sum(1) / frames, 1)
        share = target.sum(1) / target.sum((1, 2)).clamp(min=1).unsqueeze(1)
        return frame * logits.shape[2] + self._recipe.schedule.clip_loss * -(share * whole).sum(1).mean()

    def _save(self) -> None:
        path = self._run.folder / "checkpoint.pt"
        part = path.with_suffix(".part")
        torch.save(
            {
                "net": self._net.state_dict(),
                "optimiser": self._optimiser.state_dict(),
                "epoch": self.epoch,
            },
            part,
        )
        part.replace(path)
