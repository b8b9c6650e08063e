"""What one look has found.

Where the system shows itself.

Asking the system's own programs.

The processes of this machine, as far as this user may see them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

State: TypeAlias = Literal["ok", "warning", "problem", "skipped"]
SETTINGS: Final = 2
"""Exit code of a problem with the configuration or the model."""
UNAVAILABLE: Final = 69
"""Exit code of a problem with what the service needs around it: microphone, disk, broker."""
WRONG: Final = 70
"""Exit code of a detector that does not detect as it should."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at."""

    name: str
    state: State
    found: str
    """How it is, in one line."""
    advice: str = ""
    """What to do, in one line; empty where there is nothing to do."""
    exit_code: int = 0
    """That of the command, where this is its first problem."""


def ok(name: str, found: str, advice: str = "") -> CheckResult:
    """Return that all is well."""
    return CheckResult(name, "ok", found, advice)


def warning(name: str, found: str, advice: str) -> CheckResult:
    """Return that something works, but not as it should, or not for long."""
    return CheckResult(name, "warning", found, advice)


def problem(name: str, found: str, advice: str, exit_code: int) -> CheckResult:
    """Return that something keeps the detector from its work."""
    return CheckResult(name, "problem", found, advice, exit_code)


def skipped(name: str, why: str) -> CheckResult:
    """Return that something was not looked at."""
    return CheckResult(name, "skipped", why)


def exit_code(findings: Iterable[CheckResult]) -> int:
    """Return the exit code of the first problem; 0 without one."""
    return next((f.exit_code for f in findings if f.state == "problem"), 0)


@dataclass(frozen=True, slots=True)
class SystemPaths:
    """A file system that can be another than this machine's."""

    top: Path = Path("/")

    @property
    def proc(self) -> Path:
        """Processes, and the kernel's view of the sound cards."""
        return self.top / "proc"

    @property
    def sound(self) -> Path:
        """The sound cards by the kernel's list of devices."""
        return self.top / "sys/class/sound"

    @property
    def thermal(self) -> Path:
        """Thermometers."""
        return self.top / "sys/class/thermal"

    @property
    def hwmon(self) -> Path:
        """Other sensors."""
        return self.top / "sys/class/hwmon"

    @property
    def snd(self) -> Path:
        """The devices of the sound cards."""
        return self.top / "dev/snd"

    @property
    def run(self) -> Path:
        """What lasts as long as the machine runs."""
        return self.top / "run"

    @property
    def etc(self) -> Path:
        """The system's settings."""
        return self.top / "etc"

    @property
    def mixer_state(self) -> Path:
        """What ``alsactl store`` writes."""
        return self.top / "var/lib/alsa/asound.state"


_ANSWER_S: Final = 5.0
_PLACES: Final = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
"""Looked at behind ``PATH``, which for users may lack them."""


def answer(*command: str) -> str | None:
    """Return what a program prints; None where it is missing, fails, or takes too long."""
    path = os.pathsep.join((os.environ.get("PATH", ""), *_PLACES))
    program = shutil.which(command[0], path=path)
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments from here, never a shell
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_S,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


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
