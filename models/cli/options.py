"""Options that several commands of ``snn-train`` share, and checks of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from detector.cli.program import print_status
from detector.errors import ConfigError

PATH: Final = click.Path(path_type=Path)
data_option = click.option(
    "--data",
    type=PATH,
    envvar="SNN_DETECT_DATA",
    required=True,
    help="Folder of recordings: esc10, instruments, guitar_notes, speech_digits, recordings, mnist; "
    "or SNN_DETECT_DATA.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads of torch and of the scan; default: cores without a worker.",
)
material_option = click.option("--material", type=PATH, help="Rendered material (python -m models.rendering).")
processes_option = click.option(
    "--processes", default=2, show_default=True, type=click.IntRange(1), help="Number of parallel processes."
)


class RenamedChoice(click.Choice[str]):
    """A choice that accepts values of the release before, with one line of warning."""

    def __init__(self, choices: Sequence[str], renamed: Mapping[str, str]) -> None:
        super().__init__(choices)
        self._renamed = renamed

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the chosen value, by its present name."""
        if value in self._renamed and param is not None and ctx is not None:
            option, new, program = param.opts[0], self._renamed[value], ctx.find_root().info_name
            warning = f"warning: {option} {value} is now {option} {new}; the old name goes with the next release"
            print_status(f"{program}: {warning}")
            value = new
        return super().convert(value, param, ctx)


def plot_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option --out of a command that writes a PNG file."""

    def check(_: click.Context, __: click.Parameter, path: Path) -> Path:
        if path.suffix.lower() != ".png":
            raise click.BadParameter(f"{path}: plots are PNG files; name one that ends in .png")
        return path

    return click.option(
        "--out",
        type=click.Path(path_type=Path, dir_okay=False),
        default=default,
        show_default=True,
        callback=check,
        help="Plot to write (PNG); its folder is created where it is missing.",
    )


def integers(text: str, option: str) -> list[int]:
    """Parse integers separated by commas; raises ConfigError that names the option."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option} {text}: expected whole numbers separated by commas, such as 0,1") from error


def pair(text: str, example: str) -> tuple[str, str]:
    """Split LABEL=VALUE; raises ConfigError with an example."""
    left, equals, right = (part.strip() for part in text.partition("="))
    if not (left and equals and right):
        raise ConfigError(f"{text!r}: expected two parts separated by =, such as {example}")
    return left, right


def use_threads(threads: int | None) -> None:
    """Limit the threads of torch and of the scan."""
    if threads:
        import numba
        import torch

        torch.set_num_threads(threads)
        numba.set_num_threads(threads)
