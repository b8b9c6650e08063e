"""The command ``snn-export``: one command for each form that a model can be exported in, and a report on all of them.

Modules that need torch, onnx or nir are imported by the commands that use them, so that help is fast.
"""

from __future__ import annotations

import re
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from detector import __version__
from detector.cli.program import Program, force_option, run_program
from detector.errors import ConfigError
from detector.system import JSON, MODEL, FileKind, Output, check_outputs
from models import RECIPES

PATH: Final = click.Path(path_type=Path)
_NIR: Final = FileKind("a NIR graph", re.compile(rb"\x89HDF\r\n\x1a\n"))
_NIR_TEXT: Final = FileKind("a text of this command", re.compile(rb"<!-- made by snn-export nir;"))
_NIR_MODULE: Final = FileKind("a module of this command", re.compile(rb"# made by snn-export nir;"))
_C_HEADER: Final = FileKind("a header of this command", re.compile(rb".*#ifndef SNN_MODEL_H\r?\n", re.DOTALL))


def _extra_of(module: str) -> str | None:
    """Return the extra that installs a module; None where the module is one of this project."""
    return None if module in {"detector", "models", "firmware_export"} else "export"


@click.group("snn-export", cls=Program, extra_of=_extra_of)
@click.version_option(__version__, prog_name="snn-export", message="%(prog)s %(version)s")
def cli() -> None:
    """Export a trained model in other forms."""


@cli.command()
@click.argument("run", type=PATH)
@click.option("--recipe", type=PATH, help="Recipe with the decoding to use; default: the run's own.")
@click.option("--out", type=PATH, required=True, help="Model file to write.")
@click.option(
    "--sound",
    type=PATH,
    multiple=True,
    help="Sounds to compare on, repeated up to 60 s; default: the demo scene.",
)
@click.option("--metrics", type=PATH, help="Metrics for the manifest, the JSON of snn-train evaluate.")
@force_option
def onnx(  # noqa: PLR0913 - one option each
    run: Path, recipe: Path | None, out: Path, sound: tuple[Path, ...], metrics: Path | None, *, force: bool
) -> None:
    """Export RUN as a streaming ONNX model.

    The file has a manifest, and is written only if it gives the same spikes as the run's network.
    """
    check_outputs([Output("--out", out, MODEL)], [recipe, metrics, *sound], force=force, makes_folders=True)
    from firmware_export.onnx.export import export_run

    parity = export_run(run, recipe, out, sound, metrics)
    click.echo(
        f"{out}: torch steps, a torch sequence and onnxruntime give the same spikes in {parity.layers} layers "
        f"over {parity.frames} frames ({parity.seconds:.0f} s); "
        f"scores differ by at most {parity.largest_score_difference:.1e}"
    )


@cli.command()
@click.argument("model", type=PATH)
@click.option(
    "--out",
    type=PATH,
    required=True,
    help="Folder to write.",
)
@click.option("--force", is_flag=True, help="Replace the files of an earlier export; others in its folder are kept.")
@click.option("--float", "is_float", is_flag=True, help="Single precision throughout (default).")
@click.option("--int8", "is_int8", is_flag=True, help="int8 weights and integer arithmetic throughout.")
@click.option(
    "--frontend", type=click.Choice(["fixed", "float"]), help="Number format of the MFCC with --int8; default: fixed."
)
@click.option(
    "--prefix",
    help="Beginning of all names that the linker sees; default: the model's name and the number format.",
)
@click.option(
    "--arduino",
    is_flag=True,
    help="A library for Arduino: library.properties, src/, examples/; name its folder, not that of all libraries.",
)
def c(  # noqa: PLR0913 - one option each
    model: Path,
    out: Path,
    is_float: bool,
    is_int8: bool,
    frontend: str | None,
    prefix: str | None,
    *,
    force: bool,
    arduino: bool,
) -> None:
    """Export MODEL as a folder of C99.

    It is the whole detector, from 16-bit samples to events.
    """
    from firmware_export.c99.arduino import MARK, export_arduino
    from firmware_export.c99.export import export_c
    from firmware_export.c99.formats import FLOAT, NumberFormat

    if is_float and is_int8:
        raise ConfigError("--float and --int8 exclude each other; give one of them")
    if frontend == "fixed" and not is_int8:
        raise ConfigError("--frontend fixed needs --int8: with --float, the MFCC is in floating point")
    if out.exists() and not (arduino and out.is_dir() and not (out / MARK).exists()):
        header = out / (MARK if arduino else "snn_model.h") if out.is_dir() else out
        check_outputs([Output("--out", header, _C_HEADER)], [model], force=force)
    number_format = NumberFormat(int8=True, fixed_front_end=frontend != "float") if is_int8 else FLOAT
    if arduino:
        export_arduino(model, out, number_format, prefix)
        move = "" if out.absolute().parent.name == "libraries" else "move it to libraries/, "
        sketch = out / "examples" / "SerialPort"
        click.echo(f"{out}: {model.name} for Arduino ({number_format.name}); next: {move}open {sketch}")
        return
    export_c(model, out, number_format, prefix)
    click.echo(
        f"{out}: {model.name} in C99 ({number_format.name}); next: make -C {out}, then pipe samples into {out}/snn_host"
    )


