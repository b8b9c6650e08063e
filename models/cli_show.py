"""Commands that draw how things work: show-encoding, show-neuron."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from detector.errors import ConfigError

if TYPE_CHECKING:
    from models.show import Exhibit


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
    from models.encodings import encode_all
    from models.show import draw_encodings, table

    encodings = encode_all(exhibit.frames, exhibit.scale, exhibit.params, seed=seed)
    click.echo(table(exhibit, encodings))
    _write(out, lambda: draw_encodings(exhibit, encodings, out))


@click.command()
@click.option("--beta", type=click.FloatRange(0, 1), default=0.8, show_default=True, help="Membrane decay per step.")
@_out_option("neuron.png")
def show_neuron(beta: float, out: Path) -> None:
    """Draw one neuron's input, membrane and spikes: its reset next to snnTorch's default."""
    from models.show import draw_neuron, neuron_pairs

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
    from models.show import digit, sound

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
