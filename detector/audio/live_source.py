"""What comes from a live source: sound, what was lost, and how the source is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias

from detector.messages import AudioChunk, ConditionName, GapCause


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """A chunk at the model's rate, and when its last sample had been heard."""

    chunk: AudioChunk
    received_at_s: float
    """``time.monotonic()`` of the last sample, as well as the device tells."""


@dataclass(frozen=True, slots=True)
class AudioGap:
    """Sound that never arrived; the next chunk has its ``gap`` set and counts on behind it."""

    first_sample: int
    samples: int
    """Length at the model's rate; an estimate by the clock where the device does not tell."""
    cause: GapCause


@dataclass(frozen=True, slots=True)
class SourceCondition:
    """Something about the source that has begun or ended; told once each time."""

    name: ConditionName
    active: bool
    detail: str
    """One line for people: what is the matter and what to do, or that it is over."""


SourceEvent: TypeAlias = AudioBlock | AudioGap | SourceCondition


@dataclass(frozen=True, slots=True)
class SourceStats:
    """Counts since the source was opened, and levels of the last second."""

    device: str
    """Stable id of the open device, else what was asked for."""
    device_rate_hz: int
    """0 while there is none."""
    device_channels: int
    is_open: bool
    conditions: tuple[ConditionName, ...]
    """Those that hold now."""
    lost_s: float
    overruns: int
    reopens: int
    clipped_samples: int
    rms_dbfs: float
    peak_dbfs: float
    dc: float
    """Mean of the samples, full scale is 1."""
    queue_depth: float
    """Share of the buffer that is filled, 0 to 1."""
    is_stuck: bool = False
    """Whether no sound comes though the device is not away; a new process may help."""


class LiveSource(Protocol):
    """Sound that arrives by itself."""

    @property
    def stats(self) -> SourceStats:
        """How the source is and has been."""

    def take(self, timeout_s: float) -> list[SourceEvent] | None:
        """Return what has arrived, oldest first, waiting for it at most that long; None behind the end of the sound.

        Raises SourceError where the sound cannot go on, behind all that arrived.
        """

    def close(self) -> None:
        """Stop listening and release the device."""
