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
    from models.scenes.folder import read_scenes

    _check_folder(json_path, pictures)
    scenes = read_scenes(folder)
    heard = listen(model, scenes, processes)
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
