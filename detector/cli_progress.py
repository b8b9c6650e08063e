"""Progress on standard error, where that is a terminal: of a source that is read, and of anything that takes long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from detector.cli_program import tell

if TYPE_CHECKING:
    from rich.progress import Progress

    from detector.sources import Source

_REFRESH_S = 0.1
_LINE_S = 600.0


class Bar:
    """How much of a source has been read; nothing at all where nobody can see it.

    It is drawn by ``advance`` alone, without a thread of its own.
    """

    def __init__(self, *, wanted: bool) -> None:
        """Prepare the bar, unless it is not wanted or standard error is no terminal."""
        self._progress = _progress() if wanted and sys.stderr.isatty() else None
        self._drawn = 0.0

    @contextmanager
    def over(self, name: str, source: Source) -> Iterator[None]:
        """Show the bar for one source and remove it at the end."""
        progress = self._progress
        if progress is None:
            yield
            return
        task = progress.add_task(name, total=source.frames_total, detail="")
        progress.start()
        try:
            yield
        finally:
            progress.stop()
            progress.remove_task(task)

    def advance(self, source: Source) -> None:
        """Draw the bar anew, at most ten times a second."""
        now = time.monotonic()
        if self._progress is None or now - self._drawn < _REFRESH_S:
            return
        self._drawn = now
        self._progress.update(self._progress.task_ids[0], completed=source.frames_read, refresh=True)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the bar away while other lines are written to the same terminal."""
        with _aside(self._progress):
            yield


class Gauge:
    """How far something is that takes minutes or hours, with words beside it; else a line now and then."""

    def __init__(self, name: str, total: float, *, wanted: bool, line_every_s: float = _LINE_S) -> None:
        """Begin; ``total`` is what ``advance`` counts to."""
        self._progress = _progress() if wanted and sys.stderr.isatty() else None
        self._line_every_s = line_every_s if wanted and self._progress is None else float("inf")
        self._name, self._total = name, total
        self._drawn = self._line = time.monotonic()
        if self._progress is not None:
            self._progress.add_task(name, total=total, detail="")
            self._progress.start()

    def advance(self, done: float, detail: str) -> None:
        """Say how far it is; it is drawn at most ten times a second, and written at most every few minutes."""
        now = time.monotonic()
        if self._progress is not None and now - self._drawn >= _REFRESH_S:
            self._drawn = now
            self._progress.update(self._progress.task_ids[0], completed=done, detail=detail, refresh=True)
        if now - self._line >= self._line_every_s:
            self._line = now
            tell(f"{self._name}: {100 * done / self._total:.0f} %, {detail}")

    def tell(self, line: str) -> None:
        """Write a line for people beside the picture."""
        with self.aside():
            tell(line)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the picture away while other lines are written to the same terminal."""
        with _aside(self._progress):
            yield

    def close(self) -> None:
        """Remove the picture."""
        if self._progress is not None:
            self._progress.stop()


@contextmanager
def _aside(progress: Progress | None) -> Iterator[None]:
    """Take a bar away for a while, where there is one and it is drawn."""
    if progress is None or not progress.live.is_started:
        yield
        return
    progress.stop()
    try:
        yield
    finally:
        progress.start()


def _progress() -> Progress | None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_interactive:
        return None
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        console=console,
        auto_refresh=False,
        transient=True,
        # The sinks write to the streams themselves, between aside() and its end.
        redirect_stdout=False,
        redirect_stderr=False,
    )
