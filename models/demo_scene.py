"""Render the demonstration scene: 34 s in a quiet room with a guitar, twice, among other sounds.

    4 s   nylon-string guitar, fingerpicked, then one chord that rings
    15 s  a sentence by a synthetic voice
    20 s  clarinet
    26 s  steel-string guitar, strummed

Nothing of it is in the training material of ``models.rendering``: the phrases are written by hand, with a picking
pattern, a strumming rhythm, a sentence and a voice that the composers there cannot draw, and in a room of their own.
Sound font and speech synthesiser are the same, so the scene demonstrates the detector's function, not its accuracy on
real guitars.

The command ``python -m models.demo_scene [OUT]`` writes the sound and, beside it, the reference
annotation as a tab-separated table (filename, onset, offset, event_label; seconds).
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.signal
import soundfile

from detector.errors import DetectorError
from detector.messages import Samples
from detector.system import FileKind, Output, check_outputs, replace_file, table_kind, write_text
from models import DEMO_SCENE
from models.rendering.instruments import Shape, fret, strum
from models.rendering.midi import EXPRESSION, REVERBERATION, VIBRATO, Control, Note, Phrase
from models.rendering.synthesis import RATE_HZ, coloured, hum, play, set_peak, speak

LENGTH_S = 34.0
NOISE_DB, HUM_DB = -50.0, -62.0
"""Background levels (RMS, full scale 1)."""
AUDIBLE_DB = -28.0
"""A part is active where its 20 ms level is above this, relative to its loudest 20 ms."""
_BLOCK = RATE_HZ // 50
_SEED = 34
_COLUMNS = ("filename", "onset", "offset", "event_label")
_ANNOTATION = table_kind("an event table", _COLUMNS, "\t")
_FLAC = FileKind("a FLAC file", re.compile(rb"fLaC"))
_ROOM_S, _ROOM_SHARE = 0.3, 0.25
_A_MINOR: Shape = (None, 0, 2, 2, 1, 0)
_C: Shape = (None, 3, 2, 0, 1, 0)
_D: Shape = (None, None, 0, 2, 3, 2)
_E_MINOR: Shape = (0, 2, 2, 0, 0, 0)
_F: Shape = (1, 3, 3, 2, 1, 1)
_G: Shape = (3, 2, 0, 0, 0, 3)
_CLARINET_NOTES = ((58, 0.5), (62, 0.25), (65, 0.25), (70, 0.75), (69, 0.25), (67, 0.5), (65, 1.0))
"""(pitch, seconds) of each."""
SENTENCE = "Somebody is practising in the room next door, listen."


@dataclass(frozen=True, slots=True)
class Part:
    """One sound of the scene."""

    label: str
    start_s: float
    """Start of the wave in the scene."""
    wave: Samples

    def active_s(self) -> tuple[float, float]:
        """Return onset and offset in the scene, in seconds, from the level of the part alone."""
        size = self.wave.size // _BLOCK * _BLOCK
        level = np.sqrt(np.mean(self.wave[:size].reshape(-1, _BLOCK) ** 2, axis=1))
        loud = np.flatnonzero(level > 10 ** (AUDIBLE_DB / 20) * level.max())
        return self.start_s + loud[0] * _BLOCK / RATE_HZ, self.start_s + (loud[-1] + 1) * _BLOCK / RATE_HZ


def render_parts() -> list[Part]:
    """Render the sounds in order of time, reverberated but without background noise.

    Raises RenderError where a synthesiser is missing.
    """
    dry = [
        (4.0, "guitar", play([_fingerpicked()], 24)[0], -8.0),
        (15.0, "speech", speak(SENTENCE, "en-gb-x-gbcwmd+f5", 150, 55), -8.0),
        (20.5, "winds", play([_clarinet()], 71)[0], -12.0),
        (26.0, "guitar", play([_strummed()], 25)[0], -7.0),
    ]
    rng = np.random.default_rng(_SEED)
    echo = _room(rng)
    return [Part(label, start_s, set_peak(_in_room(wave, echo), peak)) for start_s, label, wave, peak in dry]


def mix(parts: list[Part]) -> Samples:
    """Mix the parts with the noise of a quiet room; return the whole scene."""
    rng, size = np.random.default_rng([_SEED, 1]), round(LENGTH_S * RATE_HZ)
    scene = _at_level(coloured(rng, size, 0.5), NOISE_DB)
    scene += _at_level(hum(rng, size, 50.0), HUM_DB)
    for part in parts:
        first = round(part.start_s * RATE_HZ)
        scene[first : first + part.wave.size] += part.wave[: size - first]
    return scene


def write_scene(out: Path = DEMO_SCENE) -> None:
    """Write the scene (16-bit FLAC) to ``out`` and its annotation beside it with the suffix ``.tsv``."""
    parts = render_parts()
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(out) as part:
        soundfile.write(part, mix(parts), RATE_HZ, subtype="PCM_16", compression_level=1.0)
    rows = [
        (out.name, f"{onset:.2f}", f"{offset:.2f}", part.label) for part in parts for onset, offset in [part.active_s()]
    ]
    write_text(out.with_suffix(".tsv"), "".join("\t".join(row) + "\n" for row in (_COLUMNS, *rows)))


def main() -> int:
    """Render the scene; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m models.demo_scene", description="Render the demonstration scene.")
    parser.add_argument("out", type=Path, nargs="?", default=DEMO_SCENE, metavar="OUT", help="default: %(default)s")
    parser.add_argument(
        "--force", action="store_true", help="replace files that exist, where they are of the same kind"
    )
    given = parser.parse_args()
    outputs = (Output("OUT", given.out, _FLAC), Output("OUT", given.out.with_suffix(".tsv"), _ANNOTATION))
    try:
        check_outputs(outputs, force=given.force, makes_folders=True)
        write_scene(given.out)
    except DetectorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _fingerpicked() -> Phrase:
    """Return four bars of picking with a capo at the third fret, then the first chord, damped after 7.8 s."""
    pattern, step_s, end_s = (0, 4, 2, 4, 1, 4, 3, 2), 0.17, 7.8
    notes = []
    for bar, shape in enumerate((_A_MINOR, _F, _C, _G)):
        strings = fret(shape, 3)
        for k, finger in enumerate(pattern):
            start_s = 0.05 + (bar * len(pattern) + k) * step_s
            notes.append(Note(start_s, 4 * step_s, strings[finger], 84 if k % 4 == 0 else 68))
    last_s = 0.05 + 4 * len(pattern) * step_s
    notes += strum(fret(_A_MINOR, 3), last_s, end_s - last_s, 0.14, 82)
    return Phrase(end_s + 0.5, tuple(notes), (Control(0.0, REVERBERATION, 20),))


