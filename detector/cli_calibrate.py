"""The command ``snn-detect calibrate``: thresholds for a place, from hours of its own sound."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import click

from detector.cli_program import StopOnSignal, model_option, only_option


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
        from detector.calibration.run import Asked, Calibrator

        asked = Asked(places=places, **options)
        with closing(Calibrator(asked, stop)) as calibrator:
            ctx.exit(calibrator.run())
