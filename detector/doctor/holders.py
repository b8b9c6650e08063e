"""Who has the microphones open."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from detector.doctor.finding import UNAVAILABLE, Finding, ok, problem, skipped
from detector.doctor.processes import Process, open_files, process, processes
from detector.doctor.roots import Roots
from detector.microphone.cards import Card
from detector.microphone.devices import DEFAULT

HOLDERS: Final = "holders"
_OWNER: Final = re.compile(r"^owner_pid\s*:\s*(\d+)", re.MULTILINE)
_STATUS: Final = re.compile(r"card(\d+)/pcm\d+c/sub\d+/status$")
_DEVICE: Final = re.compile(r"/dev/snd/pcmC(\d+)D\d+c$")
_SERVERS: Final = frozenset({"pulseaudio", "pipewire", "wireplumber", "pipewire-pulse"})


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has the input of a card open."""

    card: int
    process: Process


def find_holders(roots: Roots) -> tuple[Holder, ...]:
    """Return who has which card's input open, this process left out.

    The kernel names one process for each open input; what processes have open names the others,
    such as those that share it, as far as this user may look.
    """
    found = {(h.card, h.process.pid): h for h in (*_by_kernel(roots), *_by_files(roots))}
    return tuple(h for _, h in sorted(found.items()) if h.process.pid != os.getpid())


def check_holders(holders: Sequence[Holder], cards: Sequence[Card], number: int | None, *, is_heard: bool) -> Finding:
    """Say who holds the microphones; ``number`` is the wanted card's, ``is_heard``: it could be opened all the same."""
    if not cards and not holders:
        return skipped(HOLDERS, "there are no sound cards here that anybody could hold")
    if not holders:
        return ok(HOLDERS, "no program has a microphone open")
    titles = {card.number: card.title for card in cards}
    found = "; ".join(f"card {h.card}{_titled(titles.get(h.card))}: {h.process}" for h in holders)
    in_the_way = [h for h in holders if number is None or h.card == number]
    if is_heard or not in_the_way:
        return ok(HOLDERS, found)
    if any(h.process.is_ours for h in in_the_way):
        return ok(HOLDERS, f"{found}; so the detector itself is listening")
    return problem(HOLDERS, found, _release_advice(in_the_way[0].process), UNAVAILABLE)


def is_with_us(holders: Sequence[Holder], cards: Sequence[Card], wish: str) -> bool:
    """Tell whether a detector that runs has the device open that is asked for: others then do not even see it."""
    ours = {h.card for h in holders if h.process.is_ours}
    ids = [id_.lower() for card in cards if card.number in ours for id_ in card.ids]
    return bool(ours) and (wish == DEFAULT or any(id_.startswith(wish.lower()) for id_ in ids))


def _release_advice(holder: Process) -> str:
    if holder.name in _SERVERS:
        return (
            f"listen through {holder.name}: run snn-detect as a service of the user who runs it, with "
            f'audio.device = "mic"; or end {holder.name}'
        )
    return f"end it: kill {holder.pid}, or stop the service that started it (systemctl status {holder.pid})"


def _by_kernel(roots: Roots) -> Iterator[Holder]:
    for status in sorted(roots.proc.glob("asound/card*/pcm*c/sub*/status")):
        card = _STATUS.search(str(status))
        try:
            owner = _OWNER.search(status.read_text(encoding="ascii", errors="replace"))
        except OSError:
            continue
        if card and owner:
            number = int(owner[1])
            yield Holder(int(card[1]), process(roots.proc, number) or Process(number, "unknown", ()))


def _by_files(roots: Roots) -> Iterator[Holder]:
    for candidate in processes(roots.proc):
        for card in {int(m[1]) for name in open_files(roots.proc, candidate.pid) if (m := _DEVICE.search(name))}:
            yield Holder(card, candidate)


def _titled(title: str | None) -> str:
    return f" ({title})" if title else ""
