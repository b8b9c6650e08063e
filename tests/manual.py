"""The manual page of a program, made from its commands as ``--help`` shows them: one page with all commands."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from detector import __version__

_HELP = (".TP", r"\fB\-h\fR, \fB\-\-help\fR", "Show the options; behind a command, those of the command.")


def manual_page(program: str, group: click.Group, others: tuple[str, ...]) -> str:
    """Return the page of a program in the macros of man(7)."""
    context = click.Context(group, info_name=program, **group.context_settings)
    first, *rest = _paragraphs(group)
    lines = [f'.TH {program.upper()} 1 "" "{program} {__version__}" "User Commands"', ".nh", ".SH NAME"]
    lines += [f"{_text(program)} \\- {_text(first.rstrip('.'))}", ".SH SYNOPSIS", f".B {_text(program)}"]
    lines += [_text(" ".join(group.collect_usage_pieces(context)))]
    lines += [".SH DESCRIPTION", *_joined(rest or [first]), ".SH OPTIONS", *_HELP, *_options(group, context)]
    lines += [".SH COMMANDS"]
    lines += [line for command, inner in _commands(group, context) for line in _section(command, inner)]
    variables = list(_variables(group, context))
    lines += [".SH ENVIRONMENT", *variables] if variables else []
    lines += [".SH SEE ALSO", ",\n".join(f".BR {_text(other)} (1)" for other in others)]
    return "\n".join(lines).replace(",\n.BR", " ,\n.BR") + "\n"


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield the commands of a group and of its groups, without the hidden ones."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if command.hidden:
            continue
        inner = click.Context(command, info_name=name, parent=context)
        yield command, inner
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _section(command: click.Command, context: click.Context) -> list[str]:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    return [f".SS {_text(usage)}", *_joined(_paragraphs(command)), *_options(command, context)]


def _options(command: click.Command, context: click.Context) -> list[str]:
    """Return the options of a command but for --help, which all have."""
    lines = []
    for parameter in command.params:
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record is not None:
            lines += [".TP", _names(record[0]), _text(record[1])]
    return lines


def _names(record: str) -> str:
    """Return the names of an option in bold, what they take in italics."""
    return re.sub(r"(?<![\w\\-])(\\-{1,2}[\w\\-]+|\\-\w)", r"\\fB\1\\fR", _text(record))


def _variables(group: click.Group, context: click.Context) -> Iterator[str]:
    """Yield the variables that stand for options, each with its options."""
    found: dict[str, dict[str, None]] = {}
    for command, inner in ((group, context), *_commands(group, context)):
        for parameter in command.params:
            if isinstance(parameter.envvar, str):
                name = parameter.opts[0] if isinstance(parameter, click.Option) else parameter.make_metavar(inner)
                found.setdefault(parameter.envvar, {})[f"{name} of {inner.command_path}"] = None
    for variable, places in sorted(found.items()):
        yield from (".TP", f".B {_text(variable)}", _text(f"Used for {', '.join(places)}."))


def _paragraphs(command: click.Command) -> list[str]:
    return [" ".join(part.split()) for part in (command.help or "").split("\n\n")]


def _joined(paragraphs: list[str]) -> list[str]:
    return [line for paragraph in paragraphs for line in (".PP", _text(paragraph))][1:]


def _text(text: str) -> str:
    """Return text as troff shows it: hyphens that can be copied, no line that is a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
