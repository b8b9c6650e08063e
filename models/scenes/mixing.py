"""Rendering of a scene: segments of a plan as audio with references, and the folder of audio, tables and manifest."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from detector import __version__
from detector.messages import Samples
from models.console import Progress
from models.data.segments import JOIN_S
from models.files import new_folder
from models.scenes.folder import (
    BACKGROUND_COLUMNS,
    BACKGROUNDS,
    CONDITIONS,
    EVENT_COLUMNS,
    EVENTS,
    MANIFEST,
    SCHEMA,
    UNKNOWN,
    ScenesManifest,
    StreamFile,
)
from models.scenes.plan import KINDS, Placement, Segment, compose
from models.scenes.sounds import RenderedSound, Sound, render
from models.training import augment

_FADE_S = 0.05
"""Fade of the background at the ends of a segment."""
_QUIET_DB = -35.0
"""RMS of the background relative to the level of a segment without sounds."""
_FULL = 1 - 2.0**-15


@dataclass(frozen=True, slots=True)
class Reference:
    """The reference of one sound of a scene; positions are samples of the stream."""

    label: str | None
    onset: int
    """First active sample."""
    offset: int
    """One past the last active sample."""
    snr_db: float | None
    """None over silence."""
    level_db: float
    """Peak level in dBFS."""
    background: str
    source: str
    clip: str
    reverberant: bool


@dataclass(frozen=True, slots=True)
class MixedSegment:
    """The audio and references of a segment."""

    wave: Samples
    references: list[Reference]


def mix(segment: Segment, bank: Sequence[Sound], rate_hz: int) -> MixedSegment:
    """Render a segment; the same plan and sounds give the same samples."""
    rendered = [(p, r) for p in segment.placements if (r := render(bank[p.sound], p.room_seed, rate_hz)) is not None]
    wave = compose(segment.background, np.random.default_rng([*segment.seed, 1]), segment.size, rate_hz, bank)
    is_silent = not wave.any()
    top = 10 ** (segment.level_db / 20)
    peaks = [r.peak / r.rms * 10 ** (p.snr_db / 20) for p, r in rendered]
    background_gain = top / max(peaks) if peaks else top * 10 ** (_QUIET_DB / 20)
    wave = augment.faded(np.asarray(background_gain * wave, np.float32), round(_FADE_S * rate_hz))
    references = []
    for placement, r in rendered:
        gain = background_gain * 10 ** (placement.snr_db / 20) / r.rms
        target = wave[placement.at : placement.at + r.wave.size]
        target += np.float32(gain) * r.wave[: target.size]
        references.append(_reference(segment, placement, r, bank[placement.sound], gain, is_silent=is_silent))
    return MixedSegment(np.clip(wave, -1, _FULL), references)


def joined(references: Sequence[Reference], rate_hz: int) -> list[Reference]:
    """Return the references in order of time, with events of one class joined over pauses of up to ``JOIN_S``."""
    result: list[Reference] = []
    last: dict[str, int] = {}
    for ref in sorted(references, key=lambda r: (r.onset, r.label or "")):
        index = last.get(ref.label) if ref.label is not None else None
        if index is not None and ref.onset - result[index].offset <= JOIN_S * rate_hz:
            earlier = result[index]
            result[index] = replace(earlier, offset=max(earlier.offset, ref.offset), clip=f"{earlier.clip} {ref.clip}")
            continue
        if ref.label is not None:
            last[ref.label] = len(result)
        result.append(ref)
    return result


@dataclass(frozen=True, slots=True)
class SceneMetadata:
    """Provenance of a scene, for its manifest."""

    command: str
    seed: int
    rate_hz: int
    held_out_from: tuple[str, ...]
    fold: int
    half: str
    format: str
    """flac or wav."""


def write_scenes(
    out: Path, segments: Sequence[Segment], bank: Sequence[Sound], metadata: SceneMetadata
) -> ScenesManifest:
    """Render a plan into a new folder, segment by segment; the folder is removed on failure.

    Raises ConfigError where the folder exists or cannot be created.
    """
    with new_folder(out) as part:
        return _write(part, segments, bank, metadata)


def _reference(  # noqa: PLR0913 - all that a reference contains
    segment: Segment, placement: Placement, rendered: RenderedSound, sound: Sound, gain: float, *, is_silent: bool
) -> Reference:
    at = segment.first + placement.at
    return Reference(
        label=sound.label,
        onset=at + rendered.onset,
        offset=min(at + rendered.offset, segment.first + segment.size),
        snr_db=None if is_silent else placement.snr_db,
        level_db=round(20 * float(np.log10(gain * rendered.peak)), 1),
        background=segment.background,
        source=sound.source,
        clip=sound.clip,
        reverberant=placement.room_seed is not None,
    )


def _write(part: Path, segments: Sequence[Segment], bank: Sequence[Sound], metadata: SceneMetadata) -> ScenesManifest:
    rows: list[tuple[str, Reference]] = []
    files = []
    with Progress("scenes", len(segments), "segments") as bar:
        for number, group in groupby(segments, key=lambda s: s.stream):
            name = f"scene-{number + 1:02d}.{metadata.format}"
            references: list[Reference] = []
            with soundfile.SoundFile(part / name, "w", metadata.rate_hz, 1, "PCM_16") as file:
                for segment in group:
                    mixed = mix(segment, bank, metadata.rate_hz)
                    file.write(mixed.wave)
                    references += mixed.references
                    bar.advance()
                samples = file.frames
            rows += [(name, ref) for ref in joined(references, metadata.rate_hz)]
            files.append(StreamFile(name, samples, _digest(part / name)))
    _write_events(part / EVENTS, [(n, r) for n, r in rows if r.label is not None], metadata.rate_hz)
    _write_events(part / UNKNOWN, [(n, r) for n, r in rows if r.label is None], metadata.rate_hz)
    _write_spans(part / BACKGROUNDS, segments, [f.filename for f in files], metadata.rate_hz)
    manifest = _manifest(segments, bank, metadata, [ref for _, ref in rows], files)
    (part / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    return manifest


def _manifest(
    segments: Sequence[Segment],
    bank: Sequence[Sound],
    metadata: SceneMetadata,
    references: Sequence[Reference],
    files: Sequence[StreamFile],
) -> ScenesManifest:
    samples: Counter[str] = Counter()
    for s in segments:
        samples[s.background] += s.size
    hours = {name: count / metadata.rate_hz / 3600 for name, count in samples.items()}
    return ScenesManifest(
        schema=SCHEMA,
        version=__version__,
        command=metadata.command,
        seed=metadata.seed,
        rate_hz=metadata.rate_hz,
        held_out_from=metadata.held_out_from,
        fold=metadata.fold,
        half=metadata.half,
        sources=dict(sorted(Counter(sound.source for sound in bank).items())),
        hours=round(sum(hours.values()), 4),
        hours_by_background={name: round(value, 4) for name, value in sorted(hours.items())},
        events=dict(sorted(Counter(ref.label for ref in references if ref.label is not None).items())),
        unknown=sum(ref.label is None for ref in references),
        streams=tuple(files),
    )


def _write_events(path: Path, rows: Iterable[tuple[str, Reference]], rate_hz: int) -> None:
    lines = []
    for name, ref in rows:
        snr = "" if ref.snr_db is None else f"{ref.snr_db:g}"
        seconds = (f"{ref.onset / rate_hz:.3f}", f"{ref.offset / rate_hz:.3f}")
        conditions = (snr, ref.level_db, ref.background, ref.source, int(ref.reverberant), ref.clip)
        lines.append((name, *seconds, ref.label or "", *conditions))
    _write_table(path, (*EVENT_COLUMNS, *CONDITIONS), lines)


def _write_spans(path: Path, segments: Sequence[Segment], names: Sequence[str], rate_hz: int) -> None:
    lines = [
        (
            names[s.stream],
            f"{s.first / rate_hz:.3f}",
            f"{(s.first + s.size) / rate_hz:.3f}",
            s.background,
            f"{s.level_db:.1f}",
            ",".join(KINDS[s.background].contains),
        )
        for s in segments
    ]
    _write_table(path, BACKGROUND_COLUMNS, lines)


def _write_table(path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([columns, *lines])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
