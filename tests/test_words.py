"""The words of the project are the standard terms of its field: in code, comments, messages and documents.

``WORDS`` lists words that are not, each with the one to use. A word is also found as a part of an identifier
(``hear`` in ``_hear_one`` and in ``Hearer``), never inside another word. Quotations, names that users depend on and
words of third parties are in ``ALLOWED``; files that quote old words are in ``EXCLUDED``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
WORDS = {
    "anew": "again, afresh, reopen, restart",
    "whoever": "the caller, the client that",
    "nobody": "no client, no user, none",
    "somebody": "a user, a client",
    "anybody": "any user, any client",
    "lest": "to avoid, so that ... not",
    "mend mends mended mending": "fix, repair, correct",
    "hear hears heard hearing hearer hearers unheard": "detect, receive, process, audible; predictions",
    "tell tells told telling": "report, log, notify, emit; return whether; separate (classes)",
    "teller": "RecordPublisher",
    "onlooker onlookers": "LiveViewer, viewer",
    "stranger strangers": "negatives, out-of-class sounds",
    "unclassed": "out-of-class",
    "corridor corridors": "pipeline",
    "house houses": "the architecture, the project, the program; household",
    "wish wishes wished": "options, selector, setting",
    "workplace": "ServiceRuntime",
    "vigil": "WatchdogPolicy",
    "tally": "Counters, count",
    "seldom": "RateLimitedLog, rarely",
    "outlet outlets": "SinkManager, output, sink",
    "insides": "Trace, trace",
    "news": "SourceEvent, event",
    "hush": "silence",
    "farewell farewells": "offline_messages",
    "judge judges judged judging": "evaluate, evaluation",
    "reckon reckons reckoned reckoning": "compute",
    "dice": "random generator, RNG state",
    "lesson lessons": "examples",
}
"""All forms of a word, and what to use in its place."""
PHRASES = {
    r"in doubt": "masked from the loss, uncertain",
    r"cr(?:y|ies) wolf": "false alarms",
    r"room by room|(?:each|every) room|what a room|room of frames": "stage",
    r"reversed numbers": "bit-reversal permutation",
    r"(?:pass|split) turns": "twiddle factors",
    r"try again error": "RetryableError",
}
"""Patterns of several words; identifiers are looked at as words with spaces between them."""
CLASSES = {
    "Asked": "CalibrateOptions",
    "Bare": "a preset of RunOptions",
    "Condition": "SourceCondition",
    "Figures": "SourceStats",
    "Finding": "CheckResult",
    "Form": "NumberFormat",
    "Guard": "AuthMiddleware",
    "Hub": "Broadcaster",
    "Latch": "Debounce",
    "Looks": "ModelInfo",
    "Lost": "AudioGap",
    "Origin": "StreamInfo",
    "Packer": "FrameEncoder",
    "Room": "Stage",
    "Roots": "SystemPaths",
    "Station": "NodeInfo",
    "Stretch": "Segment",
    "Wiring": "SinkContext",
}
"""Names of classes; as words of a sentence they are fine."""
ALLOWED = (
    r"\bheard_s\b",  # a key of health records
    r"mdi:ear-hearing",  # an icon of Home Assistant
    r"\.tell\(",  # a method of Python's files
    # Sentences that a synthesizer speaks: in the demo scene, and in training scenes.
    r"Somebody is practising in the room next door, listen\.",
    r"Nobody knew where the old map had come from\.",
    r"Somebody left the light on in the cellar all night\.",
    r"It was so quiet that you could hear the clock in the hall\.",
    r"using lessons from deep learning",  # the title of a paper
    r"[\"'](?:--judge|judge|unclassed)[\"']",  # old names of options and values of snn-train, accepted for one release
    r"--judge is now --evaluate|--use[ =]judge\b",
    r"\bjudge_on\b",  # the old name of a key of recipes, which is reported
    r"[\"']dice[\"']",  # a key of older checkpoints
)
PLACES = ("detector", "models", "firmware_export", "systemd", "tests", ".github", ".ci", "findings")
SUFFIXES = {
    *(".py", ".md", ".toml", ".c", ".h", ".ino", ".ld", ".js", ".html", ".css", ".template"),
    *(".service", ".logrotate", ".conf", ".yml", ".sh", ".txt", ""),
}
EXCLUDED = (
    "CHANGELOG.md",  # names what was renamed
    "models/HISTORY.md",
    "models/RESULTS.md",  # generated from kept figures
    "models/data/catalogue.toml",  # file names of other projects
    "tests/contracts/expected",
    "tests/test_words.py",
)
_STANDARD = {form: use for forms, use in WORDS.items() for form in forms.split()}
_PHRASES = [(re.compile(rf"\b(?:{phrase})\b"), use) for phrase, use in PHRASES.items()]
_CLASS = re.compile(rf"(?:\bclass _?|: |\[)({'|'.join(CLASSES)})\b(?=[(:,\]]| =|$)")
_ALLOWED = re.compile("|".join(ALLOWED))


class Use(NamedTuple):
    line: int
    word: str
    standard: str


def files() -> Iterator[Path]:
    yield from (ROOT / "Makefile", ROOT / "pyproject.toml", *sorted(ROOT.glob("*.md")))
    for place in PLACES:
        yield from sorted(path for path in (ROOT / place).rglob("*") if path.is_file() and path.suffix in SUFFIXES)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


FILES = [path for path in files() if not name(path).startswith(EXCLUDED)]


def uses(text: str) -> list[Use]:
    """Return the banned words of a text, line by line."""
    found = []
    for number, whole in enumerate(text.splitlines(), 1):
        line = _ALLOWED.sub("", whole)
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", line)
        plain = re.sub(r"[\s_]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line)).lower()
        hits = {(word.lower(), _STANDARD[word.lower()]) for word in words if word.lower() in _STANDARD}
        hits |= {(match[0], use) for phrase, use in _PHRASES if (match := phrase.search(plain))}
        hits |= {(f"class {match[1]}", CLASSES[match[1]]) for match in _CLASS.finditer(line)}
        found += [Use(number, word, use) for word, use in sorted(hits)]
    return found


@pytest.mark.parametrize("path", FILES, ids=name)
def test_words_are_the_standard_terms(path: Path) -> None:
    found = uses(path.read_text(encoding="utf-8"))
    lines = [f"{name(path)}:{use.line}: {use.word!r}: use {use.standard}" for use in found]
    assert not lines, "\n" + "\n".join(lines)


def test_words_are_found_in_sentences_and_identifiers() -> None:
    text = (
        "It hears a sound\nself._hear_one(x)\nclass _Hearer:\nopened anew, told by Nobody\nclass Guard:\nroom_of_frames"
    )
    assert [(use.line, use.word) for use in uses(text)] == [
        (1, "hears"),
        (2, "hear"),
        (3, "hearer"),
        (4, "anew"),
        (4, "nobody"),
        (4, "told"),
        (5, "class Guard"),
        (6, "room of frames"),
    ]


def test_other_words_and_allowed_ones_are_not_found() -> None:
    text = "shear heart household newsletter stellar prejudge\nx.heard_s = 1\nfile.tell()\nGuard the quiet room."
    assert uses(text) == []
