"""The processes of this machine, as far as this user may see them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TGID: Final = re.compile(r"^Tgid:\s*(\d+)", re.MULTILINE)
_OURS: Final = "snn-detect"
_MODULE: Final = ("-m", "detector")
_BRIEF: Final = frozenset({"doctor", "devices", "config", "model", "bench", "events", "mqtt", "--help", "--version"})
"""Commands of ours that do not listen."""


@dataclass(frozen=True, slots=True)
class Process:
    """A running program."""

    pid: int
    name: str
    arguments: tuple[str, ...]

    @property
    def is_ours(self) -> bool:
        """Whether it is a detector that listens."""
        for number, argument in enumerate(self.arguments):
            rest = self.arguments[number + 1 :]
            if Path(argument).name == _OURS or self.arguments[number : number + 2] == _MODULE:
                return not _BRIEF.intersection(rest)
        return False

    def __str__(self) -> str:
        """Name it, with its number."""
        return f"{_OURS if self.is_ours else self.name} (process {self.pid})"


def process(proc: Path, number: int) -> Process | None:
    """Return the process that a number of a process, or of one of its threads, belongs to; None: it is gone."""
    tgid = _TGID.search(_text(proc / str(number) / "status"))
    pid = int(tgid[1]) if tgid else number
    name = _text(proc / str(pid) / "comm").strip()
    arguments = tuple(a for a in _text(proc / str(pid) / "cmdline").split("\0") if a)
    return Process(pid, name or "unknown", arguments) if name or arguments else None


def processes(proc: Path) -> Iterator[Process]:
    """Yield all processes but this one."""
    for number in _numbers(proc):
        if number != os.getpid() and (found := process(proc, number)) is not None:
            yield found


def open_files(proc: Path, pid: int) -> Iterator[str]:
    """Yield what a process has open, by name; nothing where this user may not see it."""
    try:
        entries = list((proc / str(pid) / "fd").iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            yield str(entry.readlink())
        except OSError:
            continue  # closed meanwhile


def _numbers(proc: Path) -> list[int]:
    try:
        return sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())
    except OSError:
        return []


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
