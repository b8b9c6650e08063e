"""From the table of a class to its threshold, by a rule that holds what it promises.

A promise is a rate that the 95 % bound of the false alarms does not exceed. With T hours in which
nothing was reported the bound is 3.0 / T, so no fewer than 3.0 / rate hours can promise a rate; fewer
promise 3.0 / T.

The rule goes from the highest threshold downwards, as long as each one holds the promise, and stops
at the first that does not. Going down in a fixed order and stopping there, the bound is good for the
threshold that is chosen, though it was chosen by looking (fixed-sequence testing); and a class that
is on all the time at a low threshold, which is a single event, does not pass for one that is quiet.

Where it has come to is as low as a threshold may be. Without recordings of the class, the model's own
threshold stays if that is higher: an hour of one background says nothing of other sounds, which
the model's own was chosen on. With recordings, as many of them are found over some stretch of the
table; the model's own stays if it lies in there, else the middle is taken, as ``snn-train tune`` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from detector.calibration.counting import Row
from detector.rates import most_expected

RULE: Final = (
    "from the highest threshold down to the last whose false alarms have a 95 % bound within the promise; with "
    "recordings of the class the middle of the stretch that finds as many; the model's own where that is no worse"
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The threshold of a class."""

    label: str
    own: Row
    """At the model's own threshold."""
    chosen: Row
    is_held: bool
    """Whether the promise holds; where not, the chosen one is the highest there is."""
    rows: tuple[Row, ...]
    """All that were tried, ascending."""


def promise(hours: float, rate_per_hour: float) -> float:
    """Return the lowest rate per hour, no lower than is asked for, that so many hours can promise."""
    return max(rate_per_hour, most_expected(0) / hours)


def hours_needed(rate_per_hour: float) -> float:
    """Return how many hours without a false alarm it takes to promise a rate."""
    return most_expected(0) / rate_per_hour


def choose(label: str, own_threshold: float, rows: Sequence[Row], most_per_hour: float) -> Choice:
    """Choose from rows in ascending order, one of them the model's own, by the rule above."""
    own = next(row for row in rows if row.threshold == own_threshold)
    lowest = len(rows)
    while lowest and rows[lowest - 1].alarms.bound <= most_per_hour:
        lowest -= 1
    held = rows[lowest:]
    if not held:
        return Choice(label, own, rows[-1], is_held=False, rows=tuple(rows))
    first = held[0]
    if first.recall is None:
        chosen = max(first, own, key=lambda row: row.threshold)
    else:
        alike = [row for row in held if row.recall is not None and row.recall.hits == first.recall.hits]
        chosen = own if own in alike else alike[len(alike) // 2]
    return Choice(label, own, chosen, is_held=True, rows=tuple(rows))
