"""AudioSet: a manifest of clips for a few themes from its label files, and the download of their sounds.

AudioSet is published as labels without sound: segment files (CSV) give video, start, end and classes, and
``ontology.json`` gives the class hierarchy, in which a class can have several parents.

Sounds are fetched by the programs yt-dlp, which finds a video's audio stream, and ffmpeg, which decodes the wanted
seconds only. (yt-dlp's own --download-sections copies packets, and therefore starts up to ten seconds early.) Files are
written as .part and renamed when complete. Which videos still exist changes from day to day.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detector.audio.sources import read_sound
from detector.errors import ConfigError, SourceError
from models.console import Progress
from models.data.clips import read_rows
from models.data.datasets import FOLDS

COLUMNS = ("ytid", "start_s", "end_s", "path", "label", "fold", "labels")
"""Of a manifest; ``labels`` are the names of AudioSet's classes, with ";" between them."""
YTID = re.compile(r"[A-Za-z0-9_-]{11}")
"""A video's id."""
PACKAGES = {"yt-dlp": "pip install yt-dlp", "ffmpeg": "apt install ffmpeg"}
"""The external programs and how to install them."""
FAILURES = "failures.csv"
_FIELDS = 4
_SHOWN = 5
_FIND_TIMEOUT_S = 120
_FETCH_TIMEOUT_S = 300
_PREFIX = re.compile(r"ERROR: (\[[^]]*\] )?([A-Za-z0-9_-]{11}: )?")
"""Prefix of yt-dlp's error messages; without the video's id, equal reasons can be counted."""
_SLACK_S = 1.0
"""Tolerated shortfall at the end, in seconds: some videos were trimmed after they were labelled."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a video with the ids of its classes."""

    ytid: str
    start_s: float
    end_s: float
    classes: tuple[str, ...]

    @property
    def path(self) -> str:
        """File name in the download folder."""
        return f"{self.ytid}_{round(1000 * self.start_s)}.flac"

    @property
    def fold(self) -> int:
        """1 to 5, from the video's id alone, so that parts of one video share a fold."""
        return FOLDS[_hash(self.ytid) % len(FOLDS)]


@dataclass(frozen=True, slots=True)
class Selection:
    """The clips of a manifest."""

    clips: dict[str, list[Segment]]
    """By theme; each theme's in the order of their paths."""
    notes: list[str]
    """One line each: what was dropped, how many, and why."""


