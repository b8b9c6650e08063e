"""Data sets as lists of clips with class, source and fold: the recordings of a recipe, in any of five layouts.

Layouts are the household's folders, a manifest (CSV), a folder per class, ESC-10 or ESC-50, and the kinds of sounds of
the data set ``recordings``. Problems with single
clips are reported in one line each and the others are kept; an error is raised only where no clip is left. Files of
a plain folder are distributed over the folds class by class: files of one origin, as far as their names show, share a
fold, and the folds of a class have equal sizes.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.audio.files import SoundFileReader, is_sound_name
from detector.audio.live_source import MEAN, Mixing
from detector.audio.sources import read_sound
from detector.errors import ConfigError, SourceError
from detector.manifest import DataSource
from models import RECIPES
from models.data.clips import Clip, read_rows
from models.data.household import SOURCES, list_clips
from models.data.recordings import SOURCE, kind_of, read_recordings_index
from models.recipe import Recipe

FOLDS = (1, 2, 3, 4, 5)
_FOLD_NAMES = frozenset(map(str, FOLDS))
_ESC_NAME = re.compile(r"([1-5])-\d+-[A-Z](?:-\d+)?")
"""Fold, number of the source recording, take, and in ESC-50 the class."""
_FOLD_FIRST = re.compile(r"([1-5])-")
_ESC10_IN_ESC50 = {
    "baby_cry": "crying_baby",
    "dog_bark": "dog",
    "fire_crackling": "crackling_fire",
    "person_sneeze": "sneezing",
}
"""ESC-50 has other names for four classes of ESC-10; both are accepted."""
_TAKE = re.compile(r"[-_ ](?:\d+|[A-Za-z]|\(\d+\))$")
"""The part of a name that numbers the cuts of one recording: a number or a single letter at its end."""
_FoldsOf = Callable[[Sequence[Path], Path], dict[Path, int | str]]
"""Assigns folds to the sound files in a class's folder."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The clips of a data set."""

    clips: list[Clip]
    problems: list[str]
    """One line each: what was left out and why."""


def recordings(recipe: Recipe, data: Path, material: Path | None = None) -> Listing:
    """List the clips for a recipe's training and evaluation, and a line for each clip that was left out.

    Raises SourceError where the recordings are missing, ConfigError where the recipe takes no
    rendered material but some was given.
    """
    layout, labels = recipe.data.layout, recipe.labels
    if layout == "household":
        return _household(recipe, data, material)
    if material is not None:
        raise ConfigError(f"{recipe.name}: rendered material belongs to the layout household, not to {layout}")
    if layout == "manifest":
        return read_manifest(RECIPES / recipe.data.path, data, labels)
    if layout == "kinds":
        return read_kinds(data / recipe.data.path, labels)
    return (read_esc if layout == "esc" else read_folders)(data / recipe.data.path, labels)


def folds_left_out(recipe: Recipe, leave_out: int | None) -> tuple[int, ...]:
    """Return the folds that a run must not be trained on, sorted."""
    return tuple(sorted({*recipe.data.test_folds, *([] if leave_out is None else [leave_out])}))


def sources_of(recipe: Recipe, clips: list[Clip]) -> tuple[DataSource, ...]:
    """Return the sources of a run's recordings with their licences."""
    names = {clip.source for clip in clips}
    known = tuple(source for source in SOURCES if source.name in names)
    others = sorted(names - {source.name for source in known})
    return known + tuple(DataSource(name, recipe.data.licence, f"recordings of {recipe.name}") for name in others)


def read_manifest(manifest: Path, data: Path, labels: Sequence[str]) -> Listing:
    """List the clips of a CSV file with the columns path, label and fold (1 to 5); others are ignored.

    Paths are absolute or relative to ``data``. A clip's source is the first folder of a relative
    path, else the manifest's name. Raises SourceError where the manifest or the data folder is
    missing, a column is missing, or no clip is left.
    """
    _need_folder(data)
    clips_found = _ClipFilter(labels)
    for line, row in read_rows(manifest, ("path", "label", "fold")):
        parts = Path(row["path"]).parts
        source = parts[0] if len(parts) > 1 and not Path(row["path"]).is_absolute() else manifest.stem
        clips_found.take(f"{manifest}: line {line}", data / row["path"], row["label"], source, row["fold"])
    return clips_found.listing(manifest)


def read_folders(root: Path, labels: Sequence[str]) -> Listing:
    """List a folder that holds one folder per class, with sounds at any depth below it.

    Folds are those of ``spread``. Raises SourceError where the folder is missing or no clip is left.
    """
    clips_found = _ClipFilter(labels)
    for folder in _subfolders(root):
        _take_folder(clips_found, folder, folder.name, root.name, spread)
    return clips_found.listing(root)


