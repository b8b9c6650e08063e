"""A pool gives its examples in every pass, and goes on where a run was interrupted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.errors import ConfigError
from models.training.pool import Batch, ExamplePool

SIZE, BATCH = 12, 3
BLOCKS = SIZE // BATCH


class Maker:
    """Makes blocks of examples that say which ones they are, and counts them."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, numbers: Sequence[int]) -> Iterator[Batch]:
        for number in numbers:
            self.made.append(number)
            rows = np.arange(number * BATCH, (number + 1) * BATCH)
            yield (
                torch.from_numpy(np.repeat(rows[:, None], 5, 1).astype(np.float32)),
                torch.from_numpy(rows.astype(np.uint8)),
            )


def taken(folder: Path, first: int, count: int, maker: Maker) -> list[list[int]]:
    pool, found = ExamplePool(folder, SIZE, BATCH, seed=7), []
    for values, rows in itertools.islice(pool.batches(first, maker), count):
        assert (values == rows[:, None]).all()
        assert values.dtype == torch.float32
        found.append(rows.tolist())
    return found


def test_each_pass_has_every_example_once_in_another_order(tmp_path: Path) -> None:
    maker = Maker()
    batches = taken(tmp_path, 0, 3 * BLOCKS, maker)
    passes = [list(itertools.chain(*batches[at : at + BLOCKS])) for at in range(0, 3 * BLOCKS, BLOCKS)]
    assert passes[0] == list(range(SIZE))
    assert all(sorted(rows) == list(range(SIZE)) for rows in passes)
    assert len({tuple(rows) for rows in passes}) == 3
    assert maker.made == list(range(BLOCKS))


def test_a_complete_pool_asks_for_no_examples(tmp_path: Path) -> None:
    expected = taken(tmp_path, 0, 2 * BLOCKS, Maker())

    def never(numbers: Sequence[int]) -> Iterator[Batch]:
        raise AssertionError(numbers)

    pool = ExamplePool(tmp_path, SIZE, BATCH, seed=7)
    again = [rows.tolist() for _, rows in itertools.islice(pool.batches(BLOCKS, never), BLOCKS)]
    assert again == expected[BLOCKS:]


@pytest.mark.parametrize("end", [1, 3, 4, 6, 9])
def test_an_interrupted_run_goes_on(tmp_path: Path, end: int) -> None:
    whole, first, second = Maker(), Maker(), Maker()
    expected = taken(tmp_path / "whole", 0, 11, whole)
    found = taken(tmp_path / "parts", 0, end, first) + taken(tmp_path / "parts", end, 11 - end, second)
    assert found == expected
    assert sorted(first.made + second.made) == list(range(BLOCKS)), "none is made twice"


def test_examples_that_were_removed_are_made_again(tmp_path: Path) -> None:
    expected = taken(tmp_path / "whole", 0, 11, Maker())
    assert taken(tmp_path / "removed", 6, 5, Maker()) == expected[6:]


def test_a_pool_of_another_size_is_refused(tmp_path: Path) -> None:
    taken(tmp_path, 0, 1, Maker())
    with pytest.raises(ConfigError, match=r"made\.npy: has 4 rows, not 8; remove"):
        ExamplePool(tmp_path, 2 * SIZE, BATCH, seed=7)


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ConfigError, match=r"cannot be used \(.*No space left on device\); make room or remove"):
        ExamplePool(tmp_path, SIZE, BATCH, seed=7)
    assert list(tmp_path.iterdir()) == []
