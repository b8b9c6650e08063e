"""Commands that train and evaluate on clips: fit, folds, average, evaluate, cross-evaluate, tune, adapt, make-bank."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from detector.cli.program import channel_option, force_option, renamed_option
from detector.errors import ConfigError
from detector.system import JSON, MODEL, PNG, FileKind, Output, check_outputs, write_text
from models import RECIPES
from models.cli.options import (
    PATH,
    data_option,
    integers,
    material_option,
    processes_option,
    threads_option,
    use_threads,
)
from models.console import report_problems

if TYPE_CHECKING:
    from detector.audio.live_source import Channel

_CREDITS: Final = FileKind("the credits of a bank", re.compile(rb"# .*\n\n.*`snn-train adapt`", re.DOTALL))
_CARD: Final = FileKind("the card of an adapted model", re.compile(rb"# .*\n\n.*Made by `", re.DOTALL))
_BANK_BYTES: Final = 5_000_000
"""Largest bank: it ships with the model."""


@click.command()
@click.argument("recipe", type=PATH, default=RECIPES / "household.toml")
@data_option
@material_option
@click.option("--run", "folder", type=PATH, required=True, help="Folder of the run; an interrupted run is resumed.")
@click.option("--seed", default=0, show_default=True, help="Seed of all that is random.")
@click.option("--leave-out", type=click.IntRange(1, 5), help="Hold out this fold, too.")
@click.option(
    "--warm-start", type=PATH, help="Start from the weights of this finished run, or model file, of the same network."
)
@renamed_option("--begin", "--warm-start")
@click.option("--workers", default=1, show_default=True, help="Processes that make examples; 0: the training process.")
@threads_option
def fit(  # noqa: PLR0913 - one option each
    recipe: Path,
    data: Path,
    material: Path | None,
    folder: Path,
    seed: int,
    leave_out: int | None,
    warm_start: Path | None,
    workers: int,
    threads: int | None,
) -> None:
    """Train by RECIPE, stage by stage, or resume from the checkpoint in the run folder."""
    from models.recipe import load_stages, read_toml

    # Where another process takes a core, threads spend more time waiting for one another than they save.
    use_threads(threads or max(1, (os.cpu_count() or 1) - workers))
    if read_toml(recipe).get("kind") == "image":
        from models.images import train as image_train

        if material is not None or warm_start is not None:
            raise ConfigError(f"{recipe}: image networks take neither --material nor --warm-start")
        image_train.fit(recipe, data, folder, seed, leave_out)
        return
    from models.training.loop import Run, train_stages

    train_stages(load_stages(recipe), Run(data, material, folder, seed, leave_out, workers, warm_start))
    click.echo(f"trained: {folder}; next: snn-export onnx {folder} --out MODEL.onnx", err=True)


@click.command()
@click.argument("models", nargs=-1, required=True, type=PATH)
@click.option(
    "--recipe", type=PATH, default=RECIPES / "household.toml", help="Recipe of the network; default: household."
)
@click.option("--run", "folder", type=PATH, required=True, help="Folder of the run to write.")
def average(models: tuple[Path, ...], recipe: Path, folder: Path) -> None:
    """Average the weights of MODELS, of which one was trained on from another, as a run to export.

    The mean often generalises better than either, at the cost of one; evaluate it as any other.
    """
    from models.recipe import load_recipe
    from models.training import averaging

    averaging.average(load_recipe(recipe), models, folder)
    click.echo(f"averaged: {folder}; next: snn-export onnx {folder} --out MODEL.onnx", err=True)


@click.command()
@click.argument("model", type=PATH)
@data_option
@click.option("--recipe", type=PATH, help="Recipe whose recordings are used; default: the one that the model names.")
@click.option("--fold", default=5, show_default=True, type=click.IntRange(1, 5), help="Fold to evaluate on.")
@click.option("--json", "json_path", type=PATH, help="Write the metrics here.")
@click.option("--picture", type=PATH, help="Draw the confusion matrix here (PNG).")
@click.option("--out", type=PATH, help="Write the model here, with the metrics in its manifest.")
@force_option
def evaluate(  # noqa: PLR0913 - one option each
    model: Path,
    data: Path,
    recipe: Path | None,
    fold: int,
    json_path: Path | None,
    picture: Path | None,
    out: Path | None,
    *,
    force: bool,
) -> None:
    """Evaluate MODEL on a fold's recordings through the streaming pipeline."""
    from models.data.datasets import recordings
    from models.evaluation.clips import check_unseen, confusion, metrics, predict_clips, table
    from models.files import write_json, write_with_manifest
    from models.plots import draw_confusion
    from models.recipe import load_recipe

    outputs = (Output("--json", json_path, JSON), Output("--picture", picture, PNG), Output("--out", out, MODEL))
    check_outputs(outputs, (model, recipe), force=force)
    manifest = check_unseen(model, fold)
    listing = recordings(load_recipe(recipe or RECIPES / f"{manifest.name}.toml"), data)
    report_problems(listing.problems)
    predictions = predict_clips(model, [c for c in listing.clips if c.fold == fold])
    click.echo(table(predictions))
    if json_path:
        write_json(json_path, metrics(predictions))
    if picture:
        counts = confusion(predictions)
        draw_confusion(counts, manifest.labels, picture, title=f"{counts.sum()} held-out clips")
    if out:
        write_with_manifest(model, replace(manifest, metrics=metrics(predictions)), out)


