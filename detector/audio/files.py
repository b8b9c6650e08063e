"""Sound files: their names, and reading them block by block, from files and pipes alike.

All sound in a file is read, also where its header says less, and where several files were joined; bytes that are left
unread are an error. Samples without compression are read here. libsndfile decodes the rest, part by part, out of a
pipe: it trusts the shorter of a file and its header, and ends at the first of several parts.
"""

from __future__ import annotations

import functools
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import soundfile
import soxr

from detector.audio.containers import (
    TAIL_BYTES,
    Encoded,
    FlacPart,
    Layout,
    MpegPart,
    begins_mpeg,
    read_layout,
    read_to_next_file,
    skip_tail,
    sound_follows,
)
from detector.audio.live_source import Block
from detector.audio.media import (
    DamageError,
    MediaError,
    MediaPart,
    PipeBytes,
    TrackError,
    choose_track,
    is_media,
    recognise,
    second_file,
)
from detector.errors import ConfigError, SourceError
from detector.messages import Samples
from detector.system import ByteStream

LOWEST_RATE_HZ: Final = 4_000
HIGHEST_RATE_HZ: Final = 384_000
SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("wav", "flac", "ogg", "oga", "opus", "mp3"),
        *("aif", "aiff", "aifc", "caf", "au", "w64", "rf64"),
        *("m4a", "m4b", "mp4", "mov", "3gp", "aac", "mka", "mkv", "webm"),
        *("wma", "amr", "ac3", "spx", "mts", "m2ts"),
    )
)
"""File name extensions of the formats that are read, in lower case."""

_LARGEST_BLOCK: Final = 1 << 22
"""Values in a block, at most: bounds the memory for files of many channels."""
_WRAP: Final = 1 << 32
"""What a length of 32 bits loses where it is too small."""
_HEAD_BYTES: Final = 4096
_ALL: Final = 1 << 62
_CONVERT: Final = "ffmpeg -i FILE sound.wav"
USED: Final = "the sound up to there is used"
_AGAIN: Final = f"{USED}; copy or record it again"


def is_sound_name(path: Path) -> bool:
    """Return whether a file is a sound file, by the extension of its name."""
    return path.suffix.lower() in SUFFIXES


def sounds_below(folder: Path) -> Iterator[Path]:
    """Yield the sound files below a folder, at any depth, sorted by name; hidden files are left out."""
    for path in sorted(folder.rglob("*")):
        is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if is_sound_name(path) and not is_hidden and path.is_file():
            yield path


class _Part(Protocol):
    """One of the parts that a file was joined from; most files have one."""

    rate_hz: int
    channels: int
    frames: int | None
    """Frames that the header states, or that are in the file; None where neither is known."""
    missing: int
    """Frames that the header promised and that did not come; known behind the last block."""
    gaps: int
    """Places where sound is missing; known behind the last block."""

    def blocks(self, frames: int) -> Iterator[Block]:
        """Yield blocks; raises DamageError behind those that can be decoded."""

    def close(self) -> None:
        """Release the decoder."""


