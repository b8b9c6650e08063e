"""The command ``snn-detect replay``: files and raw samples through the live pipeline, to records and other files."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

import click
from click.shell_completion import CompletionItem

from detector.cli.program import (
    Gauge,
    Moment,
    all_classes_option,
    check_raw_options,
    force_option,
    mixing_options,
    model_option,
    only_option,
    print_error,
    raw_options,
    sensitivity_option,
    threshold_option,
)
from detector.config.paths import STDIN
from detector.errors import ConfigError, DetectorError, ManifestError, SourceError
from detector.records import EventRecord, OffsetRecord, StreamInfo, event_record
from detector.service.process import FileProgress, SignalHandler, Workers, can_fork
from detector.system import (
    PICTURE,
    FileKind,
    Output,
    check_outputs,
    limit_heap,
    replace_file,
    table_kind,
    write_text,
)

if TYPE_CHECKING:
    import zipfile

    from detector.audio.live_source import Channel, SourceEvent
    from detector.audio.sources import ReadSource
    from detector.manifest import Sensitivity
    from detector.messages import Event, Samples, Scores
    from detector.pipeline import Detector
    from detector.sinks.base import Sink

_PROGRESS_S: Final = 0.1
_SHOWN: Final = 4
"""Files at once whose progress is shown by name."""
_TIMES_AT_ONCE: Final = 65_536
"""Times written together: bounds the memory of a long stream."""
TABLE_HEAD: Final = ("filename", "onset", "offset", "event_label")
"""Columns of DCASE's strong labels, as sed_eval and psds_eval read them."""
_TABLE: Final = table_kind("an event table", TABLE_HEAD, "\t")
RAVEN_HEAD: Final = (
    *("Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)"),
    *("Annotation", "Score"),
)
"""Columns of a selection table of Raven; the last two are annotations."""
_RAVEN: Final = table_kind("a selection table", RAVEN_HEAD, "\t")
_LABEL_TRACK: Final = FileKind("a label track", re.compile(rb"\d+(\.\d+)?\t\d+(\.\d+)?\t"))
_SCORES: Final = FileKind("a file of scores", re.compile(rb"PK\x03\x04.{26}scores\.npy", re.DOTALL))


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="FILE...",
    shell_complete=lambda _ctx, _param, begun: [CompletionItem(begun, type="file")],
)
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines on a terminal too.")
@click.option("--realtime", is_flag=True, help="Read the sound in real time, as from a microphone.")
@raw_options
@mixing_options
@click.option("--scores", type=click.Path(path_type=Path), help="Write the scores of every frame to this .npz file.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="Draw waveform, features, spikes, scores and events on one sheet: .png, .pdf or .svg.",
)
@click.option("--audacity", type=click.Path(path_type=Path), help="Write the sounds as a label track of Audacity.")
@click.option("--raven", type=click.Path(path_type=Path), help="Write the sounds as a selection table of Raven.")
@click.option("--tsv", type=click.Path(path_type=Path), help="Write the sounds of all files as a DCASE event table.")
@only_option
@all_classes_option
@sensitivity_option
@threshold_option
@force_option
@click.option("--jobs", type=click.IntRange(min=1), help="Files to replay at once.  [default: one for each core]")
@click.option("--start-time", type=Moment(), help="When the recording began: fills the time of the events.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no summary, only errors.")
@click.pass_context
def replay(ctx: click.Context, /, **options: Any) -> None:
    """Detect sounds in files, or in raw samples on standard input (-).

    On a terminal the events are readable lines; elsewhere, and with --json, JSON lines. For a file that
    cannot be used, or not to its end, an error is printed, and the others follow; the exit code is then 66.
    With several files, the scores of a.wav are written to NAME-a.npz, pictures, label tracks and selection
    tables likewise; several files at once are replayed by as many processes, which changes neither the output nor
    its order.
    """
    files: tuple[str, ...] = options["files"]
    check_raw_options(ctx, reads_raw=STDIN in files)
    if files.count(STDIN) > 1:
        raise click.UsageError("Standard input (-) can be read only once.")
    if options["track"] is not None and STDIN in files:
        raise click.UsageError("--track is for files: raw samples on standard input (-) have no tracks.")
    if options["start_time"] and len(files) > 1:
        raise click.UsageError("--start-time needs a single FILE: several began at several times.")
    with SignalHandler() as signals:
        ctx.exit(Replay(Options(**options), signals).run())


