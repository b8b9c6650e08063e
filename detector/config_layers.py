"""Where wishes come from (files, environment, command line), laid over each other with a memory of their place."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from detector.config_keys import SEVERAL, Key
from detector.errors import ConfigError

PREFIX: Final = "SNN_DETECT_"
_MODEL: Final = "SNN_DETECT_MODEL"
_NO_SETTINGS: Final = frozenset({_MODEL, "SNN_DETECT_DATA", "SNN_DETECT_DEBUG"})
_MOST_BYTES: Final = 1_000_000
_NOWHERE: Final = object()


class Layers:
    """Wishes laid over each other: tables merge, all else is replaced; each value remembers its place."""

    def __init__(self) -> None:
        """Begin with no wish at all."""
        self.values: dict[str, Any] = {}
        self._places: dict[Key, str] = {}

    def put(self, key: tuple[str, ...], value: object, place: str) -> None:
        """Lay a value over what is there; ``place`` is the file or variable that it comes from.

        Raises ConfigError for a table that could belong to any of several.
        """
        *around, name = key
        table = {name: value}
        for outer in reversed(around):
            table = {outer: table}
        self.put_table(table, place)

    def put_table(self, table: Mapping[str, object], place: str) -> None:
        """Lay all of a file over what is there, as ``put`` does."""
        self._overlay(self.values, table, (), place)

    def place_of(self, key: Key) -> str | None:
        """Return where the value of a key, or the table around it, comes from; None for the defaults."""
        return next((self._places[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self._places), None)

    def places_of(self, key: Key) -> list[str]:
        """Return where the value of a key comes from: none for a default, several for a table put together."""
        found: Any = self.values
        for part in key:
            found = _step(found, part)
        if found is _NOWHERE:
            return []
        within = [place for k, place in self._places.items() if k[: len(key)] == key]
        return list(dict.fromkeys(within)) or [p for p in [self.place_of(key)] if p]

    def name(self, key: Key) -> str:
        """Return a key as users write it; a place in a list of several is counted from 1."""
        text = ""
        found: Any = self.values
        for part in key:
            if isinstance(part, str):
                text += f".{part}" if text else part
            elif isinstance(found, list) and len(found) > 1:
                text += f"[{part + 1} of {len(found)}]"
            found = _step(found, part)
        return text

    def _overlay(self, target: dict[str, Any], source: Mapping[str, Any], at: Key, place: str) -> None:
        for name, value in source.items():
            key = (*at, name)
            if not isinstance(value, dict):
                self._replace(target, name, copy.deepcopy(value), key, place)
            elif key in SEVERAL:
                self._overlay_only(target, name, value, place)
            else:
                if not isinstance(target.get(name), dict):
                    self._replace(target, name, {}, key, place)
                self._overlay(target[name], value, key, place)

    def _overlay_only(self, target: dict[str, Any], name: str, value: Mapping[str, Any], place: str) -> None:
        """Lay one table over the only one of a list, or begin the list with it."""
        found = target.get(name)
        if isinstance(found, list) and len(found) > 1:
            raise ConfigError(
                f"{place}: {name}: there are {len(found)} of these before, and it is not clear which is meant; "
                f"give all of them here, as [[{name}]]"
            )
        if not isinstance(found, list) or not found or not isinstance(found[0], dict):
            self._replace(target, name, [{}], (name,), place)
        self._overlay(target[name][0], value, (name, 0), place)

    def _replace(self, target: dict[str, Any], name: str, value: object, key: Key, place: str) -> None:
        target[name] = value
        self._places = {k: v for k, v in self._places.items() if k[: len(key)] != key}
        self._places[key] = place


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a configuration file says; raises ConfigError where it cannot be read or is no TOML."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; snn-detect config init {path} writes an example") from None
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read: {error.strerror}") from error
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"{path}: too long for a configuration; {_MOST_BYTES} bytes are the most")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error


def environment_layer(environment: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], object, str]]:
    """Yield key, value and variable for each ``SNN_DETECT_*``; ``__`` stands between the parts of a key.

    A value that begins with ``[``, ``{`` or a quote is TOML or JSON; any other one is text, which
    keys that want a number or a truth value take as such. ``SNN_DETECT_MODEL`` is ``listening.path``.
    Raises ConfigError for a value that is neither.
    """
    if environment.get(_MODEL):
        yield ("listening", "path"), environment[_MODEL], _MODEL
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in _NO_SETTINGS:
            key = tuple(variable.removeprefix(PREFIX).lower().split("__"))
            yield key, _parsed(environment[variable], variable), variable


def variable_of(key: str) -> str:
    """Return the environment variable of a dotted key."""
    return PREFIX + key.upper().replace(".", "__")


def _parsed(text: str, variable: str) -> object:
    if not text.lstrip().startswith(("[", "{", '"', "'")):
        return text
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise ConfigError(
            f'{variable}: neither TOML nor JSON; write a list as ["a", "b"], a table as {{key = "value"}}'
        ) from None


def _step(found: Any, part: str | int) -> Any:
    try:
        return found[part]
    except (KeyError, IndexError, TypeError):
        return _NOWHERE
