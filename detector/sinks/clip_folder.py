"""A folder of clips that is never larger, older or on a fuller disk than it may be."""

from __future__ import annotations

import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final

from detector.errors import DetectorError
from detector.setting_types import slug
from detector.settings import Clips
from detector.sinks.disk import refusal

_OURS: Final = re.compile(r"\d{8}T\d{6}\.\d{3}Z_[a-zA-Z0-9_-]+_[a-zA-Z0-9-]+\.flac")
_UNFINISHED: Final = re.compile(rf"\.{_OURS.pattern}\.part")
_FOLDER_MODE: Final = 0o750
_MODE: Final = 0o640


def clip_name(moment: datetime, label: str, event_id: str) -> str:
    """Return a file's name: names sort as their times do."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03d}Z_{slug(label)}_{slug(event_id).replace('_', '-')}.flac"


class ClipFolder:
    """Keeps clips; the oldest go first, files that are no clips are never touched."""

    def __init__(self, path: Path, settings: Clips) -> None:
        """Prepare."""
        self._path, self._settings = path, settings

    def open(self) -> None:
        """Make the folder, and remove what a crash has left unfinished.

        The folders above it are made only where the settings name none. Raises OSError where that cannot be.
        """
        self._path.mkdir(mode=_FOLDER_MODE, parents=self._settings.directory is None, exist_ok=True)
        for path in self._path.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink()

    def forget(self, now: datetime) -> None:
        """Delete clips that are too old; raises DetectorError where that cannot be."""
        if self._settings.most_days is None:
            return
        oldest = clip_name(now - timedelta(days=self._settings.most_days), "", "")
        try:
            for name, _ in self._clips():
                if name < oldest:
                    (self._path / name).unlink(missing_ok=True)
        except OSError as error:
            raise DetectorError(f"{self._path}: old clips cannot be deleted ({error.strerror})") from error

    def put(self, name: str, source: IO[bytes], size: int) -> Path:
        """Copy a clip of ``size`` bytes here, whole or not at all, and return its path.

        Raises DetectorError where there is no room for it, or it cannot be written.
        """
        path, part = self._path / name, self._path / f".{name}.part"
        try:
            self._make_room(size)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "wb") as file:  # noqa: PTH123 - a descriptor
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            raise DetectorError(refusal(path, error)) from error
        finally:
            part.unlink(missing_ok=True)
        return path

    def _make_room(self, size: int) -> None:
        """Delete the oldest clips until another one fits; none for the disk's sake where all of them would not do."""
        s, clips = self._settings, self._clips()
        total = sum(length for _, length in clips)
        lacking = s.least_free_bytes + size - self._free_bytes()
        if size > s.most_bytes or lacking > total:
            raise DetectorError(
                f"{self._path}: too little room for a clip of {size} bytes (least_free_bytes {s.least_free_bytes}, "
                f"{self._free_bytes()} are free); no clips are written until there is more"
            )
        for number, (name, length) in enumerate(clips):
            fits = total + size <= s.most_bytes and len(clips) - number + 1 <= s.most_files and lacking <= 0
            if fits:
                return
            (self._path / name).unlink(missing_ok=True)
            total, lacking = total - length, lacking - length

    def _clips(self) -> list[tuple[str, int]]:
        """Return names and sizes, the oldest first."""
        with os.scandir(self._path) as entries:
            return sorted((e.name, e.stat().st_size) for e in entries if _OURS.fullmatch(e.name) and e.is_file())

    def _free_bytes(self) -> int:
        found = os.statvfs(self._path)
        return found.f_bavail * found.f_frsize