def audacity_rows(records: Iterable[EventRecord]) -> list[tuple[str, ...]]:
    """Return onset, offset and label of each offset among the records, in seconds, the earliest first."""
    return sorted(
        ((f"{r.onset_s:.6f}", f"{r.offset_s:.6f}", r.label) for r in records if isinstance(r, OffsetRecord)),
        key=lambda row: (float(row[0]), float(row[1]), row[2]),
    )


def raven_rows(
    records: Iterable[EventRecord], low_hz: float, high_hz: float, column: int | None = None
) -> list[tuple[str, ...]]:
    """Return Raven's selections of the offsets among the records, in the band that the detector uses, and the head.

    They are in the channel that the detector was given, the one with the index ``column``; of a mean in the first.
    """
    offsets = sorted(
        (r for r in records if isinstance(r, OffsetRecord)), key=lambda r: (r.onset_s, r.offset_s, r.label)
    )
    rows = [(f"{r.onset_s:.6f}", f"{r.offset_s:.6f}", f"{low_hz:.1f}", f"{high_hz:.1f}", r.label) for r in offsets]
    scores = (f"{r.peak:.4f}" for r in offsets)
    numbered = enumerate(zip(rows, scores, strict=True), 1)
    channel = str((column or 0) + 1)
    return [RAVEN_HEAD, *((str(n), "Spectrogram 1", channel, *row, score) for n, (row, score) in numbered)]


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def table_rows(name: str, records: Iterable[EventRecord]) -> list[tuple[str, ...]]:
    """Return the rows of DCASE's table for the file ``name``; its folder is left out."""
    return [(Path(name).name, *row) for row in audacity_rows(records)]


def write_rows(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    """Write rows of cells separated by tabs, whole or not at all; raises OSError. Control characters are replaced."""
    lines = ("\t".join(_CONTROL.sub("\ufffd", " ".join(c.split())) for c in row) + "\n" for row in rows)
    write_text(path, "".join(lines), errors="backslashreplace")


class ScoresFile:
    """Scores of one stream in an .npz file: ``scores`` (frames, classes), ``times_s`` (frames,), ``labels``.

    ``times_s`` holds the end of each frame. Meanwhile the scores are kept in an unnamed file on the same disk, not in
    memory; the .npz file appears complete or not at all, and equal scores give equal files.
    """

    def __init__(self, path: Path, labels: tuple[str, ...]) -> None:
        """Prepare to write ``path``; raises ConfigError where its folder is not writable."""
        self._path = path
        self._labels = labels
        self._frames = 0
        import tempfile

        try:
            self._spool: IO[bytes] = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - open until close()
        except OSError as error:
            raise ConfigError(f"{path.parent}: scores cannot be written there ({error.strerror})") from error

    def push(self, scores: Scores) -> None:
        """Append scores (frames, classes)."""
        import numpy as np

        self._spool.write(np.ascontiguousarray(scores, "<f4").data)
        self._frames += len(scores)

    def save(self, rate_hz: int, hop_length: int, frame_length: int) -> None:
        """Write the file; frame k ends ``k * hop_length + frame_length`` samples into the stream."""
        import shutil
        import zipfile

        import numpy as np

        with replace_file(self._path) as part, part.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
            self._spool.seek(0)
            with _member(archive, "scores", "<f4", (self._frames, len(self._labels))) as out:
                shutil.copyfileobj(self._spool, out)
            with _member(archive, "times_s", "<f8", (self._frames,)) as out:
                for start in range(0, self._frames, _TIMES_AT_ONCE):
                    k = np.arange(start, min(start + _TIMES_AT_ONCE, self._frames))
                    out.write(((k * hop_length + frame_length) / rate_hz).astype("<f8").data)
            names = np.array(self._labels)
            with _member(archive, "labels", names.dtype.str, names.shape) as out:
                out.write(names.tobytes())

    def close(self) -> None:
        """Discard what has not been saved."""
        self._spool.close()


def _member(archive: zipfile.ZipFile, name: str, dtype: str, shape: tuple[int, ...]) -> IO[bytes]:
    """Open an array of the archive for its bytes; the date is fixed, so that equal scores give equal files."""
    import zipfile

    import numpy as np

    out = archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)
    np.lib.format.write_array_header_1_0(out, {"descr": dtype, "fortran_order": False, "shape": shape})
    return out


