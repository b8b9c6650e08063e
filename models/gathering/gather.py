"""Recordings of packages as clips in a folder, with an index that says of each what it is and where it is from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from detector.errors import SourceError
from models.gathering.catalogue import Entry
from models.gathering.index import Gathered, write_index
from models.gathering.players import Instrument, check_instruments
from models.layouts import read_or_reason
from models.new_folder import new_folder
from models.rendering.synthesis import RATE_HZ, Wave, set_peak

_PEAK_DB = -3.0
_SHORTEST_S, _LONGEST_S = 0.08, 30.0
_LOUD = 1e-3


class _Listed(NamedTuple):
    """A recording of the catalogue, and where it is from."""

    entry: Entry
    path: Path
    origin: str


@dataclass(frozen=True, slots=True)
class _Made:
    """A sound before it is written."""

    label: str
    package: str
    file: str
    licence: str
    wave: Wave | str
    """Samples, or why there are none."""


def gather(
    entries: Sequence[Entry], instruments: Sequence[Instrument], root: Path, out: Path
) -> tuple[list[Gathered], list[str]]:
    """Write the recordings below ``root``, and what is played with notes, as 16-bit FLAC to a new folder; list them.

    Return the clips, and a line for each file that was left out. Raises SourceError where an entry
    of the catalogue finds nothing, and ConfigError where the folder is or cannot be made.
    """
    with ExitStack() as stack:
        opened = [(entry, stack.enter_context(entry.opened(root))) for entry in entries]
        listed = [_Listed(entry, path, entry.origin(path, at)) for entry, at in opened for path in entry.paths(at)]
        full = {one.entry for one in listed}
        _check_found([(entry, at) for entry, at in opened if entry not in full], root)
        check_instruments(list(instruments), root)
        total = len(listed) + sum(i.clips for i in instruments)
        made = tqdm(_made(listed, instruments, root), total=total, unit="clip", desc="gather", disable=None)
        return _write_all(stack.enter_context(new_folder(out)), made)


def _check_found(empty: Sequence[tuple[Entry, Path]], root: Path) -> None:
    """Raise SourceError where entries found nothing: their packages are missing, or hold other files."""
    if missing := sorted({entry.package for entry, at in empty if not (at / entry.folder).is_dir()}):
        names = " ".join(missing)
        raise SourceError(f"{root}: no sounds of {names} there; unpack them: apt-get download {names}; dpkg -x ...")
    if empty:
        told = "; ".join(f"in {entry.folder} of {entry.package} ({', '.join(entry.only)})" for entry, _ in empty)
        raise SourceError(f"{root}: nothing to take {told}; the catalogue is for Debian 12: unpack its packages")


def _made(listed: Sequence[_Listed], instruments: Sequence[Instrument], root: Path) -> Iterator[_Made]:
    with ThreadPoolExecutor() as pool:
        waves = pool.map(_cut_or_reason, (one.path for one in listed))
        for (entry, path, origin), found in zip(listed, waves, strict=True):
            # What is wrong with it is told of where it is from, not of where it was unpacked to for a while.
            wave = found.replace(str(path), str(root / origin)) if isinstance(found, str) else found
            yield _Made(entry.label, entry.package, origin, entry.licence, wave)
    for instrument in instruments:
        for played in instrument.play(root):
            wave = set_peak(played, _PEAK_DB)
            yield _Made(instrument.label, instrument.package, instrument.notes, instrument.licence, wave)


def _write_all(out: Path, made: Iterator[_Made]) -> tuple[list[Gathered], list[str]]:
    clips, problems = list[Gathered](), list[str]()
    counts: dict[tuple[str, str], int] = {}
    for sound in made:
        if isinstance(sound.wave, str):
            problems.append(f"{sound.wave}; left out")
            continue
        key = (sound.label, sound.package)
        counts[key] = counts.get(key, 0) + 1
        name = f"{sound.label}/{sound.package}-{counts[key]:03d}.flac"
        (out / sound.label).mkdir(exist_ok=True)
        soundfile.write(out / name, sound.wave, RATE_HZ, subtype="PCM_16")
        clips.append(Gathered(name, sound.label, sound.package, sound.file, sound.licence))
    write_index(out, clips)
    return clips, problems


def _cut_or_reason(path: Path) -> Wave | str:
    """Return a recording from where it is loud to where it ends being so, or why there is none."""
    wave = read_or_reason(path, RATE_HZ)
    if isinstance(wave, str):
        return wave
    wave = set_peak(wave, _PEAK_DB)
    loud = np.flatnonzero(np.abs(wave) > _LOUD)
    if loud.size == 0 or loud[-1] - loud[0] < _SHORTEST_S * RATE_HZ:
        return f"{path}: shorter than {_SHORTEST_S:g} s"
    return wave[loud[0] : loud[-1] + 1][: round(_LONGEST_S * RATE_HZ)]
