"""Sound files: their names, and reading them block by block with errors where libsndfile reports none.

libsndfile trusts the shorter of a file and its header, so a file that was cut off looks complete, and
an MP3 file without a length is read up to where its first frames suggest. Both lose sound that the
user believes was evaluated. (An Ogg file states no length: one that was cut off cannot be recognised.)
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
from numpy.typing import NDArray

from detector.errors import SourceError

Block = NDArray[np.float32]
"""(frames, channels): sound as the file holds it."""

LOWEST_RATE_HZ: Final = 4_000
HIGHEST_RATE_HZ: Final = 384_000
SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("wav", "flac", "ogg", "oga", "opus", "mp3"),
        *("aif", "aiff", "aifc", "caf", "au", "w64", "rf64"),
    )
)
"""File name extensions of the formats that are read, in lower case."""

_LARGEST_BLOCK: Final = 1 << 22
"""Values in a block, at most: bounds the memory for files of many channels."""
_OPEN_ENDED_BYTES: Final = 0x7FFF_0000
"""Recorders that cannot rewind their output state a length from here on: it means "until the end"."""
_UNKNOWN_FRAMES: Final = 1 << 62
"""libsndfile's largest count stands for a FLAC stream of unknown length."""
_MP3_FRAME: Final = 1152
"""Samples in an MP3 frame: encoders round the length that they state to such frames."""
_PROMISED_BYTES: Final = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_PROMISED_FRAMES: Final = re.compile(r"does not match value from 'ds64' chunk of (\d+)")
"""Where libsndfile's log of the header (WAV, AIFF, AU; RF64) disagrees with the file's size."""
_AGAIN: Final = "events up to there are given; copy or record it again"


def is_sound_name(path: Path) -> bool:
    """Return whether a file is a sound file, by the extension of its name."""
    return path.suffix.lower() in SUFFIXES


def sounds_below(folder: Path) -> Iterator[Path]:
    """Yield the sound files below a folder, at any depth, sorted by name; hidden files are left out."""
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_sound_name(path) and not is_hidden and path.is_file():
            yield path


class SoundFileReader:
    """An open sound file, read once from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises SourceError where it is missing, unreadable, not a sound file, without sound, or of a rate outside 4 to
        384 kHz.
        """
        self.path = path
        self._descriptor = _open(path)
        try:
            # SoundFile owns the descriptor from here on, also where it fails; a descriptor has no name whose
            # ending could mislead, and no bytes that are not text.
            self._file = _Sequential(self._descriptor)
        except soundfile.LibsndfileError as error:
            raise SourceError(
                f"{path}: no sound file that can be read ({_reason(error)}); use WAV, FLAC, OGG or MP3"
            ) from error
        self.rate_hz: int = self._file.samplerate
        self.channels: int = self._file.channels
        self.frames_read = 0
        self._untagged = self._file.format == "MP3" and not _states_length(self._descriptor)
        self.frames_total = self._promised_frames()
        if self._file.frames == 0:
            self.close()
            raise SourceError(f"{path}: holds no sound (0 frames); record it again, or fix the length in its header")
        if not LOWEST_RATE_HZ <= self.rate_hz <= HIGHEST_RATE_HZ:
            self.close()
            raise SourceError(
                f"{path}: {self.rate_hz} samples per second is outside {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}; "
                "fix the rate in its header, or resample it"
            )

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()

    def blocks(self, frames: int) -> Iterator[Block]:
        """Yield blocks (``frames``, channels), fewer frames at the end; each is overwritten by the next one.

        Raises SourceError, behind all blocks that can be read, where the file is damaged or cut off.
        """
        buffer = np.empty((max(1, min(frames, _LARGEST_BLOCK // self.channels)), self.channels), np.float32)
        while True:
            count, damage = self._read(buffer)
            self.frames_read += count
            if count:
                yield buffer[:count]
            if damage is not None:
                raise SourceError(f"{self.path}: damaged at {self._position_s} ({damage}); {_AGAIN}")
            if not count:
                break
        self._check_end()

    def _read(self, buffer: Block) -> tuple[int, str | None]:
        """Fill the buffer; return the frames read, and the reason where the file is damaged behind them."""
        # A failed read does not say how much it has decoded: NaN marks what it left untouched.
        buffer.fill(np.nan)
        try:
            return len(self._file.read(out=buffer)), None
        except soundfile.LibsndfileError as error:
            untouched = np.isnan(buffer[:, 0])
            return int(untouched.argmax()) if untouched.any() else len(buffer), _reason(error)

    def _check_end(self) -> None:
        total = self.frames_total
        slack = _MP3_FRAME if self._file.format == "MP3" else 0
        if total is not None and self.frames_read + slack < total:
            raise SourceError(
                f"{self.path}: ends after {self._position_s} but its header promises "
                f"{total / self.rate_hz:.2f} s; {_AGAIN}"
            )
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            return  # a pipe has neither size nor position
        size = os.fstat(self._descriptor).st_size
        # The decoder reads ahead and tags may follow the sound; a twentieth is neither.
        if self._untagged and size - os.lseek(self._descriptor, 0, os.SEEK_CUR) > size // 20:
            raise SourceError(
                f"{self.path}: this MP3 file does not state its length, and was read only up to {self._position_s}; "
                "events up to there are given; convert it to WAV or FLAC"
            )
        if self.frames_read == 0:
            raise SourceError(f"{self.path}: holds no sound (0 frames); record it again")

    @property
    def _position_s(self) -> str:
        return f"{self.frames_read / self.rate_hz:.2f} s"

    def _promised_frames(self) -> int | None:
        """Return how many frames the header promises; None where it leaves that open."""
        frames: int = self._file.frames
        if self._untagged or frames >= _UNKNOWN_FRAMES:
            return None
        log: str = self._file.extra_info
        if found := _PROMISED_FRAMES.search(log):
            return max(frames, int(found[1])) if int(found[1]) < _UNKNOWN_FRAMES else frames
        if found := _PROMISED_BYTES.search(log):
            promised, present = int(found[1]), int(found[2])
            if present < promised < _OPEN_ENDED_BYTES:
                return round(frames * promised / max(present, 1))
        return frames


class _Sequential(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]  # soundfile is untyped
    """A sound file that is only ever read forwards.

    soundfile seeks to where it already is after every read, which costs a quarter of a FLAC file's
    time, is refused where the length is unknown, and is not needed here.
    """

    def seekable(self) -> bool:
        return False


def _open(path: Path) -> int:
    """Open a file that is not empty; return its descriptor."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SourceError(f"{path}: cannot be opened ({reason}); check the name and the permissions") from error
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        os.close(descriptor)
        raise SourceError(f"{path}: is a directory; name the sound files in it")
    if stat.S_ISREG(status.st_mode) and status.st_size == 0:
        os.close(descriptor)
        raise SourceError(f"{path}: is empty (0 bytes); copy or record it again")
    return descriptor


def _states_length(descriptor: int) -> bool:
    """Return whether an MP3 file begins with an encoder's tag (Xing, Info), which holds the exact length."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        return True  # a pipe cannot be read at a position
    head = os.pread(descriptor, 10, 0)
    start = 0
    if head[:3] == b"ID3":
        # An ID3v2 tag comes first; its size is four bytes of seven bits.
        start = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    frame = os.pread(descriptor, 512, start)
    return b"Xing" in frame or b"Info" in frame


def _reason(error: soundfile.LibsndfileError) -> str:
    """Return libsndfile's reason as part of a sentence."""
    text: str = error.error_string
    return text.removeprefix("Error : ").removesuffix(".").strip()
