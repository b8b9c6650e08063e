"""Where blocks of sound lie in time, from when they arrive: a block can come late, but never early."""

from __future__ import annotations

import math
from typing import Final

from detector.microphone.blocks import Block

_SPAN_S: Final = 5.0
"""Within this time, some block is taken to arrive without delay."""


class Timeline:
    """Says when sound was heard, how much of it was lost before it, and how fast it comes.

    Blocks follow each other without a gap in a run; when the first frame of a run was heard is told
    by the block that came with the least delay lately. At a gap a new run begins, and the clock says
    how long the gap was. Seconds are those of the clock that gave ``Block.arrived_s``.
    """

    def __init__(self) -> None:
        """Begin with the first block."""
        self._heard_until_s: float | None = None
        self._begin(0.0)

    @property
    def pace(self) -> float:
        """Frames that arrived in the last seconds, in proportion to those that should have; 1 until that is known."""
        return self._pace

    def place(self, block: Block) -> tuple[float, float]:
        """Return the seconds lost before a block, and when its last frame was heard."""
        rate_hz = block.format.rate_hz
        arrived_s = block.arrived_s - block.left / rate_hz
        lost_s = block.dropped / rate_hz
        if block.cause is not None or self._heard_until_s is None:
            begin_s = arrived_s - block.frames / rate_hz
            lost_s = 0.0 if self._heard_until_s is None else max(0.0, begin_s - self._heard_until_s)
            self._begin(arrived_s)
        self._run_s += block.frames / rate_hz + (lost_s if block.cause is None else 0.0)
        self._notice(arrived_s - self._run_s, arrived_s)
        self._heard_until_s = self._run_s + min(self._least_s, self._least_before_s)
        return lost_s, self._heard_until_s

    def _begin(self, at_s: float) -> None:
        self._run_s = 0.0
        self._pace = 1.0
        self._least_s = self._least_before_s = math.inf
        self._span_ends_s = at_s + _SPAN_S

    def _notice(self, began_s: float, at_s: float) -> None:
        """Take in when the run seems to have begun, by one block."""
        if at_s >= self._span_ends_s:
            passed_s = at_s - self._span_ends_s + _SPAN_S
            if math.isfinite(self._least_before_s):
                self._pace = 1 - min(1.0, (self._least_s - self._least_before_s) / passed_s)
            self._least_before_s, self._least_s = self._least_s, math.inf
            self._span_ends_s = at_s + _SPAN_S
        self._least_s = min(self._least_s, began_s)
