"""From MIDI, text and samples to audio at one rate: fluidsynth, espeak-ng, a sampler, plucked strings, and noises.

``Sampler`` plays a phrase with recordings of an instrument's notes, such as those of Gravis Ultrasound patch files.

Plucked strings use the extended Karplus-Strong algorithm (D. A. Jaffe and J. O. Smith, "Extensions of the
Karplus-Strong plucked-string algorithm", Computer Music Journal 7 (2), 1983): a noise burst circulates in a delay loop
of one period with a low-pass filter, shaped by position and strength of the pluck. Every instrument has random
parameters, which a sound font cannot offer.
"""

from __future__ import annotations

import math
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import mido
import numpy as np
import scipy.fft
import scipy.signal
import soundfile
import soxr

from detector.audio.sources import read_sound
from detector.errors import DetectorError, SourceError
from detector.messages import Samples
from models.rendering.midi import Note, Phrase, Rng, build_midi, one_key_at_a_time, slot_starts

RATE_HZ = 16_000
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")
FURTHER_SOUNDFONTS = (
    Path("/usr/share/sounds/sf2/sf_GMbank.sf2"),
    Path("/usr/share/sounds/sf3/MuseScore_General_Full.sf3"),
)
"""Further sound fonts for training; the last is FluidR3 with many sounds replaced."""
OTHER_SOUNDFONT = Path("/usr/share/sounds/sf2/TimGM6mb.sf2")
"""A sound font for evaluation, never for training."""
PACKAGES = {
    SOUNDFONT.name: "fluid-soundfont-gm",
    FURTHER_SOUNDFONTS[0].name: "csound-soundfont",
    FURTHER_SOUNDFONTS[1].name: "musescore-general-soundfont",
    OTHER_SOUNDFONT.name: "timgm6mb-soundfont",
}
"""Debian packages of the sound fonts, by file name."""
_RENDER_HZ = 44_100
_FADE_S = 0.015
_NAME = re.compile(r"([A-G])(s?)(\d)")
_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_OCTAVE = 12
_RELEASE_S = 0.08
_LOUD = 0.02
"""A recording starts where it first reaches this share of its peak."""
_HEADER = b"GF1PATCH110\0"
_LAYER, _FIRST_SAMPLE = 192, 239
"""Offsets of a file's first layer and of that layer's first sample."""
_SAMPLE = struct.Struct("<7xxIIIHIIIhx18xB2x2x36x")
"""Size, loop and its end in bytes, rate, lowest, highest and own frequency in mHz, tune, modes; the rest is unused."""
_WIDE, _UNSIGNED, _LOOPED, _PING_PONG = 1, 2, 4, 8
_MAX_LOOP_S = 6.0
_A4_HZ, _A4 = 440.0, 69
_LOWEST_MHZ, _HIGHEST_MHZ = 8_176, 12_543_854
"""Frequencies of the MIDI pitches 0 and 127."""
_RATE_HZ = 2 * RATE_HZ
"""The delay loop runs at twice the rate, for a sufficient resolution of high notes."""
_LOWEST_DECAY_S, _HIGHEST_DECAY_S = 0.6, 7.0
_DRIVEN = 0.35
"""Share of instruments with an overdriven amplifier."""


class RenderError(DetectorError):
    """A synthesiser is missing or fails."""

    exit_code = 69


def play(phrases: Sequence[Phrase], program: int, *, drums: bool = False, soundfont: Path = SOUNDFONT) -> list[Samples]:
    """Render phrases with one General MIDI program (for drums: one kit), each cut to its own length."""
    whole = play_midi(build_midi(phrases, program, drums=drums), soundfont)
    cuts = zip(slot_starts(phrases), phrases, strict=True)
    return [cut(whole, start_s, phrase.length_s) for start_s, phrase in cuts]


