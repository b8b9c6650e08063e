"""AudioSet's own files to a manifest of themes: which ten seconds of which video belong to which class.

AudioSet is labels without sounds: segment files (CSV) name the video, start and end, and the classes
heard, and ``ontology.json`` says which class lies below which, where a class can lie below several.
``models.download`` fetches the sounds of a manifest.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.errors import ConfigError, SourceError
from models.layouts import FOLDS, read_rows

COLUMNS = ("ytid", "start_s", "end_s", "path", "label", "fold", "labels")
"""Of a manifest; ``labels`` are the names of AudioSet's classes, with ";" between them."""
YTID = re.compile(r"[A-Za-z0-9_-]{11}")
"""What a video's name looks like."""
_FIELDS = 4
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a video and the ids of the classes heard in it."""

    ytid: str
    start_s: float
    end_s: float
    classes: tuple[str, ...]

    @property
    def path(self) -> str:
        """Where the download puts it, relative to its folder."""
        return f"{self.ytid}_{round(1000 * self.start_s)}.flac"

    @property
    def fold(self) -> int:
        """1 to 5, by the video's name alone: pieces of one video never part."""
        return FOLDS[_hash(self.ytid) % len(FOLDS)]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a manifest is made of."""

    clips: dict[str, list[Segment]]
    """By theme; each theme's in the order of their paths."""
    notes: list[str]
    """One line each: what was dropped, how much of it, and why."""


class Ontology:
    """AudioSet's classes: their names, and what lies below them."""

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        """Read ontology.json and, if given, the names in class_labels_indices.csv.

        Raises SourceError where a file is missing or something else.
        """
        self._path = path
        self._children: dict[str, list[str]] = {}
        self._ids: dict[str, list[str]] = defaultdict(list)
        self.names: dict[str, str] = {}
        for node in _read_nodes(path):
            self._children[node.id] = node.child_ids
            self._name(node.id, node.name)
        for _, row in read_rows(labels, ("mid", "display_name")) if labels else ():
            self._name(row["mid"], row["display_name"])

    def find(self, name: str) -> list[str]:
        """Return the ids of a class, given by id or by name; raises ConfigError with the nearest name."""
        if name in self.names:
            return [name]
        if found := self._ids.get(name.casefold()):
            return found
        near = difflib.get_close_matches(name.casefold(), self._ids, n=1, cutoff=0.0)
        hint = f"; the nearest is {self.names[self._ids[near[0]][0]]!r}" if near else ""
        raise ConfigError(f"{self._path}: no class {name!r}{hint}")

    def below(self, class_id: str) -> set[str]:
        """Return the ids of a class and all that lies below it."""
        found: set[str] = set()
        open_ids = [class_id]
        while open_ids:
            if (at := open_ids.pop()) not in found:
                found.add(at)
                open_ids += self._children.get(at, [])
        return found

    def _name(self, class_id: str, name: str) -> None:
        self.names[class_id] = name
        if class_id not in self._ids[name.casefold()]:
            self._ids[name.casefold()].append(class_id)


