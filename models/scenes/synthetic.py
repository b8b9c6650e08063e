"""Synthetic sounds not used in training: another sound font, other seeds, speakers and texts, computed negatives.

Computed negatives are animals and machines out of class, which a detector must not take for a class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import scipy.signal

from detector.errors import ConfigError
from detector.messages import Samples
from models.console import progress
from models.data.household import RENDERED
from models.rendering.instruments import Player, compose_melody
from models.rendering.material import Batch, batches
from models.rendering.midi import Rng
from models.rendering.synthesis import FURTHER_SOUNDFONTS, OTHER_SOUNDFONT, RATE_HZ, SOUNDFONT, coloured, play, speak
from models.scenes.sounds import Sound, cut_sounds

CLIPS_A_PROGRAM = {"guitar": 6, "bowed": 4, "winds": 2, "drums": 4, "other": 1}
"""Phrases per General MIDI program of a class."""
_EFFECTS = (55, *range(96, 104), 112, 113, 115, 119, 121, 123, 124, 126, 127)
"""Out-of-class programs that training never rendered: pads and effects, bell, bird, telephone, applause, shot.

Excluded are sea shore and helicopter, which are classes, and guitar frets."""
_SPEECH_CLIPS = 40
_VOICES = (
    "adam",
    "Andrea",
    "Annie",
    "belinda",
    "boris",
    "caleb",
    "ed",
    "Gene",
    "grandma",
    "grandpa",
    "linda",
    "shelby",
)
"""Variants of espeak-ng that ``rendering.speech`` does not draw."""
_TEXTS: dict[str, tuple[str, ...]] = {
    "en-us": (
        "The neighbours are away until the end of the month, so we feed their cat.",
        "If you pass the post office, would you buy me six stamps?",
        "I have read the letter twice and I still do not understand it.",
        "They changed the timetable last week, now the bus comes at ten past.",
        "Nine hundred and twelve, minus thirty, makes eight hundred and eighty two.",
        "Well, it is a long story, and I only know the first half of it.",
    ),
    "en-gb": (
        "Somebody left the light on in the cellar all night.",
        "We could have soup first and then the rest of the pie.",
        "It was so quiet that you could hear the clock in the hall.",
        "Mind the step, it is lower than it looks.",
    ),
    "sv": (
        "Vi ses vid stationen klockan halv fem.",
        "Det blev ett ganska stort hus till slut.",
        "Har du sett min bok?",
    ),
    "cs": ("Zítra pojedeme vlakem do hor.", "Můžeš mi prosím podat sklenici vody?", "Obchod zavírá v šest hodin."),
    "ro": ("Mâine mergem la munte cu trenul.", "Poți să închizi fereastra, te rog?", "Am uitat cheile acasă."),
    "fi": ("Juna lähtee laiturilta kolme.", "Voisitko avata oven?", "Huomenna sataa koko päivän."),
}
_SOUNDS_PER_KIND = 4
"""Sounds of each kind."""
_LENGTH_S = (1.0, 6.0)


def rendered_sounds(seed: int, soundfont: Path = OTHER_SOUNDFONT, *, negatives_only: bool = False) -> list[Sound]:
    """Return phrases of every class that can be rendered, and of out-of-class instruments.

    Raises RenderError where a synthesiser is missing, ConfigError for the sound font of training.
    """
    if soundfont.resolve().name in {font.name for font in (SOUNDFONT, *FURTHER_SOUNDFONTS)}:
        raise ConfigError(f"{soundfont}: is a sound font of the training material; name another")
    sounds = list[Sound]()
    wanted = [b for b in _batches() if b.label not in RENDERED or not negatives_only]
    for batch in progress(wanted, "instruments", "programs"):
        rng = _generator(seed, f"scene {batch.label}", batch.program)
        phrases = [batch.compose(rng) for _ in range(batch.count)]
        waves = play(phrases, batch.program, drums=batch.label == "drums", soundfont=soundfont)
        for n, wave in enumerate(waves):
            name = f"{batch.label}-{batch.program}-{n}"
            sounds += cut_sounds(RENDERED.get(batch.label), soundfont.stem, name, wave, RATE_HZ)
    return sounds


def spoken_sounds(seed: int) -> list[Sound]:
    """Return sentences by voices not used in training; raises RenderError where espeak-ng is missing."""
    rng, sounds = _generator(seed, "scene speech", 0), list[Sound]()
    for n in progress(range(_SPEECH_CLIPS), "voices", "clips"):
        language, voice = str(rng.choice(list(_TEXTS))), str(rng.choice(_VOICES))
        texts = rng.permutation(_TEXTS[language])[: int(rng.integers(1, 4))]
        wave = speak(" ".join(texts), f"{language}+{voice}", int(rng.integers(120, 200)), int(rng.integers(25, 75)))
        sounds += cut_sounds("speech", "espeak-ng", f"{language}+{voice}-{n}", wave, RATE_HZ)
    return sounds


def computed_negatives(seed: int) -> list[Sound]:
    """Return computed out-of-class sounds of every kind, each with its own generator."""
    return list(_sounds(seed))


def _batches() -> list[Batch]:
    first = [b for b in batches() if b.soundfont == SOUNDFONT]
    known = [Batch(b.label, b.program, CLIPS_A_PROGRAM[b.label], b.compose) for b in first]
    player = Player(48, 84, ("legato", "detached", "chords", "long"), swells=False)
    return known + [
        Batch("other", p, CLIPS_A_PROGRAM["other"], partial(compose_melody, player=player)) for p in _EFFECTS
    ]


def _generator(seed: int, label: str, program: int) -> Rng:
    return np.random.default_rng([seed, program, *label.encode()])


def _sounds(seed: int) -> Iterator[Sound]:
    for name, compose in KINDS.items():
        rng = np.random.default_rng([seed, *name.encode()])
        for n in range(_SOUNDS_PER_KIND):
            wave = np.asarray(compose(rng, round(rng.uniform(*_LENGTH_S) * RATE_HZ)), np.float32)
            yield from cut_sounds(None, "computed", f"{name}-{n}", wave / np.abs(wave).max(), RATE_HZ)


def _crickets(rng: Rng, size: int) -> Samples:
    """Return chirps: groups of pulses of a high tone."""
    t, hz = np.arange(size) / RATE_HZ, rng.uniform(3800, 5200)
    pulses, chirps = rng.uniform(25, 45), rng.uniform(1.5, 3.5)
    gate = np.maximum(0, np.sin(2 * np.pi * pulses * t)) * ((t * chirps) % 1 < rng.uniform(0.3, 0.6))
    return np.asarray(np.sin(2 * np.pi * hz * t) * gate, np.float32)


def _songbird(rng: Rng, size: int) -> Samples:
    """Return short notes that glide between 2 and 6 kHz."""
    wave = np.zeros(size)
    at = 0
    while at < size:
        length = int(rng.uniform(0.05, 0.25) * RATE_HZ)
        hz = np.geomspace(rng.uniform(2000, 6000), rng.uniform(2000, 6000), length)
        trill = 1 + 0.04 * np.sin(2 * np.pi * rng.uniform(15, 40) * np.arange(length) / RATE_HZ)
        note = np.sin(2 * np.pi * np.cumsum(hz * trill) / RATE_HZ) * np.hanning(length)
        wave[at : at + length] += note[: size - at] * rng.uniform(0.3, 1)
        at += length + int(rng.uniform(0.02, 0.5) * RATE_HZ)
    return np.asarray(wave, np.float32)


def _frogs(rng: Rng, size: int) -> Samples:
    """Return croaks: band noise gated some thirty times a second, in calls."""
    t, low_hz = np.arange(size) / RATE_HZ, rng.uniform(500, 1500)
    band = _band(rng.standard_normal(size), low_hz, low_hz * 1.6)
    gate = np.maximum(0, np.sin(2 * np.pi * rng.uniform(20, 45) * t)) ** 2
    return np.asarray(band * gate * ((t * rng.uniform(0.8, 2)) % 1 < 0.5), np.float32)


def _cat(rng: Rng, size: int) -> Samples:
    """Return meows: a gliding harmonic tone through a moving resonance."""
    wave, at = np.zeros(size), 0
    while at < size:
        length = int(rng.uniform(0.5, 1.1) * RATE_HZ)
        shape = np.sin(np.linspace(0, np.pi, length))
        phase = 2 * np.pi * np.cumsum(rng.uniform(380, 620) * (1 + 0.45 * shape)) / RATE_HZ
        vowel = 1 + 6 * shape
        call = sum(np.sin(k * phase) * np.exp(-(((k - vowel) / 2.5) ** 2)) for k in range(1, 11)) * shape
        wave[at : at + length] += call[: size - at]
        at += length + int(rng.uniform(0.4, 1.5) * RATE_HZ)
    return np.asarray(wave, np.float32)


def _vacuum_cleaner(rng: Rng, size: int) -> Samples:
    """Return air noise with the whine of a motor that speeds up."""
    t = np.arange(size) / RATE_HZ
    turns = rng.uniform(180, 320) * (1 - np.exp(-t / 0.3))
    phase = 2 * np.pi * np.cumsum(turns) / RATE_HZ
    whine = sum(np.sin(k * phase) / k for k in (1, 2, 3, 6, 12))
    return np.asarray(_band(rng.standard_normal(size), 300, 5000) * 2 + rng.uniform(0.2, 0.6) * whine, np.float32)


def _washing_machine(rng: Rng, size: int) -> Samples:
    """Return the turning of a drum: low rumble and sloshing, about once a second."""
    t = np.arange(size) / RATE_HZ
    turning = 1 + 0.7 * np.sin(2 * np.pi * rng.uniform(0.6, 1.4) * t)
    slosh = _band(rng.standard_normal(size), 200, 1200) * np.maximum(0, turning - 0.8)
    return np.asarray(coloured(rng, size, 1.0) * turning + 3 * slosh, np.float32)


def _keyboard(rng: Rng, size: int) -> Samples:
    """Return typing: clicks of a few milliseconds for press and release."""
    wave = np.zeros(size + RATE_HZ)
    at = 0
    while at < size:
        for late_s, level in ((0.0, 1.0), (rng.uniform(0.06, 0.12), 0.4)):
            length, first = int(rng.uniform(0.004, 0.02) * RATE_HZ), at + int(late_s * RATE_HZ)
            decay = np.exp(-6 * np.arange(length) / length)
            wave[first : first + length] += level * rng.uniform(0.5, 1) * decay * rng.standard_normal(length)
        at += int(rng.uniform(0.08, 0.35) * RATE_HZ)
    return np.asarray(_band(wave[:size], 400, 6000), np.float32)


def _alarm(rng: Rng, size: int) -> Samples:
    """Return beeps of an appliance: square-like tones in groups."""
    t, hz = np.arange(size) / RATE_HZ, rng.uniform(900, 3200)
    tone = np.sin(2 * np.pi * hz * t) + np.sin(6 * np.pi * hz * t) / 3
    period_s, beeps = rng.uniform(0.8, 1.6), int(rng.integers(1, 5))
    inside = (t % period_s) * 8
    return np.asarray(tone * ((inside < beeps) & (inside % 1 < 0.5)), np.float32)


def _kettle(rng: Rng, size: int) -> Samples:
    """Return boiling water: rising noise with bubbling."""
    t = np.linspace(0, 1, size)
    bubbling = 1 + 0.5 * scipy.signal.sawtooth(2 * np.pi * np.cumsum(rng.uniform(5, 25, size)) / RATE_HZ)
    return np.asarray(_band(rng.standard_normal(size), 150, 2500) * bubbling * (0.2 + t), np.float32)


def _footsteps(rng: Rng, size: int) -> Samples:
    """Return footsteps: thuds at a walking pace, each a low knock and a scrape."""
    wave, step_s = np.zeros(size + RATE_HZ), rng.uniform(0.45, 0.65)
    for at in np.arange(0, size, step_s * RATE_HZ).astype(int):
        length = int(rng.uniform(0.05, 0.12) * RATE_HZ)
        thud = np.sin(2 * np.pi * rng.uniform(60, 140) * np.arange(length) / RATE_HZ)
        knock = (thud + 0.3 * rng.standard_normal(length)) * np.exp(-5 * np.arange(length) / length)
        wave[at : at + length] += knock * rng.uniform(0.6, 1)
    return np.asarray(wave[:size], np.float32)


def _band(wave: np.ndarray, low_hz: float, high_hz: float) -> np.ndarray:
    sections = scipy.signal.butter(2, [low_hz, high_hz], "bandpass", fs=RATE_HZ, output="sos")
    return np.asarray(scipy.signal.sosfilt(sections, wave))


KINDS: dict[str, Callable[[Rng, int], Samples]] = {
    "crickets": _crickets,
    "songbird": _songbird,
    "frogs": _frogs,
    "cat": _cat,
    "vacuum_cleaner": _vacuum_cleaner,
    "washing_machine": _washing_machine,
    "keyboard": _keyboard,
    "alarm": _alarm,
    "kettle": _kettle,
    "footsteps": _footsteps,
}
