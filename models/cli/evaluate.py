"""Commands that judge and tune events on scenes: evaluate-events, evaluate-channels, tune-events.

The command that makes scenes: make-scenes.

Commands for what is kept of runs: keep, report.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detector.cli.program import renamed_option
from detector.errors import ConfigError
from models import RECIPES, RESULTS
from models.cli.train import PATH
from models.console import tell

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
    from models.evaluation import dcase as standard
    from models.evaluation import matching as conditions
    from models.evaluation import report
    from models.evaluation import report as tables
    from models.evaluation.inference import listen
    from models.evaluation.matching import GRID, curves, sweep
    from models.evaluation.thresholds import tuned_on
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
    from models.evaluation import robustness as channels
    from models.evaluation.inference import model_of
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
@click.option(
    "--max-false-alarms",
    "rate",
    type=click.FloatRange(0),
    show_default="1",
    help="Highest acceptable rate of false alarms, per hour and class.",
)
@renamed_option("--rate", "--max-false-alarms")
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

    The rule: for each class the lowest miss rate at --max-false-alarms per hour, or the lowest mean of
    all classes at --total. It is written into the model's training record, with the scenes. Judge the
    result on other scenes.
    """
    from detector.network import load_model
    from models.evaluation import thresholds as tuning
    from models.evaluation.inference import listen, model_of
    from models.evaluation.thresholds import Goal
    from models.files import write_with_manifest
    from models.scenes.folder import read_scenes

    if rate is not None and total is not None:
        raise click.UsageError("--max-false-alarms and --total: name one of them.")
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
    from models.evaluation import plots as pictures
    from models.evaluation.matching import confusion

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


if TYPE_CHECKING:
    from detector.network import Model
    from models.scenes.sounds import HeldOut, Sound

BACKGROUNDS = "rain,room,hum,babble,music,silence"
_SHORTEST_STRETCH_S = 20


@click.command("make-scenes")
@click.argument("out", type=PATH)
@click.option(
    "--for", "judged", type=PATH, required=True, help="The model to be judged: its record says what to avoid."
)
@click.option(
    "--data", type=PATH, envvar="SNN_DETECT_DATA", help="Folder of the model's kind of recordings; or SNN_DETECT_DATA."
)
@click.option("--recipe", type=PATH, help="Whose recordings; default: the recipe that the model names.")
@click.option("--fold", default=5, show_default=True, type=click.IntRange(1, 5), help="Which of them: one left out.")
@click.option(
    "--half", type=click.Choice(["first", "second"]), help="Half of them, to tune on one, judge on the other."
)
@click.option(
    "--add",
    "added",
    multiple=True,
    metavar="LABEL=FOLDER",
    help="Recordings of a class, or of none (none=FOLDER), that the model has not heard. Repeat for more.",
)
@click.option(
    "--rendered",
    type=click.Choice(["all", "unclassed", "none"]),
    default="all",
    show_default=True,
    help="Add other instruments, voices, animals and machines, or only those of no class.",
)
@click.option("--soundfont", type=PATH, help="Of those instruments; default: TimGM6mb.")
@click.option("--hours", default=1.0, show_default=True, type=click.FloatRange(0.01, 200))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Same seed, same bytes.")
@click.option("--snr", default="20,10,5,0", show_default=True, help="Signal-to-noise ratios to draw from, in dB.")
@click.option("--background", default=BACKGROUNDS, show_default=True, help="Backgrounds in turn.")
@click.option(
    "--level", default=(-50.0, -6.0), show_default=True, type=(float, float), help="Range of peak levels, in dBFS."
)
@click.option("--only", help="Classes to place, with commas; default: all.")
@click.option("--weight", multiple=True, metavar="LABEL=W", help="Place a class W times as often. Repeat for more.")
@click.option(
    "--unknown", default=0.2, show_default=True, type=click.FloatRange(0, 1), help="Share of sounds of no class."
)
@click.option("--stretch", default=300.0, show_default=True, help="Seconds before another background begins.")
@click.option("--stream", default=3600.0, show_default=True, help="Seconds in a file, which is a stream of its own.")
@click.option("--format", "form", type=click.Choice(["flac", "wav"]), default="flac", show_default=True)
def make_scenes(  # noqa: PLR0913 - one option each
    out: Path,
    judged: Path,
    data: Path | None,
    recipe: Path | None,
    fold: int,
    half: str | None,
    added: tuple[str, ...],
    soundfont: Path | None,
    hours: float,
    seed: int,
    snr: str,
    background: str,
    level: tuple[float, float],
    only: str | None,
    weight: tuple[str, ...],
    unknown: float,
    stretch: float,
    stream: float,
    form: str,
    rendered: str,
) -> None:
    """Make long streams with a reference, of sounds that the judged model was not trained on, in the new folder OUT."""
    from detector.network import load_model
    from models.recipe import load_recipe
    from models.scenes import plan as backgrounds
    from models.scenes.mixing import Making, write_scenes
    from models.scenes.plan import Wishes, plan
    from models.scenes.sounds import HeldOut

    model = load_model(judged)
    manifest = model.manifest
    _check_lengths(level, stretch, stream)
    wanted = HeldOut(data, load_recipe(recipe or RECIPES / f"{manifest.name}.toml"), fold, half) if data else None
    stock = _stock(model, wanted, added, seed, soundfont, rendered)
    wishes = Wishes(
        hours=hours,
        seed=seed,
        snrs_db=_snrs(snr),
        backgrounds=tuple(name.strip() for name in background.split(",")),
        level_db=level,
        weights=_weights(manifest.labels, {s.label for s in stock}, only, weight),
        unknown=unknown,
        stretch_s=stretch,
        stream_s=stream,
    )
    backgrounds.check(wishes.backgrounds, stock)
    held_out = (manifest.name, manifest.version, model.sha256)
    making = Making(command(), seed, manifest.features.sample_rate_hz, held_out, fold if data else 0, half or "", form)
    made = write_scenes(out, plan(wishes, stock, making.rate_hz), stock, making)
    counts = ", ".join(f"{label} {count}" for label, count in made.events.items())
    click.echo(f"{out}: {made.hours:g} h in {len(made.streams)} streams; events: {counts}; no class: {made.unknown}")