@click.command()
@click.argument("recipe", type=PATH, default=RECIPES / "esc10.toml")
@data_option
@click.option("--runs", type=PATH, required=True, help="Folder of the runs: fold1-seed0, fold2-seed0, ...; resumes.")
@click.option("--folds", default="1,2,3,4,5", show_default=True, help="Folds to leave out, one run each.")
@click.option("--seeds", default="0,1", show_default=True, help="Seeds of the runs of each fold.")
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1), help="Parallel runs, one core each.")
@click.option("--warm-start", type=PATH, help="Start each run from the weights of this one, such as one of kinds.toml.")
def folds(  # noqa: PLR0913 - one option each
    recipe: Path, data: Path, runs: Path, folds: str, seeds: str, jobs: int, warm_start: Path | None
) -> None:
    """Cross-validation: train RECIPE once per fold and seed, leaving that fold out."""
    from models.recipe import load_stages
    from models.training.folds import plan, train_all

    epochs = sum(stage.recipe.schedule.epochs for stage in load_stages(recipe))
    wanted = plan(runs, integers(folds, "--folds"), integers(seeds, "--seeds"))
    train_all(recipe, epochs, data, wanted, jobs, warm_start)
    click.echo(
        f"trained: {len(wanted)} runs below {runs}; next: snn-export onnx for each, then cross-evaluate", err=True
    )


@click.command()
@click.argument("models", type=PATH, nargs=-1, required=True)
@click.option("--recipe", type=PATH, default=RECIPES / "esc10.toml", help="Recipe whose recordings are used.")
@data_option
@click.option("--runs", type=PATH, help="Folder of the runs of the models, for their training time.")
@click.option("--json", "json_path", type=PATH, help="Write rows and summary here.")
@click.option("--picture", type=PATH, help="Draw the confusion matrix of all folds here (PNG).")
@force_option
def cross_evaluate(  # noqa: PLR0913 - one option each
    models: tuple[Path, ...],
    recipe: Path,
    data: Path,
    runs: Path | None,
    json_path: Path | None,
    picture: Path | None,
    *,
    force: bool,
) -> None:
    """Evaluate MODELS, each on the fold it left out: model files, or run folders of a CNN twin."""
    from models.console import progress
    from models.evaluation.clips import confusion, evaluate_fold, folds_table, mean_training_seconds, summary
    from models.files import write_json
    from models.plots import draw_confusion
    from models.recipe import load_recipe

    outputs = (Output("--json", json_path, JSON), Output("--picture", picture, PNG))
    check_outputs(outputs, (*models, recipe), force=force, makes_folders=True)
    wanted = load_recipe(recipe)
    results = [evaluate_fold(model, wanted, data) for model in progress(models, "evaluating", "models")]
    document = summary(results)
    if runs:
        document["training_seconds"] = mean_training_seconds(runs)
    click.echo(folds_table(document))
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        write_json(json_path, document)
    if picture:
        counts = sum((confusion(r.predictions) for r in results[1:]), confusion(results[0].predictions))
        title = f"{len(results)} models, each on its held-out fold: {counts.sum()} clips"
        draw_confusion(counts, wanted.labels, picture, title=title)


