"""Scores of every frame in a file, for tools."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Final

import numpy as np

from detector.errors import ConfigError
from detector.messages import Scores

_TIMES_AT_ONCE: Final = 65_536


class ScoresFile:
    """Scores of one stream in an .npz file: ``scores`` (frames, classes), ``times_s`` (frames,), ``labels``.

    ``times_s`` holds the end of each frame. The scores wait in an unnamed file on the same disk, so that memory
    does not grow with the sound, and the .npz file appears whole or not at all.
    """

    def __init__(self, path: Path, labels: tuple[str, ...]) -> None:
        """Prepare to write ``path``; raises ConfigError where it is a folder or its folder takes no files."""
        if path.is_dir():
            raise ConfigError(f"{path}: is a directory; name the .npz file to write")
        self._path = path
        self._labels = labels
        self._frames = 0
        try:
            self._spool: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - open until close()
        except OSError as error:
            raise ConfigError(f"{path.parent}: scores cannot be written there ({error.strerror})") from error

    def push(self, scores: Scores) -> None:
        """Append scores (frames, classes)."""
        self._spool.write(np.ascontiguousarray(scores, "<f4").data)
        self._frames += len(scores)

    def save(self, rate_hz: int, hop_length: int, frame_length: int) -> None:
        """Write the file; frame k ends ``k * hop_length + frame_length`` samples into the stream."""
        part = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            with part.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
                self._spool.seek(0)
                with _member(archive, "scores", "<f4", (self._frames, len(self._labels))) as out:
                    shutil.copyfileobj(self._spool, out)
                with _member(archive, "times_s", "<f8", (self._frames,)) as out:
                    for start in range(0, self._frames, _TIMES_AT_ONCE):
                        k = np.arange(start, min(start + _TIMES_AT_ONCE, self._frames))
                        out.write(((k * hop_length + frame_length) / rate_hz).astype("<f8").data)
                names = np.array(self._labels)
                with _member(archive, "labels", names.dtype.str, names.shape) as out:
                    out.write(names.tobytes())
            part.replace(self._path)
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        """Drop what has not been saved."""
        self._spool.close()


def _member(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]) -> IO[bytes]:
    """Open an array of the archive for its bytes to follow; the date is fixed, so that equal scores are equal files."""
    out = archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out
