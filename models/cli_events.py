"""Commands that judge and tune events on scenes: evaluate-events, evaluate-channels, tune-events."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from detector.errors import ConfigError
from models.cli_fit import PATH
from models.cli_tell import tell

processes_option = click.option(
    "--processes", default=2, show_default=True, type=click.IntRange(1), help="How much is done at a time."
)


@click.command("evaluate-events")
@click.argument("model", type=PATH)
@click.argument("folder", metavar="SCENES", type=PATH)
@click.option("--json", "json_path", type=PATH, help="Write every figure here.")
@click.option("--pictures", type=PATH, help="Draw DET, precision, confusion and timeline to PREFIX-*.png.")
@processes_option
def evaluate_events(model: Path, folder: Path, json_path: Path | None, pictures: Path | None, processes: int) -> None:
    """Judge MODEL's events on SCENES (a folder of make-scenes) through the pipeline that ships."""
    from models.events import conditions, report, standard, tables
    from models.events.curves import GRID, curves, sweep
    from models.events.hearing import listen
    from models.events.tuning import tuned_on
    from models.scenes.folder import read_scenes

    _check_folder(json_path, pictures)
    standard.sed_scores()  # where it is missing, that is told before hours are heard and not behind them
    scenes = read_scenes(folder)
    heard = listen(model, scenes, processes)
    if any(scenes.sha256.startswith(digest) for digest in tuned_on(heard.manifest)):
        tell([f"{folder}: {model} was tuned on these scenes; judge it on others"])
    labels = heard.manifest.labels
    swept = sweep(heard, processes)
    outcome = conditions.judge(heard.detections, scenes, labels)
    found_curves = curves(swept, scenes, labels)
    measured = standard.measure(heard.detections, swept, GRID, scenes)
    document = report.figures(command(), heard, scenes, outcome, found_curves, measured)
    click.echo(tables.tables(document))
    if json_path:
        write_json(json_path, document)
    if pictures:
        _draw(pictures, scenes, heard, outcome, found_curves)


@click.command("evaluate-channels")
@click.argument("model", type=PATH)
@click.argument("folder", metavar="SCENES", type=PATH)
@click.option("--json", "json_path", type=PATH, help="Write the figures here.")
@processes_option
def evaluate_channels(model: Path, folder: Path, json_path: Path | None, processes: int) -> None:
    """Compare what MODEL finds on SCENES as they are and by other levels and microphones.

    Best on scenes of one level, such as make-scenes --level -20 -20: the whole scene is scaled.
    """
    from models.events import channels
    from models.events.hearing import model_of
    from models.scenes.folder import read_scenes

    _check_folder(json_path)
    scenes = read_scenes(folder)
    compared = channels.compare(model, scenes, processes, lambda name: click.echo(f"listening: {name}", err=True))
    click.echo(channels.table(compared))
    if json_path:
        about = {"command": command(), "model": model_of(model), "scenes": _about(scenes)}
        write_json(json_path, about | {"wanted": channels.WANTED, "channels": channels.as_json(compared)})


@click.command("tune-events")
@click.argument("model", type=PATH)
@click.argument("folder", metavar="SCENES", type=PATH)
@click.option("--rate", type=click.FloatRange(0), show_default="1", help="False alarms per hour and class.")
@click.option(
    "--total", type=click.FloatRange(0), help="Instead: false alarms per hour of all classes, shared out for the most."
)
@click.option("--into", type=PATH, help="The model to give the values to, of the same classes; default: MODEL.")
@click.option("--out", type=PATH, required=True, help="Model file to write.")
@click.option("--json", "json_path", type=PATH, help="Write rule, set and choices here.")
@processes_option
def tune_events(  # noqa: PLR0913 - one option each
    model: Path,
    folder: Path,
    rate: float | None,
    total: float | None,
    into: Path | None,
    out: Path,
    json_path: Path | None,
    processes: int,
) -> None:
    """Choose MODEL's decoder values on SCENES by an open rule, and write a model file with them.

    The rule: for each class the lowest miss rate at --rate false alarms per hour, or the lowest mean of
    all classes at --total. It is written into the model's training record, with the scenes. Judge the
    result on other scenes.
    """
    from detector.network import load_model
    from models.events import tuning
    from models.events.budget import Goal
    from models.events.hearing import listen, model_of
    from models.model_file import write_with_manifest
    from models.scenes.folder import read_scenes

    if rate is not None and total is not None:
        raise click.UsageError("--rate and --total: name one of them.")
    goal = Goal(1.0 if rate is None else rate) if total is None else Goal(total, together=True)
    _check_folder(json_path, out)
    scenes = read_scenes(folder)
    target = load_model(into or model).manifest
    if target.labels != load_model(model).manifest.labels:
        raise ConfigError(f"{into}: has other classes than {model}; tune a model of the same classes")
    heard = listen(model, scenes, processes)
    chosen = tuning.tune(heard, scenes, goal, processes)
    for line in chosen:
        click.echo(str(line))
    write_with_manifest(into or model, tuning.tuned_manifest(target, chosen, scenes, goal, command()), out)
    if json_path:
        about = {"command": command(), "model": model_of(model), "scenes": _about(scenes)}
        write_json(json_path, about | {"rule": goal.rule, "choices": tuning.as_json(chosen)})
    click.echo(f"{out}: with these values; next: snn-train evaluate-events {out} OTHER-SCENES", err=True)


def _about(scenes: Any) -> dict[str, Any]:
    return {"sha256": scenes.sha256, "command": scenes.manifest.command, "hours": scenes.manifest.hours}


def _draw(prefix: Path, scenes: Any, heard: Any, outcome: Any, found_curves: Any) -> None:
    from models.events import pictures
    from models.events.conditions import confusion

    labels, name = heard.manifest.labels, f"{heard.manifest.name} {heard.manifest.version}"
    title = f"{name}: {len(outcome.judged)} events in {scenes.manifest.hours:g} h"
    drawn = {label: curve for label, curve in found_curves.items() if curve.reports.shape[1]}

    def path(what: str) -> Path:
        return prefix.with_name(f"{prefix.name}-{what}.png")

    if drawn:
        pictures.draw_det(drawn, path("det"), title=title)
        pictures.draw_precision_recall(drawn, path("precision"), title=title)
    counts = confusion(outcome, labels)
    pictures.draw_event_confusion(counts, labels, path("confusion"), title=title)
    pictures.draw_timeline(scenes.streams[0], heard.detections[0], labels, path("timeline"))


def _check_folder(*paths: Path | None) -> None:
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}; make it first")


def write_json(path: Path, document: Any) -> None:
    """Write a document whole or not at all; raises ConfigError where it cannot be written."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another file") from error


def command() -> str:
    """Return the command as it was given; of absolute paths, which are this machine's, the last name."""
    arguments = [Path(a).name if a.startswith("/") else a for a in sys.argv[1:]]
    return shlex.join(["snn-train", *arguments])
