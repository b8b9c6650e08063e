"""Settings as TOML and JSON: those in force, with the place of each and no secret, and the commented example."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from typing import Any, Final

from pydantic.fields import FieldInfo

from detector.config.loading import SEVERAL, Configuration, Key, Layers, section_of
from detector.config.sections import Section
from detector.config.settings import Settings

DEFAULT: Final = "default"
_COLUMN: Final = 44
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def as_toml(configuration: Configuration) -> Iterator[str]:
    """Yield the lines of a configuration file that says all of it, with the place of each value behind it."""
    layers = configuration.layers
    for file in configuration.files:
        yield f"# read: {file}"
    yield from _lines(Settings, configuration.settings.shown(), (), layers)
    for name, field in Settings.model_fields.items():
        value = getattr(configuration.settings, name)
        inner = section_of(field.annotation)
        if inner is None:
            continue
        several = (name,) in SEVERAL
        if not value and not isinstance(value, Section):
            yield f"\n# no {f'[[{name}]]' if several else f'[{name}]'}"
        for number, section in enumerate(value if several else (value,) if value else ()):
            key: Key = (name, number) if several else (name,)
            yield f"\n[[{name}]]" if several else f"\n[{name}]"
            yield from _lines(inner, section.shown(), key, layers)


def as_json(configuration: Configuration) -> dict[str, Any]:
    """Return files, settings and, by dotted key, the place of each setting."""
    settings = configuration.settings.shown()
    places: dict[str, str] = {}
    for key in _leaves(configuration.settings, ()):
        dotted = ".".join(map(str, key))
        places[dotted] = _place(configuration.layers, key)
    return {"files": [str(f) for f in configuration.files], "settings": settings, "places": places}


def _lines(kind: type[Section], values: dict[str, Any], at: Key, layers: Layers) -> Iterator[str]:
    for name, field in kind.model_fields.items():
        if section_of(field.annotation):
            continue
        place = _place(layers, (*at, name))
        unset = values[name] is None
        text = f"# {name} is left out" if unset else f"{name} = {toml_value(values[name])}"
        yield f"{text:<{_COLUMN}}  # {place}"


def _leaves(section: Section, at: Key) -> Iterator[Key]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        sections = {(*at, name): value}
        if (*at, name) in SEVERAL:
            sections = {(*at, name, number): item for number, item in enumerate(value)}
        for key, item in sections.items():
            if isinstance(item, Section):
                yield from _leaves(item, key)
            else:
                yield key


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
            yield from _section(name, section, is_active=isinstance(field.default, Section) or section.in_example)


def _section(name: str, section: type[Section], *, is_active: bool) -> Iterator[str]:
    is_several = (name,) in SEVERAL
    yield ""
    for paragraph in (section.__doc__ or "").split("\n\n"):
        yield from _comment(paragraph)
    if is_several:
        yield from _comment("Several: repeat the section.")
    mark = "" if is_active else "#"
    yield f"{mark}[[{name}]]" if is_several else f"{mark}[{name}]"
    for key, field in section.model_fields.items():
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
