"""The settings in force as people and programs read them: each with its place, none with a secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

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