def read_esc(root: Path, labels: Sequence[str]) -> Listing:
    """List ESC-10 or ESC-50 with the data set's own folds.

    ``root`` holds meta/*.csv (filename, fold, category) beside audio/, or one folder per class
    ("dog_bark" or "001 - Dog bark") with files whose names begin with the fold. Raises SourceError
    where the folder is missing, the CSV lacks a column, or no clip is left.
    """
    clips_found = _ClipFilter(labels)
    names = _esc_names(labels)
    tables = sorted((root / "meta").glob("*.csv"))
    for table in tables:
        for line, row in read_rows(table, ("filename", "fold", "category")):
            # An early edition has numbers there, and the names in category_name.
            name = row.get("category_name", row["category"])
            label = names.get(_plain(name), name)
            clips_found.take(f"{table}: line {line}", root / "audio" / row["filename"], label, root.name, row["fold"])
    for folder in () if tables else _subfolders(root):
        _take_folder(clips_found, folder, names.get(_plain(folder.name), folder.name), root.name, _first_digits)
    return clips_found.listing(root)


def read_kinds(folder: Path, labels: Sequence[str]) -> Listing:
    """List the clips of the data set ``recordings`` that are of the kinds ``labels``.

    The kind of a sound is its class; that of a note or of a sound of no class is what the index calls its kind. Copies
    of recordings of other data sets are left out. Raises SourceError where the index is missing or damaged, or no clip
    is left.
    """
    clips_found = _ClipFilter(labels)
    for row in read_recordings_index(folder):
        if (kind := kind_of(row)) in labels:
            clips_found.take(str(folder), row.path, kind, SOURCE, row.fold)
    return clips_found.listing(folder)


def read_class(folder: Path, label: str) -> Listing:
    """List a folder of recordings of one class, at any depth below it, with the folds of ``spread``.

    Raises SourceError where the folder is missing or no clip is left.
    """
    _need_folder(folder)
    clips_found = _ClipFilter([label])
    _take_folder(clips_found, folder, label, folder.resolve().name, spread)
    return clips_found.listing(folder)


def read_classes(data: Path, classes: Sequence[tuple[str, str]]) -> Listing:
    """List folders below ``data`` as classes: pairs of a label and a folder's name or pattern (``*``).

    Folds are spread folder by folder, so that each folder is level by itself. Raises SourceError
    where the data folder is missing or no clip is left; a pattern without folders is a problem.
    """
    _need_folder(data)
    clips_found = _ClipFilter(list(dict.fromkeys(label for label, _ in classes)))
    for label, pattern in classes:
        folders = sorted(p for p in data.glob(pattern) if p.is_dir())
        if not folders:
            clips_found.note(f"{data / pattern}: no such folder; {label!r} is without it")
        for folder in folders:
            _take_folder(clips_found, folder, label, folder.relative_to(data).parts[0], spread)
    return clips_found.listing(data)


def load_good_clips(
    clips: list[Clip], rate_hz: int, processes: int = 2, mixing: Mixing = MEAN
) -> tuple[list[Clip], list[NDArray[np.float32]], list[str]]:
    """Decode clips in parallel; return the usable ones, their samples, and a line for each other.

    The samples are mono at the rate, (samples,) each, in [-1, 1). Raises SourceError where no clip
    can be used.
    """
    with ProcessPoolExecutor(processes) as pool:
        read = partial(read_or_reason, rate_hz=rate_hz, mixing=mixing)
        found = list(pool.map(read, [c.path for c in clips], chunksize=16))
    good = [(clip, wave) for clip, wave in zip(clips, found, strict=True) if not isinstance(wave, str)]
    problems = [f"{reason}; left out" for reason in found if isinstance(reason, str)]
    if not good:
        first = f" ({problems[0]})" if problems else ""
        raise SourceError(f"none of {len(clips)} clips can be used{first}; check the data folder")
    return [clip for clip, _ in good], [wave for _, wave in good], problems


def spread(paths: Sequence[Path], folder: Path) -> dict[Path, int | str]:
    """Assign a fold to each file of a class, independent of machine and order.

    Where all names are ESC's ("1-100032-A"), the first digit is the fold. Otherwise files whose names
    differ only in a number or a letter after the last "-", "_" or space ("bark_1", "bark_2") are
    cuts of one recording and share a fold, unless more than half of the class has such a name, which
    then is a mere series. Larger groups are assigned first, each to the fold with the fewest files,
    then single files in the order of their names.
    """
    if paths and all(_ESC_NAME.fullmatch(path.stem) for path in paths):
        return _first_digits(paths, folder)
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[(path.parent.relative_to(folder) / _TAKE.sub("", path.stem)).as_posix()].append(path)
    series = [name for name, group in groups.items() if 2 * len(group) > len(paths)]
    for name in series:
        groups |= {f"{name}/{path.name}": [path] for path in groups.pop(name)}
    sizes = dict.fromkeys(FOLDS, 0)
    folds: dict[Path, int | str] = {}
    for _, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        fold = min(FOLDS, key=sizes.__getitem__)
        sizes[fold] += len(group)
        folds |= dict.fromkeys(group, fold)
    return folds


