"""The recordings of an archive: when each began, which may continue one another, and how they are divided into work.

A start time comes from the file's name by a pattern that is given, else from the file itself (GUANO, the comment of an
AudioMoth, bext), else from the names that recorders give. Texts of files are read here and kept as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from detector.audio.files import SoundFileReader, sounds_below
from detector.errors import ConfigError, SourceError

JOIN_S: Final = 1.0
"""A file that begins at most so long after the end of the one before, or before it, continues it."""
_LONGEST_GUESS_S: Final = 4 * 3600.0
"""Files whose length is not stated may be so long: whether the next one continues them is known behind their end."""
_BYTES_PER_S: Final = 16_000.0
"""Of files whose length is not stated, for the progress alone."""
_UNIT_S: Final = 900.0
"""Sound in a unit of work, unless one stream is longer: some seconds of computing."""
_UNIT_FILES: Final = 200
"""Dask keeps the arguments of its last hundreds of tasks."""
_SHARES: Final = 8
"""Units for each worker, at least, where there is that much."""
_TEXT_BYTES: Final = 1 << 16
_MOST_CHUNKS: Final = 10_000
_IN_DS64: Final = 0xFFFF_FFFF
"""A length that is in the chunk ds64."""
_OLDEST, _NEWEST = datetime(2014, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Recording:
    """A sound file, and what is known of it before it is decoded."""

    path: str
    """Absolute."""
    root: str
    """The folder that sources are named below."""
    source: str
    """Name of the recorder or place: files of one source may continue one another."""
    size: int
    seconds: float | None = None
    """Length as far as the header states it; None where it does not."""
    start: datetime | None = None
    """Time of its first sample, with the offset from UTC; None where nothing states it."""
    start_from: str = ""
    """What states the start: ``name``, ``AudioMoth``, ``GUANO`` or ``bext``."""
    lacks_zone: bool = False
    """Whether that has no time zone, so that the one of the options was taken."""
    has_tracks: bool = False
    """Whether it has several sound tracks of which none was chosen."""
    text: str = ""
    """The text in the file that the start was read from, as it is."""
    fault: str = ""
    """Why the file cannot be used at all."""

    @property
    def length_s(self) -> float:
        """Length in seconds, estimated from the size where it is not stated."""
        return self.size / _BYTES_PER_S if self.seconds is None else self.seconds


class Found(NamedTuple):
    """A start time as it is written somewhere."""

    start: datetime
    """Without an offset where the text has none."""
    origin: str
    text: str = ""
    source: str | None = None
    """The recorder that a name states besides."""


# --- Names ---

_DIGITS: Final = {"Y": r"\d{4}", "j": r"\d{3}", "s": r"\d{1,10}", "f": r"\d{1,6}"} | dict.fromkeys("mdHMS", r"\d\d")
_DIGITS["z"] = r"(?:Z|[+-]\d\d(?::?\d\d)?)"
_TOKEN: Final = re.compile(r"%(.)|(\{source\})|(\*)|([^%*{]+|.)", re.DOTALL)
_DATES: Final = re.compile(r"(?<![^/])(?:19|20)\d\d(?:[-_./]?[01]\d(?:[-_./]?[0-3]\d)?)?(?![^/])")
"""Folders of years, months and days; 01 alone may be a place."""
_SEPARATORS: Final = " _-.,$@"
_BIRDNET_GO: Final = re.compile(r".+_\d{1,3}p_(?P<Y>\d{4})(?P<m>\d\d)(?P<d>\d\d)T(?P<H>\d\d)(?P<M>\d\d)(?P<S>\d\d)Z")
"""Its Z is a letter of its pattern: the time is that of the clock on the wall (generateClipName in processor.go)."""
_USUAL: Final = re.compile(
    r"(?<!\d)(?P<Y>(?:19|20)\d\d)(?P<a>[-_.]?)(?P<m>\d\d)(?P=a)(?P<d>\d\d)[-_T .$@]?"
    r"(?P<H>\d\d)(?P<b>[-_.:]?)(?P<M>\d\d)(?P=b)(?P<S>\d\d)(?:[.,](?P<f>\d{1,6}))?"
    r"(?P<z>Z|[+-](?:0\d|1[0-4]):?[0-5]\d)?(?!\d)"
)
_HEX: Final = re.compile(r"[0-9A-F]{8}")


class NamePattern:
    """A pattern of file names, such as ``{source}_%Y%m%d_%H%M%S``.

    Directives are those of strftime (``%Y %m %d %H %M %S %f %j %z``) and ``%s``, seconds since 1970; ``*`` stands for
    any text within a name, ``{source}`` for that of the recorder. With slashes, folders count as well. The extension
    of the file does not belong to it.
    """

    def __init__(self, text: str) -> None:
        """Compile a pattern; raises ConfigError where it cannot be one."""
        self.text = text
        parts, given = [], []
        for code, source, star, plain in _TOKEN.findall(text):
            name = "source" if source else code
            if code and code != "%" and code not in _DIGITS:
                raise ConfigError(f"--name {text}: %{code} is unknown; use %{', %'.join(_DIGITS)} or %%")
            if name in given:
                raise ConfigError(f"--name {text}: {source or '%' + code} occurs twice")
            given += [name] if name and name != "%" else []
            if name == "source":
                parts.append("(?P<source>[^/]+?)")
            elif star:
                parts.append("[^/]*?")
            else:
                parts.append(f"(?P<{code}>{_DIGITS[code]})" if code in _DIGITS else re.escape(plain or code))
        if "s" not in given and not {"Y", "j"} <= {*given} and not {"Y", "m", "d"} <= {*given}:
            raise ConfigError(f"--name {text}: states no date; use %Y%m%d, %Y%j or %s, such as '*%Y%m%d_%H%M%S'")
        self._names = text.count("/") + 1
        self._pattern = re.compile("".join(parts))

    def find(self, path: Path) -> Found | None:
        """Return what the name of a file states; None where it does not match, or is no time."""
        name = "/".join((*path.parts[:-1], path.stem)[-self._names :])
        match = self._pattern.fullmatch(name)
        start = None if match is None else _moment(match.groupdict())
        return None if match is None or start is None else Found(start, "name", source=match.groupdict().get("source"))


def usual_start(path: Path) -> Found | None:
    """Return the start time that a recorder has written into a file's name; None where there is none."""
    if match := _BIRDNET_GO.fullmatch(path.stem):
        start = _moment(match.groupdict())
        return None if start is None else Found(start, "name")
    if path.suffix == ".WAV" and _HEX.fullmatch(path.stem):  # old firmware of the AudioMoth: seconds since 1970
        start = datetime.fromtimestamp(int(path.stem, 16), UTC)
        return Found(start, "name", source="") if start > _OLDEST else None
    for match in _USUAL.finditer(path.stem):
        if (start := _moment(match.groupdict())) is not None:
            return Found(start, "name", source=path.stem[: match.start()].strip(_SEPARATORS))
    return None


