"""WAV files with chunks besides the sound, written byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path

SOUND = bytes(3200)
"""A tenth of a second of silence, 16 bits at 16 kHz."""


def chunk(name: bytes, data: bytes, *, padded: bool = True) -> bytes:
    return struct.pack("<4sI", name, len(data)) + data + (b"\0" if padded and len(data) % 2 else b"")


def info(comment: bytes) -> bytes:
    return chunk(b"LIST", b"INFO" + chunk(b"IART", b"AudioMoth 24F3190361CB15C5\0") + chunk(b"ICMT", comment))


def bext(date: bytes, time: bytes, samples: int = 0) -> bytes:
    data = b"field recording".ljust(256, b"\0") + b"recorder".ljust(32, b"\0") + bytes(32) + date + time
    return chunk(b"bext", data + struct.pack("<QH", samples, 1) + bytes(254))


def write(path: Path, *before: bytes, behind: tuple[bytes, ...] = (), rate_hz: int = 16000) -> Path:
    form = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, rate_hz, 2 * rate_hz, 2, 16))
    chunks = b"".join((form, *before, chunk(b"data", SOUND), *behind))
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks)
    return path
