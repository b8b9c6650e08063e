"""Streams for training: examples that continue one another, with the states of encoder and network.

A service's network is hardly ever in the state after a reset. One that is trained on examples from that state alone
loses part of what it can do where a sound has preceded; here each lane of a batch is a stream. Gradients end at an
example's beginning (truncated backpropagation through time; R. J. Williams and J. Peng, Neural Computation 2, 1990).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.network.csnn import State
from models.recipe import Recipe, SceneExamples
from models.training.frontend import BulkEncoder


class Streams:
    """The lanes of a batch."""

    def __init__(self, recipe: Recipe, continued: float, seed: int) -> None:
        """Begin with the state after a reset; examples continue the one before with probability ``continued``."""
        self._encoders = [BulkEncoder(recipe.encoder) for _ in range(recipe.schedule.batch)]
        self._continued, self._seed = continued, seed
        self._state: State | None = None

    def reset(self) -> None:
        """Return all lanes to the state after a reset: a resumed run begins its epochs with it, too."""
        self._state = None
        for encoder in self._encoders:
            encoder.reset()

    def encode(self, features: Tensor, number: int) -> tuple[Tensor, State | None]:
        """Return spikes (batch, frames, planes, n_mfcc) of features (batch, frames, n_mfcc), and the network's state.

        ``number`` is that of the batch, by which the lanes are drawn that begin with a reset.
        """
        goes_on = np.random.default_rng([self._seed, number, 1]).random(len(self._encoders)) < self._continued
        for encoder in np.array(self._encoders)[~goes_on]:
            encoder.reset()
        spikes = [encoder.push(frames) for encoder, frames in zip(self._encoders, features.cpu().numpy(), strict=True)]
        state = self._state
        if state is not None:
            kept = torch.from_numpy(goes_on).to(features.device)
            state = {name: _masked(values, kept) for name, values in state.items()}
        return torch.from_numpy(np.stack(spikes)).to(features.device).float(), state

    def keep(self, state: State) -> None:
        """Take the network's state after the examples."""
        self._state = {name: values.detach() for name, values in state.items()}


def streams_of(recipe: Recipe, seed: int) -> Streams | None:
    """Return the streams of a recipe; None where each example begins with a reset."""
    examples = recipe.examples
    if not isinstance(examples, SceneExamples) or not examples.continued:
        return None
    return Streams(recipe, examples.continued, seed)


def _masked(values: Tensor, kept: Tensor) -> Tensor:
    """Return the state of each lane that is kept, zeros for the others."""
    return values * kept.view(-1, *[1] * (values.ndim - 1))
