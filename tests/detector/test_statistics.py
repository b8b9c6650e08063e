"""Proportions and rates: their bounds against those of textbooks."""

from __future__ import annotations

import math

import pytest
from scipy import special

from detector.statistics import HourlyRate, Rate, poisson_upper_bound


@pytest.mark.parametrize("events", [0, 1, 2, 10, 400, 5000])
def test_the_bound_of_a_count_is_the_exact_one(events: int) -> None:
    # Half a quantile of chi-squared with 2 * (events + 1) degrees of freedom.
    assert poisson_upper_bound(events) == pytest.approx(special.gammaincinv(events + 1, 0.95), rel=1e-9)


def test_no_false_alarm_is_no_rate_of_nothing() -> None:
    quiet = HourlyRate(0, 10)
    assert (quiet.value, round(quiet.bound, 2)) == (0, 0.30)
    assert round(HourlyRate(2, 24).bound, 2) == 0.26
    assert HourlyRate(0, 0).bound == math.inf
    with pytest.raises(ValueError, match="-1"):
        poisson_upper_bound(-1)


def test_a_share_has_wilsons_interval() -> None:
    assert str(Rate(13, 13)) == "13/13 = 100.0 % (77 to 100 %)"
    assert Rate(0, 0).interval == (0.0, 1.0)
