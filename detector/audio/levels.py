"""How loud a source is, and whether it is silent, clipped or off centre.

Everything is counted in samples, in windows of a second. A condition begins and ends at different
limits, and one that comes and goes is believed more slowly each time.

All that can be wrong with the sound of an open device.

How loud it has been in the last seconds.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.audio.live_source import SourceCondition
from detector.messages import AudioChunk, ConditionName

FLOOR_DBFS: Final = -120.0
"""What silence is reported as."""
FULL_SCALE: Final = 10 ** (-0.1 / 20)
"""Samples from here on (-0.1 dBFS) may be clipped."""

_SHORTEST_RUN: Final = 3
"""So many samples at full scale after each other are clipped; one or two may be a peak that just fits."""
_LONG_WINDOWS: Final = 10
_ZEROS_S: Final = 2.0
_LOW_WINDOWS: Final = 5
_SILENT_DBFS: Final = (-90.0, -87.0)
_CLIPPED_SHARE: Final = (1e-3, 2e-4)
_DC: Final = (0.02, 0.01)
"""Where each condition begins, and where it ends."""
_MOST_PATIENCE: Final = 64
_FORGIVEN_AFTER: Final = 600
"""Looks without the condition until it is believed as quickly as the first time."""


@dataclass(frozen=True, slots=True)
class Level:
    """The levels of a window."""

    rms_dbfs: float = FLOOR_DBFS
    peak_dbfs: float = FLOOR_DBFS
    dc: float = 0.0


class Debounce:
    """Tells when a condition begins and ends, once each, from looks in even steps."""

    def __init__(self, begin_after: int, end_after: int) -> None:
        """Take how many looks in a row have to agree before it begins, and before it ends."""
        self.active = False
        self._after = {False: begin_after, True: end_after}
        self._patience = 1
        self._agreed = 0
        self._calm = 0

    def check(self, *, begins: bool, ends: bool) -> bool:
        """Take a look; return whether ``active`` has changed."""
        self._calm = 0 if self.active else self._calm + 1
        if self._calm >= _FORGIVEN_AFTER:
            self._patience = 1
        self._agreed = self._agreed + 1 if (ends if self.active else begins) else 0
        if self._agreed < self._after[self.active] * (1 if self.active else self._patience):
            return False
        if not self.active:
            self._patience = min(2 * self._patience, _MOST_PATIENCE)
        self.active = not self.active
        self._agreed = 0
        return True


class Levels:
    """Measures blocks of frames as the device gives them, before they are mixed: a clipped channel shows."""

    def __init__(self, rate_hz: int) -> None:
        """Take the device's rate."""
        self._rate_hz = rate_hz
        self.level = Level()
        """Of the last whole second."""
        self.clipped_samples = 0
        """Frames in runs at full scale, since the beginning."""
        self._clipped: deque[int] = deque(maxlen=_LONG_WINDOWS)
        self._means: deque[float] = deque(maxlen=_LONG_WINDOWS)
        self._latches: dict[ConditionName, Debounce] = {
            "silent": Debounce(1, 1),
            "clipping": Debounce(1, 1),
            "dc_offset": Debounce(1, 1),
        }
        self._zeros = 0
        self._low_windows = 0
        self._run = 0
        self._clear()

    @property
    def active(self) -> tuple[ConditionName, ...]:
        """The conditions that hold."""
        return tuple(name for name, latch in self._latches.items() if latch.active)

    def push(self, frames: NDArray[np.float32]) -> list[SourceCondition]:
        """Take frames (frames, channels) and return the conditions that begin or end with them."""
        changes: list[SourceCondition] = []
        while len(frames):
            part = frames[: self._rate_hz - self._frames]
            frames = frames[len(part) :]
            self._measure(part)
            if self._frames == self._rate_hz:
                changes += self._check()
        return changes

    def _clear(self) -> None:
        self._frames = self._clipped_now = 0
        self._peak = self._energy = 0.0
        self._sums: NDArray[np.float64] | float = 0.0

    def _measure(self, part: NDArray[np.float32]) -> None:
        loudest = float(np.abs(part).max())
        if loudest == 0.0:
            self._zeros += len(part)
        else:
            self._zeros = 0 if part[-1].any() else int(np.argmax(np.any(part[::-1], axis=1)))
        if loudest >= FULL_SCALE or self._run:
            self._clipped_now += self._count_clipped(np.abs(part).max(axis=1) >= FULL_SCALE)
        self._frames += len(part)
        self._peak = max(self._peak, loudest)
        wide = part.astype(np.float64)
        self._energy += float(np.vdot(wide, wide)) / part.shape[1]
        self._sums = self._sums + np.ones(len(wide)) @ wide  # sum() takes fifteen times as long over few columns

    def _count_clipped(self, full: NDArray[np.bool_]) -> int:
        """Return how many samples at full scale have become known to stand in runs; a run goes on into the next."""
        edges = np.flatnonzero(np.diff(np.concatenate(([False], full, [False])).astype(np.int8)))
        begins, ends = edges[::2], edges[1::2]
        lengths = ends - begins
        known = 0
        if self._run and lengths.size and begins[0] == 0:
            lengths[0] += self._run
            known = self._run if self._run >= _SHORTEST_RUN else 0
        self._run = int(lengths[-1]) if lengths.size and ends[-1] == len(full) else 0
        return int(lengths[lengths >= _SHORTEST_RUN].sum()) - known

    def _check(self) -> list[SourceCondition]:
        means = np.asarray(self._sums) / self._frames
        dc = float(means[np.argmax(np.abs(means))])
        power = self._energy / self._frames
        self.level = Level(_dbfs(math.sqrt(power)), _dbfs(self._peak), dc)
        self.clipped_samples += self._clipped_now
        self._clipped.append(self._clipped_now)
        self._means.append(dc)
        moving = _dbfs(math.sqrt(max(0.0, power - float(np.square(means).mean()))))
        self._clear()
        return self._silence(moving) + self._clipping() + self._offset()

    def _silence(self, dbfs: float) -> list[SourceCondition]:
        latch = self._latches["silent"]
        zeros = self._zeros > _ZEROS_S * self._rate_hz
        self._low_windows = self._low_windows + 1 if dbfs < _SILENT_DBFS[0] else 0
        # Zeros are beyond doubt; a low floor has to last.
        if latch.check(begins=zeros or self._low_windows >= _LOW_WINDOWS, ends=dbfs > _SILENT_DBFS[1]):
            what = "only zeros come" if zeros else f"no more than {dbfs:.0f} dBFS comes"
            return [_notified("silent", latch, f"{what}: is the microphone muted, or its volume at nought?")]
        return []

    def _clipping(self) -> list[SourceCondition]:
        latch = self._latches["clipping"]
        share = sum(self._clipped) / (self._rate_hz * _LONG_WINDOWS)
        if latch.check(begins=share > _CLIPPED_SHARE[0], ends=share < _CLIPPED_SHARE[1]):
            text = f"{share:.1%} of the last 10 s are at full scale: lower the microphone's volume"
            return [_notified("clipping", latch, text)]
        return []

    def _offset(self) -> list[SourceCondition]:
        latch = self._latches["dc_offset"]
        mean = sum(self._means) / _LONG_WINDOWS
        if latch.check(begins=abs(mean) > _DC[0], ends=abs(mean) < _DC[1]):
            text = f"the samples' mean is {mean:+.3f} of full scale: the microphone or its power supply is at fault"
            return [_notified("dc_offset", latch, text)]
        return []