class Ontology:
    """AudioSet's classes: their names and descendants."""

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        """Read ontology.json and, if given, the names in class_labels_indices.csv.

        Raises SourceError where a file is missing or of another format.
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
        """Return the ids of a class and its descendants."""
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
    """Return the themes of each class id; a class below two themes has both.

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
    """Choose the segments of exactly one theme, equally many of each theme.

    At most ``per_class`` of each theme, by default as many as the smallest theme has. The choice depends on the
    seed and each segment's name only, not on other files. Raises ConfigError for an impossible theme,
    SourceError for a file of another format or a theme without segments.
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


@dataclass(frozen=True, slots=True)
class Wanted:
    """A part of a video, and its file relative to the download folder."""

    path: str
    ytid: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class Outcome:
    """The outcome of a download."""

    fetched: int
    there: int
    """Files that existed before."""
    failures: dict[str, str]
    """The reason by path."""

    def summary(self) -> str:
        """Return one line: how many were fetched, and the most frequent reason for failure."""
        text = f"{self.fetched} fetched, {self.there} there before, {len(self.failures)} failed"
        if self.failures:
            reason, count = Counter(self.failures.values()).most_common(1)[0]
            text += f"; most often ({count}): {reason}; all in {FAILURES}; run it again to try them again"
        return text


def read_wanted(manifest: Path) -> tuple[list[Wanted], list[str]]:
    """Return the clips of a manifest of ``snn-train audioset-manifest``, and a line for each row left out.

    Raises SourceError where the manifest is missing, lacks a column, or asks for nothing.
    """
    wanted: dict[str, Wanted] = {}
    problems = []
    for line, row in read_rows(manifest, ("ytid", "start_s", "end_s", "path")):
        if (found := _wanted(row)) is None:
            problems.append(f"{manifest}: line {line}: no video, times and file name that can be used; left out")
        elif wanted.setdefault(found.path, found) is not found:
            problems.append(f"{manifest}: line {line}: {found.path} is listed before; fetched once")
    if not wanted:
        raise SourceError(f"{manifest}: no row to fetch; write it with snn-train audioset-manifest")
    return list(wanted.values()), problems


def download(wanted: Sequence[Wanted], out: Path, rate_hz: int, jobs: int) -> Outcome:
    """Fetch missing clips as mono FLAC files at the rate; failures are written to failures.csv.

    Raises ConfigError where a program or the folder cannot be used. An interruption stops the programs and
    leaves complete files only.
    """
    programs = _Programs()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made ({error.strerror}); name another folder") from error
    missing = [w for w in wanted if not (out / w.path).is_file()]
    outcome = Outcome(0, len(wanted) - len(missing), {})
    with ThreadPoolExecutor(jobs) as pool, Progress("audioset", len(missing), "clips") as bar:
        try:
            futures = {pool.submit(_fetch, programs, w, out, rate_hz): w for w in missing}
            for future in as_completed(futures):
                if reason := future.result():
                    outcome.failures[futures[future].path] = reason
                else:
                    outcome.fetched += 1
                bar.advance(failed=len(outcome.failures))
        finally:
            programs.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            _write_failures(out / FAILURES, outcome.failures)
    return outcome


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
    """Return notes on classes below two themes: segments with them are dropped."""
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
    """Yield a segment file's segments; add a note on invalid lines."""
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
    """Return a hash that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@dataclass(frozen=True, slots=True)
class _Stream:
    url: str
    headers: dict[str, str]
    """HTTP headers, as yt-dlp sends them."""


class _FetchError(Exception):
    """The reason why one file could not be fetched, in one line."""


class _Programs:
    """Runs external programs, and stops those that are running."""

    def __init__(self) -> None:
        """Find the programs; raises ConfigError that says how to get one that is missing."""
        for name, package in PACKAGES.items():
            if shutil.which(name) is None:
                raise ConfigError(f"{name} is not on the PATH; install it with: {package}")
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, command: Sequence[str], timeout_s: float) -> str:
        """Return a program's output; raises _FetchError with its last line of error output where it fails."""
        with self._lock:
            if self._stopped:
                raise _FetchError("stopped")
            # In a session of its own: Ctrl-C reaches this program only, which then stops the others.
            process = subprocess.Popen(  # noqa: S603 - programs of the user
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        try:
            printed, complaint = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.communicate()
            raise _FetchError(f"{command[0]}: no answer within {timeout_s:g} s") from None
        finally:
            with self._lock:
                self._running.discard(process)
        if process.returncode:
            raise _FetchError(_last_line(complaint) or f"{command[0]}: exit code {process.returncode}")
        return printed

    def stop(self) -> None:
        """Stop all running programs, and start no more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)


def _fetch(programs: _Programs, wanted: Wanted, out: Path, rate_hz: int) -> str:
    """Fetch one file; return the reason for failure, or ""."""
    # Absolute: a video's id may begin with "-", which would make it an option.
    target = out.resolve() / wanted.path
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        stream = _find(programs, wanted)
        programs.run(_ffmpeg(wanted, stream, part, rate_hz), _FETCH_TIMEOUT_S)
        _check(part, rate_hz, wanted)
        part.replace(target)
    except (_FetchError, SourceError, OSError) as error:
        return " ".join(str(error).split())
    finally:
        part.unlink(missing_ok=True)
    return ""


def _find(programs: _Programs, wanted: Wanted) -> _Stream:
    command = ["yt-dlp", "--dump-json", "--no-playlist", "--no-warnings", "--socket-timeout", "20"]
    command += ["--format", "bestaudio/best", "--", f"https://www.youtube.com/watch?v={wanted.ytid}"]
    try:
        found = json.loads(programs.run(command, _FIND_TIMEOUT_S))
        headers = {str(k): str(v) for k, v in found.get("http_headers", {}).items()}
        duration_s = float(found.get("duration") or math.inf)
        stream = _Stream(str(found["url"]), headers)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _FetchError("yt-dlp names no sound for this video") from error
    if wanted.start_s >= duration_s:  # ffmpeg would return the end of the video instead
        raise _FetchError(f"the video has only {duration_s:g} s")
    return stream


def _ffmpeg(wanted: Wanted, stream: _Stream, part: Path, rate_hz: int) -> list[str]:
    """Return the command that decodes from the exact start: -ss before -i seeks, then discards."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in stream.headers.items())
    headers = ["-headers", lines] if lines else []
    command = ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *headers]
    command += ["-ss", f"{wanted.start_s:.3f}", "-i", stream.url, "-t", f"{wanted.end_s - wanted.start_s:.3f}"]
    return [*command, "-vn", "-ac", "1", "-ar", str(rate_hz), "-f", "flac", f"file:{part}"]


def _check(part: Path, rate_hz: int, wanted: Wanted) -> None:
    """Raise _FetchError or SourceError where ffmpeg reports success but the sound is too short.

    ffmpeg writes a shorter file where the connection breaks or the video ends.
    """
    fetched_s, wanted_s = read_sound(part, rate_hz).size / rate_hz, wanted.end_s - wanted.start_s
    if fetched_s < wanted_s - _SLACK_S:
        raise _FetchError(f"only {fetched_s:.1f} s of {wanted_s:.1f} s were received")


def _wanted(row: dict[str, str]) -> Wanted | None:
    """Return a row's clip; None where a field is invalid or the file would lie outside the folder."""
    path = PurePosixPath(row["path"])
    try:
        start_s, end_s = float(row["start_s"]), float(row["end_s"])
    except ValueError:
        return None
    times = 0 <= start_s < end_s < float("inf")
    inside = path.suffix == ".flac" and not path.is_absolute() and ".." not in path.parts
    return Wanted(str(path), row["ytid"], start_s, end_s) if times and inside and YTID.fullmatch(row["ytid"]) else None


def _write_failures(path: Path, failures: dict[str, str]) -> None:
    if not failures:
        path.unlink(missing_ok=True)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "reason"))
        writer.writerows(sorted(failures.items()))


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it may have exited meanwhile
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _PREFIX.sub("", lines[-1]) if lines else ""
