"""Sound around events, as FLAC files in a folder with limits on size, number, age and free disk space."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from pydantic import Field

from detector.config.paths import clips_directory
from detector.config.sections import Labels, LimitInDays, UserPath, slug
from detector.errors import DetectorError
from detector.records import OffsetRecord, OnsetRecord, Record
from detector.sinks.base import (
    AudioTap,
    LiveSink,
    RetryableError,
    SavedClip,
    SinkContext,
    SinkSection,
    SinkSpec,
    describe_oserror,
)
from detector.system import replace_file

if TYPE_CHECKING:
    from detector.audio.live_source import Segment
    from detector.messages import AudioChunk

_NAME: Final = r"\d{8}T\d{6}\.\d{3}Z_[a-zA-Z0-9_-]+_[a-zA-Z0-9-]+"
_OURS: Final = re.compile(rf"{_NAME}\.flac")
_UNFINISHED: Final = re.compile(rf"\.{_NAME}(\.\d+\.flac|\.flac\.part)")
"""What a crash leaves: a name with the number of the process, or that of an earlier version."""
_FOLDER_MODE: Final = 0o750
_MODE: Final = 0o640
_DELAY_S: Final = 5.0
"""Sound kept beyond the longest clip, since a clip is written some time after its last sample."""
_BLOCK: Final = 65536
_HOUR_S: Final = 3600.0


class Clips(SinkSection):
    """Recordings of the sounds, as FLAC files: off unless this section is there. They may hold what people say."""

    directory: UserPath | None = Field(
        None,
        description="The folder. Left out: clips in the state directory.",
        examples=["/var/lib/snn-detect/clips"],
    )
    labels: Labels = Field((), description="Labels to record. Empty: all.")
    pre_roll_s: float = Field(2.0, ge=0, le=30, description="Seconds to record before the onset.")
    post_roll_s: float = Field(2.0, ge=0, le=30, description="Seconds to record after the offset.")
    max_s: float = Field(30.0, gt=0, le=300, description="Longest sound in seconds; the clip of a longer one is cut.")
    max_bytes: int = Field(
        1_000_000_000, gt=0, description="Bytes of all clips; the oldest are deleted where there are more."
    )
    max_files: int = Field(10_000, gt=0, description="Number of clips; the oldest are deleted where there are more.")
    max_days: LimitInDays = Field(30.0, description="Days after which a clip is deleted. 0: never for its age.")
    min_free_bytes: int = Field(
        200_000_000, ge=0, description="Bytes that stay free on the disk: below that nothing is recorded."
    )

    @property
    def folder(self) -> Path:
        """The folder, the default one where none is named."""
        return self.directory or clips_directory()

    def build(self, context: SinkContext, /) -> SinkSpec:
        """Return the sink; it stays while sources come and go, so that the sound of the others stays, too."""
        identity = (self, self.folder)
        return SinkSpec(identity, lambda: ClipSink(*identity, context.on_clip))


def clip_name(moment: datetime, label: str, event_id: str, source: str = "") -> str:
    """Return a file's name: names sort as their times do."""
    utc = moment.astimezone(UTC)
    what = slug(f"{source}_{label}" if source else label)
    return f"{utc:%Y%m%dT%H%M%S}.{utc.microsecond // 1000:03d}Z_{what}_{slug(event_id).replace('_', '-')}.flac"


class ClipFolder:
    """Keep clips within the limits; the oldest are deleted first, files that are no clips are left alone."""

    def __init__(self, path: Path, settings: Clips) -> None:
        """Prepare."""
        self._path, self._settings = path, settings

    def open(self) -> None:
        """Create the folder, and remove what a crash has left unfinished.

        The folders above it are created only where the settings name none. Raises OSError where that cannot be.
        """
        self._path.mkdir(mode=_FOLDER_MODE, parents=self._settings.directory is None, exist_ok=True)
        for path in self._path.iterdir():
            if _UNFINISHED.fullmatch(path.name):
                path.unlink()

    def delete_old(self, now: datetime) -> None:
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
        """Copy a clip of ``size`` bytes here, complete or not at all, and return its path.

        Raises DetectorError where there is no room for it, or it cannot be written.
        """
        from shutil import copyfileobj

        path = self._path / name
        try:
            self._make_room(size)
            with replace_file(path) as part, os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT, _MODE), "wb") as file:
                copyfileobj(source, file)
        except OSError as error:
            raise DetectorError(describe_oserror(path, error)) from error
        return path

    def _make_room(self, size: int) -> None:
        """Delete the oldest clips until another one fits; none to free disk space where all of them are too few."""
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


class _Sound:
    """The last sound of one source, as long as a clip may need it."""

    def __init__(self, settings: Clips, rate_hz: int) -> None:
        from detector.audio.live_source import SoundRing

        self.rate_hz = rate_hz
        self.before, self.after = round(settings.pre_roll_s * rate_hz), round(settings.post_roll_s * rate_hz)
        self.longest = round(settings.max_s * rate_hz)
        self.ring = SoundRing(self.before + self.longest + self.after + round(_DELAY_S * rate_hz))

    def on_chunk(self, chunk: AudioChunk) -> None:
        """Keep a chunk of the sound; called in the thread of the source, does not wait for the disk."""
        self.ring.push(chunk)

    def sample(self, position_s: float) -> int:
        """Return the sample at a position in the stream."""
        return round(position_s * self.rate_hz)


