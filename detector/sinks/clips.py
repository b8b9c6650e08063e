"""Sound around events, as FLAC files."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import soundfile

from detector.errors import DetectorError
from detector.messages import AudioChunk
from detector.settings import Clips
from detector.sinks.clip_folder import ClipFolder, clip_name
from detector.sinks.disk import refusal
from detector.sinks.sink import LiveSink, Record, TryAgainError
from detector.sinks.sound_ring import Run, SoundRing

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

    def __init__(
        self, settings: Clips, directory: Path, rate_hz: int, on_written: Callable[[dict[str, Any]], None]
    ) -> None:
        """Prepare; ``on_written`` is called with id, label, path and bytes of each clip, in the worker's thread."""
        self.types = frozenset({"onset", "offset", "health"})  # health only tells the time
        self.labels = frozenset(settings.labels) or None
        self._settings, self._rate_hz, self._on_written = settings, rate_hz, on_written
        self._folder, self._path = ClipFolder(directory, settings), directory
        self._before, self._after = round(settings.pre_roll_s * rate_hz), round(settings.post_roll_s * rate_hz)
        self._longest = round(settings.longest_s * rate_hz)
        self._ring = SoundRing(self._before + self._longest + self._after + round(_DELAY_S * rate_hz))
        self._clips: dict[str, _Clip] = {}
        self._trouble: str | None = None
        self._now: datetime | None = None
        self._forget_at = 0.0

    def hear(self, chunk: AudioChunk) -> None:
        """Take a chunk of the sound; for the engine's thread, does not wait for the disk."""
        self._ring.push(chunk)

    def open(self) -> None:
        """Make the folder; raises TryAgainError where that cannot be."""
        try:
            self._folder.open()
        except OSError as error:
            raise TryAgainError(refusal(self._path, error)) from error

    def write(self, record: Record) -> None:
        """Take note of an event; its clip is written by ``tick``."""
        moment = datetime.fromisoformat(record["time"]) if record["time"] else None
        if record.get("clock_synced") and moment:
            self._now = moment
        if record["type"] == "onset":
            self._clips[record["id"]] = _Clip(
                record["label"], moment or datetime.now(UTC), self._ring.stream, self._sample(record["onset_s"])
            )
        elif record["type"] == "offset" and (clip := self._clips.get(record["id"])):
            clip.offset = self._sample(record["offset_s"])
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
        self._on_written({"id": event_id, "label": clip.label, "path": str(path), "bytes": size})

    def _encode(self, descriptor: int, first: int, end: int) -> None:
        """Write the samples to a descriptor as FLAC."""
        # By descriptor, since files in Python's hands need callbacks, which a hardened service may not make.
        with soundfile.SoundFile(descriptor, "w", self._rate_hz, 1, "PCM_16", format="FLAC", closefd=False) as file:
            for at in range(first, end, _BLOCK):
                file.write(self._ring.read(at, min(at + _BLOCK, end)))
