"""The commands ``snn-detect config``: check, show, write an example.

Settings are shown as TOML and JSON, those in force with the place of each and no secret; the commented example is made
of the sections and the descriptions of their fields.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click
from pydantic.fields import FieldInfo

from detector.cli.program import CommandGroup, json_option, print_error, print_json, print_status
from detector.config.loading import (
    NAMED,
    SEVERAL,
    Configuration,
    Key,
    Layers,
    SettingsError,
    load_configuration,
    section_of,
    toml_key,
    toml_value,
)
from detector.config.sections import Section
from detector.config.settings import Settings
from detector.errors import ConfigError

DEFAULT: Final = "default"
_EXAMPLE_NAME: Final = "kitchen"
_COLUMN: Final = 44
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
    found = load_configuration(_one_of(path, option))
    if as_json:
        print_json(as_document(found))
        return
    for line in as_toml(found):
        click.echo(line)


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and programs."""
    print_json(Settings.model_json_schema())


@config.command()
@click.argument("path", metavar="[PATH]", required=False, type=click.Path(path_type=Path, allow_dash=True))
def init(path: Path | None) -> None:
    """Write an example with every setting explained; an existing file is never changed.

    Without PATH: /etc/snn-detect/config.toml for root, for others the one in their own configuration
    folder; - is standard output.
    """
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


def as_toml(configuration: Configuration) -> Iterator[str]:
    """Yield the lines of a configuration file that says all of it, with the place of each value behind it."""
    layers = configuration.layers
    for file in configuration.files:
        yield f"# read: {file}"
    yield from _lines(configuration.settings, (), layers)


def as_document(configuration: Configuration) -> dict[str, Any]:
    """Return files, settings and, by dotted key, the place of each setting."""
    settings = configuration.settings.shown()
    places: dict[str, str] = {}
    for key in _leaves(configuration.settings, ()):
        dotted = ".".join(map(str, key))
        places[dotted] = _place(configuration.layers, key)
    return {"files": [str(f) for f in configuration.files], "settings": settings, "places": places}


def _lines(section: Section, at: Key, layers: Layers) -> Iterator[str]:
    """Yield the values of a section, and then the sections in it."""
    values, kinds = section.shown(), type(section).model_fields
    for name in values:
        if not section_of(kinds[name].annotation):
            text = f"# {name} is left out" if values[name] is None else f"{name} = {toml_value(values[name])}"
            yield f"{text:<{_COLUMN}}  # {_place(layers, (*at, name))}"
    for name in (name for name in values if section_of(kinds[name].annotation)):
        inner = _inner(section, name, at)
        if not inner:
            yield f"\n# no {_title((*at, name))}"
        for key, found in inner.items():
            yield f"\n{_title(key)}"
            yield from _lines(found, key, layers)


def _title(key: Key) -> str:
    """Return the line above a table, of one of several without its number."""
    names = ".".join(toml_key(part) for part in key if isinstance(part, str))
    return f"[[{names}]]" if key[:1] in SEVERAL else f"[{names}]"


def _inner(section: Section, name: str, at: Key) -> dict[Key, Section]:
    """Return the sections under a key of another one, each with its own key."""
    value = getattr(section, name)
    if isinstance(value, dict):
        return {(*at, name, key): found for key, found in value.items()}
    if isinstance(value, tuple):
        return {(*at, name, number): found for number, found in enumerate(value)}
    return {} if value is None else {(*at, name): value}


def _leaves(section: Section, at: Key) -> Iterator[Key]:
    shown = section.shown()
    for name, field in type(section).model_fields.items():
        if section_of(field.annotation) and (inner := _inner(section, name, at)):
            for key, found in inner.items():
                yield from _leaves(found, key)
        elif name in shown and not (section_of(field.annotation) and (*at, name) in SEVERAL | NAMED):
            yield (*at, name)


def _place(layers: Layers, key: Key) -> str:
    return ", ".join(layers.places_of(key)) or DEFAULT


_WIDTH: Final = 118
_HEAD: Final = """\
# Settings of snn-detect. A line "#key = value" shows a default, or an example where nothing is set by default;
# remove the # to change it. After a change:
#
#   snn-detect config check        what is wrong, and where
#   systemctl reload snn-detect    apply it; settings that are wrong change nothing
#   snn-detect config show         what is in force, and where it comes from
#
# Files in config.d/*.toml beside this one override it, in the order of their names: [tables] key by key, lists and
# [[tables]] as a whole. The environment overrides the files, with __ between the parts of a key:
# SNN_DETECT_AUDIO__DEVICE=hw:CARD=Device. Options of the command line override everything.
#
# Paths are absolute, or begin with ~/. Under systemd, the service cannot see /home and /tmp.
"""


def example() -> str:
    """Return a configuration file in which every key is explained; loaded as it is, it changes no default.

    Only the sections with ``in_example`` are added by it. A key stands there with its default, or with the first of
    its ``examples`` where it has none.
    """
    return "\n".join([_HEAD, *_example_lines()])


def _example_lines() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        if section_of(field.annotation) is None:
            yield from _key(name, field)
    for name, field in Settings.model_fields.items():
        if section := section_of(field.annotation):
            is_active = isinstance(field.default, Section) or section.in_example
            yield from _section(name, section, is_active=is_active)


def _section(name: str, section: type[Section], *, is_active: bool) -> Iterator[str]:
    is_named = (name,) in NAMED
    yield ""
    for paragraph in (section.__doc__ or "").split("\n\n"):
        yield from _comment(paragraph)
    if (name,) in SEVERAL or is_named:
        yield from _comment(f"Several: repeat the section{', each with a name of its own' if is_named else ''}.")
    yield f"{'' if is_active else '#'}{_title((name, _EXAMPLE_NAME) if is_named else (name,))}"
    for key, field in section.model_fields.items():
        if not section.example_keys or key in section.example_keys:
            yield from _key(key, field)


def _key(name: str, field: FieldInfo) -> Iterator[str]:
    yield from _comment(field.description or "")
    yield f"#{name} = {toml_value(_shown(field))}"
    yield ""


def _shown(field: FieldInfo) -> Any:
    """Return the default of a field as JSON has it, or its example where nothing is set by default."""
    value = None if field.is_required() or field.default_factory else field.default
    if value is None:
        return (field.examples or [""])[0]
    return list(value) if isinstance(value, tuple) else value


def _comment(text: str) -> Iterator[str]:
    yield from (f"# {line}" for line in textwrap.wrap(" ".join(text.split()), _WIDTH))
