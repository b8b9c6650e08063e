"""Commands for networks on still images (convert, compare) and for plots (show-encoding, show-neuron)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detector.cli.program import force_option
from detector.errors import ConfigError
from detector.system import JSON, PNG, Output, check_outputs
from models.cli.options import PATH, data_option, plot_option, threads_option, use_threads

if TYPE_CHECKING:
    from models.images.conversion import ConversionCurve
if TYPE_CHECKING:
    from models.images.tutorial import EncodingInput


@click.command()
@click.argument("run", type=PATH)
@data_option
@click.option("--out", type=PATH, required=True, help="Folder for metrics and the plot.")
@click.option("--beside", type=PATH, multiple=True, help="Run trained with spikes, to compare with.")
@click.option(
    "--percentile",
    type=click.FloatRange(50, 100),
    default=99.9,
    show_default=True,
    help="Percentile of a layer's activations that becomes one spike per step.",
)
@click.option("--steps", type=click.IntRange(1, 1024), default=128, show_default=True, help="Number of steps.")
@click.option("--examples", type=click.IntRange(1), help="Evaluate on the first N images only.")
@force_option
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
    *,
    force: bool,
) -> None:
    """Convert the trained cnn of RUN to a spiking network and evaluate it step by step."""
    metrics, plot = out / "metrics.json", out / "accuracy-vs-steps.png"
    outputs = (Output("--out", metrics, JSON), Output("--out", plot, PNG))
    inputs = [path for folder in (run, *beside) for path in folder.glob("*")]
    check_outputs(outputs, inputs, force=force, makes_folders=True)
    use_threads(threads)
    from models.files import write_json
    from models.images import conversion

    points = dict(_point(folder) for folder in beside)
    twin, conversion_curves, scales = conversion.evaluate_conversion(run, data, percentile, steps, examples)
    found = {"twin": twin.value, "n": twin.total, "percentile": percentile, "scales": scales}
    found |= {name: _figures(conversion_curve) for name, conversion_curve in conversion_curves.items()}
    out.mkdir(parents=True, exist_ok=True)
    write_json(metrics, found)
    conversion.draw_conversion(conversion_curves, twin, points, plot)
    for name, conversion_curve in conversion_curves.items():
        click.echo(name)
        for mark, rate in conversion_curve.accuracy.items():
            click.echo(f"{mark:5} steps  {rate}  {conversion_curve.operations[mark][1]:,.0f} operations")
    click.echo(f"the twin     {twin}")


@click.command()
@click.argument("recipe", type=PATH)
@data_option
@click.option("--run", "folder", type=PATH, required=True, help="Folder of the runs; resumes.")
@click.option(
    "--vary",
    "axes",
    multiple=True,
    required=True,
    metavar="KEY=V1,V2",
    help="Values of a key; repeat for all combinations; keys joined by & vary together: A&B=1&x;2&y.",
)
@click.option("--epochs", type=click.IntRange(1), help="Instead of the recipe's.")
@click.option("--examples", type=click.IntRange(1), help="Train on the first N digits only.")
@click.option("--seed", default=0, show_default=True, help="Seed of all that is random.")
@click.option("--leave-out", type=click.IntRange(1, 5), help="Held-out fold of sounds; default: the test fold.")
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
    """Train variations of RECIPE (on images); digits are evaluated on held-out training digits, not the test set."""
    use_threads(threads)
    from models.images.recipe import as_dict, load_image_recipe
    from models.images.train import ImageRun, compare, table, variations

    base = as_dict(load_image_recipe(recipe))
    if epochs:
        base["schedule"]["epochs"] = epochs
    if base["images"]["kind"] == "mnist":
        base["images"]["evaluate_on"] = "validation"
        base["images"]["examples"] = examples or base["images"]["examples"]
    elif examples:
        raise ConfigError(f"{recipe}: --examples is for digits")
    found = variations(base, axes, str(recipe))
    click.echo(table(compare(found, ImageRun(data, folder, seed, leave_out))))


@click.command()
@click.argument("file", type=PATH, required=False)
@click.option("--mnist", "index", type=click.IntRange(0), metavar="N", help="Image N of MNIST's test set, not a FILE.")
@click.option(
    "--data",
    type=PATH,
    envvar="SNN_DETECT_DATA",
    help="For --mnist: folder that holds mnist/; or SNN_DETECT_DATA.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 30),
    default=5.0,
    show_default=True,
    help="Length of FILE to use, from its start.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the rate encoding.")
@plot_option("encoding.png")
@force_option
def show_encoding(  # noqa: PLR0913 - one option each
    file: Path | None, index: int | None, data: Path | None, seconds: float, seed: int, out: Path, *, force: bool
) -> None:
    """Draw a sound FILE, or a digit, as spikes in each encoding, and print the reconstruction errors."""
    check_outputs([Output("--out", out, PNG)], [file], force=force, makes_folders=True)
    source = _chosen(file, index, data, seconds)
    from models.images.encodings import encode_all
    from models.images.tutorial import draw_encodings, table

    encodings = encode_all(source.frames, source.scale, source.params, seed=seed)
    click.echo(table(source, encodings))
    _write(out, lambda: draw_encodings(source, encodings, out))


@click.command()
@click.option("--beta", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="Membrane decay per step.")
@plot_option("neuron.png")
@force_option
def show_neuron(beta: float, out: Path, *, force: bool) -> None:
    """Draw one neuron's input, membrane and spikes, with its reset and with snnTorch's default."""
    check_outputs([Output("--out", out, PNG)], force=force, makes_folders=True)
    from models.images.tutorial import draw_neuron, neuron_pairs

    pairs = neuron_pairs(beta)
    for name, (ours, theirs) in pairs.items():
        click.echo(
            f"{name}: {ours.spikes.sum():.0f} spikes with the immediate reset, "
            f"{theirs.spikes.sum():.0f} with snnTorch's a step later"
        )
    _write(out, lambda: draw_neuron(pairs, beta, out))


def _point(folder: Path) -> tuple[str, tuple[int, float]]:
    """Return a run's name, steps and accuracy."""
    try:
        recipe = json.loads((folder / "plan.json").read_text(encoding="utf-8"))["recipe"]
        accuracy = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["accuracy"]
        return recipe["name"], (int(recipe["network"]["steps"]), float(accuracy))
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}: not the folder of a finished run on images ({error})") from error


def _figures(conversion_curve: ConversionCurve) -> dict[str, Any]:
    rows = {
        mark: {
            "accuracy": rate.value,
            "interval": [round(v, 4) for v in rate.interval],
            "dense_operations": round(conversion_curve.operations[mark][0]),
            "effective_operations": round(conversion_curve.operations[mark][1]),
        }
        for mark, rate in conversion_curve.accuracy.items()
    }
    return {"by_steps": rows, "dead": conversion_curve.dead}


def _chosen(file: Path | None, index: int | None, data: Path | None, seconds: float) -> EncodingInput:
    """Load the named input; raises click.UsageError where none or two are named."""
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
    click.echo(f"plot: {out}")