def _strummed() -> Phrase:
    """Return three bars of strumming with a capo at the fourth fret, then a chord, damped after 6.3 s."""
    step_s, end_s = 0.205, 6.3
    strokes = ((0, 96), (2, 88), (3, 66), (4, 92), (5, 62), (7, 70))
    places = [(bar * 8 + k, shape, loud) for bar, shape in enumerate((_D, _E_MINOR, _G)) for k, loud in strokes]
    places.append((24, _D, 98))
    notes = []
    for i, (place, shape, loud) in enumerate(places):
        start_s = 0.05 + place * step_s
        after_s = 0.05 + places[i + 1][0] * step_s if i + 1 < len(places) else end_s
        strings = fret(shape, 4)
        # Odd positions are up-strokes over the high strings.
        stroke = strings if place % 2 == 0 else strings[:-4:-1]
        notes += strum(stroke, start_s, after_s - start_s, 0.028, loud)
    return Phrase(end_s + 0.5, tuple(notes), (Control(0.0, REVERBERATION, 20),))


def _clarinet() -> Phrase:
    notes, now_s = [], 0.05
    for pitch, length_s in _CLARINET_NOTES:
        notes.append(Note(now_s, length_s * 0.98, pitch, 86))
        now_s += length_s
    controls = [Control(0.0, REVERBERATION, 20), Control(0.0, VIBRATO, 12)]
    controls += [Control(t, EXPRESSION, v) for t, v in _crescendo(now_s)]
    return Phrase(now_s + 0.4, tuple(notes), tuple(controls))


def _crescendo(length_s: float) -> Iterator[tuple[float, int]]:
    for place in np.linspace(0, 1, 40):
        yield float(place * length_s), int(np.interp(place, [0, 0.45, 0.8, 1], [80, 120, 110, 60]))


def _room(rng: np.random.Generator) -> Samples:
    """Return the impulse response of a small room: direct sound and noise that decays within ``_ROOM_S``."""
    t = np.arange(round(_ROOM_S * RATE_HZ)) / RATE_HZ
    echo = rng.standard_normal(t.size) * np.exp(-6.9 * t / _ROOM_S)
    echo[: RATE_HZ // 250] = 0
    echo *= _ROOM_SHARE / np.sqrt(np.sum(echo**2))
    echo[0] = 1
    return np.asarray(echo, np.float32)


def _in_room(wave: Samples, echo: Samples) -> Samples:
    return np.asarray(scipy.signal.fftconvolve(wave, echo), np.float32)


def _at_level(wave: Samples, level_db: float) -> Samples:
    return np.asarray(wave * 10 ** (level_db / 20) / np.sqrt(np.mean(wave**2)), np.float32)


if __name__ == "__main__":
    sys.exit(main())