class FileNotes:
    """The files that are written for one input besides its records: at its end, or not at all."""

    def __init__(self, detector: Detector, column: int | None, places: Sequence[Path | None]) -> None:
        """Prepare to write to these places, which ``check_outputs`` has passed; ``column``: the channel, from 0."""
        scores, picture, audacity, raven = places
        self._detector, self._audacity, self._raven, self._column = detector, audacity, raven, column
        self._wants_records = bool(picture or audacity or raven)
        self.records: list[EventRecord] = []
        self._sheet = None
        if picture is not None:
            from detector.plots import Sheet

            self._sheet = Sheet(picture, detector)
        self._scores = None if scores is None else ScoresFile(scores, detector.labels)

    @contextmanager
    def taken(self) -> Iterator[FileNotes]:
        """Observe the detector meanwhile, and discard at the end what has not been saved."""
        self._detector.observer = self._sheet
        try:
            with closing(self):
                yield self
        finally:
            self._detector.observer = None

    def on_chunk(self, samples: Samples) -> None:
        """Process samples before the detector does."""
        if self._sheet is not None:
            self._sheet.on_chunk(samples)

    def evaluate(self, scores: Scores) -> None:
        """Process the scores (frames, classes) of these samples."""
        if self._scores is not None:
            self._scores.push(scores)

    def note(self, record: EventRecord) -> None:
        """Process the record of an event."""
        if self._wants_records:
            self.records.append(record)

    def save(self, name: str) -> list[str]:
        """Write all files, and return lines for the user; raises ConfigError where one cannot be written."""
        try:
            return self._save(name)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise ConfigError(f"{where}cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Discard what has not been saved."""
        if self._scores is not None:
            self._scores.close()

    def _save(self, name: str) -> list[str]:
        if self._scores is not None:
            features = self._detector.manifest.features
            self._scores.save(features.sample_rate_hz, features.hop_length, features.frame_length)
        if self._audacity is not None:
            write_rows(self._audacity, audacity_rows(self.records))
        if self._raven is not None:
            features = self._detector.manifest.features
            write_rows(self._raven, raven_rows(self.records, features.f_min_hz, features.f_max_hz, self._column))
        if self._sheet is not None:
            from detector.plots import LONGEST_S

            self._sheet.save(Path(name).name, self.records)
            if self._sheet.is_cut:
                return [f"{name}: the picture shows the first {LONGEST_S / 60:.0f} minutes"]
        return []


def check_names(option: str, names: Sequence[str]) -> None:
    """Raise ConfigError where two inputs share a name, which is all that the output has of them."""
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"{option}: several files are called {min(twice)!r}; replay them one at a time")


