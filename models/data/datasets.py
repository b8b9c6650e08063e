"""Data sets in other layouts than the household's: a manifest (CSV), a folder per class, ESC's own.

Whatever is wrong with single clips is told in one line each and the good ones are kept; only where
nothing can go on is there an error. A plain folder's files are spread over the folds class by class:
files of one origin, as far as names tell, share a fold, and the folds of a class stay level.

The recordings of a recipe: its layout, its labels, what to leave out.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detector.audio.files import SoundFileReader, is_sound_name
from detector.audio.sources import read_sound
from detector.errors import ConfigError, SourceError
from detector.manifest import DataSource
from models import RECIPES
from models.data.household import SOURCES, Clip, list_clips
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
"""ESC-50 has other names for four classes of ESC-10; either is understood."""
_TAKE = re.compile(r"[-_ ](?:\d+|[A-Za-z]|\(\d+\))$")
"""What tells one cut of a recording from the next: a number or a single letter at a name's end."""
_FoldsOf = Callable[[Sequence[Path], Path], dict[Path, int | str]]
"""From the sounds in a class's folder, and the folder, to their folds."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a data set holds."""

    clips: list[Clip]
    problems: list[str]
    """One line each: what was left out and why."""


def read_manifest(manifest: Path, data: Path, labels: Sequence[str]) -> Listing:
    """List the clips of a CSV file with the columns path, label and fold (1 to 5); others are ignored.

    Paths are absolute or relative to ``data``. A clip's source is the first folder of a relative
    path, else the manifest's name. Raises SourceError where the manifest or the data folder is
    missing, a column is missing, or no clip is left.
    """
    _need_folder(data)
    sieve = _Sieve(labels)
    for line, row in read_rows(manifest, ("path", "label", "fold")):
        parts = Path(row["path"]).parts
        source = parts[0] if len(parts) > 1 and not Path(row["path"]).is_absolute() else manifest.stem
        sieve.take(f"{manifest}: line {line}", data / row["path"], row["label"], source, row["fold"])
    return sieve.listing(manifest)


def read_folders(root: Path, labels: Sequence[str]) -> Listing:
    """List a folder that holds one folder per class, with sounds at any depth below it.

    Folds are those of ``spread``. Raises SourceError where the folder is missing or no clip is left.
    """
    sieve = _Sieve(labels)
    for folder in _subfolders(root):
        _take_folder(sieve, folder, folder.name, root.name, spread)
    return sieve.listing(root)


def read_esc(root: Path, labels: Sequence[str]) -> Listing:
    """List ESC-10 or ESC-50 with the data set's own folds.

    ``root`` holds meta/*.csv (filename, fold, category) beside audio/, or one folder per class
    ("dog_bark" or "001 - Dog bark") with files whose names begin with the fold. Raises SourceError
    where the folder is missing, the CSV lacks a column, or no clip is left.
    """
    sieve = _Sieve(labels)
    names = _esc_names(labels)
    tables = sorted((root / "meta").glob("*.csv"))
    for table in tables:
        for line, row in read_rows(table, ("filename", "fold", "category")):
            # An early edition has numbers there, and the names in category_name.
            name = row.get("category_name", row["category"])
            label = names.get(_plain(name), name)
            sieve.take(f"{table}: line {line}", root / "audio" / row["filename"], label, root.name, row["fold"])
    for folder in () if tables else _subfolders(root):
        _take_folder(sieve, folder, names.get(_plain(folder.name), folder.name), root.name, _first_digits)
    return sieve.listing(root)


def read_class(folder: Path, label: str) -> Listing:
    """List a folder of recordings of one class, at any depth below it, with the folds of ``spread``.

    Raises SourceError where the folder is missing or no clip is left.
    """
    _need_folder(folder)
    sieve = _Sieve([label])
    _take_folder(sieve, folder, label, folder.resolve().name, spread)
    return sieve.listing(folder)


