from __future__ import annotations

from detector.system.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0)

    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_success_brings_back_the_shortest_pause() -> None:
    backoff = Backoff(0.5, 60.0)
    backoff.next_s()
    backoff.next_s()

    backoff.reset()

    assert [backoff.next_s(), backoff.next_s()] == [0.5, 1.0]


def test_the_first_pause_can_be_another_one() -> None:
    backoff = Backoff(0.5, 10.0, first_s=10.0)

    assert [backoff.next_s(), backoff.next_s()] == [10.0, 10.0]

    backoff.reset()

    assert backoff.next_s() == 0.5


def test_no_pause_is_longer_than_the_longest() -> None:
    assert Backoff(0.5, 0.2).next_s() == 0.2
    assert Backoff(0.5, 2.0, first_s=8.0).next_s() == 2.0