class SoundFileReader:
    """An open sound file, read once from its beginning to its end."""

    def __init__(self, path: Path, track: str | None = None) -> None:
        """Open the file. ``track``: number from 1, or language, of the sound track of a container; None: the first.

        Raises SourceError where it is missing, unreadable, not a sound file, without sound or that track, or of a rate
        outside 4 to 384 kHz.
        """
        self.path = path
        self.track_note = ""
        """Which sound track is read, where there are several and none was chosen."""
        self._wanted = track
        self.frames_read = 0
        self._part: _Part | None = None
        self._layout: Layout | None = None
        self._begin = self._end = 0
        """Where the bytes of the part begin, and where they end as its header promises; 0 where it does not."""
        self._stream = ByteStream(_open(path))
        try:
            self.rate_hz, self.channels = self._first_part()
        except OSError as error:
            self.close()
            raise self._error(f"cannot be read ({error.strerror}); copy it again") from error
        except BaseException:
            self.close()
            raise

    @property
    def frames_total(self) -> int | None:
        """Frames in the file, as far as its parts are known; None where that is not stated."""
        if self._part is None or self._part.frames is None:
            return None
        return max(self.frames_read, self._part.frames)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._stream.interrupt()
        if self._part is not None:
            self._part.close()
        self._stream.close()

    def blocks(self, frames: int) -> Iterator[Block]:
        """Yield blocks (``frames``, channels), fewer frames at the end; each is overwritten by the next one.

        A joined part may have another number of channels. Raises SourceError, behind all blocks that can be read,
        where the file is damaged or cut off, or where bytes lie behind that cannot be read.
        """
        part, gaps = self._part, 0
        while part is not None:
            try:
                for block in self._at_own_rate(part, max(1, min(frames, _LARGEST_BLOCK // part.channels))):
                    self.frames_read += len(block)
                    yield block
            except (DamageError, OSError) as damage:
                reason = damage.strerror if isinstance(damage, OSError) else damage
                raise self._error(f"damaged at {self._position_s} ({reason}); {_AGAIN}") from damage
            gaps += part.gaps or self._is_cut_off(part)
            part = self._next_part()
        if gaps:
            places = "1 place" if gaps == 1 else f"{gaps} places"
            raise self._error(f"damaged: sound is missing in {places}; the rest was processed; copy it again")
        if self.frames_read == 0:
            raise self._error("holds no sound (0 frames); record it again")

    @property
    def _position_s(self) -> str:
        return f"{self.frames_read / self.rate_hz if self.frames_read else 0:.2f} s"

    def _at_own_rate(self, part: _Part, frames: int) -> Iterator[Block]:
        """Yield the blocks of a part at the rate of the first one."""
        if part.rate_hz == self.rate_hz:
            yield from part.blocks(frames)
            return
        stream = soxr.ResampleStream(part.rate_hz, self.rate_hz, part.channels, dtype="float32", quality="HQ")
        for block in part.blocks(frames):
            yield stream.resample_chunk(block)
        yield stream.resample_chunk(np.empty((0, part.channels), np.float32), last=True)

    def _is_cut_off(self, part: _Part) -> bool:
        """Return whether a part is shorter than its header promises; raises SourceError where it is the last one."""
        lacks = f"ends after {self._position_s} but its header promises"
        is_last = not self._stream.peek(1)
        if part.missing and is_last:
            promised_s = self.frames_read / self.rate_hz + part.missing / part.rate_hz
            raise self._error(f"{lacks} {promised_s:.2f} s; {_AGAIN}")
        if self._stream.position < self._end and is_last:
            raise self._error(f"{lacks} {self._end - self._stream.position} more bytes; {_AGAIN}")
        return part.missing > 0

    def _first_part(self) -> tuple[int, int]:
        part = self._next_part()
        if part is None:
            raise self._error("holds no sound (0 frames); record it again, or fix the length in its header")
        if not isinstance(part, MediaPart):
            try:
                choose_track([""], self._wanted)  # other formats have one, without a language
            except TrackError as error:
                raise self._error(str(error)) from None
        elif part.track_note:
            self.track_note = f"{self.path}: {part.track_note}"
        return part.rate_hz, part.channels

    def _next_part(self) -> _Part | None:
        """Begin the next part that holds sound; None behind the last one.

        Raises SourceError for bytes that are no sound file.
        """
        stream, before = self._stream, self._layout
        is_first = self._part is None
        while True:
            self._skip_behind(before, is_first=is_first)
            if not stream.peek(1):
                return None
            self._begin = stream.position
            before = self._layout = read_layout(stream)
            part = self._open_part(is_first=is_first)
            if part is None:
                raise self._behind(stream.peek(TAIL_BYTES))
            if self._part is not None:
                self._part.close()
            self._part, is_first = part, False
            if not LOWEST_RATE_HZ <= part.rate_hz <= HIGHEST_RATE_HZ:
                raise self._error(
                    f"{part.rate_hz} samples per second is outside {LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ}; "
                    "fix the rate in its header, or resample it"
                )
            if part.frames != 0:
                return part

    def _skip_behind(self, layout: Layout | None, *, is_first: bool) -> None:
        """Pass over what is no sound behind a part, or before the first one."""
        stream = self._stream
        if isinstance(self._part, MediaPart) and layout is None:
            stream.skip(_ALL if stream.size is None else 0)  # a demuxer leaves its index in a pipe
        elif not is_first or stream.peek(3) == b"ID3":
            skip_tail(stream, layout)

    def _open_part(self, *, is_first: bool) -> _Part | None:
        """Return the part that comes next; None where it is none that is known here, and not the first one."""
        stream, layout = self._stream, self._layout
        self._end = 0
        if layout is not None and layout.code not in {"", "mp3"}:
            stream.skip(layout.start)
            return _PcmPart(stream, layout)
        if layout is not None and not layout.is_placeholder:
            self._end = stream.position + layout.start + layout.length
        encoded = self._encoded()
        if encoded is None and is_first:
            if stream.size is not None:
                return self._whole()
            if is_media(stream.peek(_HEAD_BYTES), layout):
                return self._media(stream.peek(_HEAD_BYTES))
            encoded = _Rest(stream)
        return None if encoded is None else self._decoded(encoded)

    def _encoded(self) -> Encoded | None:
        """Return the compressed part that comes next; None where it is of no format that is known here."""
        stream, layout = self._stream, self._layout
        if layout is not None:
            if layout.code != "mp3" or not begins_mpeg(stream.at(layout.start, _HEAD_BYTES)):
                return None
            stream.skip(layout.start)
        head = stream.peek(_HEAD_BYTES)
        if begins_mpeg(head):
            return MpegPart(stream)
        if head.startswith(b"fLaC"):
            return FlacPart(stream, in_ogg=False)
        if not head.startswith(b"OggS"):
            return None
        is_flac = head[27 + sum(head[26:27]) :].startswith(b"\x7fFLAC")
        return FlacPart(stream, in_ogg=True) if is_flac else Encoded(stream)

    def _decoded(self, encoded: Encoded) -> _Part:
        head = self._stream.peek(_HEAD_BYTES)
        try:
            pump = _Pump(encoded)
        except RuntimeError as error:
            raise self._error(f"cannot be read ({error}); the process has too many threads") from error
        try:
            return _DecodedPart(_Sequential(pump.reader), encoded, pump)
        except soundfile.LibsndfileError as error:
            pump.end(self._stream)
            if self._stream.size is not None and self._part is None and is_media(head, self._layout):
                return self._media(head)
            raise self._unreadable(head, error) from error

    def _whole(self) -> _Part:
        """Return all of the file as libsndfile reads it, up to where the header says that other chunks begin."""
        stream = self._stream
        head = stream.peek(_HEAD_BYTES)
        try:
            # SoundFile owns the descriptor from here on, also where it fails; a descriptor has no name whose
            # ending could mislead, and no bytes that are not text.
            part = _DecodedPart(_Sequential(_open(self.path)), None, None)
        except soundfile.LibsndfileError as error:
            if is_media(head, self._layout):
                return self._media(head)
            raise self._unreadable(head, error) from error
        stream.skip(max(0, self._end - stream.position) if self._end else stream.size or 0)
        return part

    def _media(self, head: bytes) -> MediaPart:
        """Return all of the file as FFmpeg decodes it."""
        stream = self._stream
        name = recognise(head, self._layout)
        file = PipeBytes(stream) if stream.size is None else os.fdopen(_open(self.path), "rb")
        try:
            part = MediaPart(file, self._wanted)
        except ConfigError as error:
            file.close()
            raise self._error(f"{name}; {error}; or convert it: {_CONVERT}") from error
        except TrackError as error:
            file.close()
            raise self._error(str(error)) from None
        except MediaError as error:
            file.close()
            hint = "" if stream.size is not None else " (where its index is at its end, name the file, not a pipe)"
            raise self._error(f"{name} that cannot be read: {error}{hint}") from error
        if stream.size is not None:
            stream.skip(second_file(stream) or (self._end or stream.size) - stream.position)
        return part

    def _unreadable(self, head: bytes, error: soundfile.LibsndfileError) -> SourceError:
        if self._part is not None:
            return self._behind(head, reason=_reason(error))
        name = recognise(head, self._layout)
        if name == "text":
            return self._error("no sound file that can be read, but text; name a sound file")
        what = f"no sound file that can be read, but {name}" if name else "no sound file that can be read"
        return self._error(f"{what} ({_reason(error)}); convert it to WAV or FLAC, such as with {_CONVERT}")

    def _behind(self, head: bytes, reason: str = "no sound that is known here") -> SourceError:
        """Return the error for bytes behind the sound that cannot be read; ``head``: the first of them."""
        size = self._stream.size
        count = len(head) if size is None else size - self._begin
        least = "at least " if size is None else ""
        name = recognise(head[:_HEAD_BYTES], self._layout)
        what = f"{least}{count} bytes behind it ({name or reason}) were not processed"
        return self._error(f"the sound ends after {self._position_s}, and {what}; {USED}; cut the file there")

    def _error(self, text: str) -> SourceError:
        return SourceError(f"{self.path}: {text}")


class _PcmPart:
    """Samples without compression; they go on behind their stated length where the bytes do."""

    def __init__(self, stream: ByteStream, layout: Layout) -> None:
        """Take the stream, at the first sample."""
        self.rate_hz, self.channels = layout.rate_hz, layout.channels
        self._stream, self._layout, self._start = stream, layout, stream.position
        self.missing = self.gaps = 0
        is_empty = not stream.peek(1) or (layout.length == 0 and not sound_follows(stream, layout))
        self.frames = 0 if is_empty else self._count(layout.length, open_ended=layout.is_placeholder)

    def blocks(self, frames: int) -> Iterator[Block]:
        """Yield blocks, also behind the stated end."""
        stream, layout = self._stream, self._layout
        is_promised, left, rest = not layout.is_placeholder, layout.length, b""
        while True:
            if left == 0:
                if not sound_follows(stream, layout):
                    return
                is_promised, left = False, _WRAP
                self.frames = self._count(left, open_ended=True)
            count = min(frames * layout.width - len(rest), left)
            data = read_to_next_file(stream, layout, count)
            if not data:
                break
            left -= len(data)
            rest += data
            if whole := len(rest) // layout.width:
                yield decode(rest[: whole * layout.width], layout.code).reshape(whole, layout.channels)
                rest = rest[whole * layout.width :]
        if is_promised:
            self.missing = max(1, (left + len(rest)) // layout.width)

    def close(self) -> None:
        """Nothing to release."""

    def _count(self, length: int, *, open_ended: bool) -> int | None:
        stream, width = self._stream, self._layout.width
        if stream.size is None:
            return None if open_ended else length // width
        present = stream.size - self._start
        return (present if open_ended else min(length, present)) // width


class _Rest(Encoded):
    """All that a pipe still holds, in a format that only libsndfile knows."""

    kind = ""

    def pieces(self) -> Iterator[bytes]:
        """Yield it as it comes."""
        while data := self._stream.view(1):
            yield self._stream.read(len(data))


class _Sequential(soundfile.SoundFile):  # type: ignore[misc, unused-ignore]  # soundfile is untyped
    """A sound file that is only ever read forwards.

    soundfile seeks to where it already is after every read, which costs a quarter of a FLAC file's
    time, is refused where the length is unknown, and is not needed here.
    """

    def seekable(self) -> bool:
        return False


class _Pump(threading.Thread):
    """Writes a part of a file into a pipe, from which libsndfile reads it."""

    def __init__(self, encoded: Encoded) -> None:
        """Start writing."""
        super().__init__(name="sound-file", daemon=True)
        self._encoded = encoded
        self._signature = _FLAC_SIGNATURE if encoded.kind == "FLAC" and _skips_signature() else b""
        self.is_cut_short = False
        """Whether the decoder was closed before it had read everything."""
        self.fault: BaseException | None = None
        self.reader, self._writer = os.pipe()
        try:
            self.start()
        except BaseException:
            os.close(self.reader)
            os.close(self._writer)
            raise

    def run(self) -> None:
        """Write until the end of the part, or until the decoder is closed."""
        try:
            with os.fdopen(self._writer, "wb") as pipe:
                pipe.write(self._signature)
                for piece in self._encoded.pieces():
                    pipe.write(piece)
        except BrokenPipeError:
            self.is_cut_short = True
        except BaseException as error:  # noqa: BLE001 - raised where the blocks are taken
            self.fault = error

    def end(self, stream: ByteStream | None = None) -> None:
        """Wait for the end of the thread, once the decoder is closed."""
        if stream is not None:
            stream.interrupt()
        self.join()


class _DecodedPart:
    """A part that libsndfile decodes."""

    def __init__(self, file: _Sequential, encoded: Encoded | None, pump: _Pump | None) -> None:
        """Take the open file, and what writes into its pipe; None for a file that libsndfile reads by itself."""
        self._file, self._encoded, self._pump = file, encoded, pump
        self.rate_hz, self.channels = file.samplerate, file.channels
        self.missing = self.gaps = 0
        self._lead, self._padding = (encoded.lead, encoded.padding) if encoded else (0, 0)
        self.frames = file.frames if encoded is None else encoded.frames
        if self.frames is not None:
            self.frames = max(0, self.frames - self._lead - self._padding)

    def blocks(self, frames: int) -> Iterator[Block]:
        """Yield blocks without the encoder's delay and padding."""
        buffer = np.empty((frames, self.channels), np.float32)
        held = buffer[:0].copy()
        decoded, lead = 0, self._lead
        while True:
            count, damage = self._read(buffer)
            decoded += count
            block = buffer[min(lead, count) : count]
            lead -= min(lead, count)
            if self._padding:
                block = np.concatenate((held, block))
                end = max(0, len(block) - self._padding)
                block, held = block[:end], block[end:].copy()
            if len(block):
                yield block
            if damage is not None and not self._is_padding(decoded):
                raise DamageError(damage)
            if damage is not None or not count:
                break
        self._finish(decoded)
        if self.missing and len(held):
            yield held

    def close(self) -> None:
        """Close the decoder; what writes for it ends with that."""
        self._file.close()
        if self._pump is not None:
            self._pump.end()

    def _is_padding(self, decoded: int) -> bool:
        """Return whether the decoder stumbled only at the padding of a FLAC file."""
        is_padding = isinstance(self._encoded, FlacPart) and self._encoded.has_padding
        return is_padding and decoded >= (self.frames or 0)

    def _finish(self, decoded: int) -> None:
        self.close()
        if self._pump is None or self._encoded is None:
            return
        if self._pump.fault is not None:
            raise self._pump.fault
        if self._pump.is_cut_short:
            raise DamageError("the decoder ended before the file")
        self.gaps = self._encoded.gaps
        found = self._encoded.frames_found if isinstance(self._encoded, MpegPart) else decoded
        if self._encoded.frames is not None and found + self._encoded.slack < self._encoded.frames:
            self.missing = self._encoded.frames - found

    def _read(self, buffer: Block) -> tuple[int, str | None]:
        """Fill the buffer; return the frames read, and the reason where the file is damaged behind them."""
        # A failed read does not say how much it has decoded: NaN marks what it left untouched.
        buffer.fill(np.nan)
        try:
            return len(self._file.read(out=buffer)), None
        except soundfile.LibsndfileError as error:
            untouched = np.isnan(buffer[:, 0])
            return int(untouched.argmax()) if untouched.any() else len(buffer), _reason(error)


_FLAC_SIGNATURE: Final = b"fLaC" + bytes(8)
_FLAC_PROBE: Final = b"fLaC\x80\0\0\x22\x10\0\x10\0" + bytes(6) + b"\x0a\xc4\x40\xf0" + bytes(20)
"""A FLAC stream of no frames: 44.1 kHz, mono, 16 bits."""


@functools.cache
def _skips_signature() -> bool:
    """Return whether libsndfile takes the first 12 bytes of a pipe for itself, and its FLAC decoder misses them."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(_FLAC_PROBE)
    try:
        _Sequential(reader).close()
    except soundfile.LibsndfileError:
        return True
    return False


def decode(data: bytes, code: str) -> Samples:
    """Return raw samples (n,) as floats in [-1, 1), scaled as libsndfile scales them; ``code`` is that of a Layout."""
    if code in {"ulaw", "alaw"}:
        return _companded(code)[np.frombuffer(data, np.uint8)]
    if code[1:] == "i3":
        # The three bytes become the upper ones of 32 bits, which keeps the sign and the scale.
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        first = 1 if code[0] == "<" else 0
        wide[:, first : first + 3] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, code = wide.tobytes(), f"{code[0]}i4"
    values = np.frombuffer(data, code)
    with np.errstate(over="ignore"):  # found where the scale is checked
        samples = values.astype(np.float32)
    if values.dtype.kind == "u":
        samples -= np.float32(128)
    if values.dtype.kind != "f":
        samples *= np.float32(2.0 ** (1 - 8 * values.itemsize))
    return samples


@functools.cache
def _companded(code: str) -> Samples:
    """Return the samples of all 256 bytes by ITU-T G.711."""
    byte = np.arange(256)
    byte = byte ^ (0xFF if code == "ulaw" else 0x55)
    exponent, mantissa = byte >> 4 & 7, byte & 0xF
    if code == "ulaw":
        size = ((mantissa << 3) + 0x84 << exponent) - 0x84
        negative = (byte & 0x80) != 0
    else:
        size = np.where(exponent == 0, (mantissa << 4) + 8, (mantissa << 4) + 0x108 << np.maximum(exponent - 1, 0))
        negative = (byte & 0x80) == 0
    return (np.where(negative, -size, size) / 32768).astype(np.float32)


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


def _reason(error: soundfile.LibsndfileError) -> str:
    """Return libsndfile's reason as part of a sentence."""
    text: str = error.error_string
    return text.removeprefix("Error : ").removesuffix(".").strip()
