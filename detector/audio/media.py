"""What FFmpeg's libraries decode, by PyAV: containers as files, and what network streams share with them."""

from __future__ import annotations

import importlib
import math
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from detector.audio.containers import Layout, begins_mpeg
from detector.audio.live_source import Block
from detector.errors import ConfigError
from detector.system import ByteStream, install_command, printable

AHEAD_S: Final = 60.0
"""A jump of the timestamps that is longer than the clock allows by so much is no loss, but another time scale."""
_FOLLOW: Final = 0.05
_LEAST_TOLERANCE_S: Final = 0.002
_FRAME_SHARE: Final = 0.75
"""Share of a frame by which its timestamp may be off: where packets are lost, it is a whole one at least."""
_DECAY: Final = 0.999
_TEXTS_IN_ANY_ENCODING: Final = 19
"""The release of PyAV that has no option for texts that are not UTF-8 any more."""
_SCALES: Final[dict[str, float]] = {"i2": 1 << 15, "i4": 1 << 31, "i8": 1 << 63}


def load_av(what: str) -> Any:
    """Return the module ``av``; raises ConfigError, with the command that installs it, where it is missing.

    ``what`` is what needs it, in the plural.
    """
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ConfigError(f"{what} need PyAV: {install_command('streams')}") from error


def _text_errors(av: Any) -> dict[str, str]:
    """Return what ``av.open`` takes so that texts may be in any encoding; from PyAV 19 on, they always may."""
    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < _TEXTS_IN_ANY_ENCODING else {}


class Timestamps:
    """Compares the timestamps of frames with their samples: how much is missing between two frames.

    Timestamps may be rounded, jitter, or come from another clock than the samples. What is within three quarters of a
    frame, or of the jitter seen so far, is followed slowly and means nothing: a packet that is lost shifts all later
    ones by its whole length.
    """

    def __init__(self, owed_s: float = math.inf) -> None:
        """Start with the first frame. ``owed_s``: by how much all jumps together may exceed what the clock allows."""
        self._most_owed_s, self._owed_s = owed_s, 0.0
        self._expected_s: float | None = None
        self._arrived_s = 0.0
        self._jitter_s = 0.0

    def lost_s(self, stamp_s: float | None, length_s: float, arrived_s: float) -> float | None:
        """Return the seconds that are missing before a frame; None where its timestamp cannot belong to those before.

        ``stamp_s``: None where it has none. ``arrived_s``: when it arrived, by any clock.
        """
        expected_s, elapsed_s = self._expected_s, arrived_s - self._arrived_s
        self._arrived_s = arrived_s
        self._owed_s -= min(self._owed_s, max(0.0, elapsed_s - length_s))  # of packets that have come late
        if stamp_s is None or expected_s is None:
            base_s = stamp_s if expected_s is None else expected_s
            self._expected_s = None if base_s is None else base_s + length_s
            return 0.0
        off_s = stamp_s - expected_s
        tolerance_s = max(_FRAME_SHARE * length_s, _LEAST_TOLERANCE_S, 1.5 * self._jitter_s)
        self._jitter_s *= _DECAY
        if abs(off_s) <= tolerance_s:
            self._jitter_s = max(self._jitter_s, abs(off_s))
            self._expected_s = expected_s + _FOLLOW * off_s + length_s
            return 0.0
        self._expected_s = stamp_s + length_s
        if -1.0 < off_s < 0:
            self._jitter_s = max(self._jitter_s, -off_s)
            return 0.0
        owed_s = self._owed_s + max(0.0, off_s - elapsed_s)
        if off_s < 0 or off_s > elapsed_s + AHEAD_S or owed_s > self._most_owed_s:
            return None
        self._owed_s = owed_s
        return off_s


def as_floats(frame: Any) -> NDArray[np.float32]:
    """Return the samples of a frame of PyAV as (channels, frames), full scale is [-1, 1)."""
    samples: NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(frame.samples, -1).T
    if samples.dtype == np.float32:
        return samples
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / np.float32(128)
    return samples.astype(np.float32) / np.float32(_SCALES[samples.dtype.str[1:]])


