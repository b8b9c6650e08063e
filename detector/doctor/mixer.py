"""The capture volumes of the sound cards, as ALSA's mixer has them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from detector.doctor.finding import Finding, ok, skipped, warning
from detector.doctor.programs import answer
from detector.doctor.roots import Roots
from detector.microphone.cards import Card

MIXER: Final = "mixer"
_LOW_PERCENT: Final = 10
_CONTROL: Final = re.compile(r"^Simple mixer control '(.*)',\d+$")
_CAPTURE: Final = re.compile(r"Capture(?: (-?\d+))?((?: \[[^\]]+\])+)")
_PERCENT: Final = re.compile(r"\[(\d+)%\]")
_SWITCH: Final = re.compile(r"\[(on|off)\]")
_MAIN: Final = "capture"
"""How controls begin that all sound of a card goes through."""


@dataclass(frozen=True, slots=True)
class Control:
    """A control of the capture side; of several channels, the loudest."""

    name: str
    percent: int | None
    """Its volume; None: it has none."""
    is_on: bool | None
    """Its switch; None: it has none."""

    def __str__(self) -> str:
        """Say how it stands."""
        volume = "" if self.percent is None else f" {self.percent} %"
        return f"{self.name}{volume}{' off' if self.is_on is False else ''}"


def check_mixer(roots: Roots, card: Card | None) -> Finding:
    """Look at the capture controls of a card; None: at those of the default device, as for a sound server."""
    which = () if card is None else ("-c", str(card.number))
    text = answer("amixer", *which, "scontents")
    if text is None:
        return skipped(MIXER, "amixer is missing or finds no mixer here (it is in the package alsa-utils)")
    found = list(controls(text))
    if not found:
        return skipped(MIXER, "there is no capture volume to be set")
    where = "" if card is None else f" {' '.join(which)}"
    keep = f"sudo alsactl store{'' if card is None else f' {card.number}'}"
    described = ", ".join(map(str, found))
    bad = muted(found) or low(found)
    if bad is not None:
        name = bad.name.replace("'", "'\\''")
        advice = f"amixer{where} sset '{name}' 80% cap, then {keep}: otherwise it is lost when the machine restarts"
        what = "muted" if bad.is_on is False else "very low"
        return warning(MIXER, f"{bad.name} is {what} ({described})", advice)
    unstored = card is not None and not roots.mixer_state.exists()
    return ok(MIXER, described, f"{keep} keeps it over restarts" if unstored else "")


def controls(text: str) -> Iterator[Control]:
    """Yield the capture controls in what ``amixer scontents`` prints."""
    name, values = "", ""
    for line in [*text.splitlines(), "Simple mixer control '',0"]:
        begin = _CONTROL.match(line)
        if begin is None:
            values += "".join(m[2] for m in _CAPTURE.finditer(line))
            continue
        if values:
            percents = [int(p) for p in _PERCENT.findall(values)]
            switches = _SWITCH.findall(values)
            yield Control(name, max(percents, default=None), "on" in switches if switches else None)
        name, values = begin[1], ""


def muted(found: Iterable[Control]) -> Control | None:
    """Return the control that lets nothing through; of several inputs, one that is on is enough."""
    switches = [c for c in found if c.is_on is not None]
    main = [c for c in switches if c.name.lower().startswith(_MAIN)]
    inputs = [c for c in switches if c not in main]
    closed = next((c for c in main if not c.is_on), None)
    return closed or (inputs[0] if inputs and not any(c.is_on for c in inputs) else None)


def low(found: Iterable[Control]) -> Control | None:
    """Return the control that lets next to nothing through; one of an input that is off does not matter."""
    volumes = [c for c in found if c.percent is not None and c.is_on is not False]
    main = [c for c in volumes if c.name.lower().startswith(_MAIN)]
    inputs = [c for c in volumes if c not in main]
    closed = next((c for c in main if _is_low(c)), None)
    return closed or (inputs[0] if inputs and not main and all(_is_low(c) for c in inputs) else None)


def _is_low(control: Control) -> bool:
    return control.percent is not None and control.percent < _LOW_PERCENT
