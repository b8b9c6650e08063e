"""Pauses between retries."""

from __future__ import annotations


class Backoff:
    """Exponential backoff: each pause is twice the one before, between two bounds (in seconds)."""

    def __init__(self, shortest_s: float, longest_s: float, *, first_s: float | None = None) -> None:
        """Take the bounds; ``first_s``: the first pause, until ``reset`` (default: the shortest)."""
        self._shortest_s, self._longest_s = min(shortest_s, longest_s), longest_s
        self._pause_s = self._shortest_s if first_s is None else min(first_s, longest_s)

    def next_s(self) -> float:
        """Return the pause before the next attempt, in seconds."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Begin again with the shortest pause: an attempt has succeeded."""
        self._pause_s = self._shortest_s
