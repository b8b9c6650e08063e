"""The command ``snn-detect archive``: folders of recordings into a Parquet data set, on all cores or a Dask cluster."""

from __future__ import annotations

import json
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from detector.cli.program import (
    Gauge,
    all_classes_option,
    mixing_options,
    model_option,
    only_option,
    print_status,
    print_text,
    sensitivity_option,
    threshold_option,
)
from detector.errors import ConfigError
from detector.service.process import SignalHandler
from detector.system import install_command, write_text

if TYPE_CHECKING:
    from detector.archive.run import Options, Summary

_LINE_S: Final = 30.0


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of the data set; an archive begun there goes on.",
)
@model_option
@only_option
@all_classes_option
@sensitivity_option
@threshold_option
@mixing_options
@click.option("--scores", is_flag=True, help="Keep the highest score of each class in each second, too.")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="PATTERN",
    help="How file names state their start, such as '{source}_%Y%m%d_%H%M%S'; several are tried in turn.",
)
@click.option(
    "--time-zone",
    "zone",
    metavar="ZONE",
    help="Time zone of start times that state none: Europe/Berlin, or +02:00.  [default: UTC]",
)
@click.option("--scheduler", metavar="tcp://HOST:PORT", help="Work on the Dask cluster of this scheduler.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes on this machine.  [default: one for each core]")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no summary, only errors and warnings.")
@click.pass_context
def archive(ctx: click.Context, /, **options: Any) -> None:
    """Detect sounds in folders of recordings, and write a Parquet data set of events by day and recorder.

    Files of one recorder that continue one another within a second are one stream. A file that cannot be used, or not
    to its end, is a row of OUT/errors.parquet; the exit code is then 66. Where the command is ended, in any way, and
    run again, it goes on. Needs the extra packages snn-detect[archive].
    """
    from detector.archive.plan import NamePattern, parse_zone
    from detector.archive.run import Options

    quiet = options.pop("quiet")
    if options["jobs"] and options["scheduler"]:
        raise click.UsageError("--jobs counts processes on this machine; the workers of --scheduler are its own.")
    for text in options["names"]:
        NamePattern(text)
    if options["zone"] is not None:
        parse_zone(options["zone"])
    with SignalHandler() as signals:
        ctx.exit(_archive(Options(**options), signals, quiet=quiet))


def _archive(options: Options, signals: SignalHandler, *, quiet: bool) -> int:
    """Run the archive and return the exit code."""
    from detector.archive.run import Run, connect, summarise

    with (
        closing(Gauge("archive", None, wanted=not quiet, line_every_s=_LINE_S)) as gauge,
        closing(Run(options, gauge, signals.goes_on)) as run,
    ):
        with connect(options.scheduler, options.jobs or len(os.sched_getaffinity(0))) as client:
            run.run(client)
        if not signals.goes_on():
            return signals.exit_code
        run.data.finish()
        summary = summarise(run.data)
        write_text(options.out / "summary.json", json.dumps(summary.as_dict(), indent=2) + "\n")
        drawn = _draw(options.out, summary)
    if not quiet:
        _print(options.out, summary, drawn=drawn)
    return summary.exit_code


def _draw(folder: Path, summary: Summary) -> bool:
    """Draw the events by date and hour of day, where matplotlib is installed and times are known."""
    if not summary.recorded_s:
        return False
    from detector.plots import draw_calendar

    try:
        draw_calendar(folder / "events.png", summary.by_hour, summary.recorded_s)
    except ConfigError:
        print_status(f"snn-detect: no picture was drawn; for that: {install_command('plot')}")
        return False
    return True


def _print(folder: Path, summary: Summary, *, drawn: bool) -> None:
    print_text("\n".join(summary.lines()))
    names = ["events", "files", "errors.parquet", "summary.json", *(["events.png"] if drawn else [])]
    print_text(f"in {folder}: {', '.join(names)}")