def _notified(name: ConditionName, latch: Debounce, trouble: str) -> SourceCondition:
    return SourceCondition(name, latch.active, trouble if latch.active else _OVER[name])


_OVER: Final[dict[ConditionName, str]] = {
    "silent": "there is sound again",
    "clipping": "the sound is below full scale again",
    "dc_offset": "the samples' mean is near nought again",
}


def _dbfs(amplitude: float) -> float:
    return max(FLOOR_DBFS, 20 * math.log10(amplitude)) if amplitude > 0 else FLOOR_DBFS


_OFF_PACE: Final = (0.03, 0.015)
"""How far from the device's rate frames come when that is told, and when it is over; crystals keep to 0.001."""


class Checks:
    """Levels and rate of one device, from its opening to its end."""

    def __init__(self, rate_hz: int) -> None:
        """Take the rate that the device claims."""
        self.levels = Levels(rate_hz)
        self._rate = RateWatch(rate_hz)

    @property
    def active(self) -> tuple[ConditionName, ...]:
        """The conditions that hold."""
        return self.levels.active + (("wrong_rate",) if self._rate.active else ())

    def push(self, frames: NDArray[np.float32], pace: float) -> list[SourceCondition]:
        """Take frames (frames, channels) and the pace at which they come; return what begins or ends with them."""
        return self.levels.push(frames) + self._rate.push(pace)

    def end(self) -> list[SourceCondition]:
        """Return the ends of the conditions that hold: the device is gone."""
        return [SourceCondition(name, active=False, detail="the microphone is away") for name in self.active]


