"""Commands on scenes (make-scenes, evaluate-events, evaluate-channels, tune-events) and kept results (keep, report)."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from detector.cli.program import channel_option, force_option, renamed_option
from detector.errors import ConfigError, unknown_label
from detector.system import JSON, MODEL, PNG, Output, check_outputs
from models import RECIPES, RESULTS
from models.cli.options import PATH, RenamedChoice, pair, processes_option
from models.console import report_problems
from models.files import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from detector.audio.live_source import Channel, Mixing
    from detector.manifest import Sensitivity
    from detector.network import Model
    from models.evaluation.inference import ScenePredictions
    from models.evaluation.matching import Curve, Outcome
    from models.evaluation.thresholds import FalseAlarmBudget, Smoothing
    from models.scenes.folder import Scenes
    from models.scenes.sounds import HeldOut, Sound

BACKGROUNDS: Final = "rain,room,hum,babble,music,silence"
_MIN_SEGMENT_S: Final = 20
_PICTURES: Final = ("det", "precision", "confusion", "timeline")


@click.command("evaluate-events")
@click.argument("model", type=PATH)
@click.argument("folder", metavar="SCENES", type=PATH)
@click.option(
    "--sensitivity",
    type=click.Choice(["low", "balanced", "high"]),
    default="balanced",
    show_default=True,
    help="Which of MODEL's operating points the events are of.",
)
@click.option("--json", "json_path", type=PATH, help="Write all results here.")
@click.option("--pictures", type=PATH, help="Draw DET, precision, confusion and timeline to PREFIX-*.png.")
@force_option
@processes_option
def evaluate_events(  # noqa: PLR0913 - one option each
    model: Path,
    folder: Path,
    sensitivity: Sensitivity,
    json_path: Path | None,
    pictures: Path | None,
    processes: int,
    *,
    force: bool,
) -> None:
    """Evaluate MODEL's events on SCENES (a folder of make-scenes) through the streaming pipeline."""
    from models.evaluation.dcase import measure, sed_scores
    from models.evaluation.inference import predict_scenes
    from models.evaluation.matching import THRESHOLD_GRID, curves, evaluate_detections, sweep
    from models.evaluation.report import as_document, as_markdown
    from models.evaluation.thresholds import tuned_on
    from models.scenes.folder import read_scenes

    drawn = [Output("--pictures", _picture(pictures, what), PNG) for what in _PICTURES] if pictures else []
    check_outputs([Output("--json", json_path, JSON), *drawn], [model], force=force)
    sed_scores()  # a missing library is reported before hours of audio are processed
    scenes = read_scenes(folder)
    predictions = predict_scenes(model, scenes, processes, sensitivity=sensitivity)
    if any(scenes.sha256.startswith(digest) for digest in tuned_on(predictions.manifest)):
        report_problems([f"{folder}: {model} was tuned on these scenes; evaluate it on others"])
    labels = predictions.manifest.labels
    swept = sweep(predictions, processes)
    outcome = evaluate_detections(predictions.detections, scenes, labels)
    found_curves = curves(swept, scenes, labels)
    measured = measure(predictions.detections, swept, THRESHOLD_GRID, scenes)
    document = as_document(command(), predictions, scenes, outcome, found_curves, measured)
    click.echo(as_markdown(document))
    if json_path:
        write_json(json_path, document)
    if pictures:
        _draw(pictures, scenes, predictions, outcome, found_curves)


@click.command("evaluate-channels")
@click.argument("model", type=PATH)
@click.argument("folder", metavar="SCENES", type=PATH)
@click.option("--json", "json_path", type=PATH, help="Write the results here.")
@force_option
@processes_option
def evaluate_channels(model: Path, folder: Path, json_path: Path | None, processes: int, *, force: bool) -> None:
    """Compare MODEL's events on SCENES as they are and through other levels and microphones.

    Best on scenes of one level, such as make-scenes --level -20 -20: the whole scene is scaled.
    """
    from models.evaluation import robustness
    from models.evaluation.inference import model_of
    from models.scenes.folder import read_scenes

    check_outputs([Output("--json", json_path, JSON)], [model], force=force)
    scenes = read_scenes(folder)
    compared = robustness.compare(model, scenes, processes, lambda name: click.echo(f"channel: {name}", err=True))
    click.echo(robustness.table(compared))
    if json_path:
        about = {"command": command(), "model": model_of(model), "scenes": _about(scenes)}
        write_json(json_path, about | {"wanted": robustness.TOLERANCE, "channels": robustness.as_json(compared)})


