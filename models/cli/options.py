"""Options that several commands of ``snn-train`` share, and option names of the release before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final

import click

from detector.errors import ConfigError

PATH: Final = click.Path(path_type=Path)
data_option = click.option(
    "--data",
    type=PATH,
    envvar="SNN_DETECT_DATA",
    required=True,
    help="Folder of recordings: esc10, instruments, guitar_notes, speech_digits, mnist; or SNN_DETECT_DATA.",
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), help="Threads of torch and of the scan; default: all cores."
)
material_option = click.option("--material", type=PATH, help="Rendered material (python -m models.rendering).")
processes_option = click.option(
    "--processes", default=2, show_default=True, type=click.IntRange(1), help="Number of parallel processes."
)


class RenamedOptions(click.Command):
    """A command that accepts option names and values of the release before, with one line of warning each.

    Subclasses map ``--old`` to ``--new``, and (``--option``, old value) to its new value.
    """

    renamed: ClassVar[dict[str, str]] = {}
    renamed_values: ClassVar[dict[tuple[str, str], str]] = {}

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Replace old names and values, then parse the arguments."""
        return super().parse_args(ctx, self._current(ctx, args))

    def _current(self, ctx: click.Context, args: list[str]) -> list[str]:
        current: list[str] = []
        for i, arg in enumerate(args):
            if arg == "--":
                return [*current, *args[i:]]
            name, equals, value = arg.partition("=")
            new = self.renamed.get(name, name) + equals + value
            option, chosen = (name, value) if equals else (current[-1] if current else "", arg)
            if (option, chosen) in self.renamed_values:
                replacement = self.renamed_values[option, chosen]
                new = f"{option}={replacement}" if equals else replacement
            if new != arg:
                self._warn(ctx, arg, new)
            current.append(new)
        return current

    def _warn(self, ctx: click.Context, old: str, new: str) -> None:
        if not ctx.resilient_parsing:
            program = ctx.find_root().info_name
            click.echo(f"{program}: warning: {old} is now {new}; the old name goes with the next release", err=True)


def with_renamed(options: dict[str, str], values: dict[tuple[str, str], str] | None = None) -> type[RenamedOptions]:
    """Return a command class that accepts old option names, and old values of an option."""
    attributes: dict[str, Any] = {"renamed": options, "renamed_values": values or {}}
    return type("RenamedOptions", (RenamedOptions,), attributes)


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


def check_folders(*paths: Path | None) -> None:
    """Raise ConfigError for an output file whose folder does not exist, before any work is done."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path}: there is no folder {path.parent}; create it first")


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
