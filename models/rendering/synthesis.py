"""From MIDI and text to samples: the fluidsynth and espeak-ng commands, at one rate and one level."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import mido
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from detector.errors import DetectorError
from models.rendering.score import Phrase, build_midi, slot_starts

Wave = NDArray[np.float32]
"""(samples,) mono at RATE_HZ, full scale 1."""

RATE_HZ = 16_000
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
FURTHER_SOUNDFONTS = (
    Path("/usr/share/sounds/sf2/sf_GMbank.sf2"),
    Path("/usr/share/sounds/sf3/MuseScore_General_Full.sf3"),
)
"""The same instruments to train with, by other hands; the last is FluidR3 again with many sounds replaced."""
OTHER_SOUNDFONT = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")
"""Other instruments by other hands: to judge with, never to train with."""
PACKAGES = {
    SOUNDFONT.name: "fluid-soundfont-gm",
    FURTHER_SOUNDFONTS[0].name: "csound-soundfont",
    FURTHER_SOUNDFONTS[1].name: "musescore-general-soundfont",
    OTHER_SOUNDFONT.name: "timgm6mb-soundfont",
}
"""The Debian packages that hold the sound fonts, by the names of their files."""
_RENDER_HZ = 44_100
_FADE_S = 0.015


class RenderError(DetectorError):
    """A synthesiser is missing or refuses its work."""

    exit_code = 69


def play(phrases: Sequence[Phrase], program: int, *, drums: bool = False, soundfont: Path = SOUNDFONT) -> list[Wave]:
    """Render phrases with one General MIDI program (for drums: one kit), each cut to its own length."""
    whole = play_midi(build_midi(phrases, program, drums=drums), soundfont)
    cuts = zip(slot_starts(phrases), phrases, strict=True)
    return [cut(whole, start_s, phrase.length_s) for start_s, phrase in cuts]


def play_midi(midi: mido.MidiFile, soundfont: Path = SOUNDFONT) -> Wave:
    """Render a MIDI file from its first tick on."""
    command = _command("fluidsynth")
    if not soundfont.is_file():
        package = PACKAGES.get(soundfont.name)
        remedy = f"install the Debian package {package}" if package else "name another sound font"
        raise RenderError(f"{soundfont} is missing; {remedy}")
    with tempfile.TemporaryDirectory() as folder:
        score, sound = Path(folder, "score.mid"), Path(folder, "sound.wav")
        midi.save(score)
        # Float samples: whatever the gain, nothing clips before the level is set.
        form = ["-r", str(_RENDER_HZ), "-O", "float", "-T", "wav", "-g", "0.5"]
        _run([command, "-n", "-i", "-q", "-F", str(sound), *form, str(soundfont), str(score)])
        return _read(sound)


def speak(text: str, voice: str, words_per_minute: int, pitch: int) -> Wave:
    """Render a text with an espeak-ng voice (such as ``en-us+f2``); pitch 0 to 99."""
    command = _command("espeak-ng")
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder, "sound.wav")
        _run([command, "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "-w", str(sound), text])
        return _read(sound)


def cut(wave: Wave, start_s: float, length_s: float) -> Wave:
    """Return ``length_s`` of the wave from ``start_s`` on, zeros where it is shorter, faded at the cuts."""
    first, size = round(start_s * RATE_HZ), round(length_s * RATE_HZ)
    piece = wave[first : first + size].copy()
    fade = np.linspace(0, 1, min(piece.size, round(_FADE_S * RATE_HZ)), dtype=np.float32)
    piece[piece.size - fade.size :] *= fade[::-1]
    return np.pad(piece, (0, size - piece.size))


def set_peak(wave: Wave, peak_db: float) -> Wave:
    """Scale a wave so that its largest magnitude is ``peak_db`` relative to full scale; silence stays silence."""
    peak = float(np.abs(wave).max(initial=0.0))
    return np.asarray(wave * (10 ** (peak_db / 20) / peak), np.float32) if peak > 0 else wave


def _read(path: Path) -> Wave:
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return np.asarray(soxr.resample(sound.mean(axis=1), rate, RATE_HZ), np.float32)


def _command(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise RenderError(f"{name} is not installed; install the Debian package {name}")
    return found


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RenderError(f"{command[0]} ended with status {done.returncode}: {last[0]}")
