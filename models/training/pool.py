"""A pool of training examples that are made once and used in many epochs, kept in the run's folder.

To make an example takes as long as to train on it. The first pass takes the examples as they are made; each later one
takes all of them again in another order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detector.errors import ConfigError
from detector.system import replace_file

Batch = tuple[Tensor, ...]
"""Parts of a batch of examples."""
_DONE: Final = "made.npy"


class ExamplePool:
    """Blocks of examples on disk, each as large as a batch; which ones are there is on disk, too."""

    def __init__(self, folder: Path, size: int, batch: int, seed: int) -> None:
        """Take a pool of ``size`` examples, a multiple of ``batch``, that is in the folder or begins there."""
        self._folder, self._size, self._batch, self._seed = folder, size, batch, seed
        self._parts: list[NDArray[Any]] = []
        folder.mkdir(parents=True, exist_ok=True)
        self._is_made = self._array(_DONE, (size // batch,), np.dtype(np.bool_))

    def batches(self, first: int, make: Callable[[Sequence[int]], Iterator[Batch]]) -> Iterator[Batch]:
        """Yield batches from number ``first`` on, without an end; ``make`` yields blocks of these numbers."""
        blocks = len(self._is_made)
        numbers = [int(number) for number in np.flatnonzero(~self._is_made)]
        missing = make(numbers) if numbers else iter(())  # to make any, all recordings are loaded
        for number in range(first, blocks):
            while not self._is_made[number]:  # an earlier one may be missing, too
                self._put(missing)
            yield self._take(np.arange(number * self._batch, (number + 1) * self._batch))
        while not self._is_made.all():
            self._put(missing)
        number = max(first, blocks)
        while True:
            order = np.random.default_rng([self._seed, number // blocks, 2]).permutation(self._size)
            for rows in np.split(order, blocks)[number % blocks :]:
                yield self._take(rows)
                number += 1

    def _put(self, made: Iterator[Batch]) -> None:
        number = int(np.flatnonzero(~self._is_made)[0])
        block = [part.numpy() for part in next(made)]
        if not self._parts:
            self._open([(part.shape[1:], part.dtype) for part in block])
        for array, part in zip(self._parts, block, strict=True):
            array[number * self._batch : (number + 1) * self._batch] = part
        self._is_made[number] = True

    def _take(self, rows: NDArray[np.intp]) -> Batch:
        if not self._parts:
            files = sorted(self._folder.glob("part*.npy"))
            self._open([((), np.dtype(np.uint8))] * len(files))
        return tuple(torch.from_numpy(array[rows]) for array in self._parts)

    def _open(self, kinds: Sequence[tuple[tuple[int, ...], np.dtype[Any]]]) -> None:
        self._parts = [self._array(f"part{i}.npy", (self._size, *shape), kind) for i, (shape, kind) in enumerate(kinds)]

    def _array(self, name: str, shape: tuple[int, ...], kind: np.dtype[Any]) -> NDArray[Any]:
        """Return an array in a file of the folder; it is made where there is none."""
        path = self._folder / name
        try:
            if not path.exists():
                _reserve(path, shape, kind)
            found = np.lib.format.open_memmap(path, mode="r+")
        except (OSError, ValueError) as error:
            advice = f"make room or remove {self._folder}: examples are made again"
            raise ConfigError(f"{path}: cannot be used ({error}); {advice}") from error
        if len(found) != shape[0]:
            raise ConfigError(f"{path}: has {len(found)} rows, not {shape[0]}; remove {self._folder}")
        return found


def _reserve(path: Path, shape: tuple[int, ...], kind: np.dtype[Any]) -> None:
    """Make a file of zeros that has its space on the disk: to write to one that has not would end the process."""
    with replace_file(path) as part:
        np.lib.format.open_memmap(part, mode="w+", dtype=kind, shape=shape)
        with part.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
