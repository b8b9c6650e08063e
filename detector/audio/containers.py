"""Containers of sound: headers, what follows the sound, and the parts of joined files, as bytes.

A header states how long the sound is, and is often wrong: a recorder that cannot rewind leaves a placeholder, one
that lost its power the length of minutes ago, 32 bits wrap at 4 GiB, and joined files have a header each. Nothing
here trusts a length before it is compared with the bytes.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from detector.system import ByteStream

_PIECE: Final = 1 << 16
TAIL_BYTES: Final = 1 << 20
"""How far is looked ahead, behind the stated end of the sound or for the next frame of a damaged stream."""
_LONGEST_HEADER: Final = 1 << 24
"""For the offset of AU; other headers may be longer in a file."""
_LONGEST_CHUNK: Final = 1 << 12
"""Of the properties of the sound."""
_MOST_CHUNKS: Final = 10_000
_OPEN_ENDED: Final = 1 << 62
_SIGNATURE_BYTES: Final = 16
_PLACEHOLDERS: Final = (0x7F00_0000, 0x8000_0000, 0xFFFF_FFFF)
"""Lengths in 32 bits that recorders write where they cannot rewind, rounded down to whole frames."""
_ROUNDED: Final = 0x1_0000


@dataclass(frozen=True, slots=True)
class Chunks:
    """How the chunks of a container are written."""

    head: struct.Struct
    """Name and length."""
    first: int
    """Where the first one begins."""
    own: int
    """Bytes of the name and the length that the length counts."""
    pad: int
    """Each begins at a multiple of this behind the one before."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the header of a container with chunks states."""

    name: str
    signature: bytes
    rate_hz: int
    channels: int
    code: str
    """A sample type as numpy writes it (``<i3``: 24 bits), ``ulaw``, ``alaw``, ``mp3``; empty for any other."""
    start: int
    """Where the samples begin."""
    length: int
    """Bytes of samples, as stated."""
    is_placeholder: bool
    """Whether that means "until the end"."""
    chunks: Chunks | None
    """How other chunks may follow; None where none may."""

    @property
    def width(self) -> int:
        """Bytes in a frame; 0 where they are compressed."""
        if self.code in {"", "mp3"}:
            return 0
        return self.channels * (1 if self.code in {"ulaw", "alaw"} else int(self.code[2:]))


_RIFF: Final = Chunks(struct.Struct("<4sI"), 12, 0, 2)
_RIFX: Final = Chunks(struct.Struct(">4sI"), 12, 0, 2)
_CAF: Final = Chunks(struct.Struct(">4sq"), 8, 0, 1)
_W64: Final = Chunks(struct.Struct("<16sQ"), 40, 24, 8)
_W64_SIGNATURE: Final = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_NAMES: Final = (
    b"LISTfactcue plstadtlsmplinstbextiXMLaxmlid3 ID3 PEAKJUNKjunkPAD FLLRumidchnaafspcartlinkguan_PMXacidstrcDISPlevl"
    b"MARKCOMTNAMEAUTHANNOAPPL(c) FVERCHANAESDSAURinfofreechanmark"
)
_KNOWN: Final = frozenset(_NAMES[at : at + 4] for at in range(0, len(_NAMES), 4))
"""Names of chunks that hold no sound."""
_WORD: Final = re.compile(rb"[A-Za-z0-9(_ ][A-Za-z0-9)_. -]{3}", re.DOTALL)


def read_layout(stream: ByteStream) -> Layout | None:
    """Return what the header that comes next states; None where it is of another container, or unclear."""
    head = stream.peek(40)
    if head[:4] == b".snd":
        return _au_layout(head)
    for kind in _KINDS:
        if head[:4] in kind.signatures and (not kind.forms or head[8:12] in kind.forms):
            return _chunk_layout(stream, kind)
    return None


_Format = tuple[int, int, str, int]
"""Rate, channels, code of the samples, and bytes of the sound's chunk before them."""