def _stock(  # noqa: PLR0913 - where sounds come from
    model: Model,
    wanted: HeldOut | None,
    added: tuple[str, ...],
    seed: int,
    soundfont: Path | None,
    rendered: str,
) -> list[Sound]:
    """Return the sounds to place, in an order that depends on nothing but what they are."""
    from models.rendering.synthesis import OTHER_SOUNDFONT, RATE_HZ
    from models.scenes import sounds as stock
    from models.scenes.synthetic import rendered_sounds, spoken_sounds, unclassed_sounds

    manifest = model.manifest
    rate_hz = manifest.features.sample_rate_hz
    folders = [_pair(text) for text in added]
    if unknown := [label for label, _ in folders if label not in (*manifest.labels, stock.NO_CLASS)]:
        raise ConfigError(f"--add {unknown[0]}: no class of {manifest.name}; they are {', '.join(manifest.labels)}")
    stock.refuse_trained_on(manifest, [Path(folder) for _, folder in folders], wanted)
    sounds, problems = stock.held_out_sounds(manifest, wanted, rate_hz) if wanted else ([], [])
    for label, folder in folders:
        found, faults = stock.folder_sounds(None if label == stock.NO_CLASS else label, Path(folder), rate_hz)
        sounds += found
        problems += faults
    tell(problems)
    if rendered != "none":
        if rate_hz != RATE_HZ:
            raise ConfigError(f"rendered sounds have {RATE_HZ} samples per second, not {rate_hz}; use --rendered none")
        only = rendered == "unclassed"
        sounds += rendered_sounds(seed, soundfont or OTHER_SOUNDFONT, unclassed_only=only) + unclassed_sounds(seed)
        sounds += [] if only else spoken_sounds(seed)
    return [s for s in sounds if s.label is None or s.label in manifest.labels]


def _weights(
    labels: tuple[str, ...], there: set[str | None], only: str | None, weight: tuple[str, ...]
) -> dict[str, float]:
    """Return how often each class is drawn against the others; only those with sounds, unless one is asked for."""
    chosen = [name.strip() for name in only.split(",")] if only else [label for label in labels if label in there]
    weights = dict.fromkeys(chosen, 1.0)
    for label, value in (_pair(text) for text in weight):
        try:
            weights[label] = float(value)
        except ValueError as error:
            raise ConfigError(f"--weight {label}={value}: wanted a number behind the =") from error
    if wrong := [name for name, value in weights.items() if name not in labels or not 0 <= value < float("inf")]:
        raise ConfigError(f"{wrong[0]!r}: wanted one of {', '.join(labels)}, with a weight of 0 or more")
    return weights


def _snrs(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--snr {text}: wanted decibels with commas between them, such as 20,10") from error


def _check_lengths(level: tuple[float, float], stretch: float, stream: float) -> None:
    if not -90 <= level[0] <= level[1] <= 0:  # noqa: PLR2004 - what 16 bits hold
        raise ConfigError(f"--level {level[0]:g} {level[1]:g}: wanted the lower one first, both between -90 and 0 dBFS")
    if not _SHORTEST_STRETCH_S <= stretch <= stream:
        raise ConfigError(
            f"--stretch {stretch:g}: wanted {_SHORTEST_STRETCH_S} seconds at least, and no more than --stream"
        )


def _pair(text: str) -> tuple[str, str]:
    left, equals, right = (part.strip() for part in text.partition("="))
    if not (left and equals and right):
        raise ConfigError(f"{text!r}: wanted two parts with = between them, such as guitar=2 or none=FOLDER")
    return left, right


@click.command()
@click.argument("name")
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("--command", required=True, help="The command that made the runs, for the results page.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Keep the first run's pictures too.")
@click.option("--results", type=PATH, default=RESULTS, help="Folder of kept figures; default: models/results.")
def keep(name: str, runs: tuple[Path, ...], command: str, results: Path, *, pictures: bool) -> None:
    """Keep the metrics and pictures of RUNS as NAME for the results page."""
    from models.evaluation import results as kept

    click.echo(str(kept.keep(name, command, runs, results, pictures=pictures)))


@click.command()
@click.option("--results", type=PATH, default=RESULTS, help="Folder of kept figures; default: models/results.")
@click.option("--out", type=PATH, default=RESULTS.parent / "RESULTS.md", help="Default: models/RESULTS.md.")
def report(results: Path, out: Path) -> None:
    """Write the results page from the kept figures."""
    from models.evaluation import results as kept
    from models.evaluation.results import write_report

    write_report(kept.load(results), out)
    click.echo(str(out))
