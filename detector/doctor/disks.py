"""The folders that the service writes to: are they there, may it write, is there room."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pwd import getpwnam, getpwuid
from typing import Final

from detector.directories import state_directory
from detector.doctor.finding import SETTINGS, UNAVAILABLE, Finding, ok, problem, skipped, warning
from detector.settings import Settings

DISK: Final = "disk"
_LEAST_BYTES: Final = 10_000_000
_FEW_BYTES: Final = 200_000_000
_FEW_FILES: Final = 100
_SERVICE: Final = "snn-detect"


@dataclass(frozen=True, slots=True)
class Place:
    """Something that the service writes."""

    what: str
    path: Path
    is_made: bool
    """Whether the service makes the folders above it."""
    least_bytes: int = _LEAST_BYTES
    """Free space below which it is not written."""


@dataclass(frozen=True, slots=True)
class User:
    """Who is to write."""

    name: str
    uid: int
    groups: frozenset[int]


def places(settings: Settings) -> Iterator[Place]:
    """Yield what the settings want to have written."""
    if settings.database is not None:
        path = settings.database.path
        yield Place("database", path or state_directory() / "events.db", is_made=path is None)
    if settings.clips is not None:
        folder = settings.clips.directory
        made = folder is None
        yield Place("clips", folder or state_directory() / "clips", made, settings.clips.least_free_bytes)
    yield from (Place("file", file.path, is_made=False) for file in settings.file)


def check_disks(settings: Settings, user: User) -> list[Finding]:
    """Look at each place that is written to; nothing is written here."""
    found = [check_place(place, user) for place in places(settings)]
    return found or [ok(DISK, "nothing is written to any disk")]


def check_place(place: Place, user: User) -> Finding:
    """Look at one place."""
    name = f"{DISK}: {place.what}"
    there = next(p for p in (place.path, *place.path.parents) if _is_seen(p))
    if not place.is_made and there not in (place.path, place.path.parent):
        return problem(name, f"{place.path}: there is no folder {place.path.parent}", "make it", SETTINGS)
    if not (may_write(there, user) or _is_made_by_systemd(place, user)):
        return _forbidden(name, there, user)
    space = os.statvfs(there)
    free = space.f_bavail * space.f_frsize
    found = f"{place.path}: {_size(free)} free"
    if free < place.least_bytes or (space.f_files and space.f_favail < _FEW_FILES):
        advice = "delete what is not needed (du -xh / | sort -h | tail), or name a place on another disk"
        return problem(name, f"{found}, too little to write", advice, UNAVAILABLE)
    if free < _FEW_BYTES:
        return warning(name, found, "make room soon; database.retention_days and clips.most_bytes bound what grows")
    return ok(name, found)


def _forbidden(name: str, there: Path, user: User) -> Finding:
    owner = _name(there.stat().st_uid)
    if owner == _SERVICE:
        return skipped(name, f"{there} is the service's own, not {user.name}'s; as root, the doctor can tell more")
    advice = f"sudo chown -R {user.name} {there}, or name another path"
    return problem(name, f"{user.name} may not write to {there}, which is {owner}'s", advice, SETTINGS)


def writer() -> User:
    """Return who the service is: for root the system's user of that name, where there is one, else this user."""
    if os.geteuid() == 0:
        try:
            entry = getpwnam(_SERVICE)
            groups = os.getgrouplist(_SERVICE, entry.pw_gid)
            return User(_SERVICE, entry.pw_uid, frozenset(groups))
        except KeyError:
            pass
    return User(_name(os.geteuid()), os.geteuid(), frozenset((*os.getgroups(), os.getegid())))


def may_write(path: Path, user: User) -> bool:
    """Tell whether a user may write to a file or into a folder."""
    if user.uid == os.geteuid():
        return os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0))
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return False
    return all(_is_open(p, user, os.X_OK) for p in path.parents) and _is_open(path, user, os.W_OK)


def _is_made_by_systemd(place: Place, user: User) -> bool:
    """Tell whether the folder of the service's state is still to be made, when it starts the first time."""
    return place.is_made and user.name == _SERVICE and not state_directory().exists()


def _is_seen(path: Path) -> bool:
    """Tell whether something is there, as far as this user may see it."""
    try:
        return path.exists()
    except PermissionError:
        return False


def _is_open(path: Path, user: User, wanted: int) -> bool:
    """Look at the mode, as the kernel does for users other than root."""
    found = path.stat()
    shift = 6 if found.st_uid == user.uid else 3 if found.st_gid in user.groups else 0
    return bool(stat.S_IMODE(found.st_mode) >> shift & wanted)


def _name(uid: int) -> str:
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _size(free: int) -> str:
    return f"{free / 1e9:.1f} GB" if free >= 1e9 else f"{free / 1e6:.0f} MB"  # noqa: PLR2004 - a gigabyte