def play_midi(midi: mido.MidiFile, soundfont: Path = SOUNDFONT) -> Samples:
    """Render a MIDI file from its first tick on."""
    command = _command("fluidsynth")
    if not soundfont.is_file():
        package = PACKAGES.get(soundfont.name)
        remedy = f"install the Debian package {package}" if package else "name another sound font"
        raise RenderError(f"{soundfont} is missing; {remedy}")
    with tempfile.TemporaryDirectory() as folder:
        score, sound = Path(folder, "score.mid"), Path(folder, "sound.wav")
        midi.save(score)
        # Float samples: nothing clips before the level is set.
        options = ["-r", str(_RENDER_HZ), "-O", "float", "-T", "wav", "-g", "0.5"]
        if soundfont.suffix == ".sf3":
            # Its samples are compressed: decoding all of them for a few takes most of the time. Others are left as
            # they are, since drums then sound slightly different.
            options += ["-o", "synth.dynamic-sample-loading=1"]
        _run([command, "-n", "-i", "-q", "-F", str(sound), *options, str(soundfont), str(score)])
        return _read(sound)


def speak(text: str, voice: str, words_per_minute: int, pitch: int) -> Samples:
    """Render a text with an espeak-ng voice (such as ``en-us+f2``); pitch 0 to 99."""
    command = _command("espeak-ng")
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder, "sound.wav")
        options = ("-v", voice, "-s", str(words_per_minute), "-p", str(pitch), "-w", str(sound))
        _run([command, *_deterministic(command), *options, text])
        return _read(sound)


@cache
def _deterministic(espeak: str) -> tuple[str, ...]:
    """Return the option without which espeak-ng from 1.52 on draws a breathy voice's noise by the time of day."""
    shown = subprocess.run([espeak, "--help"], capture_output=True, text=True, check=False).stdout
    return ("-D",) if re.search(r"^-D\s", shown, re.MULTILINE) else ()


def cut(wave: Samples, start_s: float, length_s: float) -> Samples:
    """Return ``length_s`` seconds of the wave from ``start_s``, zero-padded, faded at the end."""
    first, size = round(start_s * RATE_HZ), round(length_s * RATE_HZ)
    piece = wave[first : first + size].copy()
    fade = np.linspace(0, 1, min(piece.size, round(_FADE_S * RATE_HZ)), dtype=np.float32)
    piece[piece.size - fade.size :] *= fade[::-1]
    return np.pad(piece, (0, size - piece.size))


def set_peak(wave: Samples, peak_db: float) -> Samples:
    """Scale a wave so that its largest magnitude is ``peak_db`` relative to full scale; silence is unchanged."""
    peak = float(np.abs(wave).max(initial=0.0))
    return np.asarray(wave * (10 ** (peak_db / 20) / peak), np.float32) if peak > 0 else wave


def pitch_of(path: Path) -> int | None:
    """Return the MIDI pitch of a file name, such as 61 for "Cs4.mp3"; None for other names."""
    found = _NAME.fullmatch(path.stem)
    return _OCTAVE * (int(found[3]) + 1) + _STEPS[found[1]] + bool(found[2]) if found else None


def read_notes(folder: Path) -> dict[int, Samples]:
    """Return the recordings of a folder by MIDI pitch, without leading silence; raises SourceError where none is."""
    named = {pitch: path for path in sorted(folder.glob("*")) if (pitch := pitch_of(path)) is not None}
    if not named:
        raise SourceError(f"{folder}: no recordings of notes there, such as Cs4.mp3")
    return {pitch: from_onset(read_sound(path, RATE_HZ)) for pitch, path in named.items()}


def from_onset(wave: Samples) -> Samples:
    """Return the recording of a note without leading silence; a silent one is unchanged."""
    loud = np.flatnonzero(np.abs(wave) > _LOUD * np.abs(wave).max(initial=0.0))
    return wave[loud[0] :] if loud.size else wave


