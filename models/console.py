"""What training and evaluation write to standard error: problems with single clips, and progress."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import click

from detector.cli.program import Gauge

SHOWN = 20
_LINE_S: Final = 180.0
"""Time between two lines of progress where standard error is no terminal: a day of training writes 480 of them."""
_T = TypeVar("_T")


def report_problems(lines: Sequence[str]) -> None:
    """Print the first ``SHOWN`` lines to stderr, and the number of further ones."""
    for line in lines[:SHOWN]:
        click.echo(f"snn-train: {line}", err=True)
    if len(lines) > SHOWN:
        click.echo(f"snn-train: and {len(lines) - SHOWN} more like these", err=True)


class Progress:
    """Progress of work that is counted: a bar on a terminal, else a line every few minutes."""

    def __init__(self, name: str, total: int, unit: str, done: int = 0) -> None:
        """Take the name of the work, how many units it has, and how many of them were done before."""
        self._gauge = Gauge(name, total, wanted=True, line_every_s=_LINE_S)
        self._total, self._unit, self._done = total, unit, done
        self.advance(0)

    def advance(self, by: int = 1, **figures: object) -> None:
        """Count units as done; the figures are shown beside them."""
        self._done += by
        shown = "".join(f", {name} {value}" for name, value in figures.items())
        self._gauge.advance(self._done, f"{self._done} of {self._total} {self._unit}{shown}")

    def reach(self, done: int) -> None:
        """Set how many units are done."""
        self.advance(done - self._done)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._gauge.close()


def progress(items: Iterable[_T], name: str, unit: str, total: int | None = None) -> Iterator[_T]:
    """Yield items and show how many of them were processed; ``total``: their number, where they do not know it."""
    known: Any = items
    size = len(known) if total is None and isinstance(items, Collection) else total or 0
    with Progress(name, size, unit) as shown:
        for item in items:
            yield item
            shown.advance()
