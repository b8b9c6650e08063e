"""The command ``snn-detect replay``: sound files and raw samples through the live pipeline."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from detector.cli_program import StopOnSignal, model_option, only_option, threshold_option

if TYPE_CHECKING:
    _Type = click.ParamType[datetime]
else:
    # Not generic in older releases of click.
    _Type = click.ParamType

_RAW_OPTIONS = ("rate", "sample_format", "channels")


class _Moment(_Type):
    """A time of day with its offset from UTC."""

    name = "RFC3339"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse the text; fails for a time without an offset, which could mean any."""
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no time such as 2026-11-23T18:04:05+01:00", param, ctx)
        if moment.tzinfo is None:
            self.fail(f"{value!r} lacks its offset from UTC: add Z or such as +01:00", param, ctx)
        return moment


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@model_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines on a terminal too.")
@click.option("--realtime", is_flag=True, help="Take the sound at the pace of a microphone.")
@click.option("--rate", type=int, default=16000, show_default=True, help="Samples per second of raw samples (-).")
@click.option(
    "--format", "sample_format", default="s16le", show_default=True, help="s16le, s24le, s32le or f32le, for -."
)
@click.option("--channels", type=int, default=1, show_default=True, help="Interleaved channels, for -.")
@click.option("--scores", type=click.Path(path_type=Path), help="Write the scores of every frame to this .npz file.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="Draw waveform, features, spikes, scores and events on one sheet: .png, .pdf or .svg.",
)
@click.option("--audacity", type=click.Path(path_type=Path), help="Write the sounds as a label track of Audacity.")
@click.option(
    "--tsv", type=click.Path(path_type=Path), help="Write the sounds of all files as a table of DCASE's kind."
)
@only_option
@threshold_option
@click.option("--start-time", type=_Moment(), help="When the recording began: fills the time of the events.")
@click.option("--quiet", "-q", is_flag=True, help="No progress and no summary; errors are still told.")
@click.pass_context
def replay(ctx: click.Context, /, **options: Any) -> None:
    """Detect sounds in files, or in raw samples on standard input (-).

    On a terminal the events are readable lines; elsewhere, and with --json, JSON lines. A file that
    cannot be used, or not to its end, is told and the others follow; the exit code is then 66. With
    several files, the scores of a.wav go to NAME-a.npz, pictures and label tracks likewise.
    """
    files: tuple[str, ...] = options["files"]
    given = [name for name in _RAW_OPTIONS if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT]
    if given and "-" not in files:
        raise click.UsageError("--rate, --format and --channels describe raw samples on standard input (-).")
    if files.count("-") > 1:
        raise click.UsageError("Standard input (-) can be read only once.")
    if options["start_time"] and len(files) > 1:
        raise click.UsageError("--start-time needs a single FILE: several began at several times.")
    with StopOnSignal() as stop:
        from detector.replay import Options, Replay

        ctx.exit(Replay(Options(**options), stop).run())
