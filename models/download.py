"""Fetch the sounds of an AudioSet manifest through the programs yt-dlp and ffmpeg.

yt-dlp says where a video's sound is, and ffmpeg fetches the wanted seconds alone. (yt-dlp's own
--download-sections copies packets, and so begins up to ten seconds early.) A file appears whole or
not at all: it is written as .part and renamed. Which videos still exist changes from day to day.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from detector.audio.sources import read_sound
from detector.errors import ConfigError, SourceError
from models.audioset import YTID
from models.layouts import read_rows

PACKAGES = {"yt-dlp": "pip install yt-dlp", "ffmpeg": "apt install ffmpeg"}
"""The programs, and how to get them."""
FAILURES = "failures.csv"
_FIND_TIMEOUT_S = 120
_FETCH_TIMEOUT_S = 300
_PREFIX = re.compile(r"ERROR: (\[[^]]*\] )?([A-Za-z0-9_-]{11}: )?")
"""Before yt-dlp's reason: without the video's name, equal reasons can be counted."""
_SLACK_S = 1.0
"""Sound that may be missing at the end: the video was cut a little after it was labelled."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A piece of a video, and the file it becomes, relative to the folder."""

    path: str
    ytid: str
    start_s: float
    end_s: float


@dataclass(slots=True)
class Outcome:
    """How a download ended."""

    fetched: int
    there: int
    """Files that were there before."""
    failures: dict[str, str]
    """The reason by path."""

    def summary(self) -> str:
        """Return one line: how many came, and why the others did not."""
        text = f"{self.fetched} fetched, {self.there} there before, {len(self.failures)} failed"
        if self.failures:
            reason, count = Counter(self.failures.values()).most_common(1)[0]
            text += f"; most often ({count}): {reason}; all in {FAILURES}; run it again to try them again"
        return text


@dataclass(frozen=True, slots=True)
class _Stream:
    url: str
    headers: dict[str, str]
    """To ask with, as yt-dlp does."""


class _FetchError(Exception):
    """Why one file did not come, in a line."""


def read_wanted(manifest: Path) -> tuple[list[Wanted], list[str]]:
    """Return what a manifest of ``snn-train audioset-manifest`` asks for, and a line for each row left out.

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
    """Fetch what is not there yet as mono FLAC files at the rate; failures go to failures.csv.

    Raises ConfigError where a program or the folder cannot be used. Where it is interrupted, the
    programs are stopped and every file there is whole.
    """
    programs = _Programs()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be made ({error.strerror}); name another folder") from error
    missing = [w for w in wanted if not (out / w.path).is_file()]
    outcome = Outcome(0, len(wanted) - len(missing), {})
    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(missing), unit="clip") as bar:
        try:
            futures = {pool.submit(_fetch, programs, w, out, rate_hz): w for w in missing}
            for future in as_completed(futures):
                if reason := future.result():
                    outcome.failures[futures[future].path] = reason
                else:
                    outcome.fetched += 1
                bar.set_postfix(failed=len(outcome.failures))
                bar.update()
        finally:
            programs.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            _write_failures(out / FAILURES, outcome.failures)
    return outcome


class _Programs:
    """The programs that run at the moment, so that they can be stopped."""

    def __init__(self) -> None:
        """Find the programs; raises ConfigError that says how to get one that is missing."""
        for name, package in PACKAGES.items():
            if shutil.which(name) is None:
                raise ConfigError(f"{name} is not on the PATH; install it with: {package}")
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def run(self, command: Sequence[str], timeout_s: float) -> str:
        """Return what a program printed; raises _FetchError with its last line where it fails."""
        with self._lock:
            if self._stopped:
                raise _FetchError("stopped")
            # A session of its own: Ctrl-C reaches this program alone, which then stops the others.
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
        """Stop what runs, and start nothing more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                _kill(process)


def _fetch(programs: _Programs, wanted: Wanted, out: Path, rate_hz: int) -> str:
    """Fetch one file; return why it did not come, or ""."""
    # Absolute, since a video's name may begin with "-", which would make it an option.
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
    if wanted.start_s >= duration_s:  # ffmpeg would give what is near the end instead
        raise _FetchError(f"the video has only {duration_s:g} s")
    return stream


def _ffmpeg(wanted: Wanted, stream: _Stream, part: Path, rate_hz: int) -> list[str]:
    """Return the command that decodes from the very start asked for: -ss before -i seeks, then drops."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in stream.headers.items())
    asked = ["-headers", lines] if lines else []
    command = ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "error", "-y", *asked]
    command += ["-ss", f"{wanted.start_s:.3f}", "-i", stream.url, "-t", f"{wanted.end_s - wanted.start_s:.3f}"]
    return [*command, "-vn", "-ac", "1", "-ar", str(rate_hz), "-f", "flac", f"file:{part}"]


def _check(part: Path, rate_hz: int, wanted: Wanted) -> None:
    """Raise _FetchError or SourceError where ffmpeg reports success but the sound is short.

    Where a connection breaks, or behind the end of a video, it writes what there is.
    """
    came_s, asked_s = read_sound(part, rate_hz).size / rate_hz, wanted.end_s - wanted.start_s
    if came_s < asked_s - _SLACK_S:
        raise _FetchError(f"only {came_s:.1f} s of {asked_s:.1f} s came")


def _wanted(row: dict[str, str]) -> Wanted | None:
    """Return what a row asks for; None where a field is wrong, or the file would lie outside the folder."""
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
    with contextlib.suppress(ProcessLookupError):  # it may have ended by itself meanwhile
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _PREFIX.sub("", lines[-1]) if lines else ""
