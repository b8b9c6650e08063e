"""The rendered training material: programs and number of clips of each class, and the files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from detector.errors import ConfigError
from detector.messages import Samples
from models.rendering.instruments import Player, compose_drums, compose_guitar, compose_melody
from models.rendering.midi import Phrase, Rng
from models.rendering.speech import compose_utterance
from models.rendering.synthesis import (
    FURTHER_SOUNDFONTS,
    NOISES,
    RATE_HZ,
    SOUNDFONT,
    compose_noise,
    cut,
    play,
    play_plucked,
    set_peak,
    speak,
)

Progress = Callable[[str], None]
_GUITARS = {24: 45, 25: 45, 26: 15, 27: 15, 28: 15, 29: 15, 30: 15, 31: 5}
"""General MIDI program (from 0) and number of clips."""
_KITS = {0: 20, 8: 10, 16: 10, 24: 10, 25: 8, 32: 10, 40: 8, 48: 4}
_SPEECH_CLIPS = 160
_NOISE_CLIPS = 200
_PLUCKED_CLIPS = 160
_FURTHER_SHARE = 2
"""The further sound fonts have one in so many of the first one's clips, with new phrases."""
BOW = ("long", "long", "legato", "legato", "detached", "double", "trill")
BLOWN = ("long", "legato", "legato", "detached", "detached", "trill")
KEYS = ("legato", "detached", "chords", "chords", "long")
_SUNG = ("long", "chords", "legato")
_BOWED = {
    40: (20, Player(55, 96, BOW)),
    41: (20, Player(48, 84, BOW)),
    42: (20, Player(36, 76, BOW)),
    43: (20, Player(28, 60, BOW)),
    44: (20, Player(40, 88, ("long", "double", "legato", "chords"))),
    45: (6, Player(36, 84, ("detached", "legato"), swells=False)),
    48: (20, Player(36, 88, ("long", "double", "legato", "chords"))),
}
_BRASS = {56: (55, 82), 57: (40, 72), 58: (28, 58), 59: (54, 82), 60: (41, 77)}
_SAXOPHONES = {64: (56, 88), 65: (49, 81), 66: (44, 76), 67: (36, 69)}
_REEDS = {68: (58, 91), 69: (52, 81), 70: (34, 72), 71: (50, 91)}
_FLUTES = {72: (74, 102), 73: (60, 96), 74: (67, 96), 75: (60, 91), 79: (60, 89)}
_WIND_CLIPS = 10
_OTHER_KEYS = (*range(16), 46, 47, 107, 108, 114)
_OTHER_HELD = (*range(16, 24), 52, 53, 54, *range(80, 96), 109)
_OTHER_CLIPS = 8


@dataclass(frozen=True, slots=True)
class Batch:
    """The clips of one class that one General MIDI program (for drums: one kit) plays."""

    label: str
    program: int
    count: int
    compose: Callable[[Rng], Phrase]
    soundfont: Path = SOUNDFONT

    @property
    def name(self) -> str:
        """Name of its clips, without the number."""
        return f"{self.program}" if self.soundfont == SOUNDFONT else f"{self.soundfont.stem}-{self.program}"


@dataclass(frozen=True, slots=True)
class Rendered:
    """One clip before its level is set: folder, file name without suffix, samples."""

    label: str
    name: str
    wave: Samples