def _moment(fields: dict[str, str | None]) -> datetime | None:
    """Return the time of digits by their directives; without an offset where there is none, None for no time."""
    given = {name: value for name, value in fields.items() if value is not None}
    number = {name: int(given.get(name, "0")) for name in "YmdHMSjs"}
    zone = _offset(given["z"]) if "z" in given else None
    try:
        if "s" in given:
            return datetime.fromtimestamp(number["s"], UTC)
        day = datetime(number["Y"], number["m"] if "m" in given else 1, number["d"] if "d" in given else 1)  # noqa: DTZ001
        if "j" in given:
            day += timedelta(days=number["j"] - 1)
        fraction = int(given.get("f", "0").ljust(6, "0"))
        # Recorders without a battery may write 24:00:00 or a leap second, which are no times here.
        return day.replace(hour=number["H"], minute=number["M"], second=number["S"], microsecond=fraction, tzinfo=zone)
    except (ValueError, OverflowError):
        return None


def _offset(text: str) -> tzinfo:
    if text == "Z":
        return UTC
    digits = text[1:].replace(":", "").ljust(4, "0")
    minutes = 60 * int(digits[:2]) + int(digits[2:])
    return timezone(timedelta(minutes=-minutes if text[0] == "-" else minutes))


def parse_zone(text: str) -> tzinfo:
    """Return the time zone of an option: a name such as Europe/Berlin, or an offset; raises ConfigError."""
    if re.fullmatch(r"Z|[+-](?:0\d|1[0-4]):?[0-5]\d", text):
        return _offset(text)
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigError(f"--time-zone {text}: unknown; use a name such as Europe/Berlin, or +02:00") from None


# --- Texts in files ---