@click.command("tune-events")
@click.argument("model", type=PATH)
@click.argument("folder", metavar="SCENES", type=PATH)
@click.option("--max-false-alarms", type=click.FloatRange(0), show_default="1", help="Per hour and class.")
@renamed_option("--rate", "--max-false-alarms")
@click.option("--total", type=click.FloatRange(0), help="Instead: false alarms per hour of all classes together.")
@click.option(
    "--smoothing",
    type=click.Choice(["average", "evidence", "either"]),
    default="either",
    show_default=True,
    help="An average, or evidence: a leaky sum of log-odds; either: the better one for each class.",
)
@click.option("--keep-balanced", is_flag=True, help="Choose thresholds of low and high alone, beside those it has.")
@click.option("--into", type=PATH, help="Model of the same classes that receives the values; default: MODEL.")
@click.option("--model-version", help="Version of the model file to write; default: that of the one with the weights.")
@click.option("--out", type=PATH, required=True, help="Model file to write.")
@click.option("--json", "json_path", type=PATH, help="Write rule, scenes and choices here.")
@force_option
@processes_option
def tune_events(  # noqa: PLR0913 - one option each
    model: Path,
    folder: Path,
    max_false_alarms: float | None,
    total: float | None,
    smoothing: Smoothing,
    into: Path | None,
    model_version: str | None,
    out: Path,
    json_path: Path | None,
    processes: int,
    *,
    keep_balanced: bool,
    force: bool,
) -> None:
    """Choose MODEL's decoder values on SCENES by a fixed rule, and write a model file with them.

    The rule: for each class the lowest miss rate at --max-false-alarms per hour, or the lowest mean miss
    rate of all classes at --total. These are the values of the balanced sensitivity; those for a tenth of
    the false alarms and for ten times as many are chosen as well, for low and high sensitivity. Rule and
    scenes are written to the model's training record. Evaluate the result on other scenes.
    """
    from detector.manifest import Manifest
    from detector.network import load_model
    from models.evaluation.inference import model_of, predict_scenes
    from models.evaluation.thresholds import as_json, tune, tune_around, tuned_manifest
    from models.files import write_with_manifest
    from models.scenes.folder import read_scenes

    if keep_balanced and into is not None:
        raise click.UsageError("--keep-balanced and --into: values are kept in the model that has them.")
    budget = _budget(max_false_alarms, total)
    check_outputs([Output("--json", json_path, JSON), Output("--out", out, MODEL)], [model, into], force=force)
    scenes = read_scenes(folder)
    target = load_model(into or model).manifest
    if model_version is not None:
        target = Manifest.from_json(replace(target, version=model_version).to_json(), "--model-version")
    if target.labels != load_model(model).manifest.labels:
        raise ConfigError(f"{into}: has other classes than {model}; name a model of the same classes")
    predictions = predict_scenes(model, scenes, processes)
    beside = partial(tune_around, predictions, scenes, budget, processes)
    chosen = beside() if keep_balanced else tune(predictions, scenes, budget, processes, smoothing)
    for name, candidates in chosen.items():
        click.echo(f"{name} sensitivity: {budget.at(name).rule}")
        for line in candidates:
            click.echo(f"  {line}")
    tuned = tuned_manifest(target, chosen, scenes, budget, command(), keep_balanced=keep_balanced)
    write_with_manifest(into or model, tuned, out)
    if json_path:
        about = {"command": command(), "model": model_of(model), "scenes": _about(scenes)}
        points = {name: as_json(candidates) for name, candidates in chosen.items()}
        balanced = points["balanced"]
        write_json(json_path, about | {"rule": budget.rule, "choices": balanced, "points": points})
    click.echo(f"{out}: with these values; next: snn-train evaluate-events {out} OTHER-SCENES", err=True)


def _budget(max_false_alarms: float | None, total: float | None) -> FalseAlarmBudget:
    from models.evaluation.thresholds import FalseAlarmBudget

    if max_false_alarms is not None and total is not None:
        raise click.UsageError("--max-false-alarms and --total: name one of them.")
    if total is not None:
        return FalseAlarmBudget(total, all_classes=True)
    return FalseAlarmBudget(1.0 if max_false_alarms is None else max_false_alarms)


