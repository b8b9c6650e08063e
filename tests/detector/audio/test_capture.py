"""The queue behind the capture thread: bounded, in order, and it reports what it drops."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from detector.audio.capture import Block, BlockQueue, StreamFormat
from detector.audio.live_source import SourceCondition
from detector.messages import GapCause

RATE = 1000
FORMAT = StreamFormat("thing", RATE, 2, None)


def block(number: int, frames: int = 100, cause: GapCause | None = None, form: StreamFormat = FORMAT) -> Block:
    data = np.full((frames, form.channels), number, np.float32)
    return Block(memoryview(data.tobytes()), frames, form, float(number), cause=cause)


def numbers(items: list[Block | SourceCondition]) -> list[float]:
    return [item.arrived_s for item in items if isinstance(item, Block)]


def test_blocks_are_returned_in_the_order_of_their_arrival() -> None:
    queue = BlockQueue(5.0)
    for i in range(10):
        queue.put(block(i))
    assert queue.depth == pytest.approx(0.2)
    taken = queue.take(0)
    assert numbers(taken) == list(range(10))
    assert all(isinstance(b, Block) and b.dropped == 0 and b.cause is None for b in taken)
    assert queue.take(0) == []
    assert (queue.depth, queue.overflows) == (0, 0)


def test_the_oldest_blocks_are_dropped_and_the_next_one_notes_it() -> None:
    queue = BlockQueue(1.0)
    for i in range(25):
        queue.put(block(i))
    assert queue.depth == pytest.approx(1.0)
    first, *rest = queue.take(0)
    assert isinstance(first, Block)
    assert (first.arrived_s, first.dropped, first.cause) == (15, 1500, None)
    assert numbers(rest) == list(range(16, 25))
    assert queue.overflows == 1
    for i in range(12):
        queue.put(block(i))
    assert queue.overflows == 2


def test_the_cause_of_a_gap_before_a_dropped_block_is_kept() -> None:
    queue = BlockQueue(0.5)
    for i in range(8):
        queue.put(block(i, cause="suspended" if i == 2 else None))
    first = queue.take(0)[0]
    assert isinstance(first, Block)
    assert (first.arrived_s, first.dropped, first.cause) == (3, 300, "suspended")


def test_dropped_frames_of_another_rate_are_left_to_the_clock() -> None:
    queue = BlockQueue(0.5)
    for i in range(3):
        queue.put(block(i))
    for i in range(3, 8):
        queue.put(block(i, form=StreamFormat("thing", 2 * RATE, 2, None), frames=200))
    first = queue.take(0)[0]
    assert isinstance(first, Block)
    assert (first.arrived_s, first.cause) == (3, "queue")


def test_conditions_keep_their_place_and_are_not_dropped_for_sound() -> None:
    queue = BlockQueue(0.5)
    queue.put(SourceCondition("waiting", active=True, detail="away"))
    for i in range(9):
        queue.put(block(i))
    queue.put(SourceCondition("waiting", active=False, detail="back"))
    taken = queue.take(0)
    assert [c.active for c in taken if isinstance(c, SourceCondition)] == [True, False]
    assert isinstance(taken[0], SourceCondition)
    assert isinstance(taken[-1], SourceCondition)
    assert numbers(taken) == [4, 5, 6, 7, 8]


def test_the_queue_is_bounded_without_a_consumer() -> None:
    queue = BlockQueue(0.5)
    for i in range(1000):
        queue.put(SourceCondition("waiting", active=i % 2 == 0, detail=str(i)))
        queue.put(block(i))
    taken = queue.take(0)
    assert len(taken) <= 110
    assert isinstance(taken[-2], SourceCondition)
    assert taken[-2].detail == "999"


def test_one_block_is_kept_however_long_it_is() -> None:
    queue = BlockQueue(0.05)
    queue.put(block(1))
    queue.put(block(2))
    assert numbers(queue.take(0)) == [2]


def test_taking_waits_for_an_item_up_to_the_timeout() -> None:
    queue = BlockQueue(1.0)
    begin = time.monotonic()
    assert queue.take(0.2) == []
    assert time.monotonic() - begin >= 0.19
    threading.Timer(0.1, queue.put, (block(7),)).start()
    assert numbers(queue.take(30)) == [7]


def test_samples_of_all_channels_and_of_one() -> None:
    data = np.arange(8, dtype=np.float32).reshape(4, 2)
    view = memoryview(data.tobytes())
    np.testing.assert_array_equal(Block(view, 4, FORMAT, 0.0).samples(), data)
    right = StreamFormat("thing", RATE, 2, 1)
    np.testing.assert_array_equal(Block(view, 4, right, 0.0).samples(), data[:, 1:])
