"""Default places: folders given by systemd, else by the conventions of the system and of users (XDG).

Nothing is created here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

STDIN: Final = "-"
"""The name of standard input, in place of a device or file."""
_NAME: Final = "snn-detect"
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_stream(device: str) -> bool:
    """Return whether a device is a network stream: a URL, or the name of an SDP file."""
    return _URL.match(device) is not None or device.lower().endswith(".sdp")


def configuration_directories() -> Iterator[Path]:
    """Yield the folders in which ``config.toml`` is looked for, in order of precedence."""
    if given := _given("CONFIGURATION_DIRECTORY"):
        yield given
    yield Path("/etc") / _NAME
    yield _of_user("XDG_CONFIG_HOME", ".config")


def state_directory() -> Path:
    """Return the folder of persistent data: events, clips."""
    return _given("STATE_DIRECTORY") or _by_user("/var/lib", "XDG_STATE_HOME", ".local/state")


def set_plot_cache() -> None:
    """Have matplotlib keep its list of fonts in the cache of this program; to be called before it is imported."""
    folder = _given("CACHE_DIRECTORY") or _by_user("/var/cache", "XDG_CACHE_HOME", ".cache")
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))


def database_file() -> Path:
    """Return the default place of the database of events."""
    return state_directory() / "events.db"


def clips_directory() -> Path:
    """Return the default folder of clips."""
    return state_directory() / "clips"


def listening_flag() -> Path:
    """Return the file that is there while listening is switched off."""
    return state_directory() / "listening-off"


def sensitivity_file() -> Path:
    """Return the file with the sensitivity that was chosen while the service ran, in place of the configured one."""
    return state_directory() / "sensitivity"


def web_token_file() -> Path:
    """Return the place of the token that is created for a page that other machines can reach."""
    return state_directory() / "web.token"


def _by_user(system: str, variable: str, in_home: str) -> Path:
    """Return the system's folder for root, and the user's own for others."""
    return Path(system) / _NAME if os.geteuid() == 0 else _of_user(variable, in_home)


def _of_user(variable: str, in_home: str) -> Path:
    """Return a folder of the XDG base directories; the specification ignores relative ones."""
    base = Path(os.environ.get(variable, ""))
    home = Path("/", os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises for users without one
    return (base if base.is_absolute() else home / in_home) / _NAME


def _given(variable: str) -> Path | None:
    """Return the first folder of a list as systemd sets it."""
    first = os.environ.get(variable, "").partition(":")[0]
    return Path(first) if first else None
