"""The commands ``snn-detect config``: check, show, write an example."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from detector.cli.program import CommandGroup, json_option, print_error, print_json, print_status
from detector.errors import ConfigError

_FILE_NAME: Final = "config.toml"
_file_argument = click.argument("path", metavar="[FILE]", required=False, type=click.Path(path_type=Path))
_file_option = click.option(
    "--config", "option", type=click.Path(path_type=Path), help="The same, as the other commands take it."
)


@click.group(cls=CommandGroup)
def config() -> None:
    """Check, show and create the configuration.

    Without a file, the first of these is read: config.toml in $CONFIGURATION_DIRECTORY, in
    /etc/snn-detect, in $XDG_CONFIG_HOME/snn-detect. Files in config.d beside it override it, the
    variables SNN_DETECT_* override both.
    """


@config.command()
@_file_argument
@_file_option
@click.pass_context
def check(ctx: click.Context, path: Path | None, option: Path | None) -> None:
    """Print what is wrong with a configuration, line by line; exit code 2 where something is."""
    from detector.config.loading import SettingsError, load_configuration
    from detector.service.runtime import all_mistakes

    try:
        found = load_configuration(_one_of(path, option))
        mistakes = list(all_mistakes(found))
    except SettingsError as error:
        mistakes = list(error.mistakes)
    for mistake in mistakes:
        print_error(mistake)
    if mistakes:
        ctx.exit(ConfigError.exit_code)
    for file in found.files:
        click.echo(file)
    click.echo(
        "the configuration is good" if found.files else "there is no configuration file: all settings are the defaults"
    )


@config.command()
@_file_argument
@_file_option
@json_option
def show(path: Path | None, option: Path | None, *, as_json: bool) -> None:
    """Print every setting in force, with the file or variable that it comes from; secrets are left out."""
    from detector.config import show as config_show
    from detector.config.loading import load_configuration

    found = load_configuration(_one_of(path, option))
    if as_json:
        print_json(config_show.as_json(found))
        return
    for line in config_show.as_toml(found):
        click.echo(line)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and programs."""
    from detector.config.settings import Settings

    print_json(Settings.model_json_schema())


@config.command()
@click.argument("path", metavar="[PATH]", required=False, type=click.Path(path_type=Path, allow_dash=True))
def init(path: Path | None) -> None:
    """Write an example with every setting explained; an existing file is never changed.

    Without PATH: /etc/snn-detect/config.toml for root, for others the one in their own configuration
    folder; - is standard output.
    """
    from detector.config.show import example

    text = example()
    if path == Path("-"):
        click.echo(text, nl=False)
        return
    target = path or _default_file()
    if target.is_dir():
        target /= _FILE_NAME
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(
            f"{target} is there already and stays as it is; name another file, or - for standard output"
        ) from None
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}") from error
    click.echo(target)
    print_status(f"edit it, then run: snn-detect config check {target}")


def _one_of(argument: Path | None, option: Path | None) -> Path | None:
    if argument is not None and option is not None:
        raise ConfigError(f"{argument} and --config {option}: name one file")
    return argument or option


def _default_file() -> Path:
    from detector.config.paths import configuration_directories

    *_, system, own = configuration_directories()
    return (system if os.geteuid() == 0 else own) / _FILE_NAME
