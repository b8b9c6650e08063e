"""Sound around events, as FLAC files.

A folder of clips that is never larger, older or on a fuller disk than it may be.

The last sound, in memory.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Final

import numpy as np
import soundfile
from numpy.typing import NDArray

from detector.config.sections import slug
from detector.config.settings import Clips
from detector.errors import DetectorError
from detector.messages import AudioChunk, Samples
from detector.records import OffsetRecord, OnsetRecord, Record
from detector.sinks.base import LiveSink, RetryableError, SavedClip, describe_oserror

_OURS: Final = re.compile(r"\d{8}T\d{6}\.\d{3}Z_[a-zA-Z0-9_-]+_[a-zA-Z0-9-]+\.flac")
_UNFINISHED: Final = re.compile(rf"\.{_OURS.pattern}\.part")
_FOLDER_MODE: Final = 0o750
_MODE: Final = 0o640


def clip_name(moment: datetime, label: str, event_id: str) -> str:
    """Return a file's name: names sort as their times do."""
    utc = moment.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03d}Z_{slug(label)}_{slug(event_id).replace('_', '-')}.flac"


class ClipFolder:
    """Keeps clips; the oldest go first, files that are no clips are never touched."""

    def __init__(self, path: Path, settings: Clips) -> None:
        """Prepare."""
        self._path, self._settings = path, settings

    def open(self) -> None:
        """Make the folder, and remove what a crash has left unfinished.

        The folders above it are made only where the settings name none. Raises OSError where that cannot be.
        """
        self._path.mkdir(mode=_FOLDER_MODE, parents=self._settings.directory is None, exist_ok=True)
        for path in self._path.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink()

    def forget(self, now: datetime) -> None:
        """Delete clips that are too old; raises DetectorError where that cannot be."""
        if self._settings.max_days is None:
            return
        oldest = clip_name(now - timedelta(days=self._settings.max_days), "", "")
        try:
            for name, _ in self._clips():
                if name < oldest:
                    (self._path / name).unlink(missing_ok=True)
        except OSError as error:
            raise DetectorError(f"{self._path}: old clips cannot be deleted ({error.strerror})") from error

    def put(self, name: str, source: IO[bytes], size: int) -> Path:
        """Copy a clip of ``size`` bytes here, whole or not at all, and return its path.

        Raises DetectorError where there is no room for it, or it cannot be written.
        """
        path, part = self._path / name, self._path / f".{name}.part"
        try:
            self._make_room(size)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _MODE), "wb") as file:  # noqa: PTH123 - a descriptor
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except OSError as error:
            raise DetectorError(describe_oserror(path, error)) from error
        finally:
            part.unlink(missing_ok=True)
        return path

    def _make_room(self, size: int) -> None:
        """Delete the oldest clips until another one fits; none for the disk's sake where all of them would not do."""
        s, clips = self._settings, self._clips()
        total = sum(length for _, length in clips)
        lacking = s.min_free_bytes + size - self._free_bytes()
        if size > s.max_bytes or lacking > total:
            raise DetectorError(
                f"{self._path}: too little room for a clip of {size} bytes (min_free_bytes {s.min_free_bytes}, "
                f"{self._free_bytes()} are free); no clips are written until there is more"
            )
        for number, (name, length) in enumerate(clips):
            fits = total + size <= s.max_bytes and len(clips) - number + 1 <= s.max_files and lacking <= 0
            if fits:
                return
            (self._path / name).unlink(missing_ok=True)
            total, lacking = total - length, lacking - length

    def _clips(self) -> list[tuple[str, int]]:
        """Return names and sizes, the oldest first."""
        with os.scandir(self._path) as entries:
            return sorted((e.name, e.stat().st_size) for e in entries if _OURS.fullmatch(e.name) and e.is_file())

    def _free_bytes(self) -> int:
        found = os.statvfs(self._path)
        return found.f_bavail * found.f_frsize


Pcm = NDArray[np.int16]
"""(samples,): mono, 16 bits."""
_FULL_SCALE: Final = 32768