def render_material(out: Path, seed: int = 0, progress: Progress | None = None) -> None:
    """Write the material as 16-bit FLAC to ``out/<class>/<program>-<n>.flac`` and list it in ``out/index.csv``.

    The columns are path and class; the classes ``other`` and ``noise`` are out of class. Every batch has its own
    generator, so adding one does not change the others.
    Raises RenderError where a synthesiser is missing, and ConfigError for a folder that holds something already.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out}: exists already; name a new folder")
    rows: list[tuple[str, str]] = []
    for clip in _clips(seed, progress or _silent):
        path = Path(clip.label, f"{clip.name}.flac")
        (out / clip.label).mkdir(parents=True, exist_ok=True)
        level_db = np.random.default_rng([seed, len(rows)]).uniform(-8, -4)
        soundfile.write(out / path, set_peak(clip.wave, level_db), RATE_HZ, subtype="PCM_16")
        rows.append((path.as_posix(), clip.label))
    with (out / "index.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "class"), *rows])


def batches() -> list[Batch]:
    """List the batches played by sound fonts: by the first, then by the others.

    Bass guitars (32 to 39) and sitar, banjo and shamisen (104 to 106) are left out: they are too similar to the
    guitar to be labelled.
    """
    found = [Batch("guitar", p, n, partial(compose_guitar, program=p)) for p, n in _GUITARS.items()]
    for label, programs in (("bowed", _BOWED), ("winds", _winds()), ("other", _others())):
        found += [Batch(label, p, n, partial(compose_melody, player=player)) for p, (n, player) in programs.items()]
    found += [Batch("drums", kit, n, partial(compose_drums, kit=kit)) for kit, n in _KITS.items()]
    again = [b for b in found if b.label != "drums" or not b.program]  # the others have no other kits, or the same
    again = [replace(b, count=-(-b.count // _FURTHER_SHARE)) for b in again]
    return found + [replace(b, soundfont=font) for font in FURTHER_SOUNDFONTS for b in again]


def _clips(seed: int, progress: Progress) -> Iterator[Rendered]:
    first = [b for b in batches() if b.soundfont == SOUNDFONT]
    yield from _all_played(seed, first, progress)
    progress("speech")
    yield from _spoken(seed)
    progress("noise")
    yield from _noises(seed)
    yield from _all_played(seed, batches()[len(first) :], progress)
    progress("plucked")
    yield from _plucked(seed)


def _all_played(seed: int, wanted: Sequence[Batch], progress: Progress) -> Iterator[Rendered]:
    for batch in wanted:
        progress(f"{batch.label} {batch.name}")
        yield from _played(seed, batch)


def _played(seed: int, batch: Batch) -> Iterator[Rendered]:
    further = () if batch.soundfont == SOUNDFONT else batch.soundfont.stem.encode()
    rng = np.random.default_rng([seed, batch.program, *batch.label.encode(), *further])
    phrases = [batch.compose(rng) for _ in range(batch.count)]
    waves = play(phrases, batch.program, drums=batch.label == "drums", soundfont=batch.soundfont)
    for n, wave in enumerate(waves):
        yield Rendered(batch.label, f"{batch.name}-{n:02d}", wave)


def _spoken(seed: int) -> Iterator[Rendered]:
    rng = _generator(seed, "speech", 0)
    for n in range(_SPEECH_CLIPS):
        said = compose_utterance(rng)
        wave = speak(said.text, said.voice, said.words_per_minute, said.pitch)
        yield Rendered("speech", f"{said.voice.replace('+', '_')}-{n:03d}", cut(wave, 0.0, said.length_s))


def _noises(seed: int) -> Iterator[Rendered]:
    for i, kind in enumerate(NOISES):
        rng = _generator(seed, "noise", i)
        for n in range(_NOISE_CLIPS // len(NOISES)):
            yield Rendered("noise", f"{kind}-{n:02d}", compose_noise(rng, kind))


def _plucked(seed: int) -> Iterator[Rendered]:
    rng = _generator(seed, "guitar", len(_GUITARS))
    programs = list(_GUITARS)
    for n in range(_PLUCKED_CLIPS):
        phrase = compose_guitar(rng, programs[n % len(programs)])
        yield Rendered("guitar", f"plucked-{n:03d}", play_plucked(rng, phrase))


def _winds() -> dict[int, tuple[int, Player]]:
    ranges = _BRASS | _SAXOPHONES | _REEDS | _FLUTES
    return {program: (_WIND_CLIPS, Player(*span, BLOWN)) for program, span in ranges.items()}


def _others() -> dict[int, tuple[int, Player]]:
    struck = {program: (_OTHER_CLIPS, Player(40, 90, KEYS, swells=False)) for program in _OTHER_KEYS}
    held = {program: (_OTHER_CLIPS, Player(45, 86, KEYS + _SUNG)) for program in _OTHER_HELD}
    return struck | held


def _silent(line: str) -> None:
    del line


def _generator(seed: int, label: str, program: int) -> Rng:
    return np.random.default_rng([seed, program, *label.encode()])
