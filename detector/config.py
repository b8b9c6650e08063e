"""The settings in force: command line over environment over ``config.d`` over the file over the defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from detector.addresses import token_required
from detector.config_errors import problems
from detector.config_layers import Layers, environment_layer, read_toml
from detector.directories import configuration_directories
from detector.errors import ConfigError
from detector.settings import Settings

FILE_NAME: Final = "config.toml"
COMMAND_LINE: Final = "command line"
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


class SettingsError(ConfigError):
    """Settings that are wrong; its text tells the first mistake and how many more there are."""

    def __init__(self, mistakes: list[str]) -> None:
        """Take one line for each mistake."""
        self.mistakes = tuple(mistakes)
        more = f" (and {len(mistakes) - 1} more: snn-detect config check)" if len(mistakes) > 1 else ""
        super().__init__(f"{mistakes[0]}{more}")


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings, and where they come from."""

    settings: Settings
    layers: Layers
    files: tuple[Path, ...]
    """The files that were read, in order; each one overrides those before it."""


def load_settings(path: Path | None, overrides: Mapping[str, object] = _NOTHING) -> Settings:
    """Return the settings in force; see ``load_configuration``."""
    return load_configuration(path, overrides).settings


def load_configuration(path: Path | None, overrides: Mapping[str, object] = _NOTHING) -> Configuration:
    """Return the settings in force and where they come from.

    ``path`` is a configuration file; with None it is looked for (``find_file``), and may be missing.
    Beside ``config.toml``, ``config.d/*.toml`` are read too, in the order of their names.
    ``overrides`` are wishes of the command line by dotted key (``audio.device``); None is no wish.
    Tables are merged key by key, everything else is replaced. Raises ConfigError, one line that
    names the place, the key, what is wrong with it and what was perhaps meant.
    """
    layers, files = Layers(), _files(path)
    for file in files:
        layers.put_table(read_toml(file), str(file))
    for key, value, variable in environment_layer(os.environ):
        layers.put(key, value, variable)
    for name, wish in overrides.items():
        if wish is not None:
            layers.put(tuple(name.split(".")), wish, COMMAND_LINE)
    return Configuration(_validated(layers), layers, files)


def find_file() -> Path | None:
    """Return the first configuration file there is: systemd's, the system's (where readable), the user's."""
    for directory in configuration_directories():
        path = directory / FILE_NAME
        if os.access(path, os.R_OK) and path.is_file():
            return path
    return None


def _files(path: Path | None) -> tuple[Path, ...]:
    path = path or find_file()
    if path is None:
        return ()
    folder = path.with_suffix(".d")
    return (path, *sorted(p for p in folder.glob("*.toml") if not p.name.startswith(".")))


def _validated(layers: Layers) -> Settings:
    try:
        settings = Settings.model_validate(layers.values)
    except ValidationError as error:
        raise SettingsError(problems(error, layers)) from None
    for name, section in (("metrics", settings.metrics), ("web", settings.web)):
        if section is not None:
            _check_address(layers, (name, "address"), section.address, section.token_file)
    return settings


def _check_address(layers: Layers, key: tuple[str, ...], address: str, token_file: Any) -> None:
    """Refuse to offer anything to other machines without a token."""
    try:
        lacking = token_required(address) and token_file is None
    except ConfigError as error:
        raise ConfigError(f"{_where(layers, key)}: {error}") from error
    if lacking:
        raise ConfigError(
            f"{_where(layers, key)}: {address!r} can be reached from other machines, which needs {key[0]}.token_file; "
            f"without one, listen on 127.0.0.1"
        )


def _where(layers: Layers, key: tuple[str, ...]) -> str:
    return f"{layers.place_of(key)}: {layers.name(key)}"
