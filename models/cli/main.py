"""The command ``snn-train``."""

from __future__ import annotations

import click

from detector import __version__
from detector.cli.program import Program, run_program
from models.cli.data import audioset_download, audioset_manifest, find_copies, gather, manifest, play_notes
from models.cli.evaluate import (
    evaluate_channels,
    evaluate_classes,
    evaluate_events,
    keep,
    make_scenes,
    report,
    tune_events,
)
from models.cli.images import compare, convert, show_encoding, show_neuron
from models.cli.train import adapt, average, cross_evaluate, evaluate, fit, folds, make_bank, tune

_SCENES_EXTRA = {"dcase_util", "pandas", "pkg_resources", "sed_eval", "sed_scores_eval"}


def _extra_of(module: str) -> str | None:
    """Return the extra that installs a module; None where the module is one of this project."""
    if module in {"detector", "models", "firmware_export"}:
        return None
    return "scenes" if module in _SCENES_EXTRA else "train"


@click.group("snn-train", cls=Program, extra_of=_extra_of)
@click.version_option(__version__, prog_name="snn-train", message="%(prog)s %(version)s")
def cli() -> None:
    """Train, evaluate and inspect spiking networks for sound event detection."""


for command in (
    fit,
    folds,
    average,
    evaluate,
    cross_evaluate,
    tune,
    adapt,
    make_bank,
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
    evaluate_classes,
):
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit."""
    run_program(cli, "snn-train")


if __name__ == "__main__":
    main()
