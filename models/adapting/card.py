"""The card of an adapted model: what was added, how well it is told apart, and what that rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from models.adapting.adapt import Adapted, NewClass, Wish
from models.layouts import FOLDS

_HEAD: Final = "| class | clips with its event | other clips with its event | threshold |"
_HOW: Final = f"""Recordings were put into {len(FOLDS)} parts; cuts of one recording, as far as names tell, share one.
Each part was judged by a network that had not learnt from it, through the pipeline that ships, with thresholds chosen
without it. What ships has learnt from all of them. Intervals are 95 % (Wilson)."""
_MORE: Final = """Sounds of a kind that is not among these may be taken for a new class. `--background` with recordings
of the place, `--material` and `--data` give it more to be told apart from, and `snn-detect calibrate` says how often it
is mistaken there."""


def evaluation(adapted: Adapted) -> Iterator[str]:
    """Yield the lines of the evaluation, as Markdown."""
    yield _HEAD
    yield "|---|---|---|---|"
    for c in adapted.classes:
        false = "; ".join(f"{source} {rate}" for source, rate in c.false.items())
        yield f"| {c.choice.label} | {c.recall} | {false} | {c.choice.threshold:g} |"


def card(wish: Wish, adapted: Adapted) -> str:
    """Return the card as Markdown."""
    manifest = adapted.manifest
    added = ", ".join(f"{c.choice.label} ({c.clips} recordings)" for c in adapted.classes)
    made = f"{wish.model.name} with {'other' if wish.replace else 'more'} classes: {added}."
    heard = "\n".join(f"- {source}: {count} clips of no new class" for source, count in adapted.sources.items())
    parts = [
        f"# {manifest.name} {manifest.version}",
        f"{made} Made by `{manifest.training.command.rpartition('; ')[2]}`.",
        "## How well it hears the new classes",
        _HOW,
        "\n".join(evaluation(adapted)),
        _warnings(adapted.classes),
        "## The other classes",
        _old(wish, adapted),
        "## What it learnt from besides",
        heard,
        _MORE,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _old(wish: Wish, adapted: Adapted) -> str:
    if wish.replace:
        return "There are none: they were left out."
    if adapted.old_scores_equal:
        return (
            "Their scores are what they were, to the bit (compared over all the sounds of this run): the body of the "
            "network and their read-out are untouched. The card of the model that was adapted holds for them."
        )
    return "Their weights are untouched; scores differ in the last bits, which this machine's sigmoid rounds otherwise."


def _warnings(classes: tuple[NewClass, ...]) -> str:
    lines = []
    for c in classes:
        if c.recall.value < 0.8:  # noqa: PLR2004 - what is asked for in the README
            lines.append(f"- {c.choice.label} is missed often: record more, and more various, examples.")
        if c.choice.worst.value > 0.05:  # noqa: PLR2004 - one in twenty
            lines.append(f"- Other sounds are often taken for {c.choice.label}: give it some of them as --background.")
    return "\n".join(lines)
