"""Replay: sound files and raw samples through the live pipeline, events into a sink."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Generator, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from detector.cli_program import StopOnSignal, Stopped, report, tell
from detector.cli_progress import Bar
from detector.errors import ConfigError, DetectorError, ManifestError, SourceError
from detector.messages import AudioChunk, Event, Scores
from detector.pipeline import Detector
from detector.read_ahead import read_ahead
from detector.records import Origin, event_record
from detector.sinks.json_lines import JsonLinesSink
from detector.sinks.scores_file import ScoresFile
from detector.sinks.sink import Sink
from detector.sinks.text import TextSink
from detector.sources import FileSource, PcmSource, Source, in_real_time

STDIN = "-"


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked ``snn-detect replay`` for."""

    files: tuple[str, ...]
    """Names as given; ``-`` is raw samples on standard input."""
    model: Path | None
    as_json: bool
    realtime: bool
    rate: int
    sample_format: str
    channels: int
    """Rate in Hz, format and channels of raw samples."""
    scores: Path | None
    only: tuple[str, ...]
    """Labels to report; none is all."""
    thresholds: dict[str, float]
    start_time: datetime | None
    """Time of day of the first sample."""
    quiet: bool

    def scores_paths(self) -> list[Path | None]:
        """Return where each file's scores go; raises ConfigError where two would go to one place."""
        target = self.scores
        if target is not None and target.suffix != ".npz":
            raise ConfigError(f"--scores {target}: the name must end in .npz")
        if target is None or len(self.files) == 1:
            return [target] * len(self.files)
        stems = ["stdin" if name == STDIN else Path(name).stem for name in self.files]
        if twice := {stem for stem in stems if stems.count(stem) > 1}:
            raise ConfigError(f"--scores: several files are called {min(twice)!r}; replay them one at a time")
        return [target.with_name(f"{target.stem}-{stem}{target.suffix}") for stem in stems]


class Replay:
    """One run of the command: one model, one sink, any number of files after each other."""

    def __init__(self, options: Options, stop: StopOnSignal) -> None:
        """Load the model; raises ManifestError or ConfigError for what the options cannot have."""
        self._options = options
        self._stop = stop
        self._scores_paths = options.scores_paths()
        self._detector = Detector.load(options.model, options.thresholds)
        self._rate_hz = self._detector.sample_rate_hz
        labels = self._detector.labels
        for label in options.only:
            if label not in labels:
                raise ConfigError(f"--only: unknown label {label!r}; the model knows {', '.join(labels)}")
        self._sink = _sink(as_json=options.as_json)
        self._bar = Bar(wanted=not options.quiet)
        self._seq = 0
        self._sounds = 0

    def run(self) -> int:
        """Replay all files and return the exit code; errors of a file are told, and the next one follows."""
        code = 0
        for name, scores_path in zip(self._options.files, self._scores_paths, strict=True):
            try:
                self._one(name, scores_path)
            except ManifestError:
                raise  # the model's fault, not the file's
            except DetectorError as error:
                report(error)
                code = max(code, error.exit_code)
            except Stopped:
                pass  # while a file was being opened; the code below is the same
            if self._stop.number is not None:
                return self._stop.exit_code
        return code

    def _one(self, name: str, scores_path: Path | None) -> None:
        begin = time.perf_counter()
        self._sounds = 0
        with ExitStack() as stack:
            with self._stop.waiting():
                source = stack.enter_context(closing(self._open(name)))
            scores = None
            if scores_path is not None:
                scores = stack.enter_context(closing(ScoresFile(scores_path, self._detector.labels)))
            with self._bar.over(name, source):
                fault = self._listen(source, self._origin(name), scores)
        if not self._options.quiet and source.frames_read:
            self._summarise(name, source, time.perf_counter() - begin)
        if fault is not None:
            raise fault

    def _listen(self, source: Source, origin: Origin, scores: ScoresFile | None) -> SourceError | None:
        """Take a source to its end, to a fault or to a signal, close open events, and return the fault."""
        fault: SourceError | None = None
        try:
            with closing(self._chunks(source)) as chunks:
                for chunk in self._stop.between(chunks):
                    self._take(*self._detector.process(chunk.samples), origin, scores)
                    self._bar.advance(source)
        except SourceError as error:
            fault = error
        except Stopped:
            pass  # the events that are open are closed like those at the end
        self._take(*self._detector.finish(), origin, scores)
        if scores is not None and self._stop.number is None:
            features = self._detector.manifest.features
            scores.save(self._rate_hz, features.hop_length, features.frame_length)
        return fault

    def _chunks(self, source: Source) -> Generator[AudioChunk, None, None]:
        """Return the source's chunks at the pace that was asked for."""
        if self._options.realtime:
            return in_real_time(source, self._rate_hz)
        # Raw samples may be live: they are taken as they come.
        return read_ahead(source) if source.frames_total is not None else (chunk for chunk in source)

    def _take(self, scores: Scores, events: Iterable[Event], origin: Origin, file: ScoresFile | None) -> None:
        if file is not None:
            file.push(scores)
        for event in events:
            if self._options.only and event.label not in self._options.only:
                continue
            self._seq += 1
            self._sounds += event.kind == "onset"
            with self._bar.aside():
                self._sink.write(event_record(event, origin, self._seq))

    def _open(self, name: str) -> Source:
        if name == STDIN:
            if sys.stdin.isatty():
                raise ConfigError("standard input is a terminal; pipe raw samples into it, or name a file")
            o = self._options
            return PcmSource(sys.stdin.buffer, o.rate, o.sample_format, o.channels, self._rate_hz)
        return FileSource(name, self._rate_hz, self._detector.chunk_samples)

    def _origin(self, name: str) -> Origin:
        manifest = self._detector.manifest
        return Origin(
            source="stdin" if name == STDIN else name,
            stream=str(uuid.uuid4()) if name == STDIN else str(Path(name).resolve()),
            rate_hz=self._rate_hz,
            model=f"{manifest.name}-{manifest.version}",
            model_sha256=self._detector.sha256,
            started=self._options.start_time,
        )

    def _summarise(self, name: str, source: Source, wall_s: float) -> None:
        heard_s = source.frames_read / source.source_rate_hz
        found = f"{self._sounds} sound{'' if self._sounds == 1 else 's'}"
        speed = f"in {wall_s:.2f} s ({heard_s / wall_s:.0f} x real time)"
        tell(f"{name}: {heard_s:.1f} s, {found}, {speed}")


def _sink(*, as_json: bool) -> Sink:
    if as_json or not sys.stdout.isatty():
        return JsonLinesSink(sys.stdout)
    from rich.console import Console

    return TextSink(Console())
