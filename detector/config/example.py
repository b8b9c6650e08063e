"""The commented example of a configuration, written from the sections and the descriptions of their fields."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any, Final

from pydantic.fields import FieldInfo

from detector.config.loading import SEVERAL, section_of
from detector.config.sections import Section
from detector.config.settings import Settings
from detector.config.show import toml_value

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
    return "\n".join([_HEAD, *_lines()])


def _lines() -> Iterator[str]:
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