def read_or_reason(path: Path, rate_hz: int, mixing: Mixing = MEAN) -> NDArray[np.float32] | str:
    """Return a recording as mono samples at a rate, or the reason why it cannot be used."""
    try:
        wave = read_sound(path, rate_hz, mixing=mixing)
    except SourceError as error:
        return str(error)
    except ValueError:  # no chunk: shorter than one sample at the rate
        wave = np.zeros(0, np.float32)
    return wave if wave.size else f"{path}: holds no sound at {rate_hz} samples per second"


def _household(recipe: Recipe, data: Path, material: Path | None) -> Listing:
    clips = list_clips(data, material)
    unknown = sorted({c.label for c in clips if c.label is not None} - set(recipe.labels))
    problems = [f"{data}: label {label!r} is none of the recipe's; its clips are left out" for label in unknown]
    return Listing([c for c in clips if c.label is None or c.label in recipe.classes], problems)


class _ClipFilter:
    """Keeps valid clips and notes why others are left out."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._problems: list[str] = []
        self._labels = labels
        self._clips: list[Clip] = []
        self._seen: set[Path] = set()
        self._unknown: Counter[str] = Counter()

    def note(self, problem: str) -> None:
        """Add a problem, in one line even where a name contains line breaks."""
        self._problems.append(" ".join(problem.splitlines()))

    def take(self, where: str, path: Path, label: str, source: str, fold: str | int) -> None:
        """Keep a clip or note why not; ``where`` names the line or folder that lists it."""
        if label not in self._labels:
            self._unknown[label] += 1
        elif str(fold) not in _FOLD_NAMES:
            self.note(f"{where}: {path}: fold {fold!r} is not 1 to 5; left out")
        elif reason := _why_unreadable(path):
            self.note(f"{where}: {reason}; left out")
        elif (real := path.resolve()) in self._seen:
            self.note(f"{where}: {path}: listed before; kept once")
        else:
            self._seen.add(real)
            self._clips.append(Clip(path, label, source, int(fold)))

    def listing(self, where: Path) -> Listing:
        """Return the kept clips; raises SourceError where there is none."""
        classes = ", ".join(self._labels)
        for label, count in self._unknown.items():
            self.note(f"{where}: label {label!r} ({count} clips) is none of {classes}; left out")
        if not self._clips:
            first = f" ({self._problems[0]})" if self._problems else ""
            raise SourceError(f"{where}: no clip for {classes}{first}; check the folder and the labels")
        filled = {clip.label for clip in self._clips}
        for label in self._labels:
            if label not in filled:
                self.note(f"{where}: no clip for {label!r}: an empty class")
        return Listing(self._clips, self._problems)


def _take_folder(clips_found: _ClipFilter, folder: Path, label: str, source: str, folds_of: _FoldsOf) -> None:
    files = sorted(p for p in folder.rglob("[!.]*") if p.is_file())
    sounds = [p for p in files if is_sound_name(p)]
    if others := [p.name for p in files if not is_sound_name(p)]:
        clips_found.note(f"{folder}: {len(others)} files are no sound by their names ({others[0]}, ...); left out")
    for path, fold in sorted(folds_of(sounds, folder).items()):
        clips_found.take(str(folder), path, label, source, fold)


def _subfolders(root: Path) -> list[Path]:
    _need_folder(root)
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _need_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; name the folder of recordings")


def _first_digits(paths: Sequence[Path], _: Path) -> dict[Path, int | str]:
    """Return the first digit of each name as its fold; where it is no fold, the first character."""
    return {path: int(found[1]) if (found := _FOLD_FIRST.match(path.name)) else path.name[:1] for path in paths}


def _why_unreadable(path: Path) -> str:
    """Return why a file cannot be decoded, by its header; "" if it can."""
    try:
        SoundFileReader(path).close()
    except (SourceError, ValueError) as error:  # ValueError: an impossible file name
        return str(error)
    return ""


def _esc_names(labels: Sequence[str]) -> dict[str, str]:
    """Return the label for each name that a class may have in ESC."""
    pairs = [*_ESC10_IN_ESC50.items(), *((b, a) for a, b in _ESC10_IN_ESC50.items())]
    known = {_plain(label): label for label in labels}
    return {name: known[other] for name, other in pairs if other in known} | known


def _plain(name: str) -> str:
    """Return "001 - Dog bark" as "dog_bark"."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"^\d+ *- *", "", name).lower()).strip("_")