class Sampler:
    """An instrument that plays recordings of its notes, resampled to the pitch."""

    def __init__(self, notes: Mapping[int, Samples]) -> None:
        """Take the notes by MIDI pitch; raises ValueError where there is none."""
        if not notes:
            raise ValueError("an instrument needs a note")
        self._notes = notes
        self._at = cache(self._shifted)

    def play(self, phrase: Phrase) -> Samples:
        """Play a phrase, cut to its length; notes beyond the instrument's range are transposed by octaves."""
        out = np.zeros(round(phrase.length_s * RATE_HZ), np.float32)
        for note in one_key_at_a_time(phrase.notes):
            first = round(note.start_s * RATE_HZ)
            wave = self._at(self._within(note.pitch))[: max(0, out.size - first)]
            late_s = np.maximum(0, np.arange(wave.size) / RATE_HZ - note.length_s)
            wave = wave * np.exp(-late_s * 5 / _RELEASE_S)
            out[first : first + wave.size] += wave * (note.velocity / 127) ** 1.5
        return out

    def _within(self, pitch: int) -> int:
        low, high = min(self._notes), max(self._notes)
        while pitch < low - 2 and pitch + _OCTAVE <= high + 2:
            pitch += _OCTAVE
        while pitch > high + 2 and pitch - _OCTAVE >= low - 2:
            pitch -= _OCTAVE
        return pitch

    def _shifted(self, pitch: int) -> Samples:
        nearest = min(self._notes, key=lambda p: (abs(p - pitch), p))
        factor = 2 ** ((pitch - nearest) / _OCTAVE)
        return np.asarray(soxr.resample(self._notes[nearest], RATE_HZ * factor, RATE_HZ), np.float32)


def read_patch(path: Path) -> dict[int, Samples]:
    """Return the recordings of an instrument's first layer by MIDI pitch, looped to up to 6 s.

    The format is that of the card's Software Development Kit (Advanced Gravis, 1993). Envelopes and vibrato
    are ignored. Raises SourceError for files of another format.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}") from error
    if not data.startswith(_HEADER) or len(data) < _FIRST_SAMPLE:
        raise SourceError(f"{path}: not a Gravis patch file, version 1.10")
    notes, at = dict[int, Samples](), _FIRST_SAMPLE
    for _ in range(data[_LAYER + 6]):
        try:
            pitch, wave, at = _read_note(data, at)
        except (struct.error, ValueError) as error:
            raise SourceError(f"{path}: damaged or cut off: {error}") from error
        notes.setdefault(pitch, wave)
    if not notes:
        raise SourceError(f"{path}: no recordings of notes there")
    return notes


@dataclass(frozen=True, slots=True)
class Instrument:
    """Parameters of a plucked-string instrument."""

    decay_s: float
    """Decay of 60 dB of the A at 110 Hz, in seconds."""
    dullness: float
    """Coefficient of the loop's low-pass filter, 0 to 0.5."""
    pluck_at: float
    """Position of the pluck, relative to the string's length."""
    body: tuple[tuple[float, float, float], ...]
    """Resonances: frequency in Hz, quality, level."""
    drive: float
    """Gain of the amplifier's distortion; 0: no amplifier."""


def instrument(rng: Rng) -> Instrument:
    """Draw an instrument's parameters."""
    body = tuple(
        (float(np.exp(rng.uniform(np.log(80), np.log(1200)))), rng.uniform(4, 25), rng.uniform(0.1, 0.9))
        for _ in range(int(rng.integers(3, 8)))
    )
    return Instrument(
        decay_s=float(np.exp(rng.uniform(np.log(_LOWEST_DECAY_S), np.log(_HIGHEST_DECAY_S)))),
        dullness=rng.uniform(0.02, 0.5),
        pluck_at=rng.uniform(0.05, 0.4),
        body=body,
        drive=float(np.exp(rng.uniform(0, 4))) if rng.random() < _DRIVEN else 0.0,
    )


