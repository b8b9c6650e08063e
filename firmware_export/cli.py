"""The command ``snn-export``.

``snn-export nir``.

``snn-export report``.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

import click

from detector.errors import ConfigError, DetectorError
from models import RECIPES


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File to write, FILE.nir.")
def nir(model: Path, out: Path) -> None:
    """Write MODEL's network as a NIR graph, after proving that it spikes the same; FILE.md says what NIR cannot."""
    from firmware_export.nir.export import export_nir

    parity = export_nir(model, out)
    spikes = f"{parity.near} spikes differ, all at the threshold" if parity.near else "the same spikes"
    click.echo(
        f"{out}: {spikes} in {len(parity.spikes)} layers over {parity.frames} frames; scores differ by at most "
        f"{parity.largest_score_difference:.1e}; what NIR cannot say stands in {out.with_suffix('.md')}"
    )


PATH = click.Path(path_type=Path)


@click.command()
@click.argument("model", type=PATH)
@click.option(
    "--data",
    type=PATH,
    envvar="SNN_DETECT_DATA",
    help="Folder of recordings, or SNN_DETECT_DATA; without it there is the demo scene alone.",
)
@click.option("--recipe", type=PATH, help="Whose recordings to judge on; default: the recipe that the model names.")
@click.option("--compiler", default="cc", show_default=True, help="C compiler of this computer.")
@click.option("--json", "json_path", type=PATH, help="Write the figures here.")
def report(model: Path, data: Path | None, recipe: Path | None, compiler: str, json_path: Path | None) -> None:
    """Make every form of MODEL, run it, and print one table: sizes, speed, parity, accuracy."""
    from detector.network import load_model
    from firmware_export.report import report as make_report
    from firmware_export.report import table, to_json
    from models.data.datasets import recordings
    from models.recipe import load_recipe

    if json_path is not None and not json_path.parent.is_dir():
        raise ConfigError(f"{json_path}: there is no folder {json_path.parent}; make it first")
    if json_path is not None and json_path.is_dir():
        raise ConfigError(f"{json_path}: there is a folder of that name; name a file")
    manifest = load_model(model).manifest
    clips = []
    if data is not None:
        listing = recordings(load_recipe(recipe or RECIPES / f"{manifest.name}.toml"), data)
        clips = [c for c in listing.clips if c.label is not None and c.fold in manifest.training.folds_left_out]
    with tempfile.TemporaryDirectory(prefix="snn-export-") as work:
        rows = make_report(model, clips, Path(work), compiler)
    click.echo(table(rows, model))
    if json_path is not None:
        _write(json_path, to_json(rows) + "\n")


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all; raises ConfigError where it cannot be written."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as beside:
            part = Path(beside) / path.name
            part.write_text(text, encoding="utf-8")
            part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror})") from error


@click.group()
def cli() -> None:
    """Turn a trained run into what runs elsewhere."""


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--recipe", type=click.Path(path_type=Path), help="Recipe with the decoding to use; default: the run's.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Model file to write.")
@click.option(
    "--sound",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Sounds to compare on, 60 s or more together; default: the demo scene, repeated.",
)
@click.option(
    "--metrics", type=click.Path(path_type=Path), help="Figures (JSON of snn-train evaluate) for the manifest."
)
def onnx(run: Path, recipe: Path | None, out: Path, sound: tuple[Path, ...], metrics: Path | None) -> None:
    """Export RUN as a streaming ONNX file with its manifest, after proving that it is the same network."""
    from firmware_export.onnx.export import export_run

    parity = export_run(run, recipe, out, sound, metrics)
    click.echo(
        f"{out}: torch stepping, torch sequence and onnxruntime give the same spikes in {parity.layers} layers "
        f"over {parity.frames} frames ({parity.seconds:.0f} s); "
        f"scores differ by at most {parity.largest_score_difference:.1e}"
    )


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder to make; one that was made before is replaced.",
)
@click.option("--float", "is_float", is_flag=True, help="Single precision throughout (the default).")
@click.option("--int8", "is_int8", is_flag=True, help="Weights of 8 bits, integers everywhere.")
@click.option(
    "--frontend", type=click.Choice(["fixed", "float"]), default="fixed", help="The MFCC's numbers, with --int8."
)
def c(model: Path, out: Path, is_float: bool, is_int8: bool, frontend: str) -> None:
    """Write MODEL as a folder of C99: the whole detector, from 16-bit samples to events."""
    from firmware_export.c99.export import export_c
    from firmware_export.c99.formats import FLOAT, Form

    if is_float and is_int8:
        raise ConfigError("--float and --int8: choose one of them")
    form = Form(int8=True, fixed_front_end=frontend == "fixed") if is_int8 else FLOAT
    export_c(model, out, form)
    click.echo(f"{out}: {model.name} in C99 ({form.name}); next: make -C {out}, then samples into {out}/snn_host")


@cli.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Model file to write.")
def int8(model: Path, out: Path) -> None:
    """Write MODEL as a model file with int8 weights, after comparing it with numpy over the demo scene."""
    from firmware_export.onnx.int8 import export_int8

    made = export_int8(model, out)
    click.echo(
        f"{out}: {made.bytes_after / 1024:.0f} KiB of {made.bytes_before / 1024:.0f}; onnxruntime and numpy give "
        f"the same spikes in {made.layers} layers over {made.frames} frames; "
        f"scores differ by at most {made.largest_score_difference:.1e}"
    )


cli.add_command(nir)
cli.add_command(report)


def main() -> None:
    """Run the command; what a user can mend becomes one line and an exit code."""
    signal.signal(signal.SIGTERM, _end)
    try:
        cli(standalone_mode=True)
    except ModuleNotFoundError as error:
        click.echo(f"snn-export: error: {error.name} is not installed; pip install 'snn-detect[export]'", err=True)
        sys.exit(2)
    except DetectorError as error:
        click.echo(f"snn-export: error: {error}", err=True)
        sys.exit(error.exit_code)


def _end(number: int, _frame: object) -> None:
    """End by an exception, so that what is half made is taken away."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
