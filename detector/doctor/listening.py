"""Some seconds of listening, as the service listens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from detector.messages import Samples
from detector.microphone.levels import Level
from detector.microphone.news import Condition, Figures, LiveSource, Lost, Sound

SECONDS: Final = 3.0
_OPENING_S: Final = 12.0
"""Time for the device to give its first sound; a sound server may need some."""
_BEYOND_S: Final = 0.2
"""Sound on its way through the resampler when the device has given enough."""
_TURN_S: Final = 0.2
_WAITING: Final = "waiting for the microphone: "


@dataclass(slots=True)
class Heard:
    """What was heard, and how."""

    figures: Figures
    """At the end."""
    levels: list[Level] = field(default_factory=list)
    """Of each whole second; none of zeros alone."""
    chunks: list[Samples] = field(default_factory=list)
    """At the model's rate."""
    rate_hz: int = 0
    """The model's."""
    wall_s: float = 0.0
    """Between the arrivals of the first chunk and of the last."""
    lost_s: float = 0.0
    trouble: str | None = None
    """Why nothing is heard; None: something is."""

    @property
    def seconds(self) -> float:
        """Length of the sound."""
        return sum(map(len, self.chunks)) / self.rate_hz

    @property
    def pace(self) -> float | None:
        """Sound that came in a second; None where that cannot be told."""
        later = sum(map(len, self.chunks[1:])) / self.rate_hz
        return later / self.wall_s if later > SECONDS / 2 and self.wall_s > 0 else None

    @property
    def longest_zeros_s(self) -> float:
        """The longest stretch of nothing but zeros."""
        samples = np.concatenate([np.zeros(0, np.float32), *self.chunks])
        edges = np.flatnonzero(np.concatenate(([True], samples != 0, [True])))
        return float(np.diff(edges).max() - 1) / self.rate_hz


def listen(source: LiveSource, rate_hz: int) -> Heard:
    """Listen for some seconds to an open source, and return what came; a device that is away is not waited for."""
    heard = Heard(source.figures, rate_hz=rate_hz)
    deadline, first_s = time.monotonic() + _OPENING_S, None
    while heard.trouble is None and heard.seconds < SECONDS + _BEYOND_S:
        news = source.take(_TURN_S)
        now_s = time.monotonic()
        _note(heard, news or [])
        heard.figures = source.figures
        _note_level(heard)
        if heard.chunks:
            first_s = first_s or now_s
            heard.wall_s = now_s - first_s
        elif news is None or now_s > deadline:
            heard.trouble = f"no sound has come within {_OPENING_S:g} s"
        if first_s is not None and now_s > first_s + 2 * _OPENING_S:
            break
    return heard


def _note(heard: Heard, news: Sequence[Sound | Lost | Condition]) -> None:
    arrived = [item.chunk.samples for item in news if isinstance(item, Sound)]
    if arrived:
        heard.chunks.append(np.concatenate(arrived))
    heard.lost_s += sum(item.samples for item in news if isinstance(item, Lost)) / heard.rate_hz
    for condition in (item for item in news if isinstance(item, Condition)):
        if condition.name == "waiting" and condition.active:
            heard.trouble = condition.detail.removeprefix(_WAITING)


def _note_level(heard: Heard) -> None:
    """Keep the level of a second that is over: it differs from the one before unless both are silence."""
    f = heard.figures
    level = Level(f.rms_dbfs, f.peak_dbfs, f.dc)
    if level not in (Level(), *heard.levels[-1:]):
        heard.levels.append(level)
