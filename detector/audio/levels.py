"""Levels in dBFS, and what follows from them: silence, clipping, DC offset, a wrong rate, a wrong scale, cancellation.

Everything is counted in samples, in windows of a second. A condition begins and ends at different
limits (hysteresis), and one that comes and goes needs to last longer each time before it is reported.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.audio.live_source import SourceCondition
from detector.messages import AudioChunk, ConditionName, Samples

FLOOR_DBFS: Final = -120.0
"""The level that silence is reported as."""
FULL_SCALE: Final = 10 ** (-0.1 / 20)
"""Samples from here on (-0.1 dBFS) may be clipped."""

_SHORTEST_RUN: Final = 3
"""So many consecutive samples at full scale are clipped; one or two may be a peak that just fits."""
_LONG_WINDOWS: Final = 10
_ZEROS_S: Final = 2.0
_LOW_WINDOWS: Final = 5
_SILENT_DBFS: Final = (-90.0, -87.0)
_CLIPPED_SHARE: Final = (1e-3, 2e-4)
_DC: Final = (0.02, 0.01)
"""Where each condition begins, and where it ends."""
_MAX_PATIENCE: Final = 64
_FORGIVEN_AFTER: Final = 600
"""Checks without the condition until it is reported as quickly as the first time."""
_OVER: Final[dict[ConditionName, str]] = {
    "silent": "there is sound again",
    "clipping": "the sound is below full scale again",
    "dc_offset": "the mean of the samples is near zero again",
}
_OFF_PACE: Final = (0.03, 0.015)
"""Relative deviation of the rate at which it is reported, and below which it is over; crystals keep to 0.001."""
_CANCELLED_S: Final = 3
_SOUNDING: Final = 1e-7
"""Mean square from which on channels hold sound: -70 dBFS."""
_CANCELLED: Final = 1e-2
_PIECE_S: Final = 0.05
_PIECES: Final = 400


def amplitude_dbfs(amplitude: float) -> float:
    """Return the level of an amplitude (1 is full scale), at least FLOOR_DBFS."""
    return max(FLOOR_DBFS, 20 * math.log10(amplitude)) if amplitude > 0 else FLOOR_DBFS


def power_dbfs(power: float) -> float:
    """Return the level of a mean square, at least FLOOR_DBFS; 0 dBFS is a square wave at full scale."""
    return max(FLOOR_DBFS, 10 * math.log10(power)) if power > 0 else FLOOR_DBFS


class CancellationCheck:
    """Whether the mean of channels lies 20 dB or more below them: they cancel, as where one wire is swapped."""

    def __init__(self, rate_hz: int) -> None:
        """Take the rate of the frames."""
        self._rate_hz = rate_hz
        self._frames = 0
        self._energy = self._mean_energy = 0.0
        self._sounding = self._cancelled = 0
        self._lost_db = 0.0
        self._reported = False

    def push(self, frames: NDArray[np.float32], mean: Samples) -> float | None:
        """Process frames (n, channels) and their mean (n,); return the decibels lost, once, if they cancel for 3 s."""
        self._energy += float(np.einsum("ij,ij->", frames, frames)) / frames.shape[1]
        self._mean_energy += float(np.einsum("i,i->", mean, mean))
        self._frames += len(frames)
        if self._frames < self._rate_hz:
            return None
        self._evaluate(frames.shape[1])
        return self._report(self._cancelled >= _CANCELLED_S)

    def end(self, channels: int) -> float | None:
        """Return the decibels lost where shorter sound cancelled all the time, and that was not returned before."""
        if self._frames:
            self._evaluate(channels)
        return self._report(0 < self._cancelled == self._sounding)

    def _report(self, cancels: bool) -> float | None:
        if self._reported or not cancels:
            return None
        self._reported = True
        return self._lost_db

    def _evaluate(self, channels: int) -> None:
        """Evaluate the window that is full: independent channels lose 10 lg(channels) dB as well."""
        if self._energy > _SOUNDING * self._frames:
            self._sounding += 1
            cancels = self._mean_energy <= self._energy * _CANCELLED * min(1, 2 / channels)
            self._cancelled = self._cancelled + 1 if cancels else 0
            self._lost_db = 10 * math.log10(self._energy / max(self._mean_energy, 1e-12 * self._energy))
        self._frames = 0
        self._energy = self._mean_energy = 0.0


def loudest(frames: NDArray[np.float32]) -> float:
    """Return the largest magnitude in frames (frames, channels), at least one; NaN where there is one."""
    return max(float(frames.max()), -float(frames.min()))


@dataclass(frozen=True, slots=True)
class Level:
    """The levels of a window; silence by default."""

    rms_dbfs: float = FLOOR_DBFS
    peak_dbfs: float = FLOOR_DBFS
    dc: float = 0.0


class Debounce:
    """Whether a condition is active, from checks at regular intervals."""

    def __init__(self, begin_after: int, end_after: int) -> None:
        """Take how many consecutive checks have to agree before it begins, and before it ends."""
        self.active = False
        self._after = {False: begin_after, True: end_after}
        self._patience = 1
        self._agreed = 0
        self._calm = 0

    def check(self, *, begins: bool, ends: bool) -> bool:
        """Process the result of a check; return whether ``active`` has changed."""
        self._calm = 0 if self.active else self._calm + 1
        if self._calm >= _FORGIVEN_AFTER:
            self._patience = 1
        self._agreed = self._agreed + 1 if (ends if self.active else begins) else 0
        if self._agreed < self._after[self.active] * (1 if self.active else self._patience):
            return False
        if not self.active:
            self._patience = min(2 * self._patience, _MAX_PATIENCE)
        self.active = not self.active
        self._agreed = 0
        return True


class Levels:
    """Levels and conditions of frames as the device delivers them, before channels are mixed: any may be clipped."""

    def __init__(self, rate_hz: int) -> None:
        """Take the device's rate."""
        self._rate_hz = rate_hz
        self.level = Level()
        """Of the last whole second."""
        self.clipped_samples = 0
        """Frames in runs at full scale, since the beginning."""
        self._clipped: deque[int] = deque(maxlen=_LONG_WINDOWS)
        self._means: deque[float] = deque(maxlen=_LONG_WINDOWS)
        self._conditions: dict[ConditionName, Debounce] = {
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
        """The conditions that are active."""
        return tuple(name for name, state in self._conditions.items() if state.active)

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
        peak = loudest(part)
        if peak == 0.0:
            self._zeros += len(part)
        else:
            self._zeros = 0 if part[-1].any() else int(np.argmax(np.any(part[::-1], axis=1)))
        if peak >= FULL_SCALE or self._run:
            self._clipped_now += self._count_clipped(np.abs(part).max(axis=1) >= FULL_SCALE)
        self._frames += len(part)
        self._peak = max(self._peak, peak)
        wide = part.astype(np.float64)
        # einsum, since products of long vectors by BLAS wake its threads, which then spin.
        self._energy += float(np.einsum("ij,ij->", wide, wide)) / part.shape[1]
        # Channel by channel, since a sum over the long axis of a block takes ten times as long.
        self._sums = self._sums + np.array([wide[:, channel].sum() for channel in range(part.shape[1])])

    def _count_clipped(self, full: NDArray[np.bool_]) -> int:
        """Return how many more samples at full scale are known to belong to a run; runs continue over blocks."""
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
        self.level = Level(power_dbfs(power), amplitude_dbfs(self._peak), dc)
        self.clipped_samples += self._clipped_now
        self._clipped.append(self._clipped_now)
        self._means.append(dc)
        moving = power_dbfs(max(0.0, power - float(np.square(means).mean())))
        self._clear()
        return self._silence(moving) + self._clipping() + self._offset()

    def _silence(self, dbfs: float) -> list[SourceCondition]:
        state = self._conditions["silent"]
        zeros = self._zeros > _ZEROS_S * self._rate_hz
        self._low_windows = self._low_windows + 1 if dbfs < _SILENT_DBFS[0] else 0
        # Zeros are certain; a low level has to last.
        if state.check(begins=zeros or self._low_windows >= _LOW_WINDOWS, ends=dbfs > _SILENT_DBFS[1]):
            what = "only zeros arrive" if zeros else f"the level is only {dbfs:.0f} dBFS"
            return [_changed("silent", state, f"{what}: is the microphone muted, or its volume at zero?")]
        return []

    def _clipping(self) -> list[SourceCondition]:
        state = self._conditions["clipping"]
        share = sum(self._clipped) / (self._rate_hz * _LONG_WINDOWS)
        if state.check(begins=share > _CLIPPED_SHARE[0], ends=share < _CLIPPED_SHARE[1]):
            text = f"{share:.1%} of the last 10 s are at full scale: lower the microphone's volume"
            return [_changed("clipping", state, text)]
        return []

    def _offset(self) -> list[SourceCondition]:
        state = self._conditions["dc_offset"]
        mean = sum(self._means) / _LONG_WINDOWS
        if state.check(begins=abs(mean) > _DC[0], ends=abs(mean) < _DC[1]):
            text = f"the mean of the samples is {mean:+.3f} of full scale: check the microphone and its power supply"
            return [_changed("dc_offset", state, text)]
        return []


def _changed(name: ConditionName, state: Debounce, trouble: str) -> SourceCondition:
    return SourceCondition(name, state.active, trouble if state.active else _OVER[name])


class Checks:
    """Levels, conditions and rate of one device while it is open."""

    def __init__(self, rate_hz: int, noun: str = "the microphone") -> None:
        """Take the nominal rate of the device, and what messages call it."""
        self._noun = noun
        self.levels = Levels(rate_hz)
        self._rate = RateWatch(rate_hz)

    @property
    def active(self) -> tuple[ConditionName, ...]:
        """The conditions that are active."""
        return self.levels.active + (("wrong_rate",) if self._rate.active else ())

    def push(self, frames: NDArray[np.float32], pace: float) -> list[SourceCondition]:
        """Process frames (frames, channels) and their pace (see ``Timeline``); return the conditions that change."""
        return self.levels.push(frames) + self._rate.push(pace)

    def end(self) -> list[SourceCondition]:
        """Return the ends of the active conditions: the device is gone."""
        return [SourceCondition(name, active=False, detail=f"{self._noun} is disconnected") for name in self.active]


class RateWatch:
    """Compares the rate at which frames arrive with the nominal one."""

    def __init__(self, rate_hz: int) -> None:
        """Take the nominal rate of the device."""
        self._rate_hz = rate_hz
        self._state = Debounce(2, 2)
        self._seen = self._seen_before = 1.0

    @property
    def active(self) -> bool:
        """Whether the rate is wrong."""
        return self._state.active

    def push(self, pace: float) -> list[SourceCondition]:
        """Process the pace of the last seconds (see ``Timeline.pace``); the same value again is not a second check."""
        if pace == self._seen:
            return []
        self._seen_before, self._seen = self._seen, pace
        off = abs(pace - 1)
        # Too slow and then too fast is not a wrong rate, but sound that was delivered late.
        goes_on = (pace > 1) == (self._seen_before > 1)
        if not self._state.check(begins=goes_on and off > _OFF_PACE[0], ends=off < _OFF_PACE[1]):
            return []
        if not self._state.active:
            return [SourceCondition("wrong_rate", active=False, detail="frames arrive at the nominal rate again")]
        text = f"{pace * self._rate_hz:.0f} frames per second arrive instead of {self._rate_hz}"
        return [SourceCondition("wrong_rate", active=True, detail=f"{text}: set audio.rate_hz, or use another device")]


class Loudness:
    """Energy of the latest sound, in pieces of a twentieth of a second: at most 20 s, at least 400 chunks."""

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
        """Return the RMS level between two samples, to a twentieth of a second; None where it is not kept any more."""
        samples, energy = 0, 0.0
        for first, length, square in self._pieces:
            if first < end_sample and first + length > first_sample:
                samples, energy = samples + length, energy + square
        if not samples or not math.isfinite(energy):
            return None
        return round(power_dbfs(energy / samples), 1)
