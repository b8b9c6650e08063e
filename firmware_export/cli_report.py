"""``snn-export report``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from detector.errors import ConfigError

PATH = click.Path(path_type=Path)
RECIPES = Path(__file__).resolve().parent.parent / "models" / "recipes"


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
    from firmware_export.report_table import table, to_json
    from models.corpus import recordings
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
