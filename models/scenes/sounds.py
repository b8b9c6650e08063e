"""The sounds of scenes, cut to their active part so that onset and offset are known.

None of them was in the training data of the evaluated model, as far as its training record shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.audio.files import is_sound_name
from detector.audio.live_source import MEAN, Mixing
from detector.audio.sources import read_sound
from detector.errors import ConfigError, SourceError
from detector.manifest import Manifest
from detector.messages import Samples
from models.console import progress
from models.data.catalogue import INDEX, read_catalogue, read_index
from models.data.clips import Clip
from models.data.datasets import load_good_clips, recordings
from models.data.segments import WINDOW_S, active_spans, active_windows
from models.recipe import Recipe
from models.training.augment import room

MAX_SOUND_S = 8.0
"""Longer sounds are cut, so that a scene contains many."""
_BEFORE_S, _BEHIND_S = 0.03, 0.15
"""Margins around the active span, faded."""
_ROOM_TAIL_S = 0.5
OUT_OF_CLASS = "none"
"""Name of out-of-class sounds on the command line and in tables."""
HALVES = ("first", "second")
"""Halves of a fold: every other recording, the first for tuning, the second for evaluation."""


@dataclass(frozen=True, slots=True)
class Sound:
    """A sound that is active throughout, except for short pauses."""

    label: str | None
    """None: out of class."""
    source: str
    """Its folder of recordings, or synthesiser."""
    clip: str
    """Name of the recording in its source."""
    wave: Samples
    """(samples,) mono, with margins around the active part."""


@dataclass(frozen=True, slots=True)
class RenderedSound:
    """A sound at the microphone, reverberated or dry."""

    wave: Samples
    onset: int
    """First active sample."""
    offset: int
    """One past the last active sample."""
    rms: float
    """RMS over active windows, the reference for signal-to-noise ratios."""
    peak: float


def cut_sounds(label: str | None, source: str, clip: str, wave: Samples, rate_hz: int) -> Iterator[Sound]:
    """Yield each active span of a clip as a sound; a silent clip has none."""
    before, behind = round(_BEFORE_S * rate_hz), round(_BEHIND_S * rate_hz)
    for first, last in active_spans(wave, rate_hz):
        end = min(last, first + round(MAX_SOUND_S * rate_hz))
        piece = np.array(wave[max(0, first - before) : end + behind], np.float32)
        rise = min(first, before)
        fall = max(1, piece.size - rise - (end - first)) if end == last else behind
        piece[:rise] *= np.linspace(0, 1, rise, dtype=np.float32)
        piece[piece.size - fall :] *= np.linspace(1, 0, fall, dtype=np.float32)
        yield Sound(label, source, clip, piece)


def render(sound: Sound, room_seed: int | None, rate_hz: int) -> RenderedSound | None:
    """Return a sound at the microphone, through the room of a seed if given; None where it is not active."""
    wave = sound.wave
    if room_seed is not None:
        response = room(np.random.default_rng(room_seed), rate_hz)
        size = wave.size + min(response.size, round(_ROOM_TAIL_S * rate_hz))
        spectrum = np.fft.rfft(wave, 2 * size) * np.fft.rfft(response, 2 * size)
        wave = np.asarray(np.fft.irfft(spectrum, 2 * size)[:size], np.float32)
    spans = active_spans(wave, rate_hz)
    if not spans:
        return None
    window = round(WINDOW_S * rate_hz)
    loud = np.repeat(active_windows(wave, rate_hz), window)
    rms = float(np.sqrt(np.mean(np.square(wave[: loud.size][loud], dtype=np.float64))))
    return RenderedSound(wave, spans[0][0], spans[-1][1], rms, float(np.abs(wave).max()))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Recordings of a fold that the model was not trained on, all of them or half."""

    data: Path
    recipe: Recipe
    fold: int
    half: str | None