@click.command()
@click.option(
    "--evaluate",
    "held_out",
    type=(PATH, click.IntRange(1, 4)),
    multiple=True,
    required=True,
    metavar="MODEL FOLD",
    help="A model and the fold that its training left out; repeat for more data.",
)
@renamed_option("--judge", "--evaluate", nargs=2, multiple=True)
@data_option
@click.option(
    "--false-rate",
    default=0.05,
    show_default=True,
    help="Largest share of clips of other classes, in any source, with an event.",
)
@click.option("--smoothing", default="4,8,12", show_default=True, help="Smoothing lengths to try, in frames.")
def tune(held_out: tuple[tuple[Path, int], ...], data: Path, false_rate: float, smoothing: str) -> None:
    """Choose the smoothing length and the on-thresholds on held-out folds, as TOML for a recipe."""
    from models.data.datasets import recordings
    from models.data.segments import onset_samples_of
    from models.evaluation.clips import check_unseen, evaluate_settings, predict_clips, select_setting, toml
    from models.recipe import load_recipe

    smoothings = integers(smoothing, "--smoothing")
    if min(smoothings) < 1:
        raise ConfigError(f"--smoothing {smoothing}: smoothing takes one frame at least")
    manifests = [check_unseen(model, fold) for model, fold in held_out]
    clips = recordings(load_recipe(RECIPES / f"{manifests[0].name}.toml"), data).clips
    predictions = [p for model, fold in held_out for p in predict_clips(model, [c for c in clips if c.fold == fold])]
    onset_samples = onset_samples_of([p.clip for p in predictions], manifests[0].features.sample_rate_hz)
    settings = evaluate_settings(predictions, onset_samples, manifests[0], false_rate, smoothings)
    for s in settings:
        click.echo(str(s), err=True)
    chosen = select_setting(settings)
    for c in chosen.choices:
        rates = f"own clips {c.recall}, others {c.false}, worst source {c.worst}"
        click.echo(f"{c.label:15} {c.threshold:.2f}  {rates}", err=True)
    click.echo(f"[decoding]\nsmoothing_frames = {chosen.smoothing_frames}\n{toml(chosen.choices)}")


@click.command()
@click.argument("model", type=PATH)
@click.option(
    "--add-class",
    "classes",
    type=(str, PATH),
    multiple=True,
    required=True,
    metavar="LABEL FOLDER",
    help="A new class and the folder of its recordings, 20 or more; repeat for more.",
)
@click.option("--replace", is_flag=True, help="Remove the old classes.")
@click.option("--out", type=PATH, help="Model file to write; default: MODEL's name followed by the labels, here.")
@force_option
@click.option("--category", default="things", show_default=True, help="Category of the new classes.")
@channel_option
@click.option("--background", type=PATH, help="Recordings of the place without the new sounds: a file or a folder.")
@material_option
@click.option("--data", type=PATH, help="Folder of recordings in the layout of snn-train fit, as negatives.")
@click.option(
    "--bank", type=PATH, help="Other sounds (snn-train make-bank); default: those beside MODEL or the shipped model."
)
@click.option("--no-bank", is_flag=True, help="Use no bank: other sounds are those of the options above.")
@click.option(
    "--without",
    multiple=True,
    metavar="KIND",
    help="A kind of sounds of the bank that is of a new class; repeat for more. Kinds named like one are left out.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of all that is random.")
