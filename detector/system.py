"""Default folders, files that appear complete or not at all, growing pauses, and sockets that use few descriptors.

The folders are given by systemd, else by the conventions of the system and of users (XDG); nothing is created here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

STDIN: Final = "-"
"""The name of standard input, in place of a device or file."""
_NAME: Final = "snn-detect"


def configuration_directories() -> Iterator[Path]:
    """Yield the folders in which ``config.toml`` is looked for, in order of precedence."""
    if given := _given("CONFIGURATION_DIRECTORY"):
        yield given
    yield Path("/etc") / _NAME
    yield _of_user("XDG_CONFIG_HOME", ".config")


def state_directory() -> Path:
    """Return the folder of persistent data: events, clips."""
    return _given("STATE_DIRECTORY") or _by_user("/var/lib", "XDG_STATE_HOME", ".local/state")


def database_file() -> Path:
    """Return the default place of the database of events."""
    return state_directory() / "events.db"


def clips_directory() -> Path:
    """Return the default folder of clips."""
    return state_directory() / "clips"


def web_token_file() -> Path:
    """Return the place of the token that is created for a page that other machines can reach."""
    return state_directory() / "web.token"


_RESERVED_DESCRIPTORS: Final = 128
"""Descriptors of the process that are not for clients, but for sound, outputs and files."""
_MIN_CLIENTS: Final = 8
_EXHAUSTED_S: Final = 0.05
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield the name of a new file beside ``path``, with its suffix; at the end it is synced and takes its place.

    Where the block raises, ``path`` stays as it was and the new file is removed. Raises OSError where the file
    cannot be synced or renamed. The folder must exist; access rights are those that the block gives the new file.
    """
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield part
        _sync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text file (UTF-8), complete or not at all; raises OSError. ``errors``: as for ``open``."""
    with replace_file(path) as part:
        part.write_text(text, encoding="utf-8", errors=errors)


class Backoff:
    """Exponential backoff: each pause is twice the one before, between two bounds (in seconds)."""

    def __init__(self, shortest_s: float, longest_s: float, *, first_s: float | None = None) -> None:
        """Take the bounds; ``first_s``: the first pause, until ``reset`` (default: the shortest)."""
        self._shortest_s, self._longest_s = min(shortest_s, longest_s), longest_s
        self._pause_s = self._shortest_s if first_s is None else min(first_s, longest_s)

    def next_s(self) -> float:
        """Return the pause before the next attempt, in seconds."""
        pause_s = self._pause_s
        self._pause_s = min(2 * pause_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Begin again with the shortest pause: an attempt has succeeded."""
        self._pause_s = self._shortest_s


def _sync(path: Path) -> None:
    """Have the file on the disk before its new name is: after a power failure the name must not lead to nothing."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def client_bound(wanted: int) -> int:
    """Return how many clients a server may have at a time: ``wanted``, or fewer where descriptors are few."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if limit == resource.RLIM_INFINITY else max(_MIN_CLIENTS, min(wanted, limit - _RESERVED_DESCRIPTORS))


class BoundedListener(socket.socket):
    """A socket to listen on that has at most so many accepted connections open at a time.

    One beyond them is closed at once, and so is one for which the process has no descriptor left: for that, one is
    kept in reserve. ``accept`` then raises BlockingIOError, as where no connection waits.
    """

    def __init__(self, family: int, kind: int, protocol: int = 0, *, bound: int) -> None:
        """Create the socket; raises OSError."""
        super().__init__(family, kind, protocol)
        self._bound = bound
        self._accepted: list[socket.socket] = []
        self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection."""
        try:
            connection, address = super().accept()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                self._discard()
                raise BlockingIOError from error
            raise
        self._accepted = [s for s in self._accepted if s.fileno() >= 0]
        if len(self._accepted) >= self._bound:
            connection.close()
            raise BlockingIOError
        self._accepted.append(connection)
        return connection, address

    def close(self) -> None:
        """Close the socket; accepted connections stay open."""
        reserve, self._reserve = self._reserve, -1
        if reserve >= 0:
            os.close(reserve)
        super().close()

    def _discard(self) -> None:
        """Close a connection that cannot be accepted; while it waited, the socket would stay readable."""
        if self._reserve >= 0:
            os.close(self._reserve)
        self._reserve = -1
        try:
            super().accept()[0].close()
        except OSError:
            time.sleep(_EXHAUSTED_S)  # the limit is below what is open: leave the processor to others
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