def held_out_sounds(manifest: Manifest, wanted: HeldOut, rate_hz: int) -> tuple[list[Sound], list[str]]:
    """Return the sounds of a fold, and a line for each clip that cannot be used.

    Raises ConfigError where the model was trained on the fold, SourceError where there are no recordings.
    """
    left_out = manifest.training.folds_left_out
    if wanted.fold not in left_out:
        others = " or ".join(map(str, left_out)) or "none"
        raise ConfigError(f"fold {wanted.fold}: {manifest.name} was trained on it; the folds it left out: {others}")
    listing = recordings(wanted.recipe, wanted.data)
    clips = [c for c in listing.clips if c.fold == wanted.fold]
    good, waves, problems = load_good_clips(_halved(clips, wanted.half), rate_hz)
    sounds = [
        sound
        for clip, wave in zip(good, waves, strict=True)
        for sound in cut_sounds(clip.label, clip.source, _name(clip.path, wanted.data), wave, rate_hz)
    ]
    return sounds, [*listing.problems, *problems]


def folder_sounds(
    label: str | None, folder: Path, rate_hz: int, mixing: Mixing = MEAN
) -> tuple[list[Sound], list[str]]:
    """Return the sounds of every recording below a folder as one class; raises SourceError where there is none."""
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; name a folder of recordings")
    sounds, problems = list[Sound](), list[str]()
    paths = sorted(p for p in folder.rglob("[!.]*") if p.is_file() and is_sound_name(p))
    for path in progress(paths, folder.name, "clips"):
        try:
            wave = read_sound(path, rate_hz, mixing=mixing)
        except SourceError as error:
            problems.append(f"{error}; left out")
            continue
        sounds += cut_sounds(label, folder.name, path.relative_to(folder).as_posix(), wave, rate_hz)
    if not sounds:
        raise SourceError(f"{folder}: contains no sound; name a folder of recordings")
    return sounds, problems


def check_not_trained_on(manifest: Manifest, folders: Sequence[Path], wanted: HeldOut | None) -> None:
    """Raise ConfigError where a folder contains training data of the model.

    These are rendered or gathered material, if the record names it, and the recordings of all folds that were not
    left out, identified by content.
    """
    sources = {source.name for source in manifest.training.sources}
    for folder in folders:
        if found := sources & {kind for p in (folder, *folder.parents[:2]) for kind in _material(p)}:
            raise ConfigError(
                f"{folder}: is {found.pop()} training material, and {manifest.name} was trained on such material; "
                "name other sounds"
            )
    if wanted is None or not folders:
        return
    seen = [c for c in recordings(wanted.recipe, wanted.data).clips if _was_trained_on(c, manifest)]
    digests = {_digest(clip.path): clip.path for clip in seen}
    for folder in folders:
        for path in sorted(p for p in folder.rglob("[!.]*") if p.is_file()):
            if twin := digests.get(_digest(path)):
                raise ConfigError(f"{path}: {manifest.name} was trained on it ({twin}); take it out of {folder}")


def _material(folder: Path) -> Iterator[str]:
    """Yield the kinds of training material that a folder contains."""
    if (folder / "index.csv").is_file():
        yield "rendered"
    if (folder / INDEX).is_file():
        trained_with = {entry.package for entry in read_catalogue("train")}
        if any(clip.package in trained_with for clip in read_index(folder)):
            yield "gathered"


def _was_trained_on(clip: Clip, manifest: Manifest) -> bool:
    return clip.fold not in manifest.training.folds_left_out


def _halved(clips: list[Clip], half: str | None) -> list[Clip]:
    """Return every other recording of each class and source: equal shares, and no recording in both halves."""
    if half is None:
        return clips
    counts: dict[tuple[str | None, str], int] = {}
    numbers: dict[str, int] = {}
    kept = []
    for clip in clips:
        key, name = (clip.label, clip.source), clip.recording or str(clip.path)
        if name not in numbers:  # a recording with clips of several classes is numbered by the first
            numbers[name] = counts[key] = counts.get(key, -1) + 1
        if numbers[name] % 2 == HALVES.index(half):
            kept.append(clip)
    return kept


def _name(path: Path, data: Path) -> str:
    return (path.relative_to(data) if path.is_relative_to(data) else path).as_posix()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
