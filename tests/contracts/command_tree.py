"""Print the commands of a program with their options: ``python -m tests.contracts.command_tree snn-train``.

The program is found as pip finds it, by its entry point in pyproject.toml. It runs in a process of its own, up to
where click would read the arguments.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click

from tests.contracts.live import ROOT


def entry_points() -> dict[str, str]:
    """Return the programs of the project with their entry points."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        found: dict[str, str] = tomllib.load(file)["project"]["scripts"]
    return found


class _FoundError(Exception):
    def __init__(self, command: click.Command) -> None:
        super().__init__(command)
        self.command = command


def command_of(program: str) -> click.Command:
    """Return the command that a program's entry point runs."""
    module, _, function = entry_points()[program].partition(":")
    entry = getattr(import_module(module), function)
    if isinstance(entry, click.Command):
        return entry

    def found(self: click.Command, *_: object, **__: object) -> Any:
        raise _FoundError(self)

    click.Command.main = found  # type: ignore[method-assign]
    try:
        entry()
    except _FoundError as error:
        return error.command
    raise LookupError(f"{program}: its entry point runs no command of click")


def lines_of(command: click.Command, path: str, parent: click.Context | None = None) -> Iterator[str]:
    """Yield a command with its arguments, its options in order of their names, and then its commands.

    A command keeps the names of its help option from its first context, so that this one is as in the program.
    """
    context = click.Context(command, info_name=path, parent=parent, **command.context_settings)
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    hidden = " (hidden)" if command.hidden else ""
    yield " ".join([path, *(_argument(a, context) for a in arguments)]) + hidden
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]
    yield from sorted(f"    {_option(o, context)}" for o in options)
    if isinstance(command, click.Group):
        for name in sorted(command.list_commands(context)):
            yield ""
            child = command.get_command(context, name)
            assert child is not None
            yield from lines_of(child, f"{path} {name}", context)


def _argument(argument: click.Argument, context: click.Context) -> str:
    return f"{argument.make_metavar(context)}:{argument.type.name}"


def _option(option: click.Option, context: click.Context) -> str:
    names = " ".join(sorted((*option.opts, *option.secondary_opts), key=lambda n: (-len(n), n)))
    shown = _shown(option, context)
    parts = [] if option.is_flag else [_type(option, context)]
    parts += ["takes no value or one"] if not option.is_flag and option._flag_needs_value else []
    parts += ["required"] if option.required else []
    parts += ["may be repeated"] if option.multiple or option.count else []
    parts += [f"default {default}"] if (default := _default(option, shown)) else []
    parts += [f"variable {option.envvar}"] if option.envvar else []
    parts += ["hidden"] if option.hidden else []
    return f"{names}: {', '.join(parts)}" if parts else names


def _type(option: click.Option, context: click.Context) -> str:
    kind = option.type
    if isinstance(kind, click.Choice):
        return "|".join(map(str, kind.choices))
    name = option.metavar or option.make_metavar(context)
    if isinstance(kind, click.types._NumberRangeBase):
        low, high = ("" if bound is None else f"{bound:g}" for bound in (kind.min, kind.max))
        return f"{kind.name} {low}..{high}"
    return name if name.strip("[]").lower() == kind.name else f"{name} ({kind.name})"


def _shown(option: click.Option, context: click.Context) -> dict[str, str]:
    """Return what help shows in brackets behind an option's text."""
    record = option.get_help_record(context)
    text = " ".join(record[1].split()) if record else ""
    parts = [part for found in re.findall(r"\[([^][]*)\]", text) for part in found.split(";")]
    return {k.strip(): v.strip() for k, _, v in (part.partition(":") for part in parts)}


def _default(option: click.Option, shown: dict[str, str]) -> str:
    """Return the default that help shows, else the one that the option has."""
    if "default" in shown:
        return shown["default"]
    value = option.default
    if option.is_flag or callable(value) or not isinstance(value, (str, int, float)):
        return ""
    return str(value)


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines_of(command_of(sys.argv[1]), sys.argv[1])) + "\n")