def themes_of_classes(ontology: Ontology, themes: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """Return the themes of each class's id; a class below two themes has both.

    ``themes`` are names or ids of AudioSet's classes by theme. Raises ConfigError for an unknown
    name, and for a theme without a class of its own.
    """
    inside = {
        theme: {c for name in names for found in ontology.find(name) for c in ontology.below(found)}
        for theme, names in themes.items()
    }
    owners = {c: frozenset(t for t, classes in inside.items() if c in classes) for c in set().union(*inside.values())}
    for theme, classes in inside.items():
        if all(len(owners[c]) > 1 for c in classes):
            others = ", ".join(sorted(set().union(*(owners[c] for c in classes)) - {theme}))
            raise ConfigError(f"theme {theme!r}: all its classes lie below {others} too; choose themes apart")
    return owners


def select(
    tables: Sequence[Path],
    ontology: Ontology,
    themes: Mapping[str, Sequence[str]],
    per_class: int | None = None,
    seed: int = 0,
) -> Selection:
    """Choose the segments of exactly one theme, as many of each theme as of every other.

    At most ``per_class`` of each theme, by default as many as the smallest theme has. The choice
    depends on the seed and on each segment's own name: other files added, the order stays. Raises
    ConfigError for a theme that cannot be, SourceError for a file that is none of AudioSet's or a
    theme without segments.
    """
    owners = themes_of_classes(ontology, themes)
    notes = _shared(ontology, owners)
    clips: dict[str, list[Segment]] = {theme: [] for theme in themes}
    dropped: Counter[str] = Counter()
    seen: set[tuple[str, float]] = set()
    for table in tables:
        for segment in _read_segments(table, notes):
            found = frozenset[str]().union(*(owners.get(c, ()) for c in segment.classes))
            key = (segment.ytid, segment.start_s)
            if key in seen:
                dropped["listed before (same video and start)"] += 1
            elif len(found) == 1:
                clips[next(iter(found))].append(segment)
            else:
                dropped["with classes of two themes" if found else "of no theme"] += 1
            seen.add(key)
    notes += [f"{count} segments {why}: dropped" for why, count in sorted(dropped.items())]
    return _balanced(clips, per_class, seed, notes)


def rows(selection: Selection, ontology: Ontology) -> Iterator[tuple[str | int | float, ...]]:
    """Yield the manifest's rows, in the order of COLUMNS."""
    for theme, segments in selection.clips.items():
        for s in segments:
            names = ";".join(ontology.names.get(c, c) for c in s.classes)
            yield (s.ytid, s.start_s, s.end_s, s.path, theme, s.fold, names)


def _balanced(clips: Mapping[str, list[Segment]], per_class: int | None, seed: int, notes: list[str]) -> Selection:
    for theme, segments in clips.items():
        if not segments:
            raise SourceError(
                f"theme {theme!r}: no segment is of it alone; give more --segments, or choose themes apart"
            )
    count = per_class or min(map(len, clips.values()))
    kept: dict[str, list[Segment]] = {}
    for theme, segments in clips.items():
        chosen = sorted(segments, key=lambda s: _hash(f"{seed} {s.path}"))[:count]
        kept[theme] = sorted(chosen, key=lambda s: s.path)
        folds = Counter(s.fold for s in chosen)
        by_fold = ", ".join(str(folds[fold]) for fold in FOLDS)
        notes.append(f"{theme}: {len(chosen)} of {len(segments)} segments kept; in folds 1 to 5: {by_fold}")
    return Selection(kept, notes)


def _shared(ontology: Ontology, owners: Mapping[str, frozenset[str]]) -> list[str]:
    """Tell of classes that lie below two themes: whatever carries one is dropped."""
    between: dict[frozenset[str], list[str]] = defaultdict(list)
    for class_id, themes in owners.items():
        if len(themes) > 1:
            between[themes].append(ontology.names.get(class_id, class_id))
    return [
        f"{len(names)} classes lie below {' and '.join(sorted(themes))}, so segments with them are dropped: "
        + ", ".join(sorted(names)[:_SHOWN])
        + (", ..." if len(names) > _SHOWN else "")
        for themes, names in sorted(between.items(), key=lambda item: sorted(item[0]))
    ]


def _read_segments(table: Path, notes: list[str]) -> Iterator[Segment]:
    """Yield a segment file's segments; count the lines that are none in the notes."""
    good, bad = 0, []
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file, skipinitialspace=True)
            for row in reader:
                if not row or row[0].startswith("#"):
                    continue
                if segment := _segment(row):
                    good += 1
                    yield segment
                else:
                    bad.append(reader.line_num)
    except OSError as error:
        raise SourceError(
            f"{table}: cannot be read ({error.strerror}); name one of AudioSet's segment files"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{table}: no CSV file in UTF-8 ({error}); download it again") from error
    if not good:
        raise SourceError(f"{table}: no segments (YTID, start, end, labels); name one of AudioSet's segment files")
    if bad:
        notes.append(f"{table}: {len(bad)} lines are no segments (the first is line {bad[0]}): dropped")


def _segment(row: Sequence[str]) -> Segment | None:
    if len(row) != _FIELDS or not YTID.fullmatch(row[0]):
        return None
    try:
        start_s, end_s = float(row[1]), float(row[2])
    except ValueError:
        return None
    if not 0 <= start_s < end_s < float("inf"):
        return None
    return Segment(row[0], start_s, end_s, tuple(c.strip() for c in row[3].split(",")))


@dataclass(frozen=True, slots=True)
class _Node:
    id: str
    name: str
    child_ids: list[str]


def _read_nodes(path: Path) -> list[_Node]:
    try:
        nodes = json.loads(path.read_text(encoding="utf-8"))
        return [_Node(str(n["id"]), str(n["name"]), [str(c) for c in n["child_ids"]]) for n in nodes]
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); name AudioSet's ontology.json") from error
    except (ValueError, TypeError, KeyError) as error:
        raise SourceError(
            f"{path}: no list of classes with id, name and child_ids; name AudioSet's ontology.json"
        ) from error


def _hash(text: str) -> int:
    """Return a number that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