@dataclass(slots=True)
class _Clip:
    """An event whose clip is not written yet; positions are samples since the stream began."""

    source: str
    sound: _Sound
    label: str
    moment: datetime
    stream: int
    onset: int
    offset: int | None = None
    due: float = math.inf
    """When it is written, by the monotonic clock, also if its post-roll never comes: the device may be gone."""

    @property
    def end(self) -> int:
        """Where it ends at the latest."""
        longest = self.onset + self.sound.longest
        return (longest if self.offset is None else min(self.offset, longest)) + self.sound.after


class ClipSink(LiveSink):
    """Write a clip for each event, from its pre-roll to its post-roll.

    A clip is cut where sound was lost, and where the event is longer than ``max_s``. The sound is kept
    and encoded in memory, so that a clip is written to the disk once.
    """

    makes_records = True

    def __init__(self, settings: Clips, directory: Path, on_written: Callable[[SavedClip], None]) -> None:
        """Prepare; ``on_written`` is called with each clip, in the worker's thread."""
        self.types = frozenset({"onset", "offset", "health"})  # health for its time of day alone
        self.labels = frozenset(settings.labels) or None
        self._settings, self._on_written = settings, on_written
        self._folder, self._path = ClipFolder(directory, settings), directory
        self._sounds: dict[str, _Sound] = {}
        self._clips: dict[str, _Clip] = {}
        self._trouble: str | None = None
        self._now: datetime | None = None
        self._delete_at = 0.0

    def taps(self, rates_hz: Mapping[str, int]) -> Mapping[str, AudioTap]:
        """Keep the sound of each source; that of one with another rate starts again."""
        known = {name: s for name, s in self._sounds.items() if rates_hz.get(name) == s.rate_hz}
        self._sounds = {name: known.get(name) or _Sound(self._settings, rate) for name, rate in rates_hz.items()}
        return self._sounds

    def open(self) -> None:
        """Create the folder; raises RetryableError where that cannot be."""
        try:
            self._folder.open()
        except OSError as error:
            raise RetryableError(describe_oserror(self._path, error)) from error

    def write(self, record: Record) -> None:
        """Note an event; its clip is written by ``tick``."""
        moment = datetime.fromisoformat(record.time) if record.time else None
        if record.clock_synced and moment:
            self._now = moment
        if isinstance(record, OnsetRecord) and (sound := self._sounds.get(record.source)):
            onset, stream = sound.sample(record.onset_s), sound.ring.stream
            moment = moment or datetime.now(UTC)
            self._clips[record.id] = _Clip(record.source, sound, record.label, moment, stream, onset)
        elif isinstance(record, OffsetRecord) and (clip := self._clips.get(record.id)):
            clip.offset = clip.sound.sample(record.offset_s)
            clip.due = time.monotonic() + self._settings.post_roll_s + _DELAY_S

    def tick(self) -> None:
        """Write the clips whose sound is complete, and delete what is too old.

        Raises DetectorError where that cannot be, and from then on until a clip is written again.
        """
        if self._now and time.monotonic() >= self._delete_at:
            self._delete_at = time.monotonic() + _HOUR_S
            self._folder.delete_old(self._now)
        self._write_clips(all_of_them=False)
        if self._trouble:
            raise DetectorError(self._trouble)

    def close(self) -> None:
        """Write all clips with the sound there is; raises DetectorError where that cannot be."""
        self._trouble = None
        self._write_clips(all_of_them=True)
        if self._trouble:
            raise DetectorError(self._trouble)

    def _write_clips(self, *, all_of_them: bool) -> None:
        for event_id, clip in list(self._clips.items()):
            segment = clip.sound.ring.segment_from(clip.onset, clip.stream)
            may_wait = not all_of_them and time.monotonic() < clip.due
            if may_wait and segment and segment.is_growing and segment.end < clip.end:
                continue
            del self._clips[event_id]
            try:
                self._write_clip(event_id, clip, segment)
                self._trouble = None
            except DetectorError as error:
                self._trouble = str(error)

    def _write_clip(self, event_id: str, clip: _Clip, segment: Segment | None) -> None:
        first, end = clip.onset - clip.sound.before, clip.end
        if segment is not None:
            first, end = max(first, segment.first), min(end, segment.end)
        if segment is None or end <= first:
            raise DetectorError(f"{self._path}: the sound of a clip was gone before it could be written")
        name = clip_name(clip.moment, clip.label, event_id, clip.source if len(self._sounds) > 1 else "")
        with os.fdopen(os.memfd_create("clip"), "w+b") as memory:
            _encode(memory.fileno(), clip, first, end)
            size = memory.seek(0, os.SEEK_END)
            memory.seek(0)
            path = self._folder.put(name, memory, size)
        self._on_written(SavedClip(clip.source, event_id, clip.label, str(path), size))


def _encode(descriptor: int, clip: _Clip, first: int, end: int) -> None:
    """Write the samples to a descriptor as FLAC."""
    import soundfile

    # By descriptor: for a Python file, soundfile needs callbacks, which a hardened service may not create.
    with soundfile.SoundFile(descriptor, "w", clip.sound.rate_hz, 1, "PCM_16", format="FLAC", closefd=False) as file:
        for at in range(first, end, _BLOCK):
            file.write(clip.sound.ring.read(at, min(at + _BLOCK, end), clip.stream))