@cli.command()
@click.argument("model", type=PATH)
@click.option("--out", type=PATH, required=True, help="Model file to write.")
@force_option
def int8(model: Path, out: Path, *, force: bool) -> None:
    """Export MODEL with int8 weights.

    The model file is written only if it gives the same spikes as numpy over the demo scene.
    """
    check_outputs([Output("--out", out, MODEL)], [model], force=force, makes_folders=True)
    from firmware_export.onnx.int8 import export_int8

    result = export_int8(model, out)
    click.echo(
        f"{out}: {result.bytes_after / 1024:.0f} KiB instead of {result.bytes_before / 1024:.0f}; onnxruntime and "
        f"numpy give the same spikes in {result.layers} layers over {result.frames} frames; "
        f"scores differ by at most {result.largest_score_difference:.1e}"
    )


@cli.command()
@click.argument("model", type=PATH)
@click.option("--out", type=PATH, required=True, help="File to write, FILE.nir.")
@click.option(
    "--for",
    "simulator",
    metavar="SIMULATOR",
    help="Form for nirtorch, snntorch, sinabs or norse, with FILE.py to run it.",
)
@click.option("--nir-version", type=click.Choice(["1.0.4"]), help="For readers with this release of nir, as sinabs 3.")
@force_option
def nir(model: Path, out: Path, simulator: str | None, nir_version: str | None, *, force: bool) -> None:
    """Export MODEL's network as a NIR graph.

    The graph is written only if it gives the same spikes over the demo scene; FILE.md describes what NIR cannot
    express.
    """
    outputs = [Output("--out", out, _NIR), Output("--out", out.with_suffix(".md"), _NIR_TEXT)]
    if simulator is not None:
        outputs.append(Output("--out", out.with_suffix(".py"), _NIR_MODULE))
    check_outputs(outputs, [model], force=force, makes_folders=True)
    from firmware_export.nir.export import export_nir

    parity = export_nir(model, out, simulator, nir_version)
    spikes = f"{parity.near} spikes differ by rounding at the threshold" if parity.near else "the same spikes"
    about = "what NIR cannot express is in" if simulator is None else f"{out.with_suffix('.py')} runs it; more is in"
    click.echo(
        f"{out}: {spikes} in {len(parity.spikes)} layers over {parity.frames} frames; scores differ by at most "
        f"{parity.largest_score_difference:.1e}; {about} {out.with_suffix('.md')}"
    )


@cli.command()
@click.argument("model", type=PATH)
@click.option(
    "--data",
    type=PATH,
    envvar="SNN_DETECT_DATA",
    help="Folder of recordings, or SNN_DETECT_DATA; default: only the demo scene.",
)
@click.option("--recipe", type=PATH, help="Recipe whose recordings to evaluate on; default: the model's.")
@click.option("--compiler", default="cc", show_default=True, help="C compiler for this computer.")
@click.option("--json", "json_path", type=PATH, help="Also write the measurements to this file.")
@force_option
def report(  # noqa: PLR0913 - one option each
    model: Path, data: Path | None, recipe: Path | None, compiler: str, json_path: Path | None, *, force: bool
) -> None:
    """Compare all exported forms of MODEL.

    Each is made and run; the table has sizes, speed, parity and accuracy.
    """
    from detector.network import load_model
    from firmware_export.files import atomic_output
    from firmware_export.report import report as make_report
    from firmware_export.report import table, to_json
    from models.data.datasets import recordings
    from models.recipe import load_recipe

    check_outputs([Output("--json", json_path, JSON)], [model, recipe], force=force)
    manifest = load_model(model).manifest
    clips = []
    if data is not None:
        listing = recordings(load_recipe(recipe or RECIPES / f"{manifest.name}.toml"), data)
        clips = [c for c in listing.clips if c.label is not None and c.fold in manifest.training.folds_left_out]
    with tempfile.TemporaryDirectory(prefix="snn-export-") as work:
        rows = make_report(model, clips, Path(work), compiler)
    click.echo(table(rows, model))
    if json_path is not None:
        with atomic_output(json_path) as part:
            part.write_text(to_json(rows) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command line and exit."""
    signal.signal(signal.SIGTERM, _exit)
    run_program(cli, "snn-export")


def _exit(number: int, _frame: object) -> None:
    """End by an exception, so that temporary files are removed."""
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
