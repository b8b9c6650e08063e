"""The command ``snn-detect calibrate``: thresholds for a place, from hours of its own sound."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from detector.audio.live_source import Mixing
from detector.calibration.measure import SCORES, Advance, Measurement, ScoreStore, check_labels, sound_files
from detector.calibration.report import (
    FRAGMENT,
    RULE,
    Outcome,
    as_json,
    as_text,
    choose,
    count,
    fragment_path,
    hours_needed,
    promise,
    write_fragment,
)
from detector.cli.program import (
    Gauge,
    config_option,
    force_option,
    json_option,
    model_option,
    only_option,
    parse_channel,
    print_error,
    print_json,
    print_status,
    renamed_option,
    stream_options,
    stream_overrides,
)
from detector.config.loading import Configuration, load_configuration
from detector.config.sections import Calibration
from detector.errors import ConfigError, DetectorError, SourceError
from detector.pipeline import Detector
from detector.service.clock import local_now
from detector.service.process import SignalHandler
from detector.service.source import RunOptions, check_source, open_source
from detector.system import Output, check_outputs

_PARTS: Final = 10_000
"""A promised rate is rounded up to a multiple of 1 / 10000."""


def _targets(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    pairs = []
    for value in values:
        label, equals, place = (part.strip() for part in value.partition("="))
        if not (label and equals and place):
            raise click.BadParameter(f"{value!r} is not of the form label=folder, such as guitar=recordings")
        pairs.append((label, Path(place)))
    return tuple(pairs)


@click.command()
@click.argument("places", metavar="[FILE|FOLDER]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--source", help="Name of one of several sources in the configuration, whose thresholds are measured.")
@click.option("--device", help="A device as snn-detect devices lists it, or a URL; default: the configuration's.")
@stream_options
@click.option(
    "--channel",
    help="Channel to use: mean, left, right, or a number from 1; default: the configuration's, of files the mean.",
)
@click.option(
    "--hours",
    type=click.FloatRange(min=0, max=1000),
    help="Hours to measure, including those in --scores; default: 3 divided by --max-false-alarms, the fewest that "
    "can promise it. 0: only evaluate --scores.",
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="LABEL=PLACE",
    callback=_targets,
    help="Recordings of a sound, one in each file: a file or a folder. Repeat for more.",
)
@click.option(
    "--max-false-alarms",
    "rate_per_hour",
    type=click.FloatRange(min=0.001, max=1000),
    default=1.0,
    show_default=True,
    help="Highest acceptable rate of false alarms, per hour and class.",
)
@renamed_option("--rate", "--max-false-alarms")
@click.option(
    "--scores",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep the scores in this file; a run with an existing file continues it.",
)
@only_option
@config_option
@model_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the settings; default: config.d/50-calibration.toml beside the configuration.",
)
@force_option
@click.option("--no-write", is_flag=True, help="Write no settings.")
@json_option
@click.option("--quiet", "-q", is_flag=True, help="No progress, only errors.")
@click.pass_context
def calibrate(ctx: click.Context, /, **options: Any) -> None:
    """Fit the thresholds to a place: measure its own sound, without the sounds to be detected.

    The sound comes from files or folders, or live. Only scores are kept, no sound. Everything that is
    detected meanwhile is a false alarm; the table lists, at the thresholds where it changes, how many
    there were, and how many there may be (95 %). Ctrl-C ends the measurement and shows the results so far; with
    --scores the same command continues later. Exclude sounds that cannot be avoided with --only.
    """
    if options["places"] and (options["device"] is not None or options["hours"] is not None):
        raise click.UsageError("--device and --hours are for live sound; files are measured to their end.")
    if options["hours"] == 0 and options["scores"] is None:
        raise click.UsageError("--hours 0 evaluates stored scores: name their file with --scores.")
    if options["out"] is not None and options["no_write"]:
        raise click.UsageError("--out and --no-write contradict each other.")
    with SignalHandler() as signals, closing(Calibrator(CalibrateOptions(**options), signals)) as calibrator:
        ctx.exit(calibrator.run())


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """The options of ``snn-detect calibrate``."""

    places: tuple[Path, ...]
    """Files and folders of background; empty for live sound."""
    source: str | None
    """One of several in the configuration; None: the only one."""
    device: str | None
    credentials_file: Path | None
    transport: str | None
    track: str | None
    channel: str | None
    hours: float | None
    """Hours to measure; None: as many as the promise takes."""
    targets: tuple[tuple[str, Path], ...]
    """Labels, with files and folders of recordings."""
    rate_per_hour: float
    scores: Path | None
    only: tuple[str, ...]
    path: Path | None
    """The configuration."""
    model: Path | None
    out: Path | None
    force: bool
    """Whether ``out`` is replaced where it exists."""
    no_write: bool
    as_json: bool
    quiet: bool


def _of_source(overrides: dict[str, Any], options: CalibrateOptions) -> Configuration:
    """Return the configuration with options in place of the settings of a source.

    Raises ConfigError where there are several and none is named, and for a name that is not there.
    """
    known = load_configuration(options.path).settings.sources
    if options.source is None and not known:
        return load_configuration(options.path, overrides)
    if options.source not in known:
        has = f"the configuration has {', '.join(known) or 'only one source, without a name'}"
        raise ConfigError(f"--source: {has}" if options.source is None else f"--source {options.source}: {has}")
    keys = {"model.path": "model"}
    own = {f"sources.{options.source}.{keys.get(k) or k.partition('.')[2]}": v for k, v in overrides.items()}
    return load_configuration(options.path, own)


class Calibrator:
    """Measures, counts, chooses, reports and writes."""

    def __init__(self, options: CalibrateOptions, signals: SignalHandler) -> None:
        """Check that all options can be met, before hours of measurement; raises DetectorError."""
        self._options, self._signals = options, signals
        overrides = {
            "audio.device": options.device,
            **stream_overrides(dataclasses.asdict(options)),
            "audio.channel": options.channel,
            "model.path": options.model,
            "listening.only": list(options.only),
        }
        configuration = _of_source({key: value for key, value in overrides.items() if value}, options)
        names = [alone.audio.source for alone in configuration.settings.each()]
        self._settings = configuration.settings.each()[0 if options.source is None else names.index(options.source)]
        self._detector = Detector.load(self._settings.model.path)
        check_labels(self._settings.listening.only, self._detector, "only")
        check_labels((label for label, _ in options.targets), self._detector, "--target")
        self._target = None if options.no_write else fragment_path(configuration, options.out, options.source)
        self._files: list[tuple[str | None, Path]] = [(None, path) for path in sound_files(options.places)]
        self._files += [(label, path) for label, place in options.targets for path in sound_files([place])]
        if not options.places:
            check_source(self._settings.audio)
        self._check_outputs()
        self._store = ScoreStore(options.scores, self._detector)
        mixing = Mixing(parse_channel(options.channel), track=options.track)
        self._measurement = Measurement(self._detector, self._store, signals, mixing)

    def _check_outputs(self) -> None:
        """Raise ConfigError for places that cannot be written; a file of scores is continued, and not replaced."""
        options = self._options
        outputs = [Output("--out", self._target, FRAGMENT)]
        if options.scores is not None and not options.scores.exists():
            outputs.append(Output("--scores", options.scores, SCORES))
        inputs = [*(path for _, path in self._files), self._detector.path, options.scores]
        # The place beside the configuration is this command's own.
        check_outputs(outputs, inputs, force=options.force or options.out is None, makes_folders=options.out is None)

    def close(self) -> None:
        """Write pending scores and close their file."""
        self._store.close()

    def run(self) -> int:
        """Run the calibration and return the exit code; errors of single files are printed, the others follow."""
        code = 0
        for error in self._measure():
            print_error(error)
            code = max(code, error.exit_code)
        if not self._store.background_hours:
            if not self._signals.goes_on():
                return self._signals.exit_code
            if code:
                return code  # each file has its line
            raise SourceError("no background was measured: there is nothing to choose thresholds by")
        self._publish(self._evaluate(has_errors=code != 0), has_errors=code != 0)
        return self._signals.exit_code or code

    def _measure(self) -> Iterator[DetectorError]:
        """Measure the files, then live sound unless one of them failed; yields the errors of single files."""
        has_failed = False
        with closing(self._gauge("measuring", len(self._files))) as gauge:
            for number, (label, path) in enumerate(self._files):
                try:
                    self._measurement.measure_file(path, label, self._advance(gauge, number, path.name))
                except SourceError as error:
                    has_failed = True
                    with gauge.aside():
                        yield error
                if not self._signals.goes_on():
                    return
        options = self._options
        wanted = hours_needed(options.rate_per_hour) if options.hours is None else options.hours
        seconds = 3600 * (wanted - self._store.background_hours)
        if not options.places and seconds > 0 and has_failed:
            # It would take hours, and no settings would be written at their end.
            print_status("not listening: correct what is named above, or leave it out, and start again")
        elif not options.places and seconds > 0:
            try:
                self._measure_live(seconds)
            except SourceError as error:
                yield error

    def _measure_live(self, seconds: float) -> None:
        audio = self._settings.audio
        source = open_source(audio, self._detector.sample_rate_hz, RunOptions())
        if not self._options.quiet:
            print_status(f"listening to {audio.name} for {seconds / 3600:.2f} h; Ctrl-C shows the results by then")
        with closing(source), closing(self._gauge("listening", 1.0)) as gauge:
            self._measurement.measure_live(source, seconds, self._advance(gauge, 0.0, audio.name), gauge.print_line)

    def _gauge(self, name: str, total: float) -> Gauge:
        return Gauge(name, total, wanted=not self._options.quiet)

    def _advance(self, gauge: Gauge, before: float, name: str) -> Advance:
        """Return a function that shows the progress: the hours so far, with stored ones, and the level."""

        def advance(share: float, level_dbfs: float) -> None:
            gauge.advance(before + share, f"{name}: {self._store.background_hours:.2f} h, {level_dbfs:.0f} dBFS")

        return advance

    def _evaluate(self, *, has_errors: bool) -> Outcome:
        """Count events at every threshold, choose, and write the settings unless the run was cut short or failed."""
        manifest, only = self._detector.manifest, self._settings.listening.only
        hours, is_interrupted = self._store.background_hours, not self._signals.goes_on()
        with closing(self._gauge("counting", sum(s.frames for s in self._store.segments()))) as gauge:
            done = 0

            def advance(more: int) -> None:
                nonlocal done
                done += more
                gauge.advance(done, "")

            rows = count(self._store, manifest, advance)
        max_per_hour = promise(hours, self._options.rate_per_hour)
        classes = [c for c in manifest.classes if c.label in (only or manifest.labels)]
        choices = tuple(choose(c.label, c.decoder.on_threshold, rows[c.label], max_per_hour) for c in classes)
        calibration = Calibration(
            date=local_now().isoformat(timespec="seconds"),
            hours=round(hours, 4),
            rate_per_hour=self._options.rate_per_hour,
            promise_per_hour=math.ceil(max_per_hour * _PARTS) / _PARTS,
            rule=RULE,
            device=self._device(),
            model=f"{manifest.name}-{manifest.version}",
            model_sha256=self._detector.sha256,
        )
        target = None if is_interrupted or has_errors else self._target
        if target is not None:
            write_fragment(target, calibration, choices, self._options.source)
        card = {c.label: m for c in classes if (m := manifest.metrics.get(f"{c.label}_recall")) is not None}
        return Outcome(calibration, choices, card, target, is_interrupted)

    def _device(self) -> str | None:
        """Return the one device that recorded all of the background; None for files, or several."""
        devices = self._store.devices
        if len(devices) > 1:
            names = ", ".join(device or "files" for device in devices)
            print_status(f"the background is from several sources ({names}): the settings will name no device")
        return devices[0] if len(devices) == 1 else None

    def _publish(self, outcome: Outcome, *, has_errors: bool) -> None:
        if self._options.as_json:
            print_json(as_json(outcome))
        else:
            click.echo("\n".join(as_text(outcome)))
        if outcome.is_interrupted:
            scores = self._options.scores
            rest = f"the same command continues {scores}" if scores else "the scores are gone; --scores keeps them"
            print_status(f"interrupted, no settings are written: {rest}")
        elif has_errors and not self._options.no_write:
            print_status("no settings are written: not all of the sound was measured; see the errors above")
        elif outcome.fragment is not None:
            print_status(f"{outcome.fragment}: written; systemctl reload snn-detect makes the service read it")
        elif not self._options.no_write:
            print_status("no settings are written: there is no configuration beside which to put them; use --out FILE")
