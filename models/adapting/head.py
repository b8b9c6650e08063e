"""The head of new classes: spiking neurons and a read-out on the spikes of a frozen backbone, and its training.

Examples are scenes as in training, stored as the backbone's spikes and made in several processes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from detector.messages import Scores
from detector.network import Model, load_model
from models.adapting.backbone import BackboneStream
from models.adapting.extension import BackboneShape, Extension
from models.adapting.scenes import alone
from models.adapting.sounds import SoundSet
from models.data.datasets import FOLDS
from models.network.csnn import THRESHOLD, SpikingUnit, fold_norm, initial_readout, round_to_grid
from models.network.scan import leaky_readout
from models.recipe import Recipe, SceneExamples
from models.training.examples import ExampleMaker
from models.training.losses import frame_loss
from models.training.optimiser import Optimiser, clip_gradient, rate_at

_LANE: Final = 8
"""Examples of a stream, which continue one another."""
_LEAD_IN_SHARE: Final = 0.7
"""Probability that a sound of the bank precedes an example, between it and the one before."""
_DROPPED: Final = 0.25
"""Share of the backbone's spikes that training leaves out: each bit of two random bytes or'ed is 0 as often."""
_HeadExample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
_makers: dict[int, ExampleMaker] = {}
_worker: _Worker | None = None
_training: _Training | None = None
"""One of each per worker process."""


class _Dropout(nn.Module):
    """Sets values to zero with a probability, to a 256th, and scales the others, as nn.Dropout does.

    Random bytes of numpy take a tenth of the time of torch.dropout on a processor.
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
    """Maps spikes of the last convolution and of the dense layer to one logit per new class and frame.

    In training the spikes have passed dropout already, and are scaled for it here.
    """

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
        scale = 1 / (1 - _DROPPED) if self.training else 1.0
        x = (functional.linear(below, self.dense.weight * scale) + self.dense.bias).transpose(1, 2).unsqueeze(-1)
        x = self.unit.sequence(x, "dense", state, {}).squeeze(-1).transpose(1, 2)
        dense = beside.shape[2]
        current = functional.linear(beside, self.readout.weight[:, :dense] * scale, self.readout.bias)
        current = current + functional.linear(self.drop(x), self.readout.weight[:, dense:])
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


@dataclass(frozen=True, slots=True)
class HeadExamples:
    """Training examples, each of one fold."""

    fired: NDArray[np.uint8]
    """(examples, frames, bytes), as ``BackboneStream`` gives them."""
    target: NDArray[np.uint8]
    """(examples, frames, classes)."""
    weight: NDArray[np.uint8]
    fold: NDArray[np.int64]

    def without(self, fold: int | None) -> HeadExamples:
        """Return the examples of all other folds; None: all."""
        kept = self.fold != (-1 if fold is None else fold)
        return HeadExamples(self.fired[kept], self.target[kept], self.weight[kept], self.fold[kept])

    def with_negatives(self, fired: NDArray[np.uint8], fold: NDArray[np.uint8]) -> HeadExamples:
        """Return the examples and more of them, (examples, frames, bytes), without any new class."""
        shape = (len(fired), *self.target.shape[1:])
        return HeadExamples(
            np.concatenate([self.fired, fired]),
            np.concatenate([self.target, np.zeros(shape, np.uint8)]),
            np.concatenate([self.weight, np.ones(shape, np.uint8)]),
            np.concatenate([self.fold, fold.astype(np.int64)]),
        )


@dataclass(frozen=True, slots=True)
class _Worker:
    """What examples are made with."""

    model: Model
    dense: int
    lead_ins: NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class _Training:
    """What heads are trained with."""

    examples: HeadExamples
    backbone: BackboneShape
    recipe: Recipe
    seed: int


def train_heads(  # noqa: PLR0913 - one argument per source
    examples: HeadExamples,
    backbone: BackboneShape,
    recipe: Recipe,
    seed: int,
    folds: Sequence[int | None],
    processes: int,
) -> Iterator[Extension]:
    """Yield, in order, a head for each fold that is left out (None: for all examples), trained in several processes."""
    training = _Training(examples, backbone, recipe, seed)
    with ProcessPoolExecutor(processes, initializer=_begin_training, initargs=(training,)) as pool:
        yield from pool.map(_train_without, folds)


def scores_of(extension: Extension, fired: NDArray[np.uint8], backbone: BackboneShape) -> Scores:
    """Return the scores (frames, classes) of a head for spikes (frames, bytes), from the state after a reset.

    They are those of the model with this extension. In numpy: processes are forked later, which the threads of compiled
    scans do not survive.
    """
    bits = np.unpackbits(fired, axis=1, count=backbone.inputs + backbone.dense).astype(np.float32)
    below, beside = bits[:, : backbone.inputs], bits[:, backbone.inputs :]
    currents = below @ extension.hidden_weight.T + extension.hidden_bias
    spikes, mem = np.empty_like(currents), np.zeros(currents.shape[1], np.float32)
    for current, row in zip(currents, spikes, strict=True):
        u = extension.hidden_beta * mem + current
        row[:] = u > THRESHOLD
        mem = u - row
    currents = np.concatenate([beside, spikes], axis=1) @ extension.readout_weight.T + extension.readout_bias
    logits, mem = np.empty_like(currents), np.zeros(currents.shape[1], np.float32)
    for current, row in zip(currents, logits, strict=True):
        mem = row[:] = extension.readout_beta * mem + current
    return np.asarray(1 / (1 + np.exp(-logits)), np.float32)