@dataclass(slots=True)
class Run:
    """Sound without a gap, by positions since the stream began."""

    first: int
    end: int
    """One behind the last sample."""
    is_growing: bool = True
    """Whether the next chunk may go on with it."""


class SoundRing:
    """A bounded memory of sound, filled in one thread and read in another; neither waits for long."""

    def __init__(self, samples: int) -> None:
        """Remember that many samples, in two bytes each."""
        self._sound: Pcm = np.zeros(samples, np.int16)
        self._runs: deque[Run] = deque()
        self._lock = threading.Lock()
        self.stream = 0
        """Grows when positions begin anew: those from before mean nothing then."""

    def push(self, chunk: AudioChunk) -> None:
        """Take a chunk (n,) of any length; the oldest sound makes room."""
        pcm = _quantised(chunk.samples)
        end = chunk.first_sample + len(pcm)
        with self._lock:
            self._follow_on(chunk)
            kept = pcm[-len(self._sound) :]
            at = (end - len(kept)) % len(self._sound)
            head = min(len(kept), len(self._sound) - at)
            self._sound[at : at + head] = kept[:head]
            self._sound[: len(kept) - head] = kept[head:]
            self._runs[-1].end = end
            oldest = end - len(self._sound)
            while len(self._runs) > 1 and self._runs[0].end <= oldest:
                self._runs.popleft()
            self._runs[0].first = max(self._runs[0].first, oldest)

    def run_from(self, sample: int) -> Run | None:
        """Return the run that a sample belongs to, or that came next after it; None where there is none."""
        with self._lock:
            for run in self._runs:
                if run.end > sample:
                    return Run(run.first, run.end, run is self._runs[-1])
        return None

    def read(self, first: int, end: int) -> Pcm:
        """Return a copy of the samples of a run from ``first`` on, up to ``end``; fewer where some are gone."""
        with self._lock:
            newest = self._runs[-1].end if self._runs else 0
            first = max(first, newest - len(self._sound))
            return self._sound.take(np.arange(first, min(end, newest)), mode="wrap")

    def _follow_on(self, chunk: AudioChunk) -> None:
        """Begin a run where the chunk does not go on with the last one."""
        last = self._runs[-1] if self._runs else None
        if last is not None and chunk.first_sample < last.end:
            self._runs.clear()
            self.stream += 1
            last = None
        if last is None or chunk.gap or chunk.first_sample > last.end:
            self._runs.append(Run(chunk.first_sample, chunk.first_sample))


