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
from detector.replay_files import FileNotes, places
from detector.sinks.json_lines import JsonLinesSink
from detector.sinks.label_files import TABLE_HEAD, check_place, table_rows, write_rows
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

    picture: Path | None = None
    audacity: Path | None = None
    """Where to write these; with several files each has its own."""
    tsv: Path | None = None


class Replay:
    """One run of the command: one model, one sink, any number of files after each other."""

    def __init__(self, options: Options, stop: StopOnSignal) -> None:
        """Load the model; raises ManifestError or ConfigError for what the options cannot have."""
        self._options = options
        self._stop = stop
        names = options.files
        self._places = list(
            zip(
                places("--scores", options.scores, names, (".npz",)),
                places("--picture", options.picture, names, (".png", ".pdf", ".svg")),
                places("--audacity", options.audacity, names, ()),
                strict=True,
            )
        )
        self._rows: list[tuple[str, ...]] = [TABLE_HEAD]
        if options.tsv is not None:
            check_place(options.tsv, "--tsv")
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
        for name, where in zip(self._options.files, self._places, strict=True):
            try:
                self._one(name, FileNotes(self._detector, *where))
            except ManifestError:
                raise  # the model's fault, not the file's
            except DetectorError as error:
                report(error)
                code = max(code, error.exit_code)
            except Stopped:
                pass  # while a file was being opened; the code below is the same
            if self._stop.number is not None:
                return self._stop.exit_code
        if self._options.tsv is not None:
            write_rows(self._options.tsv, self._rows)
        return code

    def _one(self, name: str, notes: FileNotes) -> None:
        begin = time.perf_counter()
        self._sounds = 0
        with ExitStack() as stack:
            stack.enter_context(notes.taken())
            with self._stop.waiting():
                source = stack.enter_context(closing(self._open(name)))
            with self._bar.over(name, source):
                fault = self._listen(source, self._origin(name), notes)
            if self._stop.number is None:
                notes.save(name)
        if not self._options.quiet and source.frames_read:
            self._summarise(name, source, time.perf_counter() - begin)
        if fault is not None:
            raise fault

    def _listen(self, source: Source, origin: Origin, notes: FileNotes) -> SourceError | None:
        """Take a source to its end, to a fault or to a signal, close open events, and return the fault."""
        fault: SourceError | None = None
        try:
            with closing(self._chunks(source)) as chunks:
                for chunk in chunks:
                    notes.hear(chunk.samples)
                    self._take(*self._detector.process(chunk.samples), origin, notes)
                    self._bar.advance(source)
        except SourceError as error:
            fault = error
        except Stopped:
            pass  # the events that are open are closed like those at the end
        self._take(*self._detector.finish(), origin, notes)
        return fault

    def _chunks(self, source: Source) -> Generator[AudioChunk, None, None]:
        """Return the source's chunks at the pace that was asked for; a signal ends them with Stopped."""
        if self._options.realtime:
            return self._stop.between(in_real_time(source, self._rate_hz))
        # Raw samples may be live: they are taken as they come.
        return read_ahead(source, self._stop.look) if source.frames_total is not None else self._stop.between(source)

    def _take(self, scores: Scores, events: Iterable[Event], origin: Origin, notes: FileNotes) -> None:
        notes.judge(scores)
        for event in events:
            if self._options.only and event.label not in self._options.only:
                continue
            self._seq += 1
            self._sounds += event.kind == "onset"
            record = event_record(event, origin, self._seq)
            notes.note(record)
            if self._options.tsv is not None:
                self._rows += table_rows(origin.source, [record])
            with self._bar.aside():
                self._sink.write(record)

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
