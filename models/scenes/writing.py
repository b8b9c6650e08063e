"""Write a scene: a plan's stretches one after the other into sound files, then tables and scenes.json."""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import soundfile
from tqdm import tqdm

from detector import __version__
from models.new_folder import new_folder
from models.scenes.backgrounds import KINDS
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
from models.scenes.mixing import Reference, joined, mix
from models.scenes.plan import Stretch
from models.scenes.sounds import Sound


@dataclass(frozen=True, slots=True)
class Making:
    """What a scene's manifest says of how it was made."""

    command: str
    seed: int
    rate_hz: int
    held_out_from: tuple[str, ...]
    fold: int
    half: str
    format: str
    """flac or wav."""


def write_scenes(out: Path, stretches: Sequence[Stretch], stock: Sequence[Sound], making: Making) -> ScenesManifest:
    """Render a plan into a new folder, a stretch at a time; nothing is left of it where that fails.

    Raises ConfigError where the folder is there already or cannot be made.
    """
    with new_folder(out) as part:
        return _write(part, stretches, stock, making)


def _write(part: Path, stretches: Sequence[Stretch], stock: Sequence[Sound], making: Making) -> ScenesManifest:
    rows: list[tuple[str, Reference]] = []
    files = []
    with tqdm(total=len(stretches), unit="stretch", desc="scenes", disable=None) as bar:
        for number, group in groupby(stretches, key=lambda s: s.stream):
            name = f"scene-{number + 1:02d}.{making.format}"
            references: list[Reference] = []
            with soundfile.SoundFile(part / name, "w", making.rate_hz, 1, "PCM_16") as file:
                for stretch in group:
                    mixed = mix(stretch, stock, making.rate_hz)
                    file.write(mixed.wave)
                    references += mixed.references
                    bar.update()
                samples = file.frames
            rows += [(name, ref) for ref in joined(references, making.rate_hz)]
            files.append(StreamFile(name, samples, _digest(part / name)))
    _write_events(part / EVENTS, [(n, r) for n, r in rows if r.label is not None], making.rate_hz)
    _write_events(part / UNKNOWN, [(n, r) for n, r in rows if r.label is None], making.rate_hz)
    _write_spans(part / BACKGROUNDS, stretches, [f.filename for f in files], making.rate_hz)
    manifest = _manifest(stretches, stock, making, [ref for _, ref in rows], files)
    (part / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    return manifest


def _manifest(
    stretches: Sequence[Stretch],
    stock: Sequence[Sound],
    making: Making,
    references: Sequence[Reference],
    files: Sequence[StreamFile],
) -> ScenesManifest:
    samples: Counter[str] = Counter()
    for s in stretches:
        samples[s.background] += s.size
    hours = {name: count / making.rate_hz / 3600 for name, count in samples.items()}
    return ScenesManifest(
        schema=SCHEMA,
        version=__version__,
        command=making.command,
        seed=making.seed,
        rate_hz=making.rate_hz,
        held_out_from=making.held_out_from,
        fold=making.fold,
        half=making.half,
        sources=dict(sorted(Counter(sound.source for sound in stock).items())),
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


def _write_spans(path: Path, stretches: Sequence[Stretch], names: Sequence[str], rate_hz: int) -> None:
    lines = [
        (
            names[s.stream],
            f"{s.first / rate_hz:.3f}",
            f"{(s.first + s.size) / rate_hz:.3f}",
            s.background,
            f"{s.level_db:.1f}",
            ",".join(KINDS[s.background].contains),
        )
        for s in stretches
    ]
    _write_table(path, BACKGROUND_COLUMNS, lines)


def _write_table(path: Path, columns: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([columns, *lines])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