def _quantised(samples: Samples) -> Pcm:
    with np.errstate(invalid="ignore"):  # what is no number becomes some sample, as good as any other
        return np.clip(np.rint(samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


_DELAY_S: Final = 5.0
"""Sound kept beyond the longest clip: one is written when its last sample is a moment old already."""
_BLOCK: Final = 65536
_HOUR_S: Final = 3600.0


@dataclass(slots=True)
class _Clip:
    """An event whose clip is not written yet; positions are samples since the stream began."""

    label: str
    moment: datetime
    stream: int
    onset: int
    offset: int | None = None
    due: float = math.inf
    """When it is written, by the monotonic clock, also if its post-roll never comes: the device may be gone."""


class ClipSink(LiveSink):
    """Write a clip for each event, from its pre-roll to its post-roll.

    A clip is cut where sound was lost, and where the event gets longer than it may. The sound waits
    in memory and is encoded there too: the disk sees a clip once, and whole.
    """

    def __init__(self, settings: Clips, directory: Path, rate_hz: int, on_written: Callable[[SavedClip], None]) -> None:
        """Prepare; ``on_written`` is called with each clip, in the worker's thread."""
        self.types = frozenset({"onset", "offset", "health"})  # health only tells the time
        self.labels = frozenset(settings.labels) or None
        self._settings, self._rate_hz, self._on_written = settings, rate_hz, on_written
        self._folder, self._path = ClipFolder(directory, settings), directory
        self._before, self._after = round(settings.pre_roll_s * rate_hz), round(settings.post_roll_s * rate_hz)
        self._longest = round(settings.max_s * rate_hz)
        self._ring = SoundRing(self._before + self._longest + self._after + round(_DELAY_S * rate_hz))
        self._clips: dict[str, _Clip] = {}
        self._trouble: str | None = None
        self._now: datetime | None = None
        self._forget_at = 0.0

    def on_chunk(self, chunk: AudioChunk) -> None:
        """Take a chunk of the sound; for the engine's thread, does not wait for the disk."""
        self._ring.push(chunk)

    def open(self) -> None:
        """Make the folder; raises RetryableError where that cannot be."""
        try:
            self._folder.open()
        except OSError as error:
            raise RetryableError(describe_oserror(self._path, error)) from error

    def write(self, record: Record) -> None:
        """Take note of an event; its clip is written by ``tick``."""
        moment = datetime.fromisoformat(record.time) if record.time else None
        if record.clock_synced and moment:
            self._now = moment
        if isinstance(record, OnsetRecord):
            self._clips[record.id] = _Clip(
                record.label, moment or datetime.now(UTC), self._ring.stream, self._sample(record.onset_s)
            )
        elif isinstance(record, OffsetRecord) and (clip := self._clips.get(record.id)):
            clip.offset = self._sample(record.offset_s)
            clip.due = time.monotonic() + self._settings.post_roll_s + _DELAY_S

    def tick(self) -> None:
        """Write the clips whose sound is complete, and forget what is too old.

        Raises DetectorError where that cannot be, and from then on until a clip is written again.
        """
        if self._now and time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + _HOUR_S
            self._folder.forget(self._now)
        self._write_clips(all_of_them=False)
        if self._trouble:
            raise DetectorError(self._trouble)

    def close(self) -> None:
        """Write all clips with the sound there is; raises DetectorError where that cannot be."""
        self._trouble = None
        self._write_clips(all_of_them=True)
        if self._trouble:
            raise DetectorError(self._trouble)

    def _sample(self, position_s: float) -> int:
        return round(position_s * self._rate_hz)

    def _write_clips(self, *, all_of_them: bool) -> None:
        for event_id, clip in list(self._clips.items()):
            run = self._ring.run_from(clip.onset) if clip.stream == self._ring.stream else None
            may_wait = not all_of_them and time.monotonic() < clip.due
            if may_wait and run and run.is_growing and run.end < self._end(clip):
                continue
            del self._clips[event_id]
            try:
                self._write_clip(event_id, clip, run)
                self._trouble = None
            except DetectorError as error:
                self._trouble = str(error)

    def _end(self, clip: _Clip) -> int:
        """Return where a clip ends at the latest."""
        longest = clip.onset + self._longest
        return (longest if clip.offset is None else min(clip.offset, longest)) + self._after

    def _write_clip(self, event_id: str, clip: _Clip, run: Run | None) -> None:
        first, end = clip.onset - self._before, self._end(clip)
        if run is not None:
            first, end = max(first, run.first), min(end, run.end)
        if run is None or end <= first:
            raise DetectorError(f"{self._path}: the sound of a clip was gone before it could be written")
        name = clip_name(clip.moment, clip.label, event_id)
        with os.fdopen(os.memfd_create("clip"), "w+b") as memory:
            self._encode(memory.fileno(), first, end)
            size = memory.seek(0, os.SEEK_END)
            memory.seek(0)
            path = self._folder.put(name, memory, size)
        self._on_written(SavedClip(event_id, clip.label, str(path), size))

    def _encode(self, descriptor: int, first: int, end: int) -> None:
        """Write the samples to a descriptor as FLAC."""
        # By descriptor, since files in Python's hands need callbacks, which a hardened service may not make.
        with soundfile.SoundFile(descriptor, "w", self._rate_hz, 1, "PCM_16", format="FLAC", closefd=False) as file:
            for at in range(first, end, _BLOCK):
                file.write(self._ring.read(at, min(at + _BLOCK, end)))
