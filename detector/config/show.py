"""Settings as TOML and JSON: those in force, with the place of each and no secret, and the commented example."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from pydantic.fields import FieldInfo

from detector.config.loading import NAMED, SEVERAL, Configuration, Key, Layers, section_of
from detector.config.sections import Section
from detector.config.settings import Settings

DEFAULT: Final = "default"
_EXAMPLE_NAME: Final = "kitchen"
_COLUMN: Final = 44
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(configuration: Configuration) -> Iterator[str]:
    """Yield the lines of a configuration file that says all of it, with the place of each value behind it."""
    layers = configuration.layers
    for file in configuration.files:
        yield f"# read: {file}"
    yield from _lines(configuration.settings, (), layers)


def as_json(configuration: Configuration) -> dict[str, Any]:
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
    names = ".".join(_toml_key(part) for part in key if isinstance(part, str))
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


def toml_value(value: Any) -> str:
    """Write a value of JSON as TOML does."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_toml_key(k)} = {toml_value(v)}' for k, v in value.items())} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _toml_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)


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
