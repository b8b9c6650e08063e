"""Recordings of packages as clips in a folder, with an index that says of each what it is and where it is from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from detector.errors import ConfigError, SourceError
from detector.sources import read_sound
from models.augment import Wave
from models.gathering.catalogue import Entry
from models.gathering.index import Gathered, write_index
from models.rendering.synthesis import RATE_HZ, set_peak

_PEAK_DB = -3.0
_SHORTEST_S, _LONGEST_S = 0.08, 30.0
_LOUD = 1e-3


def gather(entries: Sequence[Entry], root: Path, out: Path) -> tuple[list[Gathered], list[str]]:
    """Write the entries' recordings below ``root`` as 16-bit FLAC at RATE_HZ to a new folder, and list them.

    Return the clips, and a line for each file that was left out. Raises SourceError where a package
    of the catalogue is not there, and ConfigError where the folder is or cannot be made.
    """
    listed = [(entry, path) for entry in entries for path in entry.paths(root)]
    found = {entry.package for entry, _ in listed}
    if missing := sorted({e.package for e in entries} - found):
        names = " ".join(missing)
        raise SourceError(f"{root}: no sounds of {names} there; unpack them: apt-get download {names}; dpkg -x ...")
    if out.exists():
        raise ConfigError(f"{out}: is there already; name a new folder")
    part = out.with_name(out.name + ".part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        clips, problems = _write_all(part, root, listed)
        part.rename(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({(error.strerror or str(error)).lower()})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return clips, problems


def _write_all(out: Path, root: Path, listed: Sequence[tuple[Entry, Path]]) -> tuple[list[Gathered], list[str]]:
    out.mkdir(parents=True)
    clips, problems = list[Gathered](), list[str]()
    counts: dict[tuple[str, str], int] = {}
    with ThreadPoolExecutor() as pool:
        waves = pool.map(_read_or_reason, (path for _, path in listed))
        bar = tqdm(zip(listed, waves, strict=True), total=len(listed), unit="clip", desc="gather", disable=None)
        for (entry, path), wave in bar:
            if isinstance(wave, str):
                problems.append(f"{wave}; left out")
                continue
            key = (entry.label, entry.package)
            counts[key] = counts.get(key, 0) + 1
            name = f"{entry.label}/{entry.package}-{counts[key]:03d}.flac"
            (out / entry.label).mkdir(exist_ok=True)
            soundfile.write(out / name, wave, RATE_HZ, subtype="PCM_16")
            file = path.relative_to(root).as_posix()
            clips.append(Gathered(name, entry.label, entry.package, file, entry.licence))
    write_index(out, clips)
    return clips, problems


def _read_or_reason(path: Path) -> Wave | str:
    """Return a recording from where it is loud to where it ends being so, or why there is none."""
    try:
        wave = read_sound(path, RATE_HZ)
    except SourceError as error:
        return str(error)
    except ValueError:
        wave = np.zeros(0, np.float32)
    wave = set_peak(wave, _PEAK_DB)
    loud = np.flatnonzero(np.abs(wave) > _LOUD)
    if loud.size == 0 or loud[-1] - loud[0] < _SHORTEST_S * RATE_HZ:
        return f"{path}: shorter than {_SHORTEST_S:g} s"
    return wave[loud[0] : loud[-1] + 1][: round(_LONGEST_S * RATE_HZ)]
