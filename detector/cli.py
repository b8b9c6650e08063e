"""The command ``snn-detect``.

Modules that take long to import are imported by the commands that need them, so that ``--help`` is
quick on a small board.
"""

from __future__ import annotations

import sys

import click

from detector import __version__
from detector.cli_model import bench, model
from detector.cli_program import INTERNAL_ERROR, Program, open_closed_streams, report, settle_streams
from detector.cli_replay import replay


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="snn-detect", message="%(prog)s %(version)s")
def cli() -> None:
    """Detect sounds as they happen: samples in, onsets and offsets of labelled sounds out.

    Events go to standard output, everything else to standard error. Exit codes: 0 done; 2 wrong
    usage, setting or model; 66 sound that is missing or damaged; 70 an error of the program
    itself; 130 and 143 ended by Ctrl-C and SIGTERM; 141 the reader of the output has gone.
    """


cli.add_command(replay)
cli.add_command(model)
cli.add_command(bench)


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
