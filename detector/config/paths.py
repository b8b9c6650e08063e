"""Default folders: those that systemd names, else those of the system or, by XDG, of the user. None is created here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_NAME = "snn-detect"


def configuration_directories() -> Iterator[Path]:
    """Yield the folders in which ``config.toml`` is looked for; the first file found is read."""
    if given := _given("CONFIGURATION_DIRECTORY"):
        yield given
    yield Path("/etc") / _NAME
    yield _of_user("XDG_CONFIG_HOME", ".config")


def state_directory() -> Path:
    """Return the folder of permanent data: events, clips."""
    return _given("STATE_DIRECTORY") or _by_user("/var/lib", "XDG_STATE_HOME", ".local/state")


def cache_directory() -> Path:
    """Return the folder of data that can be computed again."""
    return _given("CACHE_DIRECTORY") or _by_user("/var/cache", "XDG_CACHE_HOME", ".cache")


def runtime_directory() -> Path:
    """Return the folder of what a reboot may delete: sockets, the last health record."""
    return _given("RUNTIME_DIRECTORY") or _by_user("/run", "XDG_RUNTIME_DIR", ".cache")


def _by_user(system: str, variable: str, in_home: str) -> Path:
    """Return the system's folder for root, the user's for others."""
    return Path(system) / _NAME if os.geteuid() == 0 else _of_user(variable, in_home)


def _of_user(variable: str, in_home: str) -> Path:
    """Return a folder by the XDG Base Directory Specification, which has relative paths ignored."""
    base = Path(os.environ.get(variable, ""))
    home = Path("/", os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises for users without one
    return (base if base.is_absolute() else home / in_home) / _NAME


def _given(variable: str) -> Path | None:
    """Return the first folder of a list as systemd sets it."""
    first = os.environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None
