"""A plan's stretches as samples, each with the reference of what is heard in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from models import augment
from models.augment import Wave
from models.delays import JOIN_S
from models.scenes.backgrounds import compose
from models.scenes.plan import Placed, Stretch
from models.scenes.sounds import Heard, Sound, arrive

_FADE_S = 0.05
"""Of the background at the ends of a stretch."""
_QUIET_DB = -35.0
"""A background's RMS below the level of a stretch on which nothing is placed."""
_FULL = 1 - 2.0**-15


@dataclass(frozen=True, slots=True)
class Reference:
    """A sound of a scene: what a detector should, or of no class should not, tell of."""

    label: str | None
    onset: int
    """Sample of the stream at which it is first heard."""
    offset: int
    """The one behind the last."""
    snr_db: float | None
    """None over silence."""
    level_db: float
    """Its peak, of full scale."""
    background: str
    source: str
    clip: str
    reverberant: bool


@dataclass(frozen=True, slots=True)
class Mixed:
    """A stretch as it sounds."""

    wave: Wave
    references: list[Reference]


def mix(stretch: Stretch, stock: Sequence[Sound], rate_hz: int) -> Mixed:
    """Render a stretch; the same plan and stock give the same samples."""
    heard = [(p, h) for p in stretch.placed if (h := arrive(stock[p.sound], p.room_seed, rate_hz)) is not None]
    wave = compose(stretch.background, np.random.default_rng([*stretch.seed, 1]), stretch.size, rate_hz, stock)
    is_silent = not wave.any()
    top = 10 ** (stretch.level_db / 20)
    peaks = [h.peak / h.rms * 10 ** (p.snr_db / 20) for p, h in heard]
    ground = top / max(peaks) if peaks else top * 10 ** (_QUIET_DB / 20)
    wave = augment.faded(np.asarray(ground * wave, np.float32), round(_FADE_S * rate_hz))
    references = []
    for placed, h in heard:
        gain = ground * 10 ** (placed.snr_db / 20) / h.rms
        room = wave[placed.at : placed.at + h.wave.size]
        room += np.float32(gain) * h.wave[: room.size]
        references.append(_reference(stretch, placed, h, stock[placed.sound], gain, is_silent=is_silent))
    return Mixed(np.clip(wave, -1, _FULL), references)


def _reference(  # noqa: PLR0913 - all that a reference tells
    stretch: Stretch, placed: Placed, heard: Heard, sound: Sound, gain: float, *, is_silent: bool
) -> Reference:
    at = stretch.first + placed.at
    return Reference(
        label=sound.label,
        onset=at + heard.onset,
        offset=min(at + heard.offset, stretch.first + stretch.size),
        snr_db=None if is_silent else placed.snr_db,
        level_db=round(20 * float(np.log10(gain * heard.peak)), 1),
        background=stretch.background,
        source=sound.source,
        clip=sound.clip,
        reverberant=placed.room_seed is not None,
    )


def joined(references: Sequence[Reference], rate_hz: int) -> list[Reference]:
    """Return the references in the order of time; of one class, what only a short pause parts is one event."""
    result: list[Reference] = []
    last: dict[str, int] = {}
    for ref in sorted(references, key=lambda r: (r.onset, r.label or "")):
        place = last.get(ref.label) if ref.label is not None else None
        if place is not None and ref.onset - result[place].offset <= JOIN_S * rate_hz:
            earlier = result[place]
            result[place] = replace(earlier, offset=max(earlier.offset, ref.offset), clip=f"{earlier.clip} {ref.clip}")
            continue
        if ref.label is not None:
            last[ref.label] = len(result)
        result.append(ref)
    return result
