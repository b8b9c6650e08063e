"""The choice of a threshold from a table of counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from detector.calibration.report import Choice, Row, choose, hours_needed, promise
from detector.statistics import HourlyRate, Rate

THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)


def chosen(events: Sequence[int], hours: float = 10, own: float = 0.5, hits: Sequence[int] = ()) -> Choice:
    recalls = [Rate(n, 10) if hits else None for n in hits or events]
    rows = [Row(t, HourlyRate(n, hours), r) for t, n, r in zip(THRESHOLDS, events, recalls, strict=True)]
    return choose("guitar", own, rows, promise(hours, 1.0))


def test_few_hours_promise_three_alarms_in_their_time_at_best() -> None:
    assert promise(1, 1) == pytest.approx(2.996, abs=1e-3)
    assert promise(8, 1) == 1
    assert hours_needed(0.5) == pytest.approx(5.99, abs=1e-2)


@pytest.mark.parametrize(
    ("events", "own", "threshold"),
    [
        ((40, 30, 20, 4, 0), 0.5, 0.6),  # 4 in 10 h may be 0.92 an hour, 5 would be 1.05
        ((40, 30, 20, 5, 0), 0.5, 0.7),
        ((0, 0, 0, 0, 0), 0.5, 0.5),  # an hour of silence proves nothing about other sounds
        ((0, 0, 0, 0, 0), 0.3, 0.3),
        ((1, 30, 20, 0, 0), 0.3, 0.6),  # one event that lasts all the time is not a quiet class
    ],
)
def test_the_lowest_threshold_that_meets_the_bound_but_not_below_the_models_own(
    events: Sequence[int], own: float, threshold: float
) -> None:
    choice = chosen(events, own=own)
    assert choice.is_held
    assert choice.chosen.threshold == threshold
    assert choice.own.threshold == own


def test_a_bound_that_cannot_be_met_gives_the_highest_threshold() -> None:
    choice = chosen((90, 80, 70, 60, 50))
    assert not choice.is_held
    assert choice.chosen.threshold == 0.7


@pytest.mark.parametrize(
    ("hits", "own", "threshold"),
    [
        ((9, 9, 9, 5, 2), 0.6, 0.4),  # lower than the model's own, which finds fewer: the middle of three
        ((9, 9, 9, 5, 2), 0.5, 0.5),  # the model's own finds as many
    ],
)
def test_recordings_lower_a_threshold(hits: Sequence[int], own: float, threshold: float) -> None:
    assert chosen((0, 0, 0, 0, 0), own=own, hits=hits).chosen.threshold == threshold
