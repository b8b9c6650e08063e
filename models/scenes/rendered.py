"""Instruments and voices that training did not have: another sound font, other dice, other speakers and texts."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from detector.errors import ConfigError
from models.datasets import RENDERED
from models.rendering.chance import Rng
from models.rendering.material import Batch, batches
from models.rendering.melodic import Player, compose_melody
from models.rendering.synthesis import FURTHER_SOUNDFONTS, OTHER_SOUNDFONT, RATE_HZ, SOUNDFONT, play, speak
from models.scenes.sounds import Sound, cut_sounds

CLIPS_A_PROGRAM = {"guitar": 6, "bowed": 4, "winds": 2, "drums": 4, "other": 1}
"""Phrases for each General MIDI program of a class."""
_EFFECTS = (55, *range(96, 104), 112, 113, 115, 119, 121, 123, 124, 126, 127)
"""Programs of no class that training never rendered: pads and effects, a bell, a bird, a telephone, applause, a shot.

Left out with those of ``material.batches``: sea shore and helicopter, which are classes, and guitar frets."""
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


def rendered_sounds(seed: int, soundfont: Path = OTHER_SOUNDFONT, *, unclassed_only: bool = False) -> list[Sound]:
    """Return phrases of every class that can be rendered, and of instruments of none.

    Raises RenderError where a synthesiser is missing, ConfigError for the sound font of training.
    """
    if soundfont.resolve().name in {font.name for font in (SOUNDFONT, *FURTHER_SOUNDFONTS)}:
        raise ConfigError(f"{soundfont}: is a sound font of the training material; name another")
    sounds = list[Sound]()
    wanted = [b for b in _batches() if b.label not in RENDERED or not unclassed_only]
    for batch in tqdm(wanted, unit="program", desc="instruments", leave=False, disable=None):
        rng = _generator(seed, f"scene {batch.label}", batch.program)
        phrases = [batch.compose(rng) for _ in range(batch.count)]
        waves = play(phrases, batch.program, drums=batch.label == "drums", soundfont=soundfont)
        for n, wave in enumerate(waves):
            name = f"{batch.label}-{batch.program}-{n}"
            sounds += cut_sounds(RENDERED.get(batch.label), soundfont.stem, name, wave, RATE_HZ)
    return sounds


def spoken_sounds(seed: int) -> list[Sound]:
    """Return sentences by voices that training did not have; raises RenderError where espeak-ng is missing."""
    rng, sounds = _generator(seed, "scene speech", 0), list[Sound]()
    for n in tqdm(range(_SPEECH_CLIPS), unit="clip", desc="voices", leave=False, disable=None):
        language, voice = str(rng.choice(list(_TEXTS))), str(rng.choice(_VOICES))
        texts = rng.permutation(_TEXTS[language])[: int(rng.integers(1, 4))]
        wave = speak(" ".join(texts), f"{language}+{voice}", int(rng.integers(120, 200)), int(rng.integers(25, 75)))
        sounds += cut_sounds("speech", "espeak-ng", f"{language}+{voice}-{n}", wave, RATE_HZ)
    return sounds


def _batches() -> list[Batch]:
    first = [b for b in batches() if b.soundfont == SOUNDFONT]
    known = [Batch(b.label, b.program, CLIPS_A_PROGRAM[b.label], b.compose) for b in first]
    player = Player(48, 84, ("legato", "detached", "chords", "long"), swells=False)
    return known + [
        Batch("other", p, CLIPS_A_PROGRAM["other"], partial(compose_melody, player=player)) for p in _EFFECTS
    ]


def _generator(seed: int, label: str, program: int) -> Rng:
    return np.random.default_rng([seed, program, *label.encode()])
