"""The head of new classes: spiking neurons and a read-out on the spikes of a frozen backbone, and its training.

Examples are scenes as in training, stored as the backbone's spikes and made in several processes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detector.messages import Spikes
from detector.network import Model, load_model, trace
from models.adapting.extension import BackboneShape, Extension
from models.adapting.sounds import SoundSet
from models.data.datasets import FOLDS
from models.network.csnn import SpikingUnit, fold_norm, initial_readout, round_to_grid
from models.network.scan import leaky_readout
from models.recipe import Recipe, SceneExamples
from models.training.examples import ExampleMaker
from models.training.losses import frame_loss
from models.training.optimiser import Optimiser, clip_gradient, rate_at

_HeadExample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
_makers: dict[int, ExampleMaker] = {}
_backbone: BackboneSpikes | None = None
"""One of each per worker process."""


class _Dropout(nn.Module):
    """Sets values to zero with a probability, to a 256th, and scales the others, as nn.Dropout does.

    Random bytes of numpy take a tenth of the time of torch.dropout on a processor, which was half of all training.
    """

    def __init__(self, probability: float, rng: np.random.Generator) -> None:
        super().__init__()
        self._zeros_of_256, self._rng = round(256 * probability), rng

    def forward(self, x: Tensor) -> Tensor:
        """Return values of the same shape; outside training the values themselves."""
        if not self.training or not self._zeros_of_256:
            return x
        drawn = np.frombuffer(self._rng.bytes(x.numel()), np.uint8).reshape(x.shape)
        kept = torch.from_numpy(drawn >= self._zeros_of_256)
        return x * kept * (256 / (256 - self._zeros_of_256))


class Head(nn.Module):
    """Maps spikes of the last convolution and of the dense layer to one logit per new class and frame."""

    def __init__(self, backbone: BackboneShape, recipe: Recipe, rng: np.random.Generator) -> None:
        super().__init__()
        spec = recipe.network
        self.dense = nn.Linear(backbone.inputs, spec.hidden)
        self.unit = SpikingUnit(spec.hidden, spec, synapse=False, tau_s=spec.dense_tau_s)
        self.readout = nn.Linear(backbone.dense + spec.hidden, spec.classes)
        self.readout_beta_logit = nn.Parameter(initial_readout(spec))
        self.drop = _Dropout(spec.dropout, rng)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        """Return logits (batch, frames, classes) of spikes (batch, frames, inputs) and (batch, frames, dense)."""
        state: dict[str, Tensor] = {}
        x = self.dense(self.drop(below)).transpose(1, 2).unsqueeze(-1)
        x = self.unit.sequence(x, "dense", state, {}).squeeze(-1).transpose(1, 2)
        current = self.readout(self.drop(torch.cat((beside, x), 2)))
        return leaky_readout(current, torch.sigmoid(self.readout_beta_logit))[0]

    def extension(self) -> Extension:
        """Return the head as arrays: batch norm folded, weights on the grid of exact sums."""
        done = copy.deepcopy(self).eval()
        with torch.no_grad():
            fold_norm(done.dense, done.unit)
            round_to_grid(done.dense, 1.0)
            round_to_grid(done.readout, 1.0)
        return Extension(
            hidden_weight=done.dense.weight.detach().numpy(),
            hidden_bias=done.dense.bias.detach().numpy(),
            hidden_beta=done.unit.beta.detach().numpy(),
            readout_weight=done.readout.weight.detach().numpy(),
            readout_bias=done.readout.bias.detach().numpy(),
            readout_beta=torch.sigmoid(done.readout_beta_logit).detach().numpy(),
        )


class BackboneSpikes:
    """Spikes of a model's last convolution and dense layer, packed into bits to save memory."""

    def __init__(self, model: Model) -> None:
        spiking = [layer for layer in model.manifest.network.layers if layer.spikes]
        self._model, self._names = model, (spiking[-2].name, spiking[-1].name)

    def of(self, spikes: Spikes) -> NDArray[np.uint8]:
        """Return (frames, bytes) of the encoder's spikes (frames, planes, n_mfcc), from the state after a reset."""
        rows = [np.concatenate([fired[name] for name in self._names]) for fired in trace(self._model, spikes)]
        return np.packbits(np.stack(rows).astype(bool), axis=1)


