"""The keys that a configuration may have, read from ``detector.settings``."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeAlias

from detector.setting_types import Section
from detector.settings import Settings

Key: TypeAlias = tuple[str | int, ...]
"""The way to a value: names of keys, and positions in lists."""


def section_of(annotation: Any) -> type[Section] | None:
    """Return the section that a field's type is, or holds; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((s for a in typing.get_args(annotation) if (s := section_of(a))), None)


def fields_of(key: Key) -> dict[str, Any]:
    """Return name and type of each key in the section at ``key``; none where there is no section."""
    section: type[Section] | None = Settings
    for part in key:
        if isinstance(part, str):
            field = section.model_fields.get(part) if section else None
            section = section_of(field.annotation) if field else None
    return {name: field.annotation for name, field in section.model_fields.items()} if section else {}


def known_keys(section: type[Section] = Settings, prefix: str = "") -> Iterator[str]:
    """Yield every key in dotted form, sections and what is in them."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if inner := section_of(field.annotation):
            yield from known_keys(inner, f"{prefix}{name}.")


def known_part(location: Key) -> Key:
    """Return the part of pydantic's location that is a key; behind it come names of a union's members."""
    for n, part in enumerate(location):
        if isinstance(part, str) and part not in (fields := fields_of(location[:n])):
            annotation = fields_of(location[: n - 1]).get(str(location[n - 1])) if n else None
            is_entry = bool(fields) or typing.get_origin(annotation) is dict
            return location[: n + 1] if is_entry else location[:n]
    return location


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that is probably meant; None where none is like it."""
    return next(iter(difflib.get_close_matches(word.lower(), list(known), n=1)), None)


def _of_several() -> Iterator[Key]:
    for name, field in Settings.model_fields.items():
        if typing.get_origin(field.annotation) is tuple and section_of(field.annotation):
            yield (name,)


SEVERAL: Final[frozenset[Key]] = frozenset(_of_several())
"""The sections of which there may be any number."""