_AUDIOMOTH: Final = re.compile(
    r"Recorded at (?P<H>\d\d):(?P<M>\d\d):(?P<S>\d\d)(?:\.(?P<f>\d{1,6}))? (?P<d>\d\d)/(?P<m>\d\d)/(?P<Y>\d{4})"
    r"(?: \(UTC(?P<h>[+-]\d{1,2})?(?::\s?(?P<n>\d{1,2}))?\))? "
)
_GUANO: Final = re.compile(
    r"^Timestamp:\s*(?P<Y>\d{4})-(?P<m>\d\d)-(?P<d>\d\d)[T ](?P<H>\d\d):(?P<M>\d\d):(?P<S>\d\d)"
    r"(?:[.,](?P<f>\d{1,6})\d*)?\s*(?P<z>Z|[+-]\d\d(?::?\d\d)?)?\s*$",
    re.MULTILINE,
)
_BEXT: Final = re.compile(r"(?P<Y>\d{4})\D(?P<m>\d\d)\D(?P<d>\d\d)(?P<H>\d\d)\D(?P<M>\d\d)\D(?P<S>\d\d)")
_BEXT_AT, _BEXT_END = 320, 346
"""OriginationDate, OriginationTime and TimeReference in the chunk of EBU Tech 3285."""


def audiomoth_start(text: str) -> datetime | None:
    """Return the start in the comment of an AudioMoth; the minutes of an offset have the sign of its hours."""
    match = _AUDIOMOTH.search(text)
    if match is None:
        return None
    fields = match.groupdict()
    hours, minutes = fields.pop("h") or "+0", fields.pop("n") or "0"
    fields["z"] = f"{hours[0]}{hours[1:]:0>2}{minutes:0>2}"
    return _moment(fields)


def guano_start(text: str) -> datetime | None:
    """Return the ``Timestamp`` of GUANO's metadata; without an offset where it has none."""
    match = _GUANO.search(text)
    return None if match is None else _moment(match.groupdict())


def bext_start(data: bytes, rate_hz: int) -> datetime | None:
    """Return the start in the chunk bext; samples since midnight make it exact where they agree with the time."""
    match = _BEXT.fullmatch(data[_BEXT_AT : _BEXT_AT + 18].decode("latin-1"))
    start = None if match is None else _moment(match.groupdict())
    if start is None or len(data) < _BEXT_END or not rate_hz:
        return start
    midnight = start.replace(hour=0, minute=0, second=0)
    exact = midnight + timedelta(seconds=struct.unpack_from("<Q", data, _BEXT_AT + 18)[0] / rate_hz)
    return exact if abs((exact - start).total_seconds()) <= JOIN_S else start


def stated_start(path: Path) -> Found | None:
    """Return the start time that a file states in itself; None where it does not; raises nothing."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        texts = dict(_texts(file))
        rate_hz = int.from_bytes(texts.get("rate", b""), "little")
        guano, bext = texts.get("guan", b"").decode("utf-8", "replace"), texts.get("bext", b"")
        if start := guano_start(guano):
            return Found(start, "GUANO", guano.strip("\0"))
        for name, data in texts.items():
            comment = data.split(b"\0")[0].decode("utf-8", "replace")
            if name.startswith("comment") and (start := audiomoth_start(f"{comment} ")):
                return Found(start, "AudioMoth", comment)
        if start := bext_start(bext, rate_hz):
            return Found(start, "bext", bext[: _BEXT_AT + 18].decode("latin-1").replace("\0", " ").strip())
    return None


def _texts(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield the texts of a file by kind: ``guan``, ``bext``, ``comment...``; and ``rate``, the samples a second."""
    head = file.read(12)
    if head[:4] in {b"RIFF", b"RF64", b"BW64"} and head[8:] == b"WAVE":
        for name, data in _riff_chunks(file):
            yield from _chunk_texts(name, data)
    elif head[:4] == b"fLaC":
        yield from _flac_texts(file)


