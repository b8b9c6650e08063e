"""The command that makes scenes: make-scenes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from detector.errors import ConfigError
from models.cli_events import command
from models.cli_fit import PATH, RECIPES
from models.cli_tell import tell

if TYPE_CHECKING:
    from detector.network import Model
    from models.scenes.sounds import Sound
    from models.scenes.stock import HeldOut

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
    from models.scenes import backgrounds
    from models.scenes.plan import Wishes, plan
    from models.scenes.stock import HeldOut
    from models.scenes.writing import Making, write_scenes

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
    from models.scenes import stock
    from models.scenes.rendered import rendered_sounds, spoken_sounds
    from models.scenes.unclassed import unclassed_sounds

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
