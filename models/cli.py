"""The command ``snn-train``."""

from __future__ import annotations

import sys

import click

from detector.errors import DetectorError
from models.cli_adapt import adapt
from models.cli_data import audioset_download, audioset_manifest, gather, manifest
from models.cli_events import evaluate_channels, evaluate_events, tune_events
from models.cli_fit import cross_evaluate, evaluate, fit, folds, tune
from models.cli_image import compare, convert
from models.cli_results import keep, report
from models.cli_scenes import make_scenes
from models.cli_show import show_encoding, show_neuron

_FOR_SCENES = {"dcase_util", "onnx", "pandas", "pkg_resources", "sed_eval", "sed_scores_eval"}


@click.group()
def cli() -> None:
    """Train, judge and look into spiking networks that hear."""


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
    """Run the command; what a user can mend becomes one line and an exit code."""
    try:
        cli(standalone_mode=True)
    except ModuleNotFoundError as error:
        extra = "scenes" if (error.name or "").partition(".")[0] in _FOR_SCENES else "train"
        click.echo(f"snn-train: error: {error.name} is not installed; pip install 'snn-detect[{extra}]'", err=True)
        sys.exit(2)
    except DetectorError as error:
        click.echo(f"snn-train: error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
