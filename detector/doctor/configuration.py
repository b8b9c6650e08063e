"""The configuration: where it comes from, and whether it can be."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from detector.config import FILE_NAME, Configuration, load_configuration
from detector.config_layers import environment_layer
from detector.directories import configuration_directories
from detector.doctor.finding import SETTINGS, Finding, ok, problem, warning
from detector.errors import ConfigError

CONFIGURATION: Final = "configuration"


def check_configuration(path: Path | None, overrides: Mapping[str, object]) -> tuple[Configuration | None, Finding]:
    """Return the configuration that the service would read, and what is to be said of it; None: it is wrong."""
    try:
        found = load_configuration(path, overrides)
    except ConfigError as error:
        return None, problem(
            CONFIGURATION, str(error), f"mend it; snn-detect config check{_name(path)} looks again", SETTINGS
        )
    text = ", ".join([*_places(found), *_wishes(overrides)]) or "there is no file: all is as by default"
    if path is None and (hidden := _hidden(found)):
        advice = f"sudo snn-detect doctor, or sudo -u snn-detect snn-detect doctor, reads {hidden}"
        return found, warning(CONFIGURATION, f"this user may not read {hidden}; in its place: {text}", advice)
    return found, ok(CONFIGURATION, text)


def _places(found: Configuration) -> Iterator[str]:
    yield from map(str, found.files)
    yield from (variable for _, _, variable in environment_layer(os.environ))


def _wishes(overrides: Mapping[str, object]) -> list[str]:
    return ["the command line"] if any(value is not None for value in overrides.values()) else []


def _hidden(found: Configuration) -> Path | None:
    """Return the first file that would be read by a user who may; None where that is the one that was read."""
    for folder in configuration_directories():
        path = folder / FILE_NAME
        if path in found.files:
            return None
        if path.exists() and not os.access(path, os.R_OK):
            return path
    return None


def _name(path: Path | None) -> str:
    return "" if path is None else f" {path}"