def train_head(examples: HeadExamples, backbone: BackboneShape, recipe: Recipe, seed: int) -> Head:
    """Train a head on examples."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    head, schedule = Head(backbone, recipe, rng), recipe.schedule
    optimiser = Optimiser(head, schedule.learning_rate, schedule.weight_decay)
    batches = list(_batches(len(examples.fired), schedule.batch, schedule.epochs, rng))
    head.train()
    with _one_thread():
        for number, chosen in enumerate(batches):
            optimiser.set_rate(rate_at(number / len(batches), schedule.learning_rate, warm_up=0.05, floor=0.005))
            below, beside = _unpacked(_dropped(examples.fired[chosen], rng), backbone)
            target, weight = (torch.from_numpy(part[chosen]).float() for part in (examples.target, examples.weight))
            logits = head(below, beside)
            loss = frame_loss(logits, target, weight)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            clip_gradient(head, "the new classes")
            optimiser.step()
    return head.eval()


def make_examples(  # noqa: PLR0913 - one argument per source
    model: Path,
    backbone: BackboneShape,
    positives: SoundSet,
    negatives: SoundSet,
    lead_ins: NDArray[np.float16],
    recipe: Recipe,
    seed: int,
    processes: int,
    advance: Callable[[int], Any],
) -> HeadExamples:
    """Draw examples of each fold's clips only, in streams; ``advance`` is called with how many more there are.

    ``lead_ins`` (sounds, frames, n_mfcc) are features of sounds that may precede an example; there may be none.
    """
    lanes = -(-recipe.schedule.examples_per_epoch // len(FOLDS) // _LANE)
    orders = [(fold, seed, number) for fold in FOLDS for number in range(lanes)]
    arguments = (model, backbone.dense, lead_ins, positives, negatives, recipe)
    with ProcessPoolExecutor(processes, initializer=_initialise_worker, initargs=arguments) as pool:
        found: list[_HeadExample] = []
        for lane in pool.map(_make_lane, orders):
            found += lane
            advance(len(lane))
    fired, target, weight = (np.stack(parts) for parts in zip(*found, strict=True))
    return HeadExamples(fired, target, weight, np.array([fold for fold, _, _ in orders for _ in range(_LANE)]))


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


def _unpacked(fired: NDArray[np.uint8], backbone: BackboneShape) -> tuple[Tensor, Tensor]:
    """Return the spikes of the last convolution and those of the dense layer as numbers."""
    bits = torch.from_numpy(np.unpackbits(fired, axis=2, count=backbone.inputs + backbone.dense)).float()
    return bits[..., : backbone.inputs], bits[..., backbone.inputs :]


def _dropped(fired: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Set a quarter of all bits to zero."""
    first, second = (np.frombuffer(rng.bytes(fired.size), np.uint8).reshape(fired.shape) for _ in range(2))
    return fired & (first | second)


def _begin_training(training: _Training) -> None:
    global _training  # noqa: PLW0603 - set once when the worker process starts
    _training = training


def _train_without(fold: int | None) -> Extension:
    assert _training is not None  # noqa: S101 - the pool's initialiser has run
    t = _training
    return train_head(t.examples.without(fold), t.backbone, t.recipe, t.seed).extension()


def _initialise_worker(  # noqa: PLR0913 - one argument per source
    model: Path,
    dense: int,
    lead_ins: NDArray[np.float16],
    positives: SoundSet,
    negatives: SoundSet,
    recipe: Recipe,
) -> None:
    global _worker  # noqa: PLW0603 - set once when the worker process starts
    _worker = _Worker(load_model(model), dense, lead_ins)
    assert isinstance(recipe.examples, SceneExamples)  # noqa: S101 - for mypy
    for fold in FOLDS:
        mine, theirs = positives.of_fold(fold), negatives.of_fold(fold)
        once = [alone(wave, recipe.examples.frames * recipe.features.hop_length) for wave in mine.waves]
        clips, waves = mine.clips * 2 + theirs.clips, mine.waves + once + theirs.waves
        _makers[fold] = ExampleMaker(clips, waves, recipe, recipe.examples)


def _make_lane(order: tuple[int, int, int]) -> list[_HeadExample]:
    """Make the examples of a stream: each behind the one before, or behind a sound of the bank."""
    assert _worker is not None  # noqa: S101 - the pool's initialiser has run
    fold, seed, number = order
    rng, maker = np.random.default_rng([seed, fold, number]), _makers[fold]
    stream, lead_ins = BackboneStream(_worker.model, _worker.dense), _worker.lead_ins
    found: list[_HeadExample] = []
    if not len(lead_ins):
        stream.push(np.asarray(maker.draw(rng).spikes, np.float32))
    for i in range(_LANE):
        if len(lead_ins) and (not i or rng.random() < _LEAD_IN_SHARE):
            stream.push(lead_ins[rng.integers(len(lead_ins))].astype(np.float32))
        example = maker.draw(rng)
        fired = stream.push(np.asarray(example.spikes, np.float32))
        found.append((fired, example.target.astype(np.uint8), example.weight))
    return found
