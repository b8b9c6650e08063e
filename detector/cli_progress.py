"""A progress bar on standard error, where that is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from detector.sources import Source

_REFRESH_S = 0.1


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
        task = progress.add_task(name, total=source.frames_total)
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
        if self._progress is None or not self._progress.live.is_started:
            yield
            return
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()


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
        console=console,
        auto_refresh=False,
        transient=True,
        # The sinks write to the streams themselves, between aside() and its end.
        redirect_stdout=False,
        redirect_stderr=False,
    )