@click.command("evaluate-classes")
@click.argument("model", type=PATH)
@click.argument("folder", metavar="SCENES", type=PATH)
@click.option("--out", type=PATH, required=True, help="Model file to write.")
@click.option("--json", "json_path", type=PATH, help="Write rule, scenes and results here.")
@force_option
@processes_option
def evaluate_classes(  # noqa: PLR0913 - one option each
    model: Path, folder: Path, out: Path, json_path: Path | None, processes: int, *, force: bool
) -> None:
    """Evaluate on SCENES which of MODEL's classes work, and write a model file that says so.

    A class is ready where at least 60 % of its sounds at 10 dB and more, and of ten or more, are found at
    no more than one false event an hour; snn-detect reports the others on request only. The scenes must be
    ones that no choice was made on.
    """
    from detector.network import load_model
    from models.evaluation.inference import model_of, predict_scenes
    from models.evaluation.matching import curves, sweep
    from models.evaluation.readiness import RULE, check_unseen, evaluated_manifest, results_table, shares_recordings
    from models.files import write_with_manifest
    from models.scenes.folder import read_scenes

    check_outputs([Output("--json", json_path, JSON), Output("--out", out, MODEL)], [model], force=force)
    scenes, manifest = read_scenes(folder), load_model(model).manifest
    check_unseen(manifest, scenes)
    if shares_recordings(manifest, scenes):
        report_problems([f"{folder}: {model} was tuned on the same recordings; evaluate it on those of the other half"])
    predictions = predict_scenes(model, scenes, processes)
    found = curves(sweep(predictions, processes), scenes, manifest.labels)
    evaluated = evaluated_manifest(manifest, found, scenes, command())
    write_with_manifest(model, evaluated, out)
    results = {c.label: None if c.results is None else asdict(c.results) for c in evaluated.classes}
    click.echo(results_table(evaluated))
    if json_path:
        about = {"command": command(), "model": model_of(model), "scenes": _about(scenes)}
        write_json(json_path, about | {"rule": RULE, "classes": results})
    click.echo(f"{out}: with these results; see snn-detect model info {out}", err=True)


