"""Results of checks, and access to the system: its paths, its programs, its processes."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

SETTINGS: Final = 2
"""Exit code of a problem with the configuration or the model."""
UNAVAILABLE: Final = 69
"""Exit code of a problem with what the service depends on: microphone, disk, broker."""
MALFUNCTION: Final = 70
"""Exit code of a detector that does not detect as it should, and of an internal error."""
State: TypeAlias = Literal["ok", "warning", "problem", "skipped"]

_TIMEOUT_S: Final = 5.0
_FOLDERS: Final = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
"""Searched after ``PATH``, which for users may lack them."""
_TGID: Final = re.compile(r"^Tgid:\s*(\d+)", re.MULTILINE)
_PROGRAM: Final = "snn-detect"
_MODULE: Final = ("-m", "detector")
_NOT_DETECTING: Final = frozenset(
    {"doctor", "devices", "config", "model", "bench", "events", "mqtt", "--help", "--version"}
)
"""Commands that open no microphone."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    name: str
    state: State
    found: str
    """The state in one line."""
    advice: str = ""
    """What to do, in one line; empty if there is nothing to do."""
    exit_code: int = 0
    """Exit code of the command if this is its first problem."""


def ok(name: str, found: str, advice: str = "") -> CheckResult:
    """Return that all is well."""
    return CheckResult(name, "ok", found, advice)


def warning(name: str, found: str, advice: str) -> CheckResult:
    """Return that something works, but not as it should, or not for long."""
    return CheckResult(name, "warning", found, advice)


def problem(name: str, found: str, advice: str, exit_code: int) -> CheckResult:
    """Return that something keeps the detector from working."""
    return CheckResult(name, "problem", found, advice, exit_code)


def skipped(name: str, why: str) -> CheckResult:
    """Return that something was not checked."""
    return CheckResult(name, "skipped", why)


def exit_code(results: Iterable[CheckResult]) -> int:
    """Return the exit code of the first problem; 0 without one."""
    return next((r.exit_code for r in results if r.state == "problem"), 0)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, as in ``2 channels``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def user_name(uid: int) -> str:
    """Return the name of a user; ``user 1000`` if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


class SystemPaths:
    """The paths that the checks read, below ``root``."""

    def __init__(self, root: Path = Path("/")) -> None:
        """Use this machine's file system, or a copy below another root."""
        self.proc = root / "proc"
        self.sound = root / "sys/class/sound"
        self.thermal = root / "sys/class/thermal"
        self.hwmon = root / "sys/class/hwmon"
        self.snd = root / "dev/snd"
        self.run = root / "run"
        self.etc = root / "etc"
        self.mixer_state = root / "var/lib/alsa/asound.state"
        """Written by ``alsactl store``."""


def output_of(*command: str) -> str | None:
    """Return the standard output of a program; None if it is missing, fails, or takes more than 5 s."""
    program = shutil.which(command[0], path=os.pathsep.join((os.environ.get("PATH", ""), *_FOLDERS)))
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments from here, never a shell
            [program, *command[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=True,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")


def text_of(path: Path) -> str:
    """Return the text of a file; empty if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Process:
    """A running program."""

    pid: int
    name: str
    arguments: tuple[str, ...]

    @property
    def is_detector(self) -> bool:
        """Whether it is snn-detect with a command that opens the microphone."""
        for number, argument in enumerate(self.arguments):
            if Path(argument).name == _PROGRAM or self.arguments[number : number + 2] == _MODULE:
                return not _NOT_DETECTING.intersection(self.arguments[number + 1 :])
        return False

    def __str__(self) -> str:
        """Return name and number."""
        return f"{_PROGRAM if self.is_detector else self.name} (process {self.pid})"


def process(proc: Path, number: int) -> Process | None:
    """Return the process of a process id or thread id; None if it has ended."""
    tgid = _TGID.search(text_of(proc / str(number) / "status"))
    pid = int(tgid[1]) if tgid else number
    name = text_of(proc / str(pid) / "comm").strip()
    arguments = tuple(a for a in text_of(proc / str(pid) / "cmdline").split("\0") if a)
    return Process(pid, name or "unknown", arguments) if name or arguments else None


def processes(proc: Path) -> Iterator[Process]:
    """Yield all processes but this one, as far as this user may see them."""
    try:
        numbers = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())
    except OSError:
        return
    for number in numbers:
        if number != os.getpid() and (found := process(proc, number)) is not None:
            yield found


def open_files(proc: Path, pid: int) -> Iterator[str]:
    """Yield the names of a process's open files; nothing if this user may not see them."""
    try:
        entries = list((proc / str(pid) / "fd").iterdir())
    except OSError:
        return
    for entry in entries:
        try:
            yield str(entry.readlink())
        except OSError:
            continue  # closed meanwhile