@dataclass(frozen=True, slots=True)
class HeadExamples:
    """Training examples, each of one fold."""

    fired: NDArray[np.uint8]
    """(examples, frames, bytes), as ``BackboneSpikes`` gives them."""
    target: NDArray[np.uint8]
    """(examples, frames, classes)."""
    weight: NDArray[np.uint8]
    fold: NDArray[np.int64]

    def without(self, fold: int | None) -> HeadExamples:
        """Return the examples of all other folds; None: all."""
        kept = self.fold != (-1 if fold is None else fold)
        return HeadExamples(self.fired[kept], self.target[kept], self.weight[kept], self.fold[kept])


def train_head(
    examples: HeadExamples, backbone: BackboneShape, recipe: Recipe, seed: int, advance: Callable[[], Any]
) -> Head:
    """Train a head on examples; ``advance`` is called after each batch."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    head, schedule = Head(backbone, recipe, rng), recipe.schedule
    optimiser = Optimiser(head, schedule.learning_rate, schedule.weight_decay)
    batches = list(_batches(len(examples.fired), schedule.batch, schedule.epochs, rng))
    head.train()
    with _one_thread():
        for number, chosen in enumerate(batches):
            optimiser.set_rate(rate_at(number / len(batches), schedule.learning_rate, warm_up=0.05, floor=0.005))
            bits = np.unpackbits(examples.fired[chosen], axis=2, count=backbone.inputs + backbone.dense)
            fired = torch.from_numpy(bits).float()
            target, weight = (torch.from_numpy(part[chosen]).float() for part in (examples.target, examples.weight))
            logits = head(fired[..., : backbone.inputs], fired[..., backbone.inputs :])
            loss = frame_loss(logits, target, weight)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            clip_gradient(head, "the new classes")
            optimiser.step()
            advance()
    return head.eval()


def batches_of(examples: int, recipe: Recipe) -> int:
    """Return the number of batches of ``train_head``."""
    return (examples // recipe.schedule.batch) * recipe.schedule.epochs


def make_examples(  # noqa: PLR0913 - one argument per source
    model: Path,
    positives: SoundSet,
    negatives: SoundSet,
    recipe: Recipe,
    seed: int,
    processes: int,
    advance: Callable[[], Any],
) -> HeadExamples:
    """Draw examples of each fold's clips only; ``advance`` is called after each."""
    per_fold = recipe.schedule.examples_per_epoch // len(FOLDS)
    orders = [(fold, seed, number) for fold in FOLDS for number in range(per_fold)]
    with ProcessPoolExecutor(
        processes, initializer=_initialise_worker, initargs=(model, positives, negatives, recipe)
    ) as pool:
        found: list[_HeadExample] = []
        for example in pool.map(_make, orders, chunksize=8):
            found.append(example)
            advance()
    fired, target, weight = (np.stack(parts) for parts in zip(*found, strict=True))
    return HeadExamples(fired, target, weight, np.array([fold for fold, _, _ in orders]))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute in one thread: for so small a network, synchronisation costs more than it saves."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])


def _batches(examples: int, size: int, epochs: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    for _ in range(epochs):
        order = rng.permutation(examples)
        yield from (order[at : at + size] for at in range(0, examples - size + 1, size))


def _initialise_worker(model: Path, positives: SoundSet, negatives: SoundSet, recipe: Recipe) -> None:
    global _backbone  # noqa: PLW0603 - set once when the worker process starts
    _backbone = BackboneSpikes(load_model(model))
    assert isinstance(recipe.examples, SceneExamples)  # noqa: S101 - for mypy
    for fold in FOLDS:
        mine, theirs = positives.of_fold(fold), negatives.of_fold(fold)
        clips, waves = mine.clips + theirs.clips, mine.waves + theirs.waves
        _makers[fold] = ExampleMaker(clips, waves, recipe, recipe.examples)


def _make(order: tuple[int, int, int]) -> _HeadExample:
    assert _backbone is not None  # noqa: S101 - the pool's initialiser has run
    fold, seed, number = order
    example = _makers[fold].draw(np.random.default_rng([seed, fold, number]))
    return _backbone.of(example.spikes.astype(np.float32)), example.target.astype(np.uint8), example.weight
