"""Commands that train, judge and tune: fit, folds, evaluate, cross-evaluate, tune.

The command ``snn-train adapt``: a model for sounds of one's own.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from detector.errors import ConfigError
from models import RECIPES
from models.console import report_problems

PATH = click.Path(path_type=Path)
data_option = click.option(
    "--data",
    type=PATH,
    envvar="SNN_DETECT_DATA",
    required=True,
    help="Folder of recordings: esc10, instruments, guitar_notes, speech_digits, mnist; or SNN_DETECT_DATA.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), help="Threads of torch and of the scan; default: all cores."
)
material_option = click.option("--material", type=PATH, help="Rendered material (python -m models.rendering).")


@click.command()
@click.argument("recipe", type=PATH, default=RECIPES / "household-first.toml")
@data_option
@material_option
@click.option("--run", "folder", type=PATH, required=True, help="Folder of the run; resumes.")
@click.option("--seed", default=0, show_default=True)
@click.option("--leave-out", type=click.IntRange(1, 5), help="Leave out this fold too.")
@click.option("--begin", type=PATH, help="Begin with the weights of this ended run of the same network.")
@click.option("--workers", default=1, show_default=True, help="Processes that make examples; 0: none beside training.")
@threads_option
def fit(  # noqa: PLR0913 - one option each
    recipe: Path,
    data: Path,
    material: Path | None,
    folder: Path,
    seed: int,
    leave_out: int | None,
    onset_sample: Path | None,
    workers: int,
    threads: int | None,
) -> None:
    """Train by RECIPE, or go on where the run folder's checkpoint stands."""
    from models.recipe import load_recipe, read_toml

    use_threads(threads)
    if read_toml(recipe).get("kind") == "image":
        from models.images import train as image_train

        if material is not None or onset_sample is not None:
            raise ConfigError(f"{recipe}: networks that see pictures take no rendered material and begin anew")
        image_train.fit(recipe, data, folder, seed, leave_out)
        return
    from models.training.loop import Run, train

    train(load_recipe(recipe), Run(data, material, folder, seed, leave_out, workers, onset_sample))
    click.echo(f"trained: {folder}; next: snn-export onnx {folder} --out MODEL.onnx", err=True)


@click.command()
@click.argument("model", type=PATH)
@data_option
@click.option("--recipe", type=PATH, help="Whose recordings to judge on; default: the recipe that the model names.")
@click.option("--fold", default=5, show_default=True, type=click.IntRange(1, 5), help="Recordings to judge on.")
@click.option("--json", "json_path", type=PATH, help="Write the figures here.")
@click.option("--picture", type=PATH, help="Draw the confusion matrix here (PNG).")
@click.option("--out", type=PATH, help="Write the model here, with the figures in its manifest.")
def evaluate(  # noqa: PLR0913 - one option each
    model: Path,
    data: Path,
    recipe: Path | None,
    fold: int,
    json_path: Path | None,
    picture: Path | None,
    out: Path | None,
) -> None:
    """Judge MODEL on a fold's recordings through the pipeline that ships."""
    from models.data.datasets import recordings
    from models.evaluation import clips as judge
    from models.files import write_with_manifest
    from models.plots import draw_confusion
    from models.recipe import load_recipe

    manifest = judge.check_unseen(model, fold)
    for path in (json_path, picture, out):
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")
    listing = recordings(load_recipe(recipe or RECIPES / f"{manifest.name}.toml"), data)
    report_problems(listing.problems)
    predictions = judge.predict_clips(model, [c for c in listing.clips if c.fold == fold])
    click.echo(judge.table(predictions))
    if json_path:
        json_path.write_text(json.dumps(judge.metrics(predictions), indent=1) + "\n", encoding="utf-8")
    if picture:
        counts = judge.confusion(predictions)
        draw_confusion(counts, manifest.labels, picture, title=f"{counts.sum()} clips that the model never saw")
    if out:
        write_with_manifest(model, replace(manifest, metrics=judge.metrics(predictions)), out)


@click.command()
@click.argument("recipe", type=PATH, default=RECIPES / "esc10.toml")
@data_option
@click.option("--runs", type=PATH, required=True, help="Folder of the runs: fold1-seed0, fold2-seed0, ...; resumes.")
@click.option("--folds", default="1,2,3,4,5", show_default=True, help="Folds to leave out, one run each.")
@click.option("--seeds", default="0,1", show_default=True)
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1), help="Runs at once, one core each.")
def folds(recipe: Path, data: Path, runs: Path, folds: str, seeds: str, jobs: int) -> None:  # noqa: PLR0913 - options
    """Train RECIPE once for each fold and seed, leaving that fold out."""
    from models.recipe import load_recipe
    from models.training import folds as fold_runs

    epochs = load_recipe(recipe).schedule.epochs
    wanted = fold_runs.plan(runs, _numbers(folds, "--folds"), _numbers(seeds, "--seeds"))
    fold_runs.train_all(recipe, epochs, data, wanted, jobs)
    click.echo(
        f"trained: {len(wanted)} runs below {runs}; next: snn-export onnx for each, then cross-evaluate", err=True
    )


