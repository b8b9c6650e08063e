"""Commands that train, judge and tune: fit, evaluate, tune."""

from __future__ import annotations

import json
from pathlib import Path

import click

from detector.errors import ConfigError

RECIPES = Path(__file__).parent / "recipes"
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="SNN_DETECT_DATA",
    required=True,
    help="Folder of recordings: esc10, instruments, guitar_notes, speech_digits; or SNN_DETECT_DATA.",
)


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path), default=RECIPES / "household.toml")
@data_option
@click.option("--material", type=click.Path(path_type=Path), help="Rendered material (python -m models.rendering).")
@click.option("--run", "folder", type=click.Path(path_type=Path), required=True, help="Folder of the run; resumes.")
@click.option("--seed", default=0, show_default=True)
@click.option("--leave-out", type=click.IntRange(1, 4), help="Leave out this fold too, to choose settings on it.")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch and of the scan; default: all cores.")
def fit(  # noqa: PLR0913 - one option each
    recipe: Path,
    data: Path,
    material: Path | None,
    folder: Path,
    seed: int,
    leave_out: int | None,
    threads: int | None,
) -> None:
    """Train by RECIPE, or go on where the run folder's checkpoint stands."""
    import numba
    import torch

    from models.recipe import load_recipe
    from models.train import Run, train

    if threads:
        torch.set_num_threads(threads)
        numba.set_num_threads(threads)
    train(load_recipe(recipe), Run(data, material, folder, seed, leave_out))
    click.echo(f"trained: {folder}; next: snn-export onnx {folder} --out MODEL.onnx", err=True)


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@data_option
@click.option("--fold", default=5, show_default=True, type=click.IntRange(1, 5), help="Recordings to judge on.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the figures here.")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw the confusion matrix here (PNG).")
def evaluate(model: Path, data: Path, fold: int, json_path: Path | None, picture: Path | None) -> None:
    """Judge MODEL on a fold's recordings through the pipeline that ships."""
    from models import evaluate as judge
    from models.datasets import LABELS, list_clips
    from models.figures import draw_confusion

    judge.check_unseen(model, fold)
    for path in (json_path, picture):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    heard = judge.listen(model, [c for c in list_clips(data) if c.fold == fold])
    figures = judge.figures(heard)
    click.echo(judge.table(heard))
    if json_path:
        json_path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if picture:
        counts = judge.confusion(heard)
        draw_confusion(counts, LABELS, picture, title=f"{counts.sum()} clips that the model never saw")


@click.command()
@click.option(
    "--judge",
    "judged",
    type=(click.Path(path_type=Path), click.IntRange(1, 4)),
    multiple=True,
    required=True,
    metavar="MODEL FOLD",
    help="A model, and the fold that its training left out; repeat for more evidence.",
)
@data_option
@click.option(
    "--false-rate",
    default=0.05,
    show_default=True,
    help="Largest share of any source's other clips with an event.",
)
def tune(judged: tuple[tuple[Path, int], ...], data: Path, false_rate: float) -> None:
    """Choose each class's on-threshold on folds that the models never saw, as TOML for the recipe."""
    from models import evaluate as judge
    from models import tune as tuning
    from models.datasets import list_clips

    manifests = [judge.check_unseen(model, fold) for model, fold in judged]
    clips = list_clips(data)
    heard = [h for model, fold in judged for h in judge.listen(model, [c for c in clips if c.fold == fold])]
    choices = tuning.choose(heard, manifests[0], false_rate)
    for c in choices:
        rates = f"own clips {c.recall}, others {c.false}, worst source {c.worst}"
        click.echo(f"{c.label:15} {c.threshold:.2f}  {rates}", err=True)
    click.echo(tuning.toml(choices))