@click.option(
    "--workers",
    default=2,
    show_default=True,
    type=click.IntRange(1),
    help="Processes that make examples and train.",
)
def adapt(  # noqa: PLR0913 - one option each
    model: Path,
    classes: tuple[tuple[str, Path], ...],
    replace: bool,
    out: Path | None,
    category: str,
    channel: Channel,
    background: Path | None,
    material: Path | None,
    data: Path | None,
    bank: Path | None,
    without: tuple[str, ...],
    seed: int,
    workers: int,
    *,
    no_bank: bool,
    force: bool,
) -> None:
    """Add classes to MODEL from your own recordings, on a CPU in minutes; scores of the old classes do not change.

    What is not of a new class comes from a bank of other sounds that ships with the model.

    The recordings are divided into five folds for cross-validation; the metrics that are printed, and
    written to the card beside the new model, are those of held-out folds. Cuts of one recording should
    share a name up to their number (bell-1.wav, bell-2.wav): they are kept in one fold. Sounds that are
    frequent at the place of use, given as --background, serve as further negatives.
    """
    from models.adapting.adapt import AdaptOptions, adapt
    from models.adapting.card import card, evaluation_table, warnings

    if no_bank and bank is not None:
        raise ConfigError("--no-bank and --bank contradict each other; give one of them")
    target = out or Path(f"{'-'.join([model.stem, *(label for label, _ in classes)])}.onnx")
    page = target.with_suffix(".md")
    outputs = (Output("--out", target, MODEL), Output("the card", page, _CARD))
    check_outputs(outputs, [p for p in (model, background, material, data, bank) if p is not None], force=force)
    options = AdaptOptions(
        model=model,
        classes=classes,
        out=target,
        category=category,
        replace=replace,
        background=background,
        channel=channel,
        material=material,
        data=data,
        seed=seed,
        processes=workers,
        bank=bank,
        uses_bank=not no_bank,
        without=without,
    )
    result = adapt(options)
    report_problems([*result.problems, *warnings(result)])
    for line in evaluation_table(result):
        click.echo(line)
    write_text(page, card(options, result))
    click.echo(f"{target}, {page}: written; next: snn-detect replay --model {target} RECORDING", err=True)


@click.command()
@click.argument("model", type=PATH)
@data_option
@click.option("--out", type=PATH, help="Bank to write; default: beside MODEL, where snn-train adapt looks for it.")
@force_option
@click.option("--seed", default=0, show_default=True, help="Seed of all that is random.")
@processes_option
def make_bank(  # noqa: PLR0913 - one option each
    model: Path, data: Path, out: Path | None, seed: int, processes: int, *, force: bool
) -> None:
    """Make the bank of other sounds for snn-train adapt on MODEL: its backbone's spikes over recordings.

    Recordings of fold 5 are left out, and those whose licence does not allow derived data to ship. The same
    model, recordings and seed give the same bytes. Authors and licences are in the bank, and in a page beside it.
    """
    from models.adapting.bank import BANK, SUFFIX
    from models.adapting.make_bank import credits_page, make_bank, write_limited

    target = out or model.with_suffix(SUFFIX)
    page = target.with_name(target.name + ".txt")
    check_outputs([Output("--out", target, BANK), Output("the credits", page, _CREDITS)], [model], force=force)
    bank, problems = make_bank(model, data, seed, processes)
    report_problems(problems)
    kept = write_limited(target, bank, _BANK_BYTES)
    write_text(page, credits_page(target, kept))
    click.echo(
        f"{target}, {page}: written, {len(kept)} of {len(bank)} examples in {target.stat().st_size} bytes", err=True
    )