def read_classes(data: Path, classes: Sequence[tuple[str, str]]) -> Listing:
    """List folders below ``data`` as classes: pairs of a label and a folder's name or pattern (``*``).

    Folds are spread folder by folder, so that each folder is level by itself. Raises SourceError
    where the data folder is missing or no clip is left; a pattern without folders is a problem.
    """
    _need_folder(data)
    sieve = _Sieve(list(dict.fromkeys(label for label, _ in classes)))
    for label, pattern in classes:
        folders = sorted(p for p in data.glob(pattern) if p.is_dir())
        if not folders:
            sieve.tell(f"{data / pattern}: no such folder; {label!r} is without it")
        for folder in folders:
            _take_folder(sieve, folder, label, folder.relative_to(data).parts[0], spread)
    return sieve.listing(data)


def load_good_clips(
    clips: list[Clip], rate_hz: int, processes: int = 2
) -> tuple[list[Clip], list[NDArray[np.float32]], list[str]]:
    """Decode clips in parallel; give those that can be used, their samples, and a line for each other.

    The samples are mono at the rate, (samples,) each, in [-1, 1). Raises SourceError where no clip
    can be used.
    """
    with ProcessPoolExecutor(processes) as pool:
        found = list(pool.map(read_or_reason, [c.path for c in clips], [rate_hz] * len(clips), chunksize=16))
    good = [(clip, wave) for clip, wave in zip(clips, found, strict=True) if not isinstance(wave, str)]
    problems = [f"{reason}; left out" for reason in found if isinstance(reason, str)]
    if not good:
        first = f" ({problems[0]})" if problems else ""
        raise SourceError(f"none of {len(clips)} clips can be used{first}; check the data folder")
    return [clip for clip, _ in good], [wave for _, wave in good], problems


