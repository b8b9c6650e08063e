"""Commands for networks that see still pictures: convert, compare. They are trained by ``fit``.

Commands that draw how things work: show-encoding, show-neuron.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detector.errors import ConfigError
from models.cli.train import data_option, threads_option, use_threads

if TYPE_CHECKING:
    from models.images.conversion import Course


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@data_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for figures and the picture.")
@click.option("--beside", type=click.Path(path_type=Path), multiple=True, help="Run trained with spikes, to draw too.")
@click.option(
    "--percentile",
    type=click.FloatRange(50, 100),
    default=99.9,
    show_default=True,
    help="Of a layer's activations: what becomes one spike a step.",
)
@click.option("--steps", type=click.IntRange(1, 1024), default=128, show_default=True, help="Steps to follow.")
@click.option("--examples", type=click.IntRange(1), help="Judge on the first so many pictures only.")
@threads_option
def convert(  # noqa: PLR0913 - one option each
    run: Path,
    data: Path,
    out: Path,
    beside: tuple[Path, ...],
    percentile: float,
    steps: int,
    examples: int | None,
    threads: int | None,
) -> None:
    """Turn the trained cnn of RUN into a spiking network and judge it step by step."""
    use_threads(threads)
    from models.images import conversion

    points = dict(_point(folder) for folder in beside)
    twin, courses, scales = conversion.judge_conversion(run, data, percentile, steps, examples)
    found = {"twin": twin.value, "n": twin.total, "percentile": percentile, "scales": scales}
    found |= {name: _figures(course) for name, course in courses.items()}
    out.mkdir(parents=True, exist_ok=True)
    (out / "metrics.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    conversion.draw_course(courses, twin, points, out / "accuracy-vs-steps.png")
    for name, course in courses.items():
        click.echo(name)
        for mark, rate in course.accuracy.items():
            click.echo(f"{mark:5} steps  {rate}  {course.operations[mark][1]:,.0f} operations")
    click.echo(f"the twin     {twin}")


def _point(folder: Path) -> tuple[str, tuple[int, float]]:
    """Return a run's name, steps and accuracy."""
    try:
        recipe = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["recipe"]
        accuracy = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["accuracy"]
        return recipe["name"], (int(recipe["network"]["steps"]), float(accuracy))
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: not the folder of an ended run on pictures ({error})") from error


def _figures(course: Course) -> dict[str, Any]:
    rows = {
        mark: {
            "accuracy": rate.value,
            "interval": [round(v, 4) for v in rate.interval],
            "dense_operations": round(course.operations[mark][0]),
            "effective_operations": round(course.operations[mark][1]),
        }
        for mark, rate in course.accuracy.items()
    }
    return {"by_steps": rows, "dead": course.dead}


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@data_option
@click.option("--run", "folder", type=click.Path(path_type=Path), required=True, help="Folder of the runs; resumes.")
@click.option(
    "--vary",
    "axes",
    multiple=True,
    required=True,
    metavar="KEY=V1,V2",
    help="Values of a key; repeat for all combinations. Keys joined by & change together: A&B=1&x;2&y.",
)
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--examples", type=click.IntRange(1), help="Train on the first so many digits only.")
@click.option("--seed", default=0, show_default=True)
@click.option("--leave-out", type=click.IntRange(1, 5), help="Fold of sounds to judge on; default: the test fold.")
@threads_option
def compare(  # noqa: PLR0913 - one option each
    recipe: Path,
    data: Path,
    folder: Path,
    axes: tuple[str, ...],
    epochs: int | None,
    examples: int | None,
    seed: int,
    leave_out: int | None,
    threads: int | None,
) -> None:
    """Train RECIPE (on pictures) in variations; digits are judged on training digits kept aside, not the test set."""
    use_threads(threads)
    from models.images import train as engine
    from models.images.recipe import as_dict, load_image_recipe
    from models.images.train import ImageRun

    base = as_dict(load_image_recipe(recipe))
    if epochs:
        base["schedule"]["epochs"] = epochs
    if base["pictures"]["kind"] == "mnist":
        base["pictures"]["judge_on"] = "validation"
        base["pictures"]["examples"] = examples or base["pictures"]["examples"]
    elif examples:
        raise ConfigError(f"{recipe}: --examples is for digits")
    found = engine.variations(base, axes, str(recipe))
    click.echo(engine.table(engine.compare(found, ImageRun(data, folder, seed, leave_out))))


if TYPE_CHECKING:
    from models.images.tutorial import Exhibit


def _out_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def check(_: click.Context, __: click.Parameter, path: Path) -> Path:
        if path.suffix.lower() != ".png":
            raise click.BadParameter(f"{path}: pictures are PNG; give it a name that ends in .png")
        return path

    return click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        default=default,
        show_default=True,
        callback=check,
        help="Picture to write (PNG); its folder is made where it is missing.",
    )


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--mnist", "index", type=click.IntRange(0), metavar="N", help="Image N of MNIST's test set, not a FILE.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="SNN_DETECT_DATA",
    help="For --mnist: folder that holds mnist/; or SNN_DETECT_DATA.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 30),
    default=5.0,
    show_default=True,
    help="How much of FILE, from its start.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the rate encoding's dice.")
@_out_option("encoding.png")
def show_encoding(  # noqa: PLR0913 - one option each
    file: Path | None, index: int | None, data: Path | None, seconds: float, seed: int, out: Path
) -> None:
    """Draw a sound FILE, or a digit, as spikes in each encoding, and say what each one loses."""
    exhibit = _chosen(file, index, data, seconds)
    from models.images.encodings import encode_all
    from models.images.tutorial import draw_encodings, table

    encodings = encode_all(exhibit.frames, exhibit.scale, exhibit.params, seed=seed)
    click.echo(table(exhibit, encodings))
    _write(out, lambda: draw_encodings(exhibit, encodings, out))


@click.command()
@click.option("--beta", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="Membrane decay per step.")
@_out_option("neuron.png")
def show_neuron(beta: float, out: Path) -> None:
    """Draw one neuron's input, membrane and spikes: its reset next to snnTorch's default."""
    from models.images.tutorial import draw_neuron, neuron_pairs

    pairs = neuron_pairs(beta)
    for name, (ours, theirs) in pairs.items():
        click.echo(
            f"{name}: {ours.spikes.sum():.0f} spikes with the reset at once, "
            f"{theirs.spikes.sum():.0f} with snnTorch's a step later"
        )
    _write(out, lambda: draw_neuron(pairs, beta, out))


def _chosen(file: Path | None, index: int | None, data: Path | None, seconds: float) -> Exhibit:
    """Load what the arguments name; raises click.UsageError where they name nothing or two things."""
    if (file is None) == (index is None):
        raise click.UsageError("name either a sound FILE or an image with --mnist N")
    from models.images.tutorial import digit, sound

    if file is not None:
        return sound(file, seconds)
    if data is None or index is None:
        raise click.UsageError("--mnist needs --data, the folder that holds mnist/ (or SNN_DETECT_DATA)")
    return digit(data, index)


def _write(out: Path, draw: Callable[[], None]) -> None:
    try:
        draw()
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({(error.strerror or str(error)).lower()})") from error
    click.echo(f"picture: {out}")
