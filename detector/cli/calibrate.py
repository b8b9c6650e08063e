"""The command ``snn-detect calibrate``: thresholds for a place, from hours of its own sound.

One run of ``snn-detect calibrate``: from its options to the table and the settings.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from detector.calibration.choose import RULE, choose, count, hours_needed, promise
from detector.calibration.measure import Advance, Measurement, ScoreStore, check_labels, sound_files
from detector.calibration.report import Outcome, as_json, in_words, target_of, write
from detector.cli.program import Gauge, model_option, only_option, print_error, print_json, print_status
from detector.config.loading import load_configuration
from detector.config.sections import Calibration
from detector.errors import ConfigError, DetectorError, SourceError
from detector.pipeline import Detector
from detector.service.clock import local_now
from detector.service.runtime import RunOptions, open_source
from detector.service.signals import StopOnSignal, Stopped


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
@click.option("--device", help="A device as snn-detect devices lists it; default: the configuration's.")
@click.option(
    "--hours",
    type=click.FloatRange(min=0, max=1000),
    help="How long to listen, with what --scores holds already; default: 3 divided by the rate, the fewest that can "
    "promise it. 0: only look at --scores.",
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
    "--rate",
    "rate_per_hour",
    type=click.FloatRange(min=0.001, max=1000),
    default=1.0,
    show_default=True,
    help="False alarms per hour of each class that can be borne.",
)
@click.option(
    "--scores",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Keep the scores in this file; a run that finds it goes on with it.",
)
@only_option
@click.option("--config", "path", type=click.Path(path_type=Path), help="Configuration file.")
@model_option
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the settings; default: config.d/50-calibration.toml beside the configuration.",
)
@click.option("--no-write", is_flag=True, help="Write no settings.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--quiet", "-q", is_flag=True, help="No progress; errors are still told.")
@click.pass_context
def calibrate(ctx: click.Context, /, places: tuple[Path, ...], **options: Any) -> None:
    """Fit the thresholds to a place: listen to its own sound, without the sounds that are looked for.

    From files or folders, or live. Only scores are kept, no sound. All that the detector reports
    meanwhile is a false alarm; the table says for every threshold how many there were, and how many
    there may be (95 %). Ctrl-C ends the listening and shows what was found so far; with --scores the
    same command goes on later. Sounds that cannot be kept out, leave out with --only.
    """
    if places and (options["device"] is not None or options["hours"] is not None):
        raise click.UsageError("--device and --hours are for listening; files are heard as they are.")
    if options["hours"] == 0 and options["scores"] is None:
        raise click.UsageError("--hours 0 looks at scores that were kept: name their file with --scores.")
    if options["out"] is not None and options["no_write"]:
        raise click.UsageError("--out and --no-write contradict each other.")
    with StopOnSignal() as stop:
        asked = CalibrateOptions(places=places, **options)
        with closing(Calibrator(asked, stop)) as calibrator:
            ctx.exit(calibrator.run())


if TYPE_CHECKING:
    from detector.service.signals import StopOnSignal

_PARTS: Final = 10_000
"""A promise is told in so many parts of one, rounded to its safe side."""


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What the user asked ``snn-detect calibrate`` for."""

    places: tuple[Path, ...]
    """Files and folders of background; none is live."""
    device: str | None
    hours: float | None
    """How long to listen; None: as long as the promise takes."""
    targets: tuple[tuple[str, Path], ...]
    """Labels, with files and folders of recordings."""
    rate_per_hour: float
    scores: Path | None
    only: tuple[str, ...]
    path: Path | None
    """The configuration."""
    model: Path | None
    out: Path | None
    no_write: bool
    as_json: bool
    quiet: bool