def spread(paths: Sequence[Path], folder: Path) -> dict[Path, int | str]:
    """Give each file of a class its fold, the same on every machine and whatever the order.

    Where all names are ESC's ("1-100032-A"), the first digit is the fold. Else files whose names
    differ only in a number or a letter behind the last "-", "_" or space ("bark_1", "bark_2") are
    cuts of one recording and share a fold, unless more than half of the class is called so: then
    the name is a series, and says nothing. The larger groups choose first, each the fold with the
    fewest files; single files follow in the order of their names, in turn.
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


def read_rows(table: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the number of the line and the row, by column, of a CSV file; a field not there is "".

    Raises SourceError where the file is missing, no text, or lacks a column.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", restval="", delimiter=delimiter)
            found = [name.strip() for name in reader.fieldnames or ()]
            if missing := [name for name in columns if name not in found]:
                raise SourceError(
                    f"{table}: no column {', '.join(missing)}; the first line must name {','.join(columns)}, "
                    f"and names {','.join(found) or 'nothing'}"
                )
            reader.fieldnames = found
            for row in reader:
                yield reader.line_num, {k: v.strip() for k, v in row.items() if isinstance(v, str)}
    except OSError as error:
        raise SourceError(f"{table}: cannot be read ({error.strerror}); name a CSV file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{table}: no CSV file in UTF-8 ({error}); save it again as such") from error


class _Sieve:
    """Keeps good clips and tells of the others."""

    def __init__(self, labels: Sequence[str]) -> None:
        self._problems: list[str] = []
        self._labels = labels
        self._clips: list[Clip] = []
        self._seen: set[Path] = set()
        self._unknown: Counter[str] = Counter()

    def tell(self, problem: str) -> None:
        """Note what was left out and why, in one line whatever a name holds."""
        self._problems.append(" ".join(problem.splitlines()))

    def take(self, where: str, path: Path, label: str, source: str, fold: str | int) -> None:
        """Keep a clip, or tell why not; ``where`` names the line or folder that lists it."""
        if label not in self._labels:
            self._unknown[label] += 1
        elif str(fold) not in _FOLD_NAMES:
            self.tell(f"{where}: {path}: fold {fold!r} is not 1 to 5; left out")
        elif reason := _no_sound(path):
            self.tell(f"{where}: {reason}; left out")
        elif (real := path.resolve()) in self._seen:
            self.tell(f"{where}: {path}: listed before; kept once")
        else:
            self._seen.add(real)
            self._clips.append(Clip(path, label, source, int(fold)))

    def listing(self, where: Path) -> Listing:
        """Return what was kept; raises SourceError if that is nothing."""
        classes = ", ".join(self._labels)
        for label, count in self._unknown.items():
            self.tell(f"{where}: label {label!r} ({count} clips) is none of {classes}; left out")
        if not self._clips:
            first = f" ({self._problems[0]})" if self._problems else ""
            raise SourceError(f"{where}: no clip for {classes}{first}; check the folder and the labels")
        filled = {clip.label for clip in self._clips}
        for label in self._labels:
            if label not in filled:
                self.tell(f"{where}: no clip for {label!r}: an empty class")
        return Listing(self._clips, self._problems)


def _take_folder(sieve: _Sieve, folder: Path, label: str, source: str, folds_of: _FoldsOf) -> None:
    files = sorted(p for p in folder.rglob("[!.]*") if p.is_file())
    sounds = [p for p in files if is_sound_name(p)]
    if others := [p.name for p in files if not is_sound_name(p)]:
        sieve.tell(f"{folder}: {len(others)} files are no sound by their names ({others[0]}, ...); left out")
    for path, fold in sorted(folds_of(sounds, folder).items()):
        sieve.take(str(folder), path, label, source, fold)


def _subfolders(root: Path) -> list[Path]:
    _need_folder(root)
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _need_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; name the folder of recordings")


def _first_digits(paths: Sequence[Path], _: Path) -> dict[Path, int | str]:
    """Give each file the fold at the beginning of its name; where there is none, what stands there."""
    return {path: int(found[1]) if (found := _FOLD_FIRST.match(path.name)) else path.name[:1] for path in paths}


def _no_sound(path: Path) -> str:
    """Return why a file cannot be heard, by its header; "" if it can."""
    try:
        SoundFileReader(path).close()
    except (SourceError, ValueError) as error:  # ValueError: a name that no file can have
        return str(error)
    return ""


def read_or_reason(path: Path, rate_hz: int) -> NDArray[np.float32] | str:
    """Return a recording as mono samples at a rate, or why it cannot be used."""
    try:
        wave = read_sound(path, rate_hz)
    except SourceError as error:
        return str(error)
    except ValueError:  # not one chunk: shorter than a sample at the rate
        wave = np.zeros(0, np.float32)
    return wave if wave.size else f"{path}: holds no sound at {rate_hz} samples per second"


def _esc_names(labels: Sequence[str]) -> dict[str, str]:
    """Return the label for each name that ESC may give a class."""
    pairs = [*_ESC10_IN_ESC50.items(), *((b, a) for a, b in _ESC10_IN_ESC50.items())]
    known = {_plain(label): label for label in labels}
    return {name: known[other] for name, other in pairs if other in known} | known


def _plain(name: str) -> str:
    """Return "001 - Dog bark" as "dog_bark"."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"^\d+ *- *", "", name).lower()).strip("_")


def recordings(recipe: Recipe, data: Path, material: Path | None = None) -> Listing:
    """List what a recipe can be trained and judged with, and a line for each clip that was left out.

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
    return (read_esc if layout == "esc" else read_folders)(data / recipe.data.path, labels)


def _household(recipe: Recipe, data: Path, material: Path | None) -> Listing:
    clips = list_clips(data, material)
    unknown = sorted({c.label for c in clips if c.label is not None} - set(recipe.labels))
    problems = [f"{data}: label {label!r} is none of the recipe's; its clips are left out" for label in unknown]
    return Listing([c for c in clips if c.label is None or c.label in recipe.classes], problems)


def folds_left_out(recipe: Recipe, leave_out: int | None) -> tuple[int, ...]:
    """Return the folds that a run must not train on, in order."""
    return tuple(sorted({*recipe.data.test_folds, *([] if leave_out is None else [leave_out])}))


def sources_of(recipe: Recipe, clips: list[Clip]) -> tuple[DataSource, ...]:
    """Say where a run's recordings came from and under which licence they are."""
    names = {clip.source for clip in clips}
    known = tuple(source for source in SOURCES if source.name in names)
    others = sorted(names - {source.name for source in known})
    return known + tuple(DataSource(name, recipe.data.licence, f"recordings of {recipe.name}") for name in others)
