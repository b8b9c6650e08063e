"""Training data of an adaptation: the user's recordings of new classes, and negatives."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import soxr

from detector.audio.files import sounds_below
from detector.audio.live_source import MEAN, Mixing
from detector.audio.sources import read_sound
from detector.errors import ConfigError, SourceError
from detector.messages import Samples
from models import DEMO_SCENE
from models.data.clips import Clip
from models.data.datasets import FOLDS, load_good_clips, read_class
from models.data.household import TEST_FOLD, list_clips
from models.rendering.synthesis import NOISES, RATE_HZ, compose_noise

MIN_CLIPS: Final = 20
_LABEL: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
_PIECE_S: Final = 5.0
_MAX_BACKGROUND_S: Final = 1800.0
_NOISES_PER_KIND: Final = 6
_MAX_CLIPS_PER_CLASS: Final = 40
"""Limit per class of data or material: more takes memory and improves little."""


@dataclass(slots=True)
class SoundSet:
    """Clips with their samples at one rate."""

    clips: list[Clip] = field(default_factory=list)
    waves: list[Samples] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """One line each: what was left out and why."""

    def add(self, clips: Sequence[Clip], waves: Sequence[Samples]) -> None:
        """Append clips."""
        self.clips += clips
        self.waves += waves

    def of_fold(self, fold: int) -> SoundSet:
        """Return the clips of one fold."""
        pairs = [(c, w) for c, w in zip(self.clips, self.waves, strict=True) if c.fold == fold]
        return SoundSet([c for c, _ in pairs], [w for _, w in pairs])


def check_labels(wanted: Sequence[str], taken: Sequence[str]) -> None:
    """Raise ConfigError for a label that is invalid or taken."""
    for label in wanted:
        if not _LABEL.fullmatch(label):
            raise ConfigError(f"label {label!r}: use small letters, digits, _ and -, at most 40 of them")
        if label in taken or wanted.count(label) > 1:
            raise ConfigError(f"label {label!r}: the model has that class already; choose another name")


def positive_sounds(folders: Mapping[str, Path], rate_hz: int, mixing: Mixing = MEAN) -> SoundSet:
    """Read the recordings of each new class, with folds that keep cuts of one recording together.

    Recordings that cannot be used are left out, with a line each. Raises SourceError for a folder that is missing or
    has no sound, ConfigError where fewer than 20 recordings can be used.
    """
    found = SoundSet()
    for label, folder in folders.items():
        listing = read_class(folder, label)
        clips, waves, problems = load_good_clips(listing.clips, rate_hz, mixing=mixing)
        problems = [*listing.problems, *problems]
        if len(clips) < MIN_CLIPS:
            first = f"; the first problem: {problems[0]}" if problems else ""
            raise ConfigError(
                f"{folder}: {len(clips)} recordings of {label!r} can be used, and it takes {MIN_CLIPS}{first}"
            )
        found.add(clips, waves)
        found.problems += problems
    return found


def negative_sounds(  # noqa: PLR0913 - where sounds come from
    rate_hz: int,
    seed: int,
    background: Path | None,
    material: Path | None,
    data: Path | None,
    mixing: Mixing = MEAN,
) -> SoundSet:
    """Collect negatives: computed noises, the demo scene, and the given background, material and data.

    ``mixing`` is that of the background, which the user recorded.

    Raises SourceError for a path that is missing or has no sound.
    """
    found = SoundSet()
    found.add(*_pieces(_noises(rate_hz, seed), "computed noises"))
    found.add(*_pieces(_cut(read_sound(DEMO_SCENE, rate_hz), rate_hz), "demo scene"))
    if background is not None:
        found.add(*_pieces(_background(background, rate_hz, mixing), "background"))
    clips = [] if material is None else _of_material(material)
    clips += [] if data is None else _of_data(data)
    if clips:
        good, waves, problems = load_good_clips(clips, rate_hz)
        found.add([Clip(c.path, None, c.source, c.fold) for c in good], waves)
        found.problems += problems
    return found


def _pieces(waves: Iterator[Samples], source: str) -> tuple[list[Clip], list[Samples]]:
    """Return waves as clips; neighbours share a fold, since they may be of one recording."""
    found = [wave for wave in waves if wave.size]
    folds = [FOLDS[i * len(FOLDS) // len(found)] for i in range(len(found))]
    return [Clip(Path(source) / f"{i}", None, source, fold) for i, fold in enumerate(folds)], found


def _noises(rate_hz: int, seed: int) -> Iterator[Samples]:
    """Yield noises, hums, tones and knocks, alternating in kind, so that every fold has some of each."""
    for number in range(_NOISES_PER_KIND):
        for i, kind in enumerate(NOISES):
            wave = compose_noise(np.random.default_rng([seed, i, number]), kind)
            yield np.asarray(soxr.resample(wave, RATE_HZ, rate_hz), np.float32)


def _cut(wave: Samples, rate_hz: int) -> Iterator[Samples]:
    size = round(_PIECE_S * rate_hz)
    yield from (wave[at : at + size] for at in range(0, max(1, wave.size - size // 2), size))


def _background(place: Path, rate_hz: int, mixing: Mixing) -> Iterator[Samples]:
    """Yield pieces of the recordings of a file or folder, at most half an hour, evenly over all of them."""
    files = list(sounds_below(place)) if place.is_dir() else [place]
    if not files:
        raise SourceError(f"{place}: no sound files in this folder; name one with WAV, FLAC, OGG or MP3 files")
    limit = int(_MAX_BACKGROUND_S / _PIECE_S)
    share = max(1, limit // len(files))
    for path in files[:: max(1, -(-len(files) // limit))]:
        pieces = list(_cut(read_sound(path, rate_hz, mixing=mixing), rate_hz))
        yield from pieces[:: max(1, -(-len(pieces) // share))]


def _of_material(folder: Path) -> list[Clip]:
    """List rendered material (``python -m models.rendering``), evenly by class, with alternating folds."""
    try:
        with (folder / "index.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise SourceError(
            f"{folder}: no index.csv; render it with: python -m models.rendering material {folder}"
        ) from error
    clips = [Clip(folder / row["path"], row["class"], "rendered", FOLDS[i % len(FOLDS)]) for i, row in enumerate(rows)]
    return _evenly(clips)


def _of_data(data: Path) -> list[Clip]:
    """List recordings in the layout of ``snn-train fit``, without the test fold."""
    return _evenly([clip for clip in list_clips(data) if clip.fold != TEST_FOLD])


def _evenly(clips: Sequence[Clip]) -> list[Clip]:
    """Return at most ``_MAX_CLIPS_PER_CLASS`` clips of each class, evenly spread."""
    by_class: dict[str | None, list[Clip]] = {}
    for clip in clips:
        by_class.setdefault(clip.label, []).append(clip)
    return [c for group in by_class.values() for c in group[:: -(-len(group) // _MAX_CLIPS_PER_CLASS)]]
