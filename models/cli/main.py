"""The command ``snn-train``."""

from __future__ import annotations

import sys

import click

from detector.errors import DetectorError
from models.cli.data import audioset_download, audioset_manifest, find_copies, gather, manifest, play_notes
from models.cli.evaluate import evaluate_channels, evaluate_events, keep, make_scenes, report, tune_events
from models.cli.images import compare, convert, show_encoding, show_neuron
from models.cli.train import adapt, cross_evaluate, evaluate, fit, folds, tune

_SCENES_EXTRA = {"dcase_util", "onnx", "pandas", "pkg_resources", "sed_eval", "sed_scores_eval"}


@click.group()
def cli() -> None:
    """Train, evaluate and inspect spiking networks for sound event detection."""


for command in (
    fit,
    folds,
    evaluate,
    cross_evaluate,
    tune,
    adapt,
    show_encoding,
    show_neuron,
    manifest,
    gather,
    play_notes,
    find_copies,
    audioset_manifest,
    audioset_download,
    compare,
    convert,
    keep,
    report,
    make_scenes,
    evaluate_events,
    evaluate_channels,
    tune_events,
):
    cli.add_command(command)


def main() -> None:
    """Run the command; errors that a user can fix are reported in one line, with an exit code."""
    try:
        cli(standalone_mode=True)
    except ModuleNotFoundError as error:
        extra = "scenes" if (error.name or "").partition(".")[0] in _SCENES_EXTRA else "train"
        click.echo(f"snn-train: error: {error.name} is not installed; pip install 'snn-detect[{extra}]'", err=True)
        sys.exit(2)
    except DetectorError as error:
        click.echo(f"snn-train: error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
