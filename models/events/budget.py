"""How many false alarms each class may bring: the same for all, or what together is most worth a number of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Point = tuple[int, int]
"""False alarms and missed events of one set of values."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What may be borne, in false alarms per hour."""

    per_hour: float
    together: bool = False
    """Of all classes together; else of each."""

    @property
    def rule(self) -> str:
        """Say what is chosen, for the model's record."""
        if self.together:
            return (
                f"lowest mean miss rate at no more than {self.per_hour:g} false alarms per hour of all classes together"
            )
        return f"lowest miss rate at no more than {self.per_hour:g} false alarms per hour"


def shares(points: Sequence[Sequence[Point]], references: Sequence[int], most: float) -> list[int]:
    """Return how many false alarms each class may bring, so that all together bring at most ``most``.

    ``points`` holds for each class what can be had. Each class begins with its fewest; then, as long as
    alarms are left, that class gets more whose miss rate falls most for each of them. A class without
    references stays where it began. The beginnings alone may be more than ``most``.
    """
    fronts = [_front(own) for own in points]
    places = [0] * len(fronts)
    while steps := list(_steps(fronts, places, references, most)):
        _, c, place = max(steps)
        places[c] = place
    return [front[place][0] for front, place in zip(fronts, places, strict=True)]


def _steps(
    fronts: Sequence[Sequence[Point]], places: Sequence[int], references: Sequence[int], most: float
) -> Iterator[tuple[float, int, int]]:
    """Yield what one alarm more is worth, the class, and the place on its front, of every step that can be borne."""
    left = most - sum(front[place][0] for front, place in zip(fronts, places, strict=True))
    for c, (front, here) in enumerate(zip(fronts, places, strict=True)):
        for place in range(here + 1, len(front)):
            more, fewer = front[place][0] - front[here][0], front[here][1] - front[place][1]
            if references[c] and more <= left:
                yield fewer / references[c] / more, c, place


def _front(points: Sequence[Point]) -> list[Point]:
    """Return the points that nothing beats in both, by rising false alarms."""
    front: list[Point] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front