@click.command()
@click.argument("models", type=PATH, nargs=-1, required=True)
@click.option("--recipe", type=PATH, default=RECIPES / "esc10.toml", help="Whose recordings to judge on.")
@data_option
@click.option("--runs", type=PATH, help="Folder of the runs that the models are of, for their training time.")
@click.option("--json", "json_path", type=PATH, help="Write rows and summary here.")
@click.option("--picture", type=PATH, help="Draw the confusion matrix of all folds here (PNG).")
def cross_evaluate(  # noqa: PLR0913 - one option each
    models: tuple[Path, ...], recipe: Path, data: Path, runs: Path | None, json_path: Path | None, picture: Path | None
) -> None:
    """Judge MODELS, each on the fold it left out: model files, or run folders of a CNN twin."""
    from tqdm import tqdm

    from models.evaluation import clips as cross
    from models.evaluation.clips import confusion
    from models.plots import draw_confusion
    from models.recipe import load_recipe

    wanted = load_recipe(recipe)
    results = [cross.evaluate_fold(model, wanted, data) for model in tqdm(models, unit="model")]
    result = cross.summary(results)
    if runs:
        result["training_seconds"] = cross.mean_training_seconds(runs)
    click.echo(cross.folds_table(result))
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if picture:
        counts = sum((confusion(j.predictions) for j in results[1:]), confusion(results[0].predictions))
        title = f"{len(results)} models, each on the fold that it never saw: {counts.sum()} clips"
        draw_confusion(counts, wanted.labels, picture, title=title)


@click.command()
@click.option(
    "--judge",
    "judged",
    type=(PATH, click.IntRange(1, 4)),
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
@click.option("--smoothing", default="4,8,12", show_default=True, help="Lengths of the average to try, in frames.")
def tune(results: tuple[tuple[Path, int], ...], data: Path, false_rate: float, smoothing: str) -> None:
    """Choose the average's length and each class's on-threshold on folds that the models never saw, as TOML."""
    from models.data.datasets import recordings
    from models.data.segments import onset_samples_of
    from models.evaluation import clips as judge
    from models.evaluation import clips as tuning
    from models.recipe import load_recipe

    smoothings = _numbers(smoothing, "--smoothing")
    if min(smoothings) < 1:
        raise ConfigError(f"--smoothing {smoothing}: an average is over one frame at least")
    manifests = [judge.check_unseen(model, fold) for model, fold in results]
    clips = recordings(load_recipe(RECIPES / f"{manifests[0].name}.toml"), data).clips
    predictions = [
        h for model, fold in results for h in judge.predict_clips(model, [c for c in clips if c.fold == fold])
    ]
    onset_samples = onset_samples_of([h.clip for h in predictions], manifests[0].features.sample_rate_hz)
    settings = tuning.evaluate_settings(predictions, onset_samples, manifests[0], false_rate, smoothings)
    for s in settings:
        click.echo(str(s), err=True)
    chosen = tuning.select_setting(settings)
    for c in chosen.choices:
        rates = f"own clips {c.recall}, others {c.false}, worst source {c.worst}"
        click.echo(f"{c.label:15} {c.threshold:.2f}  {rates}", err=True)
    click.echo(f"[decoding]\nsmoothing_frames = {chosen.smoothing_frames}\n{tuning.toml(chosen.choices)}")


def _numbers(text: str, option: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: wanted whole numbers with commas between them, such as 0,1") from error


def use_threads(threads: int | None) -> None:
    """Limit torch and the scan to so many threads."""
    if threads:
        import numba
        import torch

        torch.set_num_threads(threads)
        numba.set_num_threads(threads)


_EXAMPLES: Final = 2400
_EPOCHS: Final = 8


@click.command()
@click.argument("model", type=PATH)
@click.option(
    "--add-class",
    "classes",
    type=(str, PATH),
    multiple=True,
    required=True,
    metavar="LABEL FOLDER",
    help="A new class and the folder of its recordings, 20 or more. Repeat for more.",
)
@click.option("--replace", is_flag=True, help="Leave the old classes out.")
@click.option("--out", type=PATH, help="Model file to write; default: MODEL's name with the labels behind it, here.")
@click.option("--category", default="things", show_default=True, help="Of the new classes, for records and topics.")
@click.option("--background", type=PATH, help="Recordings of the place without the new sounds: a file or a folder.")
@material_option
@click.option("--data", type=PATH, help="Folder of recordings as snn-train fit takes it, if you have one.")
@click.option("--seed", default=0, show_default=True)
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Processes that make examples.")
def adapt(  # noqa: PLR0913 - one option each
    model: Path,
    classes: tuple[tuple[str, Path], ...],
    replace: bool,
    out: Path | None,
    category: str,
    background: Path | None,
    material: Path | None,
    data: Path | None,
    seed: int,
    workers: int,
) -> None:
    """Add classes to MODEL from recordings of your own, on a processor in minutes; the old classes stay as they are.

    The recordings are put into five parts, and the figures that are printed, and stand in the card
    beside the new model, are of parts that the judging network had not learnt from. Cuts of one
    recording should share a name up to their number (bell-1.wav, bell-2.wav): they are kept together.
    Sounds that are often around, given as --background, are what it learns to tell the new ones from.
    """
    from models.adapting.adapt import AdaptOptions, adapt, card, evaluation_table

    labels = [label for label, _ in classes]
    target = out or Path(f"{model.stem}-{'-'.join(labels)}.onnx")
    options = AdaptOptions(
        model=model,
        classes=classes,
        out=target,
        category=category,
        replace=replace,
        background=background,
        material=material,
        data=data,
        seed=seed,
        processes=workers,
        examples=_EXAMPLES,
        epochs=_EPOCHS,
    )
    found = adapt(options)
    report_problems(found.problems)
    for line in evaluation_table(found):
        click.echo(line)
    page = target.with_suffix(".md")
    page.write_text(card(options, found), encoding="utf-8")
    click.echo(f"{target}, {page}: written; next: snn-detect replay --model {target} RECORDING", err=True)
