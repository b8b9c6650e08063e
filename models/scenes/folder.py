"""The folder of a scene: the reference as tables, and scenes.json that describes how it was made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from detector.errors import SourceError
from detector.manifest import parse_strictly
from models.data.clips import read_rows

SCHEMA = 1
MANIFEST, EVENTS, UNKNOWN, BACKGROUNDS = "scenes.json", "events.tsv", "unknown.tsv", "backgrounds.tsv"
EVENT_COLUMNS = ("filename", "onset", "offset", "event_label")
CONDITIONS = ("snr_db", "level_db", "background", "source", "reverberant", "clip")
BACKGROUND_COLUMNS = ("filename", "onset", "offset", "background", "level_db", "contains")


@dataclass(frozen=True, slots=True)
class StreamFile:
    """One sound file of a scene."""

    filename: str
    samples: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ScenesManifest:
    """Contents and provenance of a scene."""

    schema: int
    version: str
    """Version of the program that made it."""
    command: str
    seed: int
    rate_hz: int
    held_out_from: tuple[str, ...]
    """Name, version and SHA-256 of the model that was not trained on its sounds; empty: not checked."""
    fold: int
    """Fold of the recordings; 0 where there are none of a data set."""
    half: str
    """Half of that fold's clips: first, second, or empty for all."""
    sources: dict[str, int]
    """Number of available sounds by source."""
    hours: float
    hours_by_background: dict[str, float]
    events: dict[str, int]
    """Number of reference events of each class."""
    unknown: int
    """Number of out-of-class sounds."""
    streams: tuple[StreamFile, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A segment of a stream with one background, in seconds."""

    onset_s: float
    offset_s: float
    background: str
    level_db: float
    contains: tuple[str, ...]
    """Classes that the background contains, which are not evaluated there."""


@dataclass(frozen=True, slots=True)
class EventReference:
    """A reference event in seconds, with its conditions; the label of an out-of-class sound is empty."""

    onset_s: float
    offset_s: float
    label: str
    snr_db: float | None
    level_db: float
    background: str
    source: str
    reverberant: bool


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of a scene with its reference."""

    path: Path
    seconds: float
    events: tuple[EventReference, ...]
    unknown: tuple[EventReference, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Scenes:
    """A scene, read from its folder."""

    folder: Path
    manifest: ScenesManifest
    sha256: str
    """Hash of scenes.json, which contains those of the sound files."""
    streams: tuple[Stream, ...]


def read_scenes(folder: Path) -> Scenes:
    """Read a scene's tables, not its audio; raises SourceError where files are missing or invalid."""
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
    except (OSError, ValueError) as error:
        raise SourceError(f"{folder}: no scene ({MANIFEST}: {error}); make one with snn-train make-scenes") from error
    manifest: ScenesManifest = parse_strictly(ScenesManifest, data, str(path), "scene", SourceError)
    if manifest.schema != SCHEMA:
        raise SourceError(f"{path}: schema {manifest.schema} is unknown, this version reads {SCHEMA}; make it again")
    tables = {name: _read_events(folder / name) for name in (EVENTS, UNKNOWN)}
    spans = _read_spans(folder / BACKGROUNDS)
    streams = []
    for stream in manifest.streams:
        sound = folder / stream.filename
        if not sound.is_file():
            raise SourceError(f"{sound}: is missing; make the scene again")
        rows = {name: tuple(table.get(stream.filename, ())) for name, table in tables.items()}
        seconds = stream.samples / manifest.rate_hz
        streams.append(Stream(sound, seconds, rows[EVENTS], rows[UNKNOWN], tuple(spans.get(stream.filename, ()))))
    return Scenes(folder, manifest, hashlib.sha256(text.encode()).hexdigest(), tuple(streams))


def _read_events(path: Path) -> dict[str, list[EventReference]]:
    found: dict[str, list[EventReference]] = {}
    for line, row in read_rows(path, (*EVENT_COLUMNS, *CONDITIONS[:-1]), delimiter="\t"):
        try:
            event = EventReference(
                onset_s=float(row["onset"]),
                offset_s=float(row["offset"]),
                label=row["event_label"],
                snr_db=float(row["snr_db"]) if row["snr_db"] else None,
                level_db=float(row["level_db"]),
                background=row["background"],
                source=row["source"],
                reverberant=row["reverberant"] == "1",
            )
        except ValueError as error:
            raise SourceError(f"{path}: line {line}: {error}; make the scene again") from error
        found.setdefault(row["filename"], []).append(event)
    return found


def _read_spans(path: Path) -> dict[str, list[Span]]:
    found: dict[str, list[Span]] = {}
    for line, row in read_rows(path, BACKGROUND_COLUMNS, delimiter="\t"):
        try:
            times = (float(row["onset"]), float(row["offset"]))
            contains = tuple(filter(None, row["contains"].split(",")))
            span = Span(*times, row["background"], float(row["level_db"]), contains)
        except ValueError as error:
            raise SourceError(f"{path}: line {line}: {error}; make the scene again") from error
        found.setdefault(row["filename"], []).append(span)
    return found
