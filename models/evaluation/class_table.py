"""The table of classes in the README, from the model's manifest and its card: ``make readme-table`` writes it again.

Where the manifest has results of ``snn-train evaluate-classes``, the table has those, and which classes are ready.
Otherwise it has the long streams of the card, at the model's own thresholds. The sentence above the table has the
card's figures of all classes together, in the column of the manifest's version.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from detector.errors import ConfigError
from detector.manifest import ClassResults, ClassSpec, Manifest
from detector.network import load_model
from detector.statistics import HourlyRate, Rate
from detector.system import write_text
from models.evaluation.readiness import MAX_FALSE_PER_HOUR, MIN_SHARE, MIN_SNR_DB, MIN_SOUNDS

BEGIN: Final = "<!-- Written by make readme-table from the model's card and manifest; change those. -->"
END: Final = "<!-- Here the table of make readme-table ends. -->"
_HEAD: Final = "| class | found | false events an hour | median latency | state |\n|---|---|---|---|---|"
_ALL_FOUND: Final = "sounds found, at the model's own thresholds"
_ALL_FALSE: Final = "false events of any class"
_FOUND: Final = re.compile(r"(\d+)/(\d+) = \d+ %.*")
_FALSE: Final = re.compile(r"([\d.]+)/h (\(at most [\d.]+\))")
_WIDTH: Final = 120
Row = tuple[str, ...]


def updated(document: str, manifest: Manifest, card: str) -> str:
    """Return the document with sentence and table between the two marks; raises ConfigError without them."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"there is no place for the table of classes; put these lines around it: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{_section(manifest, card)}{END}{after}"


def _section(manifest: Manifest, card: str) -> str:
    """Return what stands between the marks."""
    is_evaluated = any(c.results is not None for c in manifest.classes)
    by_card = {} if is_evaluated else _rows_of_classes(manifest, card)
    rows = [_row(c, by_card.get(c.label)) for c in manifest.classes]
    text = f"{_summary(manifest, card)} {_about(is_evaluated)}".replace(" %", "\N{NO-BREAK SPACE}%")
    text = textwrap.fill(text, _WIDTH, break_on_hyphens=False).replace("\N{NO-BREAK SPACE}", " ")
    return "\n".join([text, "", _HEAD, *rows, ""])


def _summary(manifest: Manifest, card: str) -> str:
    found, false = (_figure(card, manifest.version, title) for title in (_ALL_FOUND, _ALL_FALSE))
    hits, per_hour = _FOUND.fullmatch(found), _FALSE.fullmatch(false)
    if hits is None or per_hour is None:
        raise ConfigError(
            f"the card's figures have another form than 1/2 = 50 % and 1.5/h (at most 2): {found}, {false}"
        )
    all_found = Rate(int(hits[1]), int(hits[2]))
    clips = round(manifest.metrics["clips"])
    right = round(manifest.metrics["accuracy"] * clips)
    return (
        f"**It is no alarm.** In test scenes with a sound every ten seconds at 0 to 20 dB, `{manifest.name}` "
        f"{manifest.version} reports {per_hour[1]} false events an hour {per_hour[2]} and finds {all_found.hits} of "
        f"{all_found.total} sounds ({100 * all_found.value:.0f} %); of single clips it classifies {right} of {clips} "
        f"correctly ({100 * right / clips:.1f} %). Bounds are 95 %; the [model card]"
        "(models/pretrained/household.md) has the rest."
    )


def _about(is_evaluated: bool) -> str:
    if not is_evaluated:
        return (
            "The table is of the same scenes, at the model's own thresholds; which classes are ready has not been "
            "evaluated for this model, so all are reported."
        )
    return (
        f"The table counts sounds at {MIN_SNR_DB:g} dB and more, at no more than {MAX_FALSE_PER_HOUR:g} false event "
        f"an hour and class. A class with {MIN_SOUNDS} such sounds or more of which {100 * MIN_SHARE:.0f} % are found "
        "is ready; the others, on trial, are reported on request (`--only`, `--all-classes`)."
    )


def _row(spec: ClassSpec, by_card: Row | None) -> str:
    if spec.results is not None:
        cells = _measured(spec.results)
    elif by_card is not None:
        cells = (by_card[0], by_card[1].replace("/h", ""), by_card[2].partition(",")[0], "not evaluated")
    else:
        cells = ("", "", "", "not evaluated")
    return f"| {' | '.join((f'`{spec.label}`', *cells))} |"


def _measured(results: ClassResults) -> Row:
    false = HourlyRate(round(results.false_per_hour * results.hours), results.hours)
    found = Rate(results.found, results.references)
    return (
        f"{found.hits}/{found.total} = {100 * found.value:.0f} %",
        f"{results.false_per_hour:.1f} (at most {false.bound:.1f})",
        "none found" if results.latency_s is None else f"{results.latency_s:.2f} s",
        "ready" if results.is_ready else "on trial",
    )


def _rows_of_classes(manifest: Manifest, card: str) -> dict[str, Row]:
    """Return the card's cells of each class in long streams: found, false events, latency."""
    rows = {cells[0].strip("`"): tuple(cells[1:]) for cells in _table_cells(card) if cells[0].startswith("`")}
    if missing := [label for label in manifest.labels if len(rows.get(label, ())) < 3]:  # noqa: PLR2004 - three cells
        raise ConfigError(f"the model card has no row of long streams for {', '.join(missing)}")
    return rows


def _figure(card: str, version: str, title: str) -> str:
    """Return the first cell of a row in the column of a version."""
    column = 0
    for cells in _table_cells(card):
        column = cells.index(version) if version in cells else column
        if cells[0] == title and 0 < column < len(cells):
            return cells[column]
    raise ConfigError(f"the model card has no row {title!r} with a column {version}")


def _table_cells(text: str) -> list[Sequence[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def main() -> None:
    """Write the table of the shipped model into the document that is named."""
    (path,) = map(Path, sys.argv[1:])
    model = load_model()
    card = model.path.with_suffix(".md").read_text(encoding="utf-8")
    write_text(path, updated(path.read_text(encoding="utf-8"), model.manifest, card))


if __name__ == "__main__":
    main()