_FOREIGN: Final = (
    (4, b"ftyp", "MP4 or M4A (AAC or ALAC)"),
    (4, b"styp", "MP4 (a segment)"),
    (4, b"moov", "QuickTime"),
    (4, b"mdat", "QuickTime"),
    (4, b"wide", "QuickTime"),
    (4, b"free", "QuickTime"),
    (4, b"skip", "QuickTime"),
    (0, b"\0\0\1\xba", "MPEG"),
    (0, b".RMF", "RealMedia"),
    (0, b"\x7f\xfe\x80\x01", "DTS"),
    (0, b"\x30\x26\xb2\x75", "WMA"),
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska"),
    (0, b"#!AMR", "AMR"),
    (0, b"wvpk", "WavPack"),
    (0, b"MAC ", "Monkey's Audio"),
    (0, b"MThd", "MIDI, notes without sound"),
    (0, b"TTA1", "True Audio"),
    (0, b"DSD ", "DSD"),
    (0, b"FRM8", "DSD"),
    (0, b"MPCK", "Musepack"),
    (0, b"MP+", "Musepack"),
    (0, b"ADIF", "AAC"),
    (0, b"\xff\xf1", "AAC"),
    (0, b"\xff\xf9", "AAC"),
    (0, b"\x0b\x77", "AC-3"),
    (0, b"FLV", "Flash video"),
    (8, b"AVI ", "AVI"),
    (0, b"fLaC", "FLAC"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
)
_OGG_CODECS: Final = (
    (b"\x01vorbis", "Vorbis"),
    (b"OpusHead", "Opus"),
    (b"\x7fFLAC", "FLAC"),
    (b"Speex", "Speex"),
    (b"\x80theora", "Theora, video"),
    (b"fishead", "video"),
)


def recognise(head: bytes, layout: Layout | None) -> str:
    """Return the name of what a file is, by its first bytes (512 or more); empty where it is nothing known."""
    if layout is not None:
        return layout.name
    if head.startswith(b"OggS"):
        codec = next((name for magic, name in _OGG_CODECS if magic in head), "an unknown codec")
        return f"Ogg ({codec})"
    for at, magic, name in _FOREIGN:
        if head[at:].startswith(magic):
            return name
    if b"GGG" in {head[::_TS_BYTES][:3], head[4::_M2TS_BYTES][:3]}:
        return "MPEG-TS"
    if begins_mpeg(head):
        return "MP3"
    return "text" if head and not re.search(rb"[^\t\n\f\r -~\x80-\xff]", head) else ""


_TS_BYTES: Final = 188
_M2TS_BYTES: Final = 192
"""Length of a packet, each of which begins with a G; on discs and in cameras four bytes precede it."""
_NO_MEDIA: Final = ("text", "MIDI", "a ZIP", "a gzip", "MP3", "FLAC")
_SNDFILE_OGG: Final = ("Vorbis", "Opus", "FLAC")


def is_media(head: bytes, layout: Layout | None) -> bool:
    """Return whether a file that libsndfile cannot read is one of those that FFmpeg may decode, by its first bytes.

    FFmpeg takes many things for sound; what is of no format that is known here, or damaged, is not shown to it.
    """
    if layout is not None:
        return layout.code == ""
    name = recognise(head, None)
    return bool(name) and not name.startswith(_NO_MEDIA) and not any(f"({kind})" in name for kind in _SNDFILE_OGG)


class DamageError(Exception):
    """The decoder cannot go on; the text is its reason."""


class MediaError(Exception):
    """A container cannot be opened, or holds no sound that can be decoded; the text is the reason and what to do."""


_MOV: Final = "mov,mp4,m4a,3gp,3g2,mj2"
_TIMED: Final = frozenset((_MOV, "matroska,webm", "mpegts", "flv", "asf", "tta"))
"""Formats whose timestamps show what is missing; those of others, such as WMA in WAV, are not to be trusted."""
_SIZED: Final = frozenset((_MOV, "wv", "ape", "tta", "caf", "wav", "w64", "asf", "avi"))
"""Formats that state the length of each track; others estimate it."""
_STRICT: Final = "crccheck+explode"
_SLACK_FRAMES: Final = 1
"""Frames by which a stated length may be off."""
_MOV_SLACK_FRAMES: Final = 4
"""The same where it may count those of the encoder, before the sound and behind it."""
_PADDING_FRAMES: Final = 2
_AAC_MARK: Final = b"Lavc"
"""FFmpeg's own AAC encoder writes its name into the first packet, and no other one does."""
_AAC_DELAY: Final = 1024
"""Its delay in samples. Where a container states it, FFmpeg leaves out the frame of that packet."""
_MAX_RETRIES: Final = 1000
_MAX_SILENCE_S: Final = 3600.0
"""Of a whole file: the timestamps of one may be of any kind."""
_AGAIN: Final = "copy or record it again"
_DIGITS: Final = 9
"""In the number of a track."""


class TrackError(Exception):
    """A container has no such sound track; the text names those that it has."""


def choose_track(languages: Sequence[str], wanted: str | None, option: str = "--track") -> int:
    """Return the index of the sound track that is wanted, by its number from 1 or its language; None: the first.

    ``languages``: of each track, empty where none is stated; ``option``: what names it. Raises TrackError.
    """
    if wanted is None:
        number = 0
    elif wanted.isdecimal():
        number = int(wanted) - 1 if len(wanted) <= _DIGITS else -1
    else:
        number = next((n for n, language in enumerate(languages) if language and wanted.lower() == language), -1)
    if not 0 <= number < len(languages):
        there = f"it has the sound tracks {track_names(languages)}" if languages else "it has no sound"
        raise TrackError(f"{there}; {option} {wanted} is not there" if wanted else there)
    return number


def track_names(languages: Sequence[str]) -> str:
    """Return the numbers and languages of sound tracks as part of a sentence."""
    return ", ".join(f"{n} ({language})" if language else str(n) for n, language in enumerate(languages, 1))


def track_languages(container: Any) -> list[str]:
    """Return the language of each sound track of a container of PyAV, in lower case; empty where none is stated."""
    languages = [track.language or track.metadata.get("language") or "" for track in container.streams.audio]
    return [printable(language).lower() for language in languages]


def use_track(container: Any, number: int) -> Any:
    """Return a sound track of a container by its index, and have all other tracks not be read."""
    chosen = container.streams.audio[number]
    for other in container.streams:
        if other is not chosen:
            other.discard = type(other.discard).all
    return chosen


class MediaPart:
    """A sound track of a container, as FFmpeg decodes it, from its first sample on.

    What the container marks as the encoder's delay and padding is left out, and the delay of FFmpeg's own AAC encoder,
    which its first packet shows. Other AAC without a stated delay begins late by what its encoder has put before the
    sound: 512 to 2048 samples were measured, of HE-AAC 5057 to 7105, which is 148 ms at 48 kHz.

    Where packets are missing or damaged, and the timestamps say how much, silence of that length takes their place, so
    that all later times are right: a minute at most, an hour in a file. Each such place is counted.
    """

    def __init__(self, file: BinaryIO | PipeBytes, track: str | None = None) -> None:
        """Open; ``close`` closes the file. ``track``: as in ``choose_track``.

        Raises MediaError, TrackError, and ConfigError without PyAV.
        """
        self._file, self._av = file, load_av("files of this kind")
        self.missing = self.gaps = 0
        self.track_note = ""
        """Which sound track this is, where there are several and none was chosen."""
        self._is_marked, self._begin_pts = False, None
        """Whether FFmpeg's AAC encoder has written the first packet, and its timestamp."""
        self._is_hurt = False
        self._longest = 1
        """Samples in the longest frame so far."""
        self._timestamps = Timestamps()
        self._stamp_s, self._silence_s = -np.inf, 0.0
        try:
            self._container = self._av.open(
                file,
                # What a file names is not opened: it may come from anyone.
                options={"protocol_whitelist": "", "err_detect": _STRICT},
                **_text_errors(self._av),
            )
        except Exception as error:  # noqa: BLE001 - of a library, about what is in the file
            raise MediaError(f"{self._reason(error)}; {_AGAIN}") from None
        try:
            self._track = self._choose(track)
            self._packets: Iterator[Any] = self._container.demux(self._track)
            self._frames = self._decoded()
            self._first = next(self._frames, None)
            if self._first is None:
                raise MediaError(f"none of its sound can be decoded; {_AGAIN}")  # noqa: TRY301 - closed below as well
        except DamageError as damage:
            self.close()
            raise MediaError(f"{damage}; {_AGAIN}") from None
        except BaseException:
            self.close()
            raise
        self.rate_hz: int = self._first.sample_rate
        self.channels = as_floats(self._first).shape[0]
        self._lead = _AAC_DELAY if self._is_marked and self._first.pts == self._begin_pts else 0
        promised_s = self._promised_s()
        self.frames = None if promised_s is None else max(1, round(promised_s * self.rate_hz) - self._lead)

    def blocks(self, frames: int) -> Iterator[Block]:
        """Yield blocks of so many frames, fewer at the end; raises DamageError behind those that can be decoded."""
        parts: list[Block] = []
        count = total = 0
        for samples in self._without_padding():
            if parts and parts[-1].shape[1] != samples.shape[1]:
                yield np.concatenate(parts)
                parts, count = [], 0
            parts.append(samples)
            count, total = count + len(samples), total + len(samples)
            if count >= frames:
                joined = np.concatenate(parts)
                whole = count // frames * frames
                for at in range(0, whole, frames):
                    yield joined[at : at + frames]
                parts, count = [joined[whole:]], count - whole
        if count:
            yield np.concatenate(parts)
        slack = self._longest * (_MOV_SLACK_FRAMES if self._is_mov else _SLACK_FRAMES)
        if self.frames is not None and total + slack < self.frames:
            self.missing = self.frames - total
        elif self._is_hurt:
            self.gaps += 1

    def close(self) -> None:
        """Release the decoder and close the file."""
        self._container.close()
        self._file.close()

    @property
    def _is_mov(self) -> bool:
        return bool(self._container.format.name == _MOV)

    def _choose(self, wanted: str | None) -> Any:
        """Return the sound track that is wanted; raises MediaError or TrackError without it."""
        languages = track_languages(self._container)
        if not languages:
            kinds = sorted({stream.type for stream in self._container.streams})
            raise MediaError(f"it has no sound track, only {' and '.join(kinds)}" if kinds else "it has no tracks")
        track = use_track(self._container, choose_track(languages, wanted))
        if len(languages) > 1 and wanted is None:
            self.track_note = f"has the sound tracks {track_names(languages)}; 1 is used, choose with --track"
        if track.codec_context is None:
            raise MediaError("its sound is of a codec that is not known here; convert it")
        track.codec_context.options = {"err_detect": _STRICT}
        return track

    def _promised_s(self) -> float | None:
        """Return the length that the container states of the track; None where it does not."""
        track, name = self._track, self._container.format.name
        if name in _SIZED:
            return None if track.duration is None else float(track.duration * track.time_base)
        if (stated := _DURATION.fullmatch(track.metadata.get("DURATION", ""))) is not None:
            hours, minutes, seconds = map(float, stated.groups())
            return 3600 * hours + 60 * minutes + seconds
        has_length = name in {"matroska,webm", "flv"} and len(self._container.streams) == 1
        return self._container.duration / 1e6 if has_length and self._container.duration else None

    def _decoded(self) -> Iterator[Any]:
        """Yield frames; those of damaged packets are left out."""
        retries, is_first = 0, True
        while True:
            try:
                packet = next(self._packets, None)
            except BlockingIOError:  # the demuxer has found nothing of use where it looked, and goes on
                self._packets, retries = self._container.demux(self._track), retries + 1
                self._is_hurt = True
                if retries > _MAX_RETRIES:
                    raise DamageError("it is damaged or cut off") from None
                continue
            except Exception as error:  # noqa: BLE001 - as above
                yield from self._decode(None)
                raise DamageError(self._reason(error)) from None
            if packet is None:
                return
            if is_first and self._track.codec_context.name == "aac":
                self._is_marked, self._begin_pts = _AAC_MARK in bytes(packet), packet.pts
            retries, is_first = 0, False
            yield from self._decode(packet)

    def _decode(self, packet: Any) -> Iterator[Any]:
        """Yield the frames of a packet; None: those that the decoder still has."""
        try:
            frames = self._track.codec_context.decode(packet)
        except EOFError:
            return
        except (self._av.FFmpegError, ValueError):  # from PyAV 19 on the latter, where FFmpeg knows no such codec
            self._is_hurt = True
            return
        self._is_hurt |= packet is not None and packet.is_corrupt
        for frame in frames:
            self._is_hurt |= frame.is_corrupt
            yield frame

    def _samples(self) -> Iterator[Block]:
        """Yield the samples of all frames as (frames, channels), with silence for what is missing."""
        frame = self._first
        while frame is not None:
            if frame.sample_rate != self.rate_hz:
                raise DamageError(f"its rate changes from {self.rate_hz} to {frame.sample_rate} Hz")
            samples = as_floats(frame).T
            self._longest = max(self._longest, len(samples))
            lost = self._lost(frame, len(samples))
            self.gaps += self._is_hurt
            self._is_hurt = False
            for at in range(0, lost, self.rate_hz):
                yield np.zeros((min(self.rate_hz, lost - at), samples.shape[1]), np.float32)
            if len(samples) > self._lead:
                yield np.ascontiguousarray(samples[self._lead :])
            self._lead = max(0, self._lead - len(samples))
            frame = next(self._frames, None)

    def _lost(self, frame: Any, length: int) -> int:
        """Return how many samples are missing before a frame, by the timestamps."""
        if self._container.format.name not in _TIMED:
            return 0
        stamp_s = None if frame.pts is None else float(frame.pts * (frame.time_base or self._track.time_base))
        lost_s = self._timestamps.lost_s(stamp_s, length / self.rate_hz, 0.0)
        if stamp_s is not None:
            self._is_hurt |= lost_s is None and stamp_s > self._stamp_s  # one that falls back loses nothing
            self._stamp_s = stamp_s
        if not lost_s:
            return 0
        self._is_hurt = True
        self._silence_s += lost_s
        return round(lost_s * self.rate_hz) if self._silence_s <= _MAX_SILENCE_S else 0

    def _without_padding(self) -> Iterator[Block]:
        """Yield samples without those behind the stated end, where they are less than some frames."""
        end = self.frames if self._is_mov else None
        total, behind = 0, list[Block]()
        for samples in self._samples():
            total += len(samples)
            if end is None or total <= end:
                yield samples
                continue
            behind.append(samples)
            if total - end > _PADDING_FRAMES * self._longest:  # the stated end is wrong
                end = None
                yield from behind
                behind.clear()
        if behind and end is not None:
            joined = np.concatenate(behind)
            yield joined[: len(joined) - (total - end)]

    def _reason(self, error: Exception) -> str:
        """Return the reason of a library as part of a sentence."""
        if isinstance(error, self._av.error.InvalidDataError | EOFError):
            return "it is damaged or cut off"
        if text := getattr(error, "strerror", None):
            return str(text).lower()
        return f"PyAV {self._av.__version__}: {type(error).__name__}: {printable(str(error))}"


_DURATION: Final = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")


class PipeBytes:
    """The bytes of a pipe as a file that can only be read forwards; closing it leaves the pipe open."""

    def __init__(self, stream: ByteStream) -> None:
        """Take the stream where it is."""
        self._stream = stream

    def read(self, count: int) -> bytes:
        """Return what has arrived, at most so many bytes; none at the end."""
        return self._stream.read(len(self._stream.view(1)[:count]))

    def close(self) -> None:
        """Leave the stream as it is."""


def second_file(stream: ByteStream) -> int | None:
    """Return how far ahead in a file another MP4 begins behind the first one; None where none does.

    FFmpeg passes over it in silence.
    """
    at, boxes = 0, set[bytes]()
    while len(head := stream.at(at, _LONG_BOX_BYTES)) >= _BOX_BYTES:
        size, kind = struct.unpack_from(">I4s", head)
        if kind == b"ftyp" and kind in boxes:
            return at
        boxes.add(kind)
        if size == 1 and len(head) == _LONG_BOX_BYTES:
            size = struct.unpack_from(">Q", head, 8)[0]
        if size < _BOX_BYTES:
            return None
        at += size
    return None


_BOX_BYTES: Final = 8
_LONG_BOX_BYTES: Final = 16
