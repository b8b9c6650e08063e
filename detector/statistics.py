"""Shares and rates with what is known of them: how often something happened, and how often it may happen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_ALPHA: Final = 0.05
_HALVINGS: Final = 60


@dataclass(frozen=True, slots=True)
class Rate:
    """A share of clips with its 95 % interval (Wilson's score interval)."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The share itself; not a number where there are no clips."""
        return self.hits / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The share's 95 % interval."""
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
    """Events in so many hours, and the rate that they allow: a rate is never known as 0.0."""

    events: int
    hours: float

    @property
    def value(self) -> float:
        """Events per hour; not a number where there are no hours."""
        return self.events / self.hours if self.hours else math.nan

    @property
    def bound(self) -> float:
        """The largest rate, per hour, that these events do not speak against at 95 % (see ``most_expected``)."""
        return most_expected(self.events) / self.hours if self.hours else math.inf


def most_expected(events: int) -> float:
    """Return the exact one-sided 95 % upper bound of the mean of a Poisson count: 3.0 where nothing was counted.

    It is the mean at which so few events or fewer come in 5 % of all cases (F. Garwood, "Fiducial limits for the
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
