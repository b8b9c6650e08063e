"""What one look has found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

State: TypeAlias = Literal["ok", "warning", "problem", "skipped"]
SETTINGS: Final = 2
"""Exit code of a problem with the configuration or the model."""
UNAVAILABLE: Final = 69
"""Exit code of a problem with what the service needs around it: microphone, disk, broker."""
WRONG: Final = 70
"""Exit code of a detector that does not detect as it should."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    """How it is, in one line."""
    advice: str = ""
    """What to do, in one line; empty where there is nothing to do."""
    exit_code: int = 0
    """That of the command, where this is its first problem."""


def ok(name: str, found: str, advice: str = "") -> Finding:
    """Return that all is well."""
    return Finding(name, "ok", found, advice)


def warning(name: str, found: str, advice: str) -> Finding:
    """Return that something works, but not as it should, or not for long."""
    return Finding(name, "warning", found, advice)


def problem(name: str, found: str, advice: str, exit_code: int) -> Finding:
    """Return that something keeps the detector from its work."""
    return Finding(name, "problem", found, advice, exit_code)


def skipped(name: str, why: str) -> Finding:
    """Return that something was not looked at."""
    return Finding(name, "skipped", why)


def exit_code(findings: Iterable[Finding]) -> int:
    """Return the exit code of the first problem; 0 without one."""
    return next((f.exit_code for f in findings if f.state == "problem"), 0)