def _chunk_layout(stream: ByteStream, kind: _Kind) -> Layout | None:
    chunks, found = kind.chunks, dict[bytes, bytes]()
    at = chunks.first
    for _ in range(_MOST_CHUNKS):
        raw = stream.at(at, chunks.head.size + 8)
        if len(raw) < chunks.head.size:
            return None
        key, length = chunks.head.unpack_from(raw)
        key, length = key[:4], length - chunks.own
        at += chunks.head.size
        if key == kind.samples:
            break
        if length < 0:
            return None
        found[key] = stream.at(at, min(length, _LONGEST_CHUNK))
        at += -(-(length + chunks.own) // chunks.pad) * chunks.pad - chunks.own
    else:
        return None
    try:
        rate_hz, channels, code, before = kind.parse(found, chunks, raw[chunks.head.size :])
    except (struct.error, KeyError, OverflowError, ValueError):
        return None
    if b"ds64" in found and length == 0xFFFF_FFFF and len(found[b"ds64"]) >= 16:
        length = struct.unpack_from("<Q", found[b"ds64"], 8)[0] or _OPEN_ENDED
    length = _OPEN_ENDED if length == -1 else max(0, length - before)
    is_placeholder = _is_placeholder(length, wide=chunks in (_CAF, _W64) or b"ds64" in found)
    return Layout(kind.name, stream.peek(4), rate_hz, channels, code, at + before, length, is_placeholder, chunks)


def _is_placeholder(length: int, *, wide: bool) -> bool:
    if length <= 0 or length >= _OPEN_ENDED:
        return True
    return not wide and any(end - _ROUNDED <= length <= end + 0x10 for end in _PLACEHOLDERS)


def _wav_format(found: Mapping[bytes, bytes], chunks: Chunks, _: bytes) -> _Format:
    order = chunks.head.format[0]
    tag, channels, rate_hz, _rate, align, bits = struct.unpack_from(f"{order}HHIIHH", found[b"fmt "])
    if tag == 0xFFFE:
        tag = struct.unpack_from(f"{order}H", found[b"fmt "], 24)[0]
    width = -(-bits // 8)
    codes = {1: f"{order}i{width}" if width > 1 else "|u1", 3: f"{order}f{width}", 6: "alaw", 7: "ulaw", 0x55: "mp3"}
    is_plain = channels > 0 and align == channels * width and (tag != 1 or width <= 4) and (tag != 3 or width in {4, 8})
    return rate_hz, channels, codes.get(tag, "") if is_plain or tag == 0x55 else "", 0


def _aiff_format(found: Mapping[bytes, bytes], _: Chunks, begin: bytes) -> _Format:
    channels, _frames, bits, exponent, mantissa = struct.unpack_from(">hIhHQ", found[b"COMM"])
    rate_hz = round(math.ldexp(mantissa, (exponent & 0x7FFF) - 16383 - 63))
    kind, width = found[b"COMM"][18:22] or b"NONE", -(-bits // 8)
    signed = f">i{width}" if width > 1 else "|i1"
    codes = {b"NONE": signed, b"twos": signed, b"sowt": signed.replace(">", "<"), b"in24": ">i3", b"in32": ">i4"}
    codes |= {b"fl32": ">f4", b"FL32": ">f4", b"fl64": ">f8", b"FL64": ">f8", b"raw ": "|u1"}
    codes |= {b"ulaw": "ulaw", b"ULAW": "ulaw", b"alaw": "alaw", b"ALAW": "alaw", b"23ni": "<i3", b"42ni": "<i4"}
    is_plain = channels > 0 and (1 <= width <= 4 or kind in {b"fl64", b"FL64"})
    return rate_hz, channels, codes.get(kind, "") if is_plain else "", 8 + struct.unpack_from(">I", begin)[0]


def _caf_format(found: Mapping[bytes, bytes], _: Chunks, __: bytes) -> _Format:
    rate, kind, flags, size, frames, channels, bits = struct.unpack_from(">d4sIIIII", found[b"desc"])
    width = -(-bits // 8)
    order = "<" if flags & 2 else ">"
    code = kind.decode("latin-1")
    if kind == b"lpcm":
        code = f"{order}{'f' if flags & 1 else 'i'}{width}" if width > 1 else "|i1"
    is_plain = channels > 0 and frames == 1 and size == channels * width and code[1:] in _TYPES
    return round(rate), channels, code if is_plain or code in {"ulaw", "alaw"} else "", 4


@dataclass(frozen=True, slots=True)
class _Kind:
    """A container of chunks."""

    name: str
    signatures: tuple[bytes, ...]
    forms: tuple[bytes, ...]
    """What stands behind its length."""
    chunks: Chunks
    samples: bytes
    """Name of the chunk of the samples."""
    parse: Callable[[Mapping[bytes, bytes], Chunks, bytes], _Format]


_KINDS: Final = (
    _Kind("WAV", (b"RIFF", b"RF64", b"BW64"), (b"WAVE",), _RIFF, b"data", _wav_format),
    _Kind("WAV", (b"RIFX",), (b"WAVE",), _RIFX, b"data", _wav_format),
    _Kind("AIFF", (b"FORM",), (b"AIFF", b"AIFC"), _RIFX, b"SSND", _aiff_format),
    _Kind("CAF", (b"caff",), (), _CAF, b"data", _caf_format),
    _Kind("W64", (_W64_SIGNATURE[:4],), (_W64_SIGNATURE[8:12],), _W64, b"data", _wav_format),
)
_TYPES: Final = frozenset(("u1", "i1", "i2", "i3", "i4", "f4", "f8"))
_AU_CODES: Final = {1: "ulaw", 2: "|i1", 3: ">i2", 4: ">i3", 5: ">i4", 6: ">f4", 7: ">f8", 27: "alaw"}


def _au_layout(head: bytes) -> Layout | None:
    if len(head) < 24:
        return None
    start, length, kind, rate_hz, channels = struct.unpack_from(">IIIII", head, 4)
    if not 24 <= start < _LONGEST_HEADER or channels == 0:
        return None
    code = _AU_CODES.get(kind, "")
    return Layout("AU", head[:4], rate_hz, channels, code, start, length, _is_placeholder(length, wide=False), None)


def sound_follows(stream: ByteStream, layout: Layout) -> bool:
    """Return whether more samples come next, at their stated end; not other chunks, tags, padding or another file."""
    data = stream.peek(64)
    if len(data) == 64 and not _may_be_other(data.lstrip(b"\0"), data[_pad(layout) :]):
        return True  # at once: those who send live would have to wait
    data = stream.peek(TAIL_BYTES)
    rest = data.lstrip(b"\0")
    if not rest:  # padding, unless it is longer than what can be seen
        return len(data) == TAIL_BYTES
    if _tag_length(rest) or begins_file(rest):
        return False
    if _chunks_length(rest, layout.chunks) or _chunks_length(data[_pad(layout) :], layout.chunks):
        return False
    return len(data) >= layout.width


def _may_be_other(rest: bytes, padded: bytes) -> bool:
    return not rest or bool(_tag_length(rest) or begins_file(rest) or _WORD.match(rest) or _WORD.match(padded))


def skip_tail(stream: ByteStream, layout: Layout | None) -> None:
    """Read past what is no sound: chunks of the container, tags, padding, less than a frame of samples."""
    while data := stream.peek(TAIL_BYTES):
        zeros = len(data) - len(data.lstrip(b"\0"))
        count = zeros or _tag_length(data)
        if not count and layout is not None:
            count = _chunks_length(data, layout.chunks) or (len(data) if len(data) < layout.width else 0)
        if not count:
            return
        stream.skip(count)


def begins_file(data: bytes) -> bool:
    """Return whether another sound file begins here."""
    if data[:4] in {b"RIFF", b"RIFX", b"RF64", b"BW64"}:
        return data[8:12] == b"WAVE"
    if data[:4] == b"FORM":
        return data[8:12] in {b"AIFF", b"AIFC"}
    return data.startswith((b".snd\0", b"caff\0\1\0\0", _W64_SIGNATURE, b"OggS\0", *_FLAC_BEGINS))


def read_to_next_file(stream: ByteStream, layout: Layout, count: int) -> bytes:
    """Read ``count`` bytes, fewer at the end or where another file of the same container begins."""
    data, signature = stream.read(count), layout.signature
    at = data.find(signature)
    while at < len(data):
        if at < 0:  # it may begin with the last bytes, and only then are more of a live pipe waited for
            at = next((len(data) - n for n in (3, 2, 1) if data.endswith(signature[:n])), len(data))
        head = data[at : at + _SIGNATURE_BYTES]
        if head and begins_file(head + stream.peek(_SIGNATURE_BYTES - len(head))):
            stream.put_back(data[at:])
            return data[:at]
        at = data.find(signature, at + 1) if len(data) - at >= len(signature) else len(data)
    return data


def _pad(layout: Layout) -> int:
    return 0 if layout.chunks is None else -(layout.length + layout.chunks.own) % layout.chunks.pad


def _chunks_length(data: bytes, chunks: Chunks | None) -> int:
    """Return how long the chunks are that the data begin with; 0 where they are none."""
    if chunks is None:
        return 0
    at = 0
    while len(data) - at >= chunks.head.size:
        key, length = chunks.head.unpack_from(data, at)
        is_chunk = key[:4] in _KNOWN or (_WORD.fullmatch(key[:4]) and not begins_file(data[at : at + 16]))
        if length < chunks.own or not is_chunk:
            break
        at += chunks.head.size + -(-length // chunks.pad) * chunks.pad - chunks.own
    # Samples may look like a name and a length: of names that are not known, the chunks have to end with the file.
    is_end = len(data) < TAIL_BYTES and len(data) <= at <= len(data) + chunks.pad
    return at if is_end or data[:4] in _KNOWN else 0


def _tag_length(data: bytes) -> int:
    """Return how long the tag is that the data begin with: ID3, APE or Lyrics3; 0 where there is none."""
    if data[:3] == b"ID3" and len(data) >= 10 and max(data[6:10]) < 0x80:
        # Four bytes of seven bits; bit 4 of the flags stands for a footer.
        return (
            10
            + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
            + (10 if data[5] & 0x10 else 0)
        )
    if data[:4] == b"TAG+":
        return 227
    if data[:3] == b"TAG":
        return 128
    if data[:8] == b"APETAGEX" and len(data) >= 32:
        length, _, flags = struct.unpack_from("<III", data, 12)
        return 32 + (length if flags & 0x2000_0000 else 0)
    if data[:11] == b"LYRICSBEGIN" and (end := data.find(b"LYRICS200")) >= 0:
        return end + 9
    return 0


_FLAC_BEGINS: Final = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
_FLAC_HEAD: Final = 42
"""Bytes of a FLAC stream's signature and its first block, STREAMINFO."""
_ZEROS: Final = 16
"""A FLAC frame may end in fewer zero bytes; these are padding."""


class Encoded:
    """A part of a file in a compressed format, as libsndfile can decode it: without lengths, tags and joined parts."""

    kind = "OGG"
    frames: int | None = None
    """Frames that the part states to have; None where it leaves that open."""
    lead = padding = slack = 0
    """Frames of the encoder before the sound and behind it, and by how many ``frames`` may be rounded up."""

    def __init__(self, stream: ByteStream) -> None:
        """Take the stream, at the beginning of the part."""
        self._stream = stream
        self.gaps = 0
        """Places where sound is missing that the decoder passes over in silence; known behind the last piece."""
        self._numbers: dict[bytes, int] = {}

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes for the decoder, up to the end of the part."""
        stream, has_data = self._stream, False
        while data := stream.peek(27):
            if not (data.startswith(b"OggS") and len(data) == 27):
                ahead = stream.peek(TAIL_BYTES)
                at = ahead.find(b"OggS", 1)
                if at < 0:
                    return
                self.gaps += 1
                self._numbers.clear()
                yield stream.read(at)  # the decoder looks for the next page as well
                continue
            begins_stream = bool(data[5] & 2)
            if begins_stream and has_data:
                return
            has_data = not begins_stream
            self._count_gap(data)
            table = stream.peek(27 + data[26])[27:]
            yield stream.read(27 + len(table) + sum(table))

    def _count_gap(self, head: bytes) -> None:
        """Compare a page's number with that of the one before; a stream that is recorded live may begin anywhere."""
        number, serial = int.from_bytes(head[18:22], "little"), head[14:18]
        self.gaps += self._numbers.get(serial, number - 1) != number - 1
        if any(head[6:14]):  # a page of sound
            self._numbers[serial] = number


class FlacPart(Encoded):
    """A FLAC stream, by itself or in Ogg pages."""

    kind = "FLAC"

    def __init__(self, stream: ByteStream, *, in_ogg: bool) -> None:
        """Read its properties, not yet its bytes."""
        super().__init__(stream)
        self._in_ogg = in_ogg
        self.has_padding = False
        """Whether zeros follow the last frame, at which the decoder stumbles."""
        head = stream.peek(512)
        if in_ogg:
            head = head[27 + head[26] + 9 :]
        self.frames = int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF or None

    def pieces(self) -> Iterator[bytes]:
        """Yield the native stream, with a total of zero samples: it goes on to the end."""
        pieces = self._payloads() if self._in_ogg else self._native()
        head = b""
        for piece in pieces:
            head += piece
            if len(head) >= _FLAC_HEAD:
                yield head[:21] + bytes((head[21] & 0xF0, 0, 0, 0, 0)) + head[26:]
                break
        yield from pieces

    def _payloads(self) -> Iterator[bytes]:
        serial = self._stream.peek(18)[14:]
        skipped = 9  # the mapping's own head
        for page in super().pieces():
            if page[14:18] == serial:
                yield page[27 + page[26] + skipped :]
                skipped = 0

    def _native(self) -> Iterator[bytes]:
        stream = self._stream
        yield stream.read(4)  # its own signature is not the next one
        while data := stream.peek(_PIECE):
            if (joined := _find_flac(data)) >= 0:
                yield stream.read(joined)
                return
            if len(data) < _PIECE:
                self.has_padding = data.endswith(bytes(_ZEROS))
                yield stream.read(len(data) - _length_behind(data))
                return
            yield stream.read(len(data) - len(_FLAC_BEGINS[0]))


def _find_flac(data: bytes) -> int:
    return min((at for begin in _FLAC_BEGINS if (at := data.find(begin)) >= 0), default=-1)


def _length_behind(data: bytes) -> int:
    """Return how many bytes of tags the data end with."""
    count = 128 if data[-128:-125] == b"TAG" else 0
    footer = data[: len(data) - count][-32:]
    if footer[:8] == b"APETAGEX" and len(footer) == 32:
        length, _, flags = struct.unpack_from("<III", footer, 12)
        count += length + (32 if flags & 0x8000_0000 else 0)
    return min(count, len(data))


_KBPS: Final = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates of MPEG 1 and 2 (and 2.5), by layer; layer III of MPEG 2 has those of layer II."""
_DECODER_DELAY: Final = 529
"""Samples by which every decoder of layer III is late."""
_ENCODER_DELAY: Final = 576
"""Samples by which LAME and its relatives are late; where no tag says otherwise."""


@dataclass(frozen=True, slots=True)
class _MpegFrame:
    kind: tuple[int, int, int, bool]
    """Version, layer, rate, whether mono."""
    length: int
    samples: int
    tag: int
    """Where an encoder's tag would begin in it."""


def _mpeg_frame(head: bytes) -> _MpegFrame | None:
    """Return what the four bytes of a frame's header say (ISO 11172-3, 2.4.2.3); None where they are none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    version, layer = {3: 1, 2: 2, 0: 4}.get(head[1] >> 3 & 3), 4 - (head[1] >> 1 & 3)
    index, rate_index = head[2] >> 4, head[2] >> 2 & 3
    if version is None or layer == 4 or index in {0, 15} or rate_index == 3:
        return None
    rate_hz = (44100, 48000, 32000)[rate_index] // version
    is_first = version == 1
    bits = 1000 * _KBPS[(1, layer) if is_first else (2, min(layer, 2))][index - 1]
    pad, mono = head[2] >> 1 & 1, head[3] >> 6 == 3
    if layer == 1:
        return _MpegFrame((version, layer, rate_hz, mono), 4 * (12 * bits // rate_hz + pad), 384, 0)
    samples = 1152 if is_first or layer == 2 else 576
    side = (17 if mono else 32) if is_first else (9 if mono else 17)
    return _MpegFrame((version, layer, rate_hz, mono), samples // 8 * bits // rate_hz + pad, samples, 4 + side)


def begins_mpeg(data: bytes) -> bool:
    """Return whether two frames of MPEG audio begin here, or one that is the last."""
    frame = _mpeg_frame(data[:4])
    if frame is None:
        return False
    following = data[frame.length : frame.length + 4]
    if len(following) < 4:
        return len(data) >= frame.length
    after = _mpeg_frame(following)
    return (after is not None and after.kind == frame.kind) or bool(_tag_length(data[frame.length :]))


_FRAME_BYTES: Final = 400
"""Less than this between two frames is hardly sound that is missing."""


class MpegPart(Encoded):
    """MPEG audio: an MP3 file, or one of several that were joined."""

    kind = "MP3"

    def __init__(self, stream: ByteStream) -> None:
        """Read the tag of the encoder, if there is one, and the properties of the first frame."""
        super().__init__(stream)
        head = stream.peek(4096)
        frame = _mpeg_frame(head)
        if frame is None:
            raise ValueError("no frame of MPEG audio")
        self._kind, self.slack = frame.kind, frame.samples
        if frame.kind[1] == 3:
            self.lead = _ENCODER_DELAY + _DECODER_DELAY
        self.frames_found = 0
        """Frames (samples of each channel) in the part, as far as it has been read; with lead and padding."""
        if _is_info(head, frame):
            self._read_info(head[: frame.length], frame)
            stream.skip(frame.length)

    def _read_info(self, data: bytes, frame: _MpegFrame) -> None:
        if b"VBRI" in data[:40]:
            self.frames = int.from_bytes(data[50:54], "big") * frame.samples or None
            return
        flags = int.from_bytes(data[frame.tag + 4 : frame.tag + 8], "big")
        at = frame.tag + 8
        if flags & 1:
            self.frames = int.from_bytes(data[at : at + 4], "big") * frame.samples or None
        at += 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2
        if data[at : at + 4].strip(b"\0") and len(data) >= at + 24:
            both = int.from_bytes(data[at + 21 : at + 24], "big")
            self.lead = (both >> 12) + _DECODER_DELAY
            self.padding = max(0, (both & 0xFFF) - _DECODER_DELAY)

    def pieces(self) -> Iterator[bytes]:
        """Yield the frames up to the tag of the next encoder, another kind of frames, or the end."""
        stream = self._stream
        while data := stream.view(4096):
            at = self._count(data)
            if at:
                yield stream.read(at)
                continue
            frame = _mpeg_frame(data[:4])
            if frame is not None and frame.length > len(data):  # the last one is cut off
                stream.skip(len(data))
                return
            if frame is not None and begins_mpeg(data):
                return
            at = self._resume(stream.peek(TAIL_BYTES))
            if at <= 0:
                return
            self.gaps += at >= _FRAME_BYTES
            stream.skip(at)

    def _count(self, data: bytes) -> int:
        """Return the bytes of the complete frames that the data begin with."""
        at = 0
        while True:
            frame = _mpeg_frame(data[at : at + 4])
            if frame is None or frame.kind != self._kind or at + frame.length > len(data):
                return at
            if data[at + frame.tag : at + frame.tag + 4] in {b"Xing", b"Info"} and _is_info(data[at:], frame):
                return at
            at += frame.length
            self.frames_found += frame.samples

    def _resume(self, data: bytes) -> int:
        """Return where frames of this kind go on behind damage; -1 where they do not, or a tag comes next."""
        if _tag_length(data) or begins_file(data):
            return -1
        for found in re.finditer(rb"\xff[\xe2-\xff]", data):
            head = data[found.start() : found.start() + 4096]
            frame = _mpeg_frame(head)
            if frame is not None and frame.kind == self._kind and begins_mpeg(head):
                return found.start()
        return -1


def _is_info(data: bytes, frame: _MpegFrame) -> bool:
    """Return whether a frame holds an encoder's tag in place of sound."""
    return frame.tag > 0 and (data[frame.tag : frame.tag + 4] in {b"Xing", b"Info"} or data[36:40] == b"VBRI")
