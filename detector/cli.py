"""The command ``snn-detect``.

Modules that take long to import are imported by the commands that need them, so that ``--help`` is
quick on a small board.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from click.core import ParameterSource

from detector import __version__
from detector.cli_bare import Bare
from detector.cli_calibrate import calibrate
from detector.cli_config import config
from detector.cli_devices import devices, meter
from detector.cli_doctor import doctor
from detector.cli_events import events
from detector.cli_model import bench, model
from detector.cli_mqtt import mqtt
from detector.cli_program import INTERNAL_ERROR, Program, open_closed_streams, report, settle_streams
from detector.cli_replay import replay
from detector.cli_run import bare_options, listen, run
from detector.cli_watch import watch


@click.group(
    cls=Program,
    invoke_without_command=True,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@bare_options
@click.version_option(__version__, prog_name="snn-detect", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, **options: Any) -> None:
    """Detect sounds as they happen: samples in, onsets and offsets of labelled sounds out.

    With --device, listen to a microphone, raw samples or a file, and print the events; the other
    options here belong to it. `run` does the same as a service, with more places for events to go.

    Events go to standard output, everything else to standard error. Exit codes: 0 done; 2 wrong
    usage, setting or model; 66 sound that is missing or damaged; 69 no such device; 70 an error of
    the program itself; 130 and 143 ended by Ctrl-C and SIGTERM; 141 the reader of the output has gone.
    """
    given = [p for p in options if ctx.get_parameter_source(p) is ParameterSource.COMMANDLINE]
    if ctx.invoked_subcommand is not None:
        if given:
            raise click.UsageError(
                f"Options stand behind {ctx.invoked_subcommand!r}; those before it need --device alone."
            )
        return
    if options["device"] is None:
        raise click.UsageError("Name a command, or what to listen to: --device mic.")
    listen(ctx, Bare(**options))


for _command in (run, replay, watch, devices, meter, calibrate, doctor, events, config, mqtt, model, bench):
    cli.add_command(_command)


def main() -> None:
    """Run the command line and exit."""
    open_closed_streams()
    try:
        cli(prog_name="snn-detect")
    except OSError as error:  # --help and --version write before any command is entered
        report(error)
        sys.exit(INTERNAL_ERROR)
    finally:
        settle_streams()