class RateWatch:
    """Compares the rate at which frames come with the one that the device claims."""

    def __init__(self, rate_hz: int) -> None:
        """Take the rate that the device claims."""
        self._rate_hz = rate_hz
        self._latch = Debounce(2, 2)
        self._seen = self._seen_before = 1.0

    @property
    def active(self) -> bool:
        """Whether the rate is wrong."""
        return self._latch.active

    def push(self, pace: float) -> list[SourceCondition]:
        """Take the pace of the last seconds (see ``Timeline.pace``); the same one again is no second look."""
        if pace == self._seen:
            return []
        self._seen_before, self._seen = self._seen, pace
        off = abs(pace - 1)
        # Too slow and then too fast is no rate, but sound that came late.
        goes_on = (pace > 1) == (self._seen_before > 1)
        if not self._latch.check(begins=goes_on and off > _OFF_PACE[0], ends=off < _OFF_PACE[1]):
            return []
        if not self._latch.active:
            return [SourceCondition("wrong_rate", active=False, detail="frames come at the right rate again")]
        text = f"{pace * self._rate_hz:.0f} frames a second come instead of {self._rate_hz}"
        return [SourceCondition("wrong_rate", active=True, detail=f"{text}: set audio.rate_hz, or use another device")]


_PIECE_S: Final = 0.05
_PIECES: Final = 400


class Loudness:
    """Remembers the energy of the last sound, in pieces, at most 20 s and at least 400 chunks of it."""

    def __init__(self, rate_hz: int) -> None:
        """Take the rate of the chunks."""
        self._length = max(1, round(_PIECE_S * rate_hz))
        self._pieces: deque[tuple[int, int, float]] = deque(maxlen=_PIECES)

    def push(self, chunk: AudioChunk) -> None:
        """Take a chunk (n,) at any position."""
        for at in range(0, len(chunk.samples), self._length):
            piece = chunk.samples[at : at + self._length]
            self._pieces.append((chunk.first_sample + at, len(piece), float(np.dot(piece, piece))))

    def dbfs(self, first_sample: int, end_sample: int) -> float | None:
        """Return the level of a stretch of sound, to a twentieth of a second; None where it is forgotten.

        0 dBFS is a square wave at full scale, as for the levels of the source.
        """
        samples, energy = 0, 0.0
        for first, length, square in self._pieces:
            if first < end_sample and first + length > first_sample:
                samples, energy = samples + length, energy + square
        if not samples or not math.isfinite(energy):
            return None
        power = energy / samples
        return round(max(FLOOR_DBFS, 10 * math.log10(power)), 1) if power > 0 else FLOOR_DBFS