@click.command("make-scenes")
@click.argument("out", type=PATH)
@click.option(
    "--for", "evaluated", type=PATH, required=True, help="The model to evaluate, whose training data is excluded."
)
@click.option("--data", type=PATH, envvar="SNN_DETECT_DATA", help="Folder of recordings; or SNN_DETECT_DATA.")
@click.option("--recipe", type=PATH, help="Recipe whose recordings are used; default: the one that the model names.")
@click.option("--fold", default=5, show_default=True, type=click.IntRange(1, 5), help="Held-out fold to use.")
@click.option("--half", type=click.Choice(["first", "second"]), help="Half of the fold: one to tune, one to evaluate.")
@click.option(
    "--add",
    "added",
    multiple=True,
    metavar="LABEL=FOLDER",
    help="Recordings of a class, or out-of-class (none=FOLDER), not used in training; repeat for more.",
)
@click.option(
    "--rendered",
    type=RenamedChoice(["all", "negatives", "none"], {"unclassed": "negatives"}),
    default="all",
    show_default=True,
    help="Add rendered instruments, voices, animals and machines, or only out-of-class ones.",
)
@click.option("--soundfont", type=PATH, help="Sound font of rendered instruments; default: TimGM6mb.")
@click.option(
    "--hours", default=1.0, show_default=True, type=click.FloatRange(0.01, 200), help="Length of all streams."
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Same seed, same bytes.")
@click.option("--snr", default="20,10,5,0", show_default=True, help="Signal-to-noise ratios to draw from, in dB.")
@click.option("--background", default=BACKGROUNDS, show_default=True, help="Backgrounds, each used equally often.")
@click.option(
    "--level", default=(-50.0, -6.0), show_default=True, type=(float, float), help="Range of peak levels, in dBFS."
)
@click.option("--only", help="Classes to place, separated by commas; default: all.")
@click.option("--weight", multiple=True, metavar="LABEL=W", help="Place a class W times as often; repeat for more.")
@click.option(
    "--unknown", default=0.2, show_default=True, type=click.FloatRange(0, 1), help="Share of out-of-class sounds."
)
@channel_option
@click.option("--segment", default=300.0, show_default=True, help="Seconds between changes of the background.")
@renamed_option("--stretch", "--segment")
@click.option("--stream", default=3600.0, show_default=True, help="Seconds per file, which is a stream of its own.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["flac", "wav"]),
    default="flac",
    show_default=True,
    help="Format of the files.",
)
def make_scenes(  # noqa: PLR0913 - one option each
    out: Path,
    evaluated: Path,
    data: Path | None,
    recipe: Path | None,
    fold: int,
    half: str | None,
    added: tuple[str, ...],
    channel: Channel,
    soundfont: Path | None,
    hours: float,
    seed: int,
    snr: str,
    background: str,
    level: tuple[float, float],
    only: str | None,
    weight: tuple[str, ...],
    unknown: float,
    segment: float,
    stream: float,
    form: str,
    rendered: str,
) -> None:
    """Make long streams with reference annotations, of sounds the model was not trained on, in the new folder OUT."""
    from detector.audio.live_source import Mixing
    from detector.network import load_model
    from models.recipe import load_recipe
    from models.scenes.mixing import SceneMetadata, write_scenes
    from models.scenes.plan import PlanOptions, check, plan
    from models.scenes.sounds import HeldOut

    model = load_model(evaluated)
    manifest = model.manifest
    _check_lengths(level, segment, stream)
    wanted = HeldOut(data, load_recipe(recipe or RECIPES / f"{manifest.name}.toml"), fold, half) if data else None
    bank = _sound_bank(model, wanted, added, Mixing(channel), seed, soundfont, rendered)
    options = PlanOptions(
        hours=hours,
        seed=seed,
        snrs_db=_snrs(snr),
        backgrounds=tuple(name.strip() for name in background.split(",")),
        level_db=level,
        weights=_weights(manifest.labels, {s.label for s in bank}, only, weight),
        unknown=unknown,
        segment_s=segment,
        stream_s=stream,
    )
    check(options.backgrounds, bank)
    held_out = (manifest.name, manifest.version, model.sha256)
    rate_hz = manifest.features.sample_rate_hz
    metadata = SceneMetadata(command(), seed, rate_hz, held_out, fold if data else 0, half or "", form)
    made = write_scenes(out, plan(options, bank, rate_hz), bank, metadata)
    counts = ", ".join(f"{label} {count}" for label, count in made.events.items())
    click.echo(
        f"{out}: {made.hours:g} h in {len(made.streams)} streams; events: {counts}; out of class: {made.unknown}"
    )


@click.command()
@click.argument("name")
@click.argument("runs", type=PATH, nargs=-1, required=True)
@click.option("--command", required=True, help="The command that made the runs, for the results page.")
@click.option("--pictures/--no-pictures", default=True, show_default=True, help="Keep the first run's plots, too.")
@click.option("--results", type=PATH, default=RESULTS, help="Folder of kept results; default: models/results.")
@force_option
def keep(  # noqa: PLR0913 - one option each
    name: str, runs: tuple[Path, ...], command: str, results: Path, *, pictures: bool, force: bool
) -> None:
    """Keep the metrics and plots of RUNS as NAME for the results page."""
    from models.evaluation.results import keep

    click.echo(str(keep(name, command, runs, results, pictures=pictures, force=force)))


@click.command()
@click.option("--results", type=PATH, default=RESULTS, help="Folder of kept results; default: models/results.")
@click.option("--out", type=PATH, default=RESULTS.parent / "RESULTS.md", help="Default: models/RESULTS.md.")
@force_option
def report(results: Path, out: Path, *, force: bool) -> None:
    """Write the results page from the kept results."""
    from models.evaluation.results import PAGE, load, write_report

    check_outputs([Output("--out", out, PAGE)], sorted(results.glob("*.json")), force=force)
    write_report(load(results), out)
    click.echo(str(out))


def command() -> str:
    """Return the command line for records; absolute paths, which are specific to a machine, by their last name."""
    arguments = [Path(a).name if a.startswith("/") else a for a in sys.argv[1:]]
    return shlex.join(["snn-train", *arguments])


def _about(scenes: Scenes) -> dict[str, Any]:
    return {"sha256": scenes.sha256, "command": scenes.manifest.command, "hours": scenes.manifest.hours}


def _draw(
    prefix: Path, scenes: Scenes, predictions: ScenePredictions, outcome: Outcome, found_curves: Mapping[str, Curve]
) -> None:
    from models.evaluation.matching import confusion
    from models.evaluation.plots import draw_det, draw_event_confusion, draw_precision_recall, draw_timeline

    labels, name = predictions.manifest.labels, f"{predictions.manifest.name} {predictions.manifest.version}"
    title = f"{name}: {len(outcome.matched)} events in {scenes.manifest.hours:g} h"
    drawn = {label: curve for label, curve in found_curves.items() if curve.reports.shape[1]}

    if drawn:
        draw_det(drawn, _picture(prefix, "det"), title=title)
        draw_precision_recall(drawn, _picture(prefix, "precision"), title=title)
    counts = confusion(outcome, labels)
    draw_event_confusion(counts, labels, _picture(prefix, "confusion"), title=title)
    draw_timeline(scenes.streams[0], predictions.detections[0], labels, _picture(prefix, "timeline"))


def _picture(prefix: Path, what: str) -> Path:
    return prefix.with_name(f"{prefix.name}-{what}.png")


def _sound_bank(  # noqa: PLR0913 - where sounds come from
    model: Model,
    wanted: HeldOut | None,
    added: tuple[str, ...],
    mixing: Mixing,
    seed: int,
    soundfont: Path | None,
    rendered: str,
) -> list[Sound]:
    """Return the sounds to place, in an order that depends on the sounds only."""
    from models.rendering.synthesis import OTHER_SOUNDFONT, RATE_HZ
    from models.scenes.sounds import OUT_OF_CLASS, check_not_trained_on, folder_sounds, held_out_sounds
    from models.scenes.synthetic import computed_negatives, rendered_sounds, spoken_sounds

    manifest = model.manifest
    rate_hz = manifest.features.sample_rate_hz
    folders = [pair(text, "guitar=FOLDER or none=FOLDER") for text in added]
    if unknown := [label for label, _ in folders if label not in (*manifest.labels, OUT_OF_CLASS)]:
        raise ConfigError(f"--add: {unknown_label(unknown[0], (*manifest.labels, OUT_OF_CLASS), manifest.name)}")
    check_not_trained_on(manifest, [Path(folder) for _, folder in folders], wanted)
    sounds, problems = held_out_sounds(manifest, wanted, rate_hz) if wanted else ([], [])
    for label, folder in folders:
        found, faults = folder_sounds(None if label == OUT_OF_CLASS else label, Path(folder), rate_hz, mixing)
        sounds += found
        problems += faults
    report_problems(problems)
    if rendered != "none":
        if rate_hz != RATE_HZ:
            raise ConfigError(f"rendered sounds have {RATE_HZ} samples per second, not {rate_hz}; use --rendered none")
        only = rendered == "negatives"
        sounds += rendered_sounds(seed, soundfont or OTHER_SOUNDFONT, negatives_only=only) + computed_negatives(seed)
        sounds += [] if only else spoken_sounds(seed)
    return [s for s in sounds if s.label is None or s.label in manifest.labels]


def _weights(
    labels: tuple[str, ...], available: set[str | None], only: str | None, weight: tuple[str, ...]
) -> dict[str, float]:
    """Return the sampling weights of classes: by default, of those with sounds."""
    chosen = [name.strip() for name in only.split(",")] if only else [label for label in labels if label in available]
    weights = dict.fromkeys(chosen, 1.0)
    for label, value in (pair(text, "guitar=2") for text in weight):
        try:
            weights[label] = float(value)
        except ValueError as error:
            raise ConfigError(f"--weight {label}={value}: expected a number after the =") from error
    for label, number in weights.items():
        if label not in labels:
            raise ConfigError(f"{'--only' if label in chosen else '--weight'}: {unknown_label(label, labels)}")
        if not 0 <= number < float("inf"):
            raise ConfigError(f"--weight {label}={number:g}: expected a weight of 0 or more")
    return weights


def _snrs(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--snr {text}: expected decibels separated by commas, such as 20,10") from error


def _check_lengths(level: tuple[float, float], segment: float, stream: float) -> None:
    if not -90 <= level[0] <= level[1] <= 0:  # noqa: PLR2004 - the range of 16 bits
        raise ConfigError(f"--level {level[0]:g} {level[1]:g}: expected the lower one first, both in -90 to 0 dBFS")
    if not _MIN_SEGMENT_S <= segment <= stream:
        raise ConfigError(f"--segment {segment:g}: expected at least {_MIN_SEGMENT_S} seconds, and at most --stream")
