"""The table and the card of an adapted model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from detector.manifest import SENSITIVITIES
from detector.statistics import Rate
from models.adapting.adapt import AdaptOptions, AdaptResult
from models.adapting.operating_points import LIMITS
from models.data.datasets import FOLDS

_HEAD: Final = (
    "| class | sensitivity | clips with its event | other sounds with its event | worst of them | threshold |"
)
_SHARES: Final = ", ".join(f"{100 * LIMITS[name]:g}" for name in SENSITIVITIES) + " %"
_METHOD: Final = f"""Recordings were divided into {len(FOLDS)} folds; cuts of one recording, by their names, share one.
Each fold was evaluated by a network not trained on it, behind another sound, with thresholds chosen without it: the
recordings through the runtime's pipeline, the bank's sounds on stored spikes, which give the same scores. Other sounds
are counted in pieces of some seconds, at most {_SHARES} of which, at low, balanced and high sensitivity, may
have an event in any group. The final head was trained on all of them. Intervals are 95 % (Wilson)."""
_ADVICE: Final = """Other kinds of sounds may be taken for a new class. `--background` with recordings of the place adds
negatives, and `snn-detect calibrate` measures the false alarms at that place."""


def evaluation_table(result: AdaptResult) -> Iterator[str]:
    """Yield the lines of the evaluation as a Markdown table."""
    yield _HEAD
    yield "|---|---|---|---|---|---|"
    for c in result.classes:
        for name in SENSITIVITIES:
            rates = c.false[name]
            total = Rate(sum(r.hits for r in rates.values()), sum(r.total for r in rates.values()))
            worst = max(rates, key=lambda group: rates[group].value)
            threshold = c.choice.thresholds[name]
            yield (
                f"| {c.label} | {name} | {c.recall[name]} | {total} | {worst} {rates[worst].hits}/{rates[worst].total} "
                f"| {threshold:g} |"
            )


def warnings(result: AdaptResult) -> Iterator[str]:
    """Yield a line for each weakness of the new classes, with what can be done about it."""
    for c in result.classes:
        if c.recall["balanced"].value < 0.8:  # noqa: PLR2004 - the recall that the README asks for
            yield f"{c.label} is missed often: record more, and more varied, examples"
        if c.worst.value > 0.05:  # noqa: PLR2004 - one in twenty
            yield f"other sounds are often taken for {c.label}: add some of them by --background"
        for kind, rate in c.taken.items():
            yield (
                f"{rate.hits} of {rate.total} recordings of {kind} in the bank are taken for {c.label}, although they "
                f"were trained on as other sounds; if {c.label} is of this kind, add --without {kind}"
            )


def card(options: AdaptOptions, result: AdaptResult) -> str:
    """Return the model card as Markdown."""
    manifest = result.manifest
    added = ", ".join(f"{c.label} ({c.clips} recordings)" for c in result.classes)
    made = f"{options.model.name} with {'other' if options.replace else 'more'} classes: {added}."
    negatives = [f"- {source}: {count} negative clips" for source, count in result.sources.items()]
    negatives += [f"- {s.name}: {s.use}; {s.licence}" for s in manifest.training.sources if s.name.startswith("bank ")]
    parts = [
        f"# {manifest.name} {manifest.version}",
        f"{made} Made by `{manifest.training.command.rpartition('; ')[2]}`.",
        "## Evaluation of the new classes",
        _METHOD,
        "\n".join(evaluation_table(result)),
        "\n".join(f"- {line}." for line in warnings(result)),
        "## The other classes",
        _old_classes(options, result),
        "## Further training data",
        "\n".join(negatives),
        _ADVICE,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _old_classes(options: AdaptOptions, result: AdaptResult) -> str:
    if options.replace:
        return "There are none: they were removed."
    if result.old_scores_equal:
        return (
            "Their scores are unchanged, to the bit (compared over all the sounds of this run): backbone and read-out "
            "are the same. The card of the adapted model applies to them."
        )
    return (
        "Their weights are unchanged; scores differ in the last bits, which this machine's sigmoid rounds differently."
    )