def play_plucked(rng: Rng, phrase: Phrase) -> Samples:
    """Play a phrase on a random instrument, cut to the phrase's length."""
    made, size = instrument(rng), round(phrase.length_s * _RATE_HZ)
    out = np.zeros(size)
    for note in one_key_at_a_time(phrase.notes):
        first = round(note.start_s * _RATE_HZ)
        if first < size:
            wave = _string(rng, made, note, size - first)
            out[first : first + wave.size] += wave
    if made.drive:
        out = np.tanh(made.drive * out / (np.abs(out).max() + 1e-9))
    out = out + sum(level * _resonance(out, hz, quality) for hz, quality, level in made.body)
    return np.asarray(scipy.signal.resample_poly(out, 1, _RATE_HZ // RATE_HZ), np.float32)


def coloured(rng: Rng, size: int, slope: float) -> Samples:
    """Return noise of unit RMS whose amplitude falls as 1 / frequency ** slope: 0 white, 0.5 pink, 1 brown."""
    spectrum = scipy.fft.rfft(rng.standard_normal(size))
    # Flat below 30 Hz: otherwise brown noise is mostly a slow drift.
    bins = np.maximum(np.arange(spectrum.size), 30 * size / RATE_HZ)
    wave = scipy.fft.irfft(spectrum * bins**-slope, size)
    return np.asarray(wave / np.sqrt(np.mean(wave**2)), np.float32)


def hum(rng: Rng, size: int, base_hz: float) -> Samples:
    """Return mains hum of about unit level: the fundamental and harmonics with random phases."""
    t, wave = np.arange(size) / RATE_HZ, np.zeros(size)
    for k in range(1, int(rng.integers(4, 20))):
        level = rng.uniform(0.2, 1.0) / k
        wave += level * np.sin(2 * np.pi * base_hz * k * t + rng.uniform(0, 2 * np.pi))
    return np.asarray(wave, np.float32)


def compose_noise(rng: Rng, kind: str) -> Samples:
    """Return 4 to 6 s of one of NOISES."""
    return _KINDS[kind](rng, round(rng.uniform(4, 6) * RATE_HZ))


def _read(path: Path) -> Samples:
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


def _read_note(data: bytes, at: int) -> tuple[int, Samples, int]:
    """Return MIDI pitch and samples of the note at an offset, and the offset of the next."""
    size, loop, loop_end, rate_hz, _, _, own_mhz, _, modes = _SAMPLE.unpack_from(data, at)
    first = at + _SAMPLE.size
    width = 2 if modes & _WIDE else 1
    kind = np.dtype(("<u" if modes & _UNSIGNED else "<i") + str(width))
    samples = np.frombuffer(data, kind, size // width, first).astype(np.float32)
    wave = samples / 2 ** (8 * width - 1) - (1.0 if modes & _UNSIGNED else 0.0)
    if modes & _LOOPED:
        wave = _looped(wave, loop // width, loop_end // width, round(_MAX_LOOP_S * rate_hz), modes)
    if not _LOWEST_MHZ <= own_mhz <= _HIGHEST_MHZ:
        raise ValueError(f"a note's own frequency is {own_mhz / 1000:g} Hz")
    exact = _A4 + 12 * math.log2(own_mhz / 1000 / _A4_HZ)
    pitch = round(exact)
    wave = soxr.resample(wave, rate_hz * 2 ** ((pitch - exact) / 12), RATE_HZ)
    return pitch, np.asarray(wave, np.float32), first + size


def _looped(wave: Samples, first: int, end: int, samples: int, modes: int) -> Samples:
    """Return a recording extended by its loop, alternating where its modes say so."""
    loop = wave[first:end]
    if loop.size == 0:
        return wave
    cycle = np.concatenate([loop[::-1], loop]) if modes & _PING_PONG else loop
    more = max(0, samples - end)
    return np.concatenate([wave[:end], np.resize(cycle, more)])


def _string(rng: Rng, made: Instrument, note: Note, limit: int) -> Samples:
    """Return one note until it is stopped."""
    hz = 440 * 2 ** ((note.pitch - 69) / 12)
    size = min(limit, round((note.length_s + _RELEASE_S) * _RATE_HZ))
    # The low-pass filter delays by its coefficient; the rest of the period is an integer and a fractional delay.
    period = _RATE_HZ / hz - made.dullness
    whole, part = int(period), period - int(period)
    # Losses occur in every period, so high notes decay faster; less than proportionally, as on real strings.
    gain = 10 ** (-3 / (made.decay_s * (110 / hz) ** 0.6 * hz))
    loop = np.convolve([1 - made.dullness, made.dullness], [1 - part, part])
    feedback = np.zeros(whole + 3)
    feedback[0], feedback[whole:] = 1, -gain * loop
    wave = scipy.signal.lfilter([1], feedback, _pluck(rng, made, note, whole, size))
    return np.asarray(wave * _stopped(size, note.length_s), np.float32)


def _pluck(rng: Rng, made: Instrument, note: Note, period: int, size: int) -> Samples:
    """Return a period of noise, brighter for higher velocity, without harmonics with a node at the pluck."""
    burst = np.zeros(size)
    noise = rng.uniform(-1, 1, min(size, max(2, period)))
    softness = 0.75 * (1 - note.velocity / 127) + 0.1
    noise = scipy.signal.lfilter([1 - softness], [1, -softness], noise - noise.mean())
    burst[: noise.size] = noise
    late = max(1, round(made.pluck_at * period))
    burst[late:] -= 0.9 * burst[: size - late].copy()
    return np.asarray(burst * note.velocity / 127, np.float32)


def _stopped(size: int, length_s: float) -> Samples:
    """Return the envelope of a string that is damped at the note's end."""
    late_s = np.maximum(0, np.arange(size) / _RATE_HZ - length_s)
    return np.asarray(np.exp(-late_s * 5 / _RELEASE_S), np.float32)


def _resonance(wave: np.ndarray, hz: float, quality: float) -> np.ndarray:
    return np.asarray(scipy.signal.lfilter(*scipy.signal.iirpeak(hz, quality, fs=_RATE_HZ), wave))


def _band(rng: Rng, size: int) -> Samples:
    low_hz = float(np.exp(rng.uniform(np.log(80), np.log(3000))))
    high_hz = min(7500.0, low_hz * rng.uniform(1.2, 3))
    sections = scipy.signal.butter(2, [low_hz, high_hz], "bandpass", fs=RATE_HZ, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, rng.standard_normal(size)), np.float32)


def _hum(rng: Rng, size: int) -> Samples:
    wave = hum(rng, size, float(rng.choice([50.0, 60.0])))
    return np.asarray(wave + rng.uniform(0, 0.1) * coloured(rng, size, 0.5), np.float32)


def _tone(rng: Rng, size: int) -> Samples:
    """Return a steady sine, or beeps of one."""
    t, hz = np.arange(size) / RATE_HZ, np.exp(rng.uniform(np.log(100), np.log(5000)))
    wave = np.sin(2 * np.pi * hz * t)
    if rng.random() < 0.5:
        period_s, share = rng.uniform(0.3, 1.5), rng.uniform(0.2, 0.7)
        gate = (t % period_s < share * period_s).astype(float)
        wave *= np.convolve(gate, np.full(80, 1 / 80), "same")
    return np.asarray(wave, np.float32)


def _sweep(rng: Rng, size: int) -> Samples:
    t = np.arange(size) / RATE_HZ
    low, high = rng.uniform(60, 800), rng.uniform(900, 7000)
    ends = (low, high) if rng.random() < 0.5 else (high, low)
    return np.asarray(scipy.signal.chirp(t, ends[0], t[-1], ends[1], method="logarithmic"), np.float32)


def _clicks(rng: Rng, size: int) -> Samples:
    """Return short decaying knocks at random times."""
    wave = np.zeros(size + RATE_HZ)
    for _ in range(int(rng.integers(4, 40))):
        length = int(rng.integers(16, 800))
        knock = rng.standard_normal(length) * np.exp(-5 * np.arange(length) / length)
        first = int(rng.integers(size))
        wave[first : first + length] += knock * rng.uniform(0.2, 1.0)
    return np.asarray(wave[:size], np.float32)


def _wind(rng: Rng, size: int) -> Samples:
    knots = rng.uniform(0.05, 1.0, int(rng.integers(5, 12)))
    level = np.interp(np.linspace(0, knots.size - 1, size), np.arange(knots.size), knots)
    return np.asarray(coloured(rng, size, rng.uniform(0.5, 1.0)) * level, np.float32)


def _fan(rng: Rng, size: int) -> Samples:
    """Return coloured noise with the hum of fan blades."""
    t, blades_hz = np.arange(size) / RATE_HZ, rng.uniform(20, 180)
    wave = coloured(rng, size, rng.uniform(0.4, 0.9)).astype(np.float64)
    wave *= 1 + rng.uniform(0.05, 0.3) * np.sin(2 * np.pi * blades_hz * t)
    wave += rng.uniform(0.1, 0.5) * hum(rng, size, blades_hz)
    return np.asarray(wave, np.float32)


_KINDS: dict[str, Callable[[Rng, int], Samples]] = {
    "white": lambda rng, size: coloured(rng, size, 0.0),
    "pink": lambda rng, size: coloured(rng, size, 0.5),
    "brown": lambda rng, size: coloured(rng, size, 1.0),
    "band": _band,
    "hum": _hum,
    "tone": _tone,
    "sweep": _sweep,
    "clicks": _clicks,
    "wind": _wind,
    "fan": _fan,
}


NOISES = tuple(_KINDS)
