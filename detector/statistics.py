"""Proportions and hourly rates with their 95 % bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_ALPHA: Final = 0.05
_HALVINGS: Final = 60


@dataclass(frozen=True, slots=True)
class Rate:
    """A proportion with its 95 % interval (E. B. Wilson, "Probable inference", JASA 1927: the score interval)."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The proportion; NaN without any trial."""
        return self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper bound, 95 %; 0 and 1 without any trial."""
        if not self.total:
            return (0.0, 1.0)
        z, n, p = 1.96, self.total, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        return (max(0.0, centre - half), min(1.0, centre + half))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits}/{self.total} = {100 * self.value:.1f} % ({100 * low:.0f} to {100 * high:.0f} %)"


@dataclass(frozen=True, slots=True)
class HourlyRate:
    """Events in so many hours, with the upper bound of their rate, which is above 0 even without an event."""

    events: int
    hours: float

    @property
    def value(self) -> float:
        """Events per hour; NaN without any hour."""
        return self.events / self.hours if self.hours else math.nan

    @property
    def bound(self) -> float:
        """One-sided 95 % upper bound of the rate per hour (see ``poisson_upper_bound``); infinite without any hour."""
        return poisson_upper_bound(self.events) / self.hours if self.hours else math.inf


def poisson_upper_bound(events: int) -> float:
    """Return the exact one-sided 95 % upper bound of the mean of a Poisson count: 3.0 for a count of 0.

    It is the mean at which so many events or fewer occur in 5 % of all cases (F. Garwood, "Fiducial limits for the
    Poisson distribution", Biometrika 1936). Raises ValueError for a negative count.
    """
    if events < 0:
        raise ValueError(f"a count cannot be {events}")
    low, high = float(events), events + 4 * math.sqrt(events + 1) + 4
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(events, middle) > _ALPHA else (low, middle)
    return high


def _at_most(events: int, mean: float) -> float:
    """Return the probability of so many events or fewer."""
    log_mean = math.log(mean) if mean > 0 else -math.inf
    return math.fsum(math.exp(k * log_mean - mean - math.lgamma(k + 1)) for k in range(events + 1))