class Calibrator:
    """Listens, counts, chooses, tells and writes."""

    def __init__(self, asked: CalibrateOptions, stop: StopOnSignal) -> None:
        """Look whether everything can be done that is asked for, before hours go by; raises DetectorError."""
        self._asked, self._stop = asked, stop
        overrides = {"audio.device": asked.device, "model.path": asked.model, "listening.only": list(asked.only)}
        self._configuration = load_configuration(asked.path, {k: v for k, v in overrides.items() if v})
        self._settings = self._configuration.settings
        self._detector = Detector.load(self._settings.model.path)
        check_labels(self._settings.listening.only, self._detector, "only")
        check_labels((label for label, _ in asked.targets), self._detector, "--target")
        self._target = None if asked.no_write else target_of(self._configuration, asked.out)
        self._files: list[tuple[str | None, Path]] = [(None, path) for path in sound_files(asked.places)]
        self._files += [(label, path) for label, place in asked.targets for path in sound_files([place])]
        if asked.scores is not None and not asked.scores.absolute().parent.is_dir():
            raise ConfigError(f"{asked.scores}: there is no folder {asked.scores.parent}; make it first")
        self._store = ScoreStore(asked.scores, self._detector)
        self._measurement = Measurement(self._detector, self._store, stop)

    def close(self) -> None:
        """Write what is left and close the scores."""
        self._store.close()

    def run(self) -> int:
        """Do it all and return the exit code; errors of single files are told, and the others follow."""
        code = 0
        try:
            for error in self._listen():
                print_error(error)
                code = max(code, error.exit_code)
        except Stopped:
            pass
        if not self._store.background_hours:
            if self._stop.number is not None:
                return self._stop.exit_code
            if code:
                return code  # each file has its line
            raise SourceError("no background has been heard: there is nothing to choose thresholds by")
        outcome = self._evaluate()
        self._publish(outcome)
        return self._stop.exit_code or code

    def _listen(self) -> Iterator[DetectorError]:
        """Hear all that is to be heard; yields what was wrong with single files."""
        with closing(Gauge("hearing", len(self._files), wanted=not self._asked.quiet)) as gauge:
            for number, (label, path) in enumerate(self._files):
                try:
                    self._measurement.measure_file(path, label, self._advance(gauge, number, path.name))
                except SourceError as error:
                    with gauge.aside():
                        yield error
        if not self._asked.places and (seconds := self._seconds_left()) > 0:
            try:
                self._listen_live(seconds)
            except SourceError as error:
                yield error

    def _advance(self, gauge: Gauge, before: float, name: str) -> Advance:
        """Return what shows how far it is: the time so far, with what was kept before, and the level."""

        def advance(share: float, level_dbfs: float) -> None:
            gauge.advance(before + share, f"{name}: {self._store.background_hours:.2f} h, {level_dbfs:.0f} dBFS")

        return advance

    def _seconds_left(self) -> float:
        hours = self._asked.hours
        wanted = hours_needed(self._asked.rate_per_hour) if hours is None else hours
        return 3600 * (wanted - self._store.background_hours)

    def _listen_live(self, seconds: float) -> None:
        audio = self._settings.audio
        source = open_source(audio, self._detector.sample_rate_hz, RunOptions())
        if not self._asked.quiet:
            print_status(f"listening to {audio.device} for {seconds / 3600:.2f} h; Ctrl-C shows what there is by then")
        with closing(source), closing(Gauge("listening", 1.0, wanted=not self._asked.quiet)) as gauge:
            self._measurement.measure_live(source, seconds, self._advance(gauge, 0.0, audio.device), gauge.print_line)

    def _evaluate(self) -> Outcome:
        """Count what every threshold would have reported, choose, and write the settings of a run that was not cut."""
        asked, manifest = self._asked, self._detector.manifest
        hours = self._store.background_hours
        frames = sum(stretch.frames for stretch in self._store.stretches())
        with closing(Gauge("counting", frames, wanted=not asked.quiet)) as gauge:
            done = 0

            def advance(more: int) -> None:
                nonlocal done
                done += more
                gauge.advance(done, "")

            rows = count(self._store, manifest, advance)
        most = promise(hours, asked.rate_per_hour)
        classes = [c for c in manifest.classes if c.label in (self._settings.listening.only or manifest.labels)]
        choices = tuple(choose(c.label, c.decoder.on_threshold, rows[c.label], most) for c in classes)
        calibration = Calibration(
            date=local_now().isoformat(timespec="seconds"),
            hours=round(hours, 4),
            rate_per_hour=asked.rate_per_hour,
            promise_per_hour=math.ceil(most * _PARTS) / _PARTS,
            rule=RULE,
            device=self._device(),
            model=f"{manifest.name}-{manifest.version}",
            model_sha256=self._detector.sha256,
        )
        target = None if self._stop.number is not None else self._target
        if target is not None:
            write(target, calibration, choices)
        card = {c.label: m for c in classes if (m := manifest.metrics.get(f"{c.label}_recall")) is not None}
        return Outcome(calibration, choices, card, target, is_interrupted=self._stop.number is not None)

    def _device(self) -> str | None:
        """Return the one device that heard all of the background; None: there were files, or several."""
        devices = self._store.devices
        if len(devices) > 1:
            names = ", ".join(device or "files" for device in devices)
            print_status(f"the background is from several sources ({names}): the settings will name no device")
        return devices[0] if len(devices) == 1 else None

    def _publish(self, outcome: Outcome) -> None:
        if self._asked.as_json:
            print_json(as_json(outcome))
        else:
            for line in in_words(outcome):
                click.echo(line)
        if outcome.is_interrupted:
            kept = self._asked.scores
            goes_on = f"the same command goes on with {kept}" if kept else "the scores are gone; --scores keeps them"
            print_status(f"interrupted, no settings are written: {goes_on}")
        elif outcome.fragment is not None:
            print_status(f"{outcome.fragment}: written; the service takes it over with: systemctl reload snn-detect")
        elif not self._asked.no_write:
            print_status(
                "no settings are written: there is no configuration to put them beside; --out FILE names a place"
            )
