"""The training material: which programs make which class, how many clips of each, and the files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from models.rendering import drums, guitar, melodic, noise, speech
from models.rendering.chance import Rng
from models.rendering.melodic import Player
from models.rendering.score import Phrase
from models.rendering.synthesis import RATE_HZ, Wave, cut, play, set_peak, speak

Progress = Callable[[str], None]

_GUITARS = {24: 45, 25: 45, 26: 15, 27: 15, 28: 15, 29: 15, 30: 15, 31: 5}
"""General MIDI program (from 0) and number of clips."""
_KITS = {0: 20, 8: 10, 16: 10, 24: 10, 25: 8, 32: 10, 40: 8, 48: 4}
_SPEECH_CLIPS = 160
_NOISE_CLIPS = 60

_BOW = ("long", "long", "legato", "legato", "detached", "double", "trill")
_BLOWN = ("long", "legato", "legato", "detached", "detached", "trill")
_KEYS = ("legato", "detached", "chords", "chords", "long")
_SUNG = ("long", "chords", "legato")

_BOWED = {
    40: (20, Player(55, 96, _BOW)),
    41: (20, Player(48, 84, _BOW)),
    42: (20, Player(36, 76, _BOW)),
    43: (20, Player(28, 60, _BOW)),
    44: (20, Player(40, 88, ("long", "double", "legato", "chords"))),
    45: (6, Player(36, 84, ("detached", "legato"), swells=False)),
    48: (20, Player(36, 88, ("long", "double", "legato", "chords"))),
}
_WIND_RANGES = {
    **{56: (55, 82), 57: (40, 72), 58: (28, 58), 59: (54, 82), 60: (41, 77)},
    **{64: (56, 88), 65: (49, 81), 66: (44, 76), 67: (36, 69)},
    **{68: (58, 91), 69: (52, 81), 70: (34, 72), 71: (50, 91)},
    **{72: (74, 102), 73: (60, 96), 74: (67, 96), 75: (60, 91), 79: (60, 89)},
}
_OTHER_KEYS = (*range(16), 46, 47, 107, 108, 114)
_OTHER_HELD = (*range(16, 24), 52, 53, 54, *range(80, 96), 109)
_OTHER_CLIPS = 5


@dataclass(frozen=True, slots=True)
class Rendered:
    """One clip before its level is set: folder, file name without suffix, samples."""

    label: str
    name: str
    wave: Wave


def render_material(out: Path, seed: int = 0, progress: Progress = lambda line: None) -> None:
    """Write the material as 16-bit FLAC to ``out/<class>/<program>-<n>.flac`` and list it in ``out/index.csv``.

    The columns are path and class; the classes ``other`` and ``noise`` are sounds of no class. Every
    program draws from its own generator, so adding one leaves the others' clips as they were.
    Raises RenderError where a synthesiser is missing.
    """
    rows: list[tuple[str, str]] = []
    for clip in _clips(seed, progress):
        path = Path(clip.label, f"{clip.name}.flac")
        (out / clip.label).mkdir(parents=True, exist_ok=True)
        level_db = np.random.default_rng([seed, len(rows)]).uniform(-8, -4)
        soundfile.write(out / path, set_peak(clip.wave, level_db), RATE_HZ, subtype="PCM_16")
        rows.append((path.as_posix(), clip.label))
    with (out / "index.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "class"), *rows])


def _clips(seed: int, progress: Progress) -> Iterator[Rendered]:
    for program, count in _GUITARS.items():
        progress(f"guitar {program}")
        yield from _played(seed, "guitar", program, count, partial(guitar.compose, program=program))
    for label, programs in (("bowed", _BOWED), ("winds", _winds()), ("other", _others())):
        for program, (count, player) in programs.items():
            progress(f"{label} {program}")
            yield from _played(seed, label, program, count, partial(melodic.compose, player=player))
    for kit, count in _KITS.items():
        progress(f"drums {kit}")
        yield from _played(seed, "drums", kit, count, partial(drums.compose, kit=kit))
    progress("speech")
    yield from _spoken(seed)
    progress("noise")
    yield from _noises(seed)


def _played(seed: int, label: str, program: int, count: int, compose: Callable[[Rng], Phrase]) -> Iterator[Rendered]:
    rng = _generator(seed, label, program)
    phrases = [compose(rng) for _ in range(count)]
    for n, wave in enumerate(play(phrases, program, drums=label == "drums")):
        yield Rendered(label, f"{program}-{n:02d}", wave)


def _spoken(seed: int) -> Iterator[Rendered]:
    rng = _generator(seed, "speech", 0)
    for n in range(_SPEECH_CLIPS):
        said = speech.compose(rng)
        wave = speak(said.text, said.voice, said.words_per_minute, said.pitch)
        yield Rendered("speech", f"{said.voice.replace('+', '_')}-{n:03d}", cut(wave, 0.0, said.length_s))


def _noises(seed: int) -> Iterator[Rendered]:
    for i, kind in enumerate(noise.KINDS):
        rng = _generator(seed, "noise", i)
        for n in range(_NOISE_CLIPS // len(noise.KINDS)):
            yield Rendered("noise", f"{kind}-{n:02d}", noise.compose(rng, kind))


def _winds() -> dict[int, tuple[int, Player]]:
    return {program: (10, Player(*span, _BLOWN)) for program, span in _WIND_RANGES.items()}


def _others() -> dict[int, tuple[int, Player]]:
    struck = {program: (_OTHER_CLIPS, Player(40, 90, _KEYS, swells=False)) for program in _OTHER_KEYS}
    held = {program: (_OTHER_CLIPS, Player(45, 86, _KEYS + _SUNG)) for program in _OTHER_HELD}
    return struck | held


def _generator(seed: int, label: str, program: int) -> Rng:
    return np.random.default_rng([seed, program, *label.encode()])