def places(option: str, target: Path | None, names: Sequence[str], suffixes: Sequence[str]) -> list[Path | None]:
    """Return the place for each of several inputs: ``target``, with the name of the input before the suffix.

    Raises ConfigError for a suffix that is not one of these (none given: any), and where two inputs share a name.
    """
    if target is not None and suffixes and target.suffix.lower() not in suffixes:
        raise ConfigError(f"{option} {target}: the name must end in {' or '.join(suffixes)}")
    if target is None or len(names) == 1:
        return [target] * len(names)
    stems = ["stdin" if name == STDIN else Path(name).stem for name in names]
    check_names(option, stems)
    return [target.with_name(f"{target.stem}-{stem}{target.suffix}") for stem in stems]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of ``snn-detect replay``."""

    files: tuple[str, ...]
    """Names as given; ``-`` is raw samples on standard input."""
    model: Path | None
    as_json: bool
    realtime: bool
    only: tuple[str, ...]
    """Labels to report; empty for all that are not on trial."""
    thresholds: dict[str, float]
    quiet: bool
    all_classes: bool = False
    """Whether those on trial are reported as well."""
    sensitivity: Sensitivity | None = None
    """Operating point of the model; None: the balanced one."""
    rate: int = 16000
    sample_format: str = "s16le"
    channels: int = 1
    """Rate in Hz, format and channels of raw samples."""
    channel: Channel = "mean"
    track: str | None = None
    """Sound track of files that have several; None: the first."""
    start_time: datetime | None = None
    """Time of day of the first sample."""
    scores: Path | None = None
    picture: Path | None = None
    audacity: Path | None = None
    raven: Path | None = None
    """Where to write these; with several files each has its own."""
    tsv: Path | None = None
    force: bool = False
    """Whether those that exist are replaced."""
    jobs: int | None = None
    """Files to replay at once; None: one for each core."""


Result: TypeAlias = EventRecord | FileProgress | str | Exception | None
"""What comes of a file: records, progress, lines for standard error, the error that ended it; None behind the rest."""


class FileReplay:
    """Replays files with one model, one after another, and emits what comes of them."""

    def __init__(self, options: Options, signals: SignalHandler) -> None:
        """Load the model; raises ManifestError or ConfigError for impossible options."""
        from detector.pipeline import Detector, reported_labels

        limit_heap()
        self._options, self._signals = options, signals
        self._places = file_places(options)
        self._detector = Detector.load(options.model, options.thresholds, options.sensitivity or "balanced")
        self._rate_hz = self._detector.sample_rate_hz
        self._reported = reported_labels(self._detector.manifest, options.only, all_classes=options.all_classes)
        self._emit: Callable[[Result], object] = print
        self._sounds = 0
        self._warnings: list[str] = []

    def run(self, number: int, emit: Callable[[Result], object]) -> None:
        """Replay one of the files; an error is emitted, and all else before it."""
        from detector.audio.live_source import Mixing

        self._emit, self._sounds = emit, 0
        column = Mixing(self._options.channel).column
        try:
            self._replay(self._options.files[number], FileNotes(self._detector, column, self._places[number]))
        except Exception as error:  # noqa: BLE001 - raised again, or printed, in its turn
            error.add_note(traceback.format_exc())  # which does not pass from one process to another
            emit(error)
        emit(None)

    def _replay(self, name: str, notes: FileNotes) -> None:
        begin = time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(notes.taken())
            source = stack.enter_context(closing(self._open(name)))
            fault = self._detect(source, self._stream(name), notes)
            if self._signals.goes_on() and (fault is None or source.frames_read):
                for line in notes.save(name):
                    self._emit(line)
        if not self._options.quiet and source.frames_read:
            self._emit(self._summary(name, source, time.perf_counter() - begin))
        if fault is not None:
            raise fault

    def _detect(self, source: ReadSource, stream: StreamInfo, notes: FileNotes) -> SourceError | None:
        """Process a source to its end, to a fault or to a signal, close open events, and return the fault."""
        from detector.audio.live_source import AudioBlock, drain

        shown_s = time.monotonic()

        def process(event: SourceEvent) -> None:
            nonlocal shown_s
            if not isinstance(event, AudioBlock):
                return
            notes.on_chunk(event.chunk.samples)
            self._publish(*self._detector.process(event.chunk.samples), stream, notes)
            if (now_s := time.monotonic()) - shown_s >= _PROGRESS_S:
                shown_s = now_s
                self._emit(FileProgress(source.frames_read, source.frames_total))
            self._print_warnings()

        fault: SourceError | None = None
        try:
            drain(source, process, self._signals.goes_on)
        except SourceError as error:
            fault = error
        self._publish(*self._detector.finish(), stream, notes)
        self._print_warnings()
        return fault

    def _print_warnings(self) -> None:
        while self._warnings:
            warning = self._warnings.pop(0)
            if not self._options.quiet:
                self._emit(f"snn-detect: warning: {warning}")

    def _publish(self, scores: Scores, events: Iterable[Event], stream: StreamInfo, notes: FileNotes) -> None:
        notes.evaluate(scores)
        for event in events:
            if event.label not in self._reported:
                continue
            self._sounds += event.kind == "onset"
            record = event_record(event, stream, 0)
            notes.note(record)
            self._emit(record)

    def _open(self, name: str) -> ReadSource:
        from detector.audio.live_source import Mixing
        from detector.audio.sources import FileSource, PcmSource, RawFormat

        mixing = Mixing(self._options.channel, self._warnings.append, self._options.track)
        if name == STDIN:
            if sys.stdin.isatty():
                raise ConfigError("standard input is a terminal; pipe raw samples into it, or name a file")
            raw = RawFormat(self._options.rate, self._options.sample_format, self._options.channels)
            return PcmSource(sys.stdin.buffer, raw, self._rate_hz, mixing)
        real_time, length = self._options.realtime, self._detector.chunk_samples
        return FileSource(name, self._rate_hz, length, real_time=real_time, mixing=mixing)

    def _stream(self, name: str) -> StreamInfo:
        manifest = self._detector.manifest
        return StreamInfo(
            source="stdin" if name == STDIN else name,
            stream=str(uuid.uuid4()) if name == STDIN else str(Path(name).resolve()),
            rate_hz=self._rate_hz,
            model=f"{manifest.name}-{manifest.version}",
            model_sha256=self._detector.sha256,
            started=self._options.start_time,
        )

    def _summary(self, name: str, source: ReadSource, wall_s: float) -> str:
        sound_s = source.seconds_read
        found = f"{self._sounds} sound{'' if self._sounds == 1 else 's'}"
        return f"{name}: {sound_s:.1f} s, {found}, in {wall_s:.2f} s ({sound_s / wall_s:.0f} x real time)"


def file_places(options: Options) -> list[tuple[Path | None, ...]]:
    """Return for each file where what is written for it alone goes; raises ConfigError as ``places``."""
    names = options.files
    return list(
        zip(
            places("--scores", options.scores, names, (".npz",)),
            places("--picture", options.picture, names, (".png", ".pdf", ".svg")),
            places("--audacity", options.audacity, names, ()),
            places("--raven", options.raven, names, ()),
            strict=True,
        )
    )


class Replay:
    """One run of the command: any number of files, and one sink."""

    def __init__(self, options: Options, signals: SignalHandler) -> None:
        """Check the options and load the model; raises ManifestError or ConfigError for impossible options."""
        self._options, self._signals = options, signals
        self._check_outputs()
        self._rows: list[tuple[str, ...]] = [TABLE_HEAD]
        self._sink = _sink(as_json=options.as_json)
        self._seq = self._code = 0
        self._shares: dict[int, float] = {}
        self._done = 0
        jobs = min(options.jobs or len(os.sched_getaffinity(0)), len(options.files))
        if options.realtime or STDIN in options.files or not can_fork():
            jobs = 1
        self._files: Workers | FileReplay = (
            FileReplay(options, signals)
            if jobs == 1
            else Workers(lambda own: FileReplay(options, own).run, options.files, signals, jobs)
        )

    def _check_outputs(self) -> None:
        outputs = [Output("--tsv", self._options.tsv, _TABLE)]
        if self._options.tsv is not None:
            check_names("--tsv", [Path(name).name for name in self._options.files])
        for scores, picture, audacity, raven in file_places(self._options):
            outputs += [Output("--scores", scores, _SCORES), Output("--picture", picture, PICTURE)]
            outputs += [Output("--audacity", audacity, _LABEL_TRACK), Output("--raven", raven, _RAVEN)]
        files = (name for name in self._options.files if name != STDIN)
        check_outputs(outputs, [*files, self._options.model], force=self._options.force)

    def run(self) -> int:
        """Replay all files and return the exit code; an error of one file is printed, and the next one follows."""
        names = self._options.files
        title, total = (names[0], None) if len(names) == 1 else (f"{len(names)} files", len(names))
        with closing(Gauge(title, total, wanted=not self._options.quiet, line_every_s=math.inf)) as self._gauge:
            self._run()
        if not self._signals.goes_on():
            return self._signals.exit_code
        if self._options.tsv is not None:
            write_rows(self._options.tsv, self._rows)
        return self._code

    def _run(self) -> None:
        if isinstance(self._files, Workers):
            with closing(self._files):
                self._files.run(self._handle)
            return
        for number in range(len(self._options.files)):
            self._files.run(number, partial(self._handle, number))
            if not self._signals.goes_on():
                return

    def _handle(self, number: int, output: Result) -> None:
        """Process what comes of a file; raises what is not an error of this file alone."""
        match output:
            case FileProgress():
                self._shares[number] = output.frames / output.total if output.total else 0.0
                self._show(output.total)
            case None:
                self._shares.pop(number, None)
                self._done += 1
            case str():
                self._gauge.print_line(output)
            case DetectorError() if not isinstance(output, ManifestError):  # that is an error of the model
                with self._gauge.aside():
                    print_error(output)
                self._code = max(self._code, output.exit_code)
            case Exception():
                raise output
            case _:
                self._publish(output)

    def _show(self, total: int | None) -> None:
        """Show the progress of all files."""
        names, done = self._options.files, self._done + sum(self._shares.values())
        if len(names) == 1:
            self._gauge.advance(done, total=total and 1)
            return
        now = [f"{Path(names[k]).name} {100 * share:.0f} %" for k, share in sorted(self._shares.items())[:_SHOWN]]
        self._gauge.advance(done, f"{self._done} done; {', '.join(now)}")

    def _publish(self, record: EventRecord) -> None:
        self._seq += 1
        record = dataclasses.replace(record, seq=self._seq)
        if self._options.tsv is not None:
            self._rows += table_rows(record.source, [record])
        with self._gauge.aside():
            self._sink.write(record)


def _sink(*, as_json: bool) -> Sink:
    from detector.records import JsonLinesSink, TextSink

    if as_json or not sys.stdout.isatty():
        return JsonLinesSink(sys.stdout)
    from rich.console import Console

    return TextSink(Console())
