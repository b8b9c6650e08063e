"""Examples to learn from, made in two processes: scenes as for training, as the spikes that a head reads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.network import load_model
from models.adapting.head import BodySpikes, Lessons
from models.adapting.sounds import Sounds
from models.examples import ExampleMaker
from models.layouts import FOLDS
from models.recipe import Recipe, Scenes

_Lesson = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]


def make_lessons(  # noqa: PLR0913 - what they are made of
    model: Path, own: Sounds, others: Sounds, recipe: Recipe, seed: int, processes: int, advance: Callable[[], Any]
) -> Lessons:
    """Draw examples fold by fold, each of nothing but that fold's clips; ``advance`` is called after each."""
    per_fold = recipe.schedule.examples_per_epoch // len(FOLDS)
    orders = [(fold, seed, number) for fold in FOLDS for number in range(per_fold)]
    with ProcessPoolExecutor(processes, initializer=_begin, initargs=(model, own, others, recipe)) as pool:
        found: list[_Lesson] = []
        for lesson in pool.map(_make, orders, chunksize=8):
            found.append(lesson)
            advance()
    fired, target, weight = (np.stack(parts) for parts in zip(*found, strict=True))
    return Lessons(fired, target, weight, np.array([fold for fold, _, _ in orders]))


_makers: dict[int, ExampleMaker] = {}
_body: BodySpikes | None = None
"""One of each per worker process."""


def _begin(model: Path, own: Sounds, others: Sounds, recipe: Recipe) -> None:
    global _body  # noqa: PLW0603 - set once when the worker process starts
    _body = BodySpikes(load_model(model))
    assert isinstance(recipe.examples, Scenes)  # noqa: S101 - for mypy
    places = None
    for fold in FOLDS:
        mine, theirs = own.of_fold(fold), others.of_fold(fold)
        clips, waves = mine.clips + theirs.clips, mine.waves + theirs.waves
        _makers[fold] = ExampleMaker(clips, waves, recipe, recipe.examples, places)
        places = _makers[fold].places


def _make(order: tuple[int, int, int]) -> _Lesson:
    assert _body is not None  # noqa: S101 - the pool's initialiser has run
    fold, seed, number = order
    example = _makers[fold].draw(np.random.default_rng([seed, fold, number]))
    return _body.of(example.spikes.astype(np.float32)), example.target.astype(np.uint8), example.weight