def _riff_chunks(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the chunks of a WAV file, each up to a bound; behind one of odd size, also where it was not padded."""
    size, at, wide = os.fstat(file.fileno()).st_size, 12, 0
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8 or at >= size:  # noqa: PLR2004 - a name and a length
            return
        name, length = struct.unpack("<4sI", head)
        if at > 12 and not re.fullmatch(rb"[ -~]{4}", name):  # noqa: PLR2004 - behind the first
            return
        data = b"" if name == b"data" else file.read(min(length, _TEXT_BYTES))
        if name == b"ds64" and len(data) >= 16:  # noqa: PLR2004 - of the file and of the samples
            wide = struct.unpack_from("<Q", data, 8)[0]
        yield name, data
        at += 8 + (wide if name == b"data" and length == _IN_DS64 else length)
        if length % 2:
            file.seek(at)
            at += not re.match(rb"[A-Za-z][A-Za-z0-9_ ]{3}.{3}\0", file.read(8), re.DOTALL)


def _chunk_texts(name: bytes, data: bytes) -> Iterator[tuple[str, bytes]]:
    if name in {b"guan", b"bext"}:
        yield name.decode(), data
    elif name == b"fmt ":
        yield "rate", data[4:8]
    elif name == b"LIST" and data[:4] == b"INFO":
        at = 4
        while at + 8 <= len(data):
            key, length = struct.unpack_from("<4sI", data, at)
            if key == b"ICMT":
                yield "comment", data[at + 8 : at + 8 + length]
            at += 8 + length + length % 2


def _flac_texts(file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """Yield the comments of a FLAC file, and the chunks of the WAV file that it was made of, where it keeps them."""
    at, is_last = 4, False
    for _ in range(_MOST_CHUNKS):
        file.seek(at)
        head = file.read(4)
        if is_last or len(head) < 4:  # noqa: PLR2004 - a kind and a length
            return
        is_last, kind, length = bool(head[0] & 0x80), head[0] & 0x7F, int.from_bytes(head[1:], "big")
        data = file.read(min(length, _TEXT_BYTES))
        at += 4 + length
        if kind == 0:
            yield "rate", (int.from_bytes(data[10:13], "big") >> 4).to_bytes(4, "little")
        elif kind == 2 and data[:4] == b"riff" and len(data) >= 12:  # noqa: PLR2004 - APPLICATION, with a chunk's head
            yield from _chunk_texts(data[4:8], data[12:])
        elif kind == 4:  # noqa: PLR2004 - VORBIS_COMMENT
            yield from ((f"comment {k}", text) for k, text in enumerate(_vorbis_comments(data)))


def _vorbis_comments(data: bytes) -> Iterator[bytes]:
    at = 4 + int.from_bytes(data[:4], "little")
    count = int.from_bytes(data[at : at + 4], "little")
    at += 4
    for _ in range(min(count, _MOST_CHUNKS)):
        length = int.from_bytes(data[at : at + 4], "little")
        yield data[at + 4 : at + 4 + length].partition(b"=")[2]
        at += 4 + length


# --- Files ---


@dataclass(frozen=True, slots=True)
class Rules:
    """How start times are found."""

    patterns: tuple[str, ...] = ()
    """Texts of ``NamePattern``."""
    zone: str = "UTC"
    """Of times without an offset."""
    track: str | None = None
    """Sound track of files that have several."""


def check_inputs(inputs: Sequence[str]) -> None:
    """Raise SourceError where one of these is no file and no folder."""
    for given in inputs:
        place = Path(given)
        if not place.exists():
            raise SourceError(f"{given}: there is no such file or folder; check the name")
        if not place.is_dir() and not place.is_file():
            raise SourceError(f"{given}: is a pipe or a device; name files and folders, or use snn-detect replay")


def find(inputs: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield the absolute path of each sound file once, with the folder that its source is named below.

    Raises SourceError where an input is missing, or a folder holds no sound.
    """
    check_inputs(inputs)
    seen = set()
    for given in inputs:
        place = Path(os.path.abspath(given))  # noqa: PTH100 - links stay, and so do several names of one file
        files = sounds_below(place) if place.is_dir() else iter([place])
        root = place if place.is_dir() else place.parent
        while _DATES.fullmatch(root.name):
            root = root.parent
        count = 0
        for path in files:
            count += 1
            if str(path) not in seen:
                seen.add(str(path))
                yield str(path), str(root)
        if not count:
            raise SourceError(f"{given}: holds no sound files; name the folder of the recordings")


def scan(path: str, root: str, rules: Rules) -> Recording:
    """Return what a file states; one that cannot be used has a ``fault``; raises nothing for what is in the file."""
    place = Path(path)
    named = next((f for text in rules.patterns if (f := _pattern(text).find(place))), None)
    usual = named or usual_start(place)
    found = named or stated_start(place) or usual
    source = named.source if named is not None and named.source else _source(place, Path(root), usual)
    source = os.fsencode(source).decode("utf-8", "backslashreplace")  # it goes into tables
    recording = Recording(path, root, source, 0)
    try:
        recording = replace(recording, size=place.stat().st_size)
        reader = SoundFileReader(place, rules.track)
        frames, rate_hz = reader.frames_total, reader.rate_hz
        recording = replace(recording, has_tracks=bool(reader.track_note))
        reader.close()
    except OSError as error:
        return replace(recording, fault=f"{path}: cannot be read ({error.strerror})")
    except SourceError as error:
        recording = replace(recording, fault=str(error))
    else:
        recording = replace(recording, seconds=None if frames is None else frames / rate_hz)
    if found is None:
        return recording
    lacks_zone = found.start.tzinfo is None
    start = found.start.replace(tzinfo=parse_zone(rules.zone)) if lacks_zone else found.start
    # The offset in force then: a zone's name is not needed any more.
    start = start.replace(tzinfo=timezone(start.utcoffset() or timedelta()))
    return replace(recording, start=start, start_from=found.origin, lacks_zone=lacks_zone, text=found.text)


@cache
def _pattern(text: str) -> NamePattern:
    return NamePattern(text)


def _source(path: Path, root: Path, found: Found | None) -> str:
    """Return the name of a recorder: its folder, without folders of dates, and what its files' names begin with."""
    folders = _DATES.sub("", str(path.parent.relative_to(root))).split("/")
    parts = (*folders, (found.source or "") if found is not None else "")
    return "/".join(part for part in parts if part not in {"", "."}) or root.name or "root"


def streams(recordings: Iterable[Recording]) -> Iterator[list[Recording]]:
    """Yield recordings that may continue one another, in order; those that certainly do not are apart."""
    chain: list[Recording] = []
    for recording in sorted(recordings, key=lambda r: (r.root, r.source, r.start or _NEWEST, r.path)):
        if chain and not _may_continue(chain[-1], recording):
            yield chain
            chain = []
        chain.append(recording)
    if chain:
        yield chain


def _may_continue(before: Recording, after: Recording) -> bool:
    if (before.root, before.source) != (after.root, after.source) or before.fault or after.fault:
        return False
    if before.start is None or after.start is None:
        return False
    apart_s = (after.start - before.start).total_seconds()
    return 0 < apart_s <= _LONGEST_GUESS_S if before.seconds is None else continues(before.start, before.seconds, after)


def continues(start: datetime, seconds: float, after: Recording) -> bool:
    """Return whether a recording begins where ``seconds`` of sound since ``start`` end."""
    if after.start is None:
        return False
    return abs((after.start - start).total_seconds() - seconds) <= JOIN_S


@dataclass(frozen=True, slots=True)
class Unit:
    """Streams that are worked on together, by one worker, all or none of them."""

    name: str
    streams: tuple[tuple[Recording, ...], ...]

    @property
    def recordings(self) -> list[Recording]:
        """All files, in order."""
        return [recording for stream in self.streams for recording in stream]

    @property
    def length_s(self) -> float:
        """Seconds of sound, as far as they are known."""
        return sum(recording.length_s for recording in self.recordings)

    def without(self, number: int, fault: str) -> Unit:
        """Return the unit with one file, by its number, as one that cannot be used."""
        files = iter(self.recordings)
        marked = [[next(files) for _ in stream] for stream in self.streams]
        at = 0
        for stream in marked:
            if at <= number < at + len(stream):
                stream[number - at] = replace(stream[number - at], fault=fault)
            at += len(stream)
        return Unit(self.name, tuple(map(tuple, marked)))


def units(recordings: Sequence[Recording], workers: int) -> list[Unit]:
    """Divide recordings into units, the longest streams first, the others in the order of source and time."""
    limit_s = min(_UNIT_S, sum(r.length_s for r in recordings) / (workers * _SHARES))
    long: list[list[list[Recording]]] = []
    short: list[list[list[Recording]]] = []
    length_s, files = float("inf"), 0
    for stream in streams(recordings):
        stream_s = sum(r.length_s for r in stream)
        if stream_s > _UNIT_S:
            long.append([stream])
            continue
        if length_s + stream_s > limit_s or files + len(stream) > _UNIT_FILES:
            short.append([])
            length_s, files = 0.0, 0
        short[-1].append(stream)
        length_s, files = length_s + stream_s, files + len(stream)
    found = [_unit(group) for group in (*long, *short)]
    return sorted(found, key=lambda unit: -unit.length_s if unit.length_s > _UNIT_S else 0.0)


def _unit(group: Sequence[Sequence[Recording]]) -> Unit:
    names = "\n".join(recording.path for stream in group for recording in stream)
    digest = hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()
    return Unit(digest[:24], tuple(map(tuple, group)))
