"""What lies behind the sounds of a scene, of unit RMS and any length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from detector.errors import ConfigError
from models import augment
from models.augment import Wave
from models.rendering.chance import Rng
from models.rendering.noise import coloured
from models.scenes.sounds import Sound

MUSIC = ("bowed_strings", "winds", "drums")
"""Classes that the music is made of; never a guitar."""
_FADE_S = 0.1
_SPEAKERS, _PLAYERS, _CLOUDS = 6, 3, 2


@dataclass(frozen=True, slots=True)
class Background:
    """One kind of background."""

    contains: tuple[str, ...]
    """Classes that are heard in it: none of their sounds is placed on it, and they are not judged there."""
    compose: Callable[[Rng, int, int, Sequence[Sound]], Wave]
    """From dice, samples, rate and stock to a wave."""
    needs: tuple[str, ...] = ()
    """It is made of sounds of one of these classes."""


def compose(name: str, rng: Rng, size: int, rate_hz: int, stock: Sequence[Sound]) -> Wave:
    """Return a background of KINDS with unit RMS, made of the stock's sounds where it needs some; silence is zeros."""
    wave = KINDS[name].compose(rng, size, rate_hz, stock)
    rms = float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))
    return np.asarray(wave / rms, np.float32) if rms else wave


def check(names: Sequence[str], stock: Sequence[Sound]) -> None:
    """Raise ConfigError for a background that is unknown, or that the stock has no sounds for."""
    labels = {sound.label for sound in stock}
    for name in names:
        if name not in KINDS:
            raise ConfigError(f"background {name!r} is unknown; there are {', '.join(KINDS)}")
        if KINDS[name].needs and not labels.intersection(KINDS[name].needs):
            raise ConfigError(f"background {name!r} is made of {' or '.join(KINDS[name].needs)}, and there is none")


def _rain(rng: Rng, size: int, rate_hz: int, stock: Sequence[Sound]) -> Wave:
    drops = np.asarray(rng.standard_normal(size) * (rng.random(size) < 0.003), np.float32)  # noqa: PLR2004 - of samples
    fallback = coloured(rng, size, 0.3) + 4 * np.convolve(drops, np.exp(-np.arange(80) / 12), "same")
    recorded = [s for s in stock if s.label == "rain"]
    return _lanes(rng, size, rate_hz, recorded, _CLOUDS) if recorded else np.asarray(fallback, np.float32)


def _room(rng: Rng, size: int, rate_hz: int, _: Sequence[Sound]) -> Wave:
    """Return the noise of a quiet room: pink to brown, with a little hum."""
    wave = coloured(rng, size, float(rng.uniform(0.4, 1.0)))
    return np.asarray(wave + 0.2 * augment.hum(size, rng, rate_hz), np.float32)


def _hum(rng: Rng, size: int, rate_hz: int, _: Sequence[Sound]) -> Wave:
    return np.asarray(augment.hum(size, rng, rate_hz) + 0.05 * coloured(rng, size, 0.5), np.float32)


def _babble(rng: Rng, size: int, rate_hz: int, stock: Sequence[Sound]) -> Wave:
    return _lanes(rng, size, rate_hz, [s for s in stock if s.label == "speech"], _SPEAKERS)


def _music(rng: Rng, size: int, rate_hz: int, stock: Sequence[Sound]) -> Wave:
    """Return several instruments that play one phrase after the other, each for itself."""
    return _lanes(rng, size, rate_hz, [s for s in stock if s.label in MUSIC], _PLAYERS)


def _silence(_: Rng, size: int, __: int, ___: Sequence[Sound]) -> Wave:
    return np.zeros(size, np.float32)


def _lanes(rng: Rng, size: int, rate_hz: int, sounds: Sequence[Sound], lanes: int) -> Wave:
    """Return several endless rows of sounds, each faded into the next."""
    out, fade = np.zeros(size, np.float32), round(_FADE_S * rate_hz)
    for _ in range(lanes):
        at = -int(rng.integers(rate_hz))
        while at < size:
            piece = _faded(sounds[int(rng.integers(len(sounds)))].wave, fade)
            first, last = max(0, at), min(size, at + piece.size)
            if last > first:
                out[first:last] += piece[first - at : last - at]
            at += max(fade, piece.size - fade)
    return out


def _faded(wave: Wave, fade: int) -> Wave:
    """Return a wave of unit RMS that rises and falls so that neighbours' powers add up."""
    ramp = min(fade, wave.size // 2)
    piece = wave / (np.sqrt(np.mean(wave**2)) + 1e-9)
    rise = np.sin(np.linspace(0, np.pi / 2, ramp, dtype=np.float32))
    piece[:ramp] *= rise
    piece[piece.size - ramp :] *= rise[::-1]
    return np.asarray(piece, np.float32)


KINDS: Mapping[str, Background] = {
    "rain": Background(("rain",), _rain),
    "room": Background((), _room),
    "hum": Background((), _hum),
    "babble": Background(("speech",), _babble, ("speech",)),
    "music": Background(MUSIC, _music, MUSIC),
    "silence": Background((), _silence),
}
