"""Listening for scores: to files, or to a microphone for a wanted time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from detector.calibration.score_store import ScoreStore
from detector.errors import ConfigError, SourceError
from detector.messages import Samples
from detector.microphone.levels import FLOOR_DBFS
from detector.microphone.news import Condition, LiveSource, Sound
from detector.pipeline import Detector
from detector.read_ahead import read_ahead
from detector.sound_names import sounds_below
from detector.sources import FileSource

if TYPE_CHECKING:
    from detector.cli_program import StopOnSignal

_TURN_S: Final = 0.2
Advance = Callable[[float, float], None]
"""Told what share of the sound has been heard, and how loud it is, in dBFS."""


def sound_files(places: Iterable[Path]) -> list[Path]:
    """Return files and the sounds below folders, each once; raises SourceError for a folder without any."""
    found: dict[Path, None] = {}
    for place in places:
        files = list(sounds_below(place)) if place.is_dir() else [place]
        if not files:
            raise SourceError(f"{place}: no sound files in this folder; name one with WAV, FLAC, OGG or MP3 files")
        found |= dict.fromkeys(files)
    return list(found)


class Measurement:
    """Takes sound through a detector and keeps the scores."""

    def __init__(self, detector: Detector, store: ScoreStore, stop: StopOnSignal) -> None:
        """Take a detector with a fresh state; signals end a measurement by ``Stopped``, with the scores so far kept."""
        self._detector, self._store, self._stop = detector, store, stop
        self._rate_hz = detector.sample_rate_hz

    def is_heard(self, path: Path) -> bool:
        """Tell whether a file was heard to its end."""
        return self._store.heard_to(_identity(path)) is None

    def hear_file(self, path: Path, label: str | None, advance: Advance) -> None:
        """Hear a file from where it was left; ``label``: it is a recording of that class.

        Raises SourceError, behind all that could be heard, where the file is missing or damaged.
        """
        source_id = _identity(path)
        begin = self._store.heard_to(source_id)
        if begin is None:
            return
        with closing(FileSource(path, self._rate_hz, self._detector.chunk_samples)) as source:
            total = source.frames_total or math.inf
            self._store.begin(source_id, label)
            try:
                with closing(read_ahead(source, self._stop.look)) as chunks:
                    for chunk in chunks:
                        end = chunk.first_sample + len(chunk.samples)
                        samples = chunk.samples[max(0, begin - chunk.first_sample) :]
                        self._store.push(self._detector.process(samples)[0], end)
                        advance(source.frames_read / total, level_dbfs(samples))
                self._store.push(self._detector.finish()[0], 0)
                self._store.end(is_end=True)
            finally:
                self._detector.reset()
                self._store.end()

    def hear_live(self, source: LiveSource, seconds: float, advance: Advance, tell: Callable[[str], None]) -> None:
        """Hear so many seconds of a live source; what happens to it is told in lines.

        Raises SourceError, behind all that could be heard, where the sound cannot go on.
        """
        heard, wanted = 0, seconds * self._rate_hz
        try:
            while heard < wanted:
                news = source.take(_TURN_S)
                self._stop.look()
                if news is None:
                    return
                for item in news:
                    if isinstance(item, Sound) and heard < wanted:  # a pipe gives seconds at once
                        heard += self._take(item, source.figures.device, is_first=not heard)
                    elif isinstance(item, Condition):
                        tell(item.detail)
                advance(heard / wanted, source.figures.rms_dbfs)
        finally:
            self._detector.reset()
            self._store.end()

    def _take(self, sound: Sound, device: str, *, is_first: bool) -> int:
        """Keep the scores of a chunk, and return its length; behind a gap the detector has begun anew."""
        chunk = sound.chunk
        if is_first or chunk.gap:
            self._store.begin("live", device=device)
        scores, _ = self._detector.process_chunk(chunk)
        self._store.push(scores, chunk.first_sample + len(chunk.samples))
        return len(chunk.samples)


def level_dbfs(samples: Samples) -> float:
    """Return the RMS level of samples; that of none, or of silence, is the floor of all levels."""
    power = float(np.dot(samples, samples)) / len(samples) if len(samples) else 0.0
    return max(FLOOR_DBFS, 10 * math.log10(power)) if power > 0 else FLOOR_DBFS


def _identity(path: Path) -> str:
    """Return what tells a file's content from others: where it is, how large, and when it was written."""
    try:
        status = path.stat()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SourceError(f"{path}: cannot be opened ({reason}); check the name and the permissions") from error
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def check_labels(labels: Iterable[str], detector: Detector, option: str) -> None:
    """Raise ConfigError for a label that the model does not know."""
    for label in labels:
        if label not in detector.labels:
            raise ConfigError(f"{option}: unknown label {label!r}; the model knows {', '.join(detector.labels)}")
