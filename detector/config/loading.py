"""The settings in force: command line over environment over ``config.d`` over the file over the defaults.

``load_configuration`` reads files, environment and command line into ``Layers``, which merge them and remember where
each value comes from, and validates the result. What is wrong becomes one line a mistake: place, key, reason, and what
was perhaps meant.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pydantic import ValidationError

from detector.config.paths import configuration_directories
from detector.config.secrets import redacted_url, token_required
from detector.config.sections import Section, ServerSection
from detector.config.settings import Settings
from detector.errors import ConfigError, nearest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Key: TypeAlias = tuple[str | int, ...]
"""The way to a value: names of keys, and positions in lists."""
FILE_NAME: Final = "config.toml"
COMMAND_LINE: Final = "command line"
PREFIX: Final = "SNN_DETECT_"
RENAMED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listening.path": "model.path",
        "mqtt.level_s": "mqtt.level_interval_s",
        "webhook.tries": "webhook.max_attempts",
        "clips.longest_s": "clips.max_s",
        "clips.most_bytes": "clips.max_bytes",
        "clips.most_files": "clips.max_files",
        "clips.most_days": "clips.max_days",
        "clips.least_free_bytes": "clips.min_free_bytes",
    }
)
"""Keys by their former names, which are accepted with a warning until the next release."""
_log = logging.getLogger(__name__)
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})
_MODEL: Final = "SNN_DETECT_MODEL"
_NO_SETTINGS: Final = frozenset({_MODEL, "SNN_DETECT_DATA", "SNN_DETECT_DEBUG", "SNN_DETECT_ENGINE"})
_RECORD: Final = "SNN_DETECT_RECORD_"
"""Begins the variables of programs that a [[command]] starts, which may call this one."""
_MAX_BYTES: Final = 1_000_000
_MISSING: Final = object()
_SECRETS: Final = frozenset({"password", "passwd", "passphrase", "token", "secret", "api_key"})
_NAME: Final = "[key]"
"""Stands behind a location of pydantic that is about the name of a table, not what is in it."""
_MAX_SHOWN: Final = 40
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_MAX_BITS: Final = 128
_SLUG_WORDS: Final = "must be 1 to 64 letters (a to z), digits, _ and -"
_WORDS: Final = {
    "string_type": "must be text in quotes",
    "path_type": "must be a path in quotes",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "tuple_type": 'must be a list, such as ["..."]',
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
    "greater_than": "must be more than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "string_pattern_mismatch": "must be of the form {pattern}",
    "model_type": "must be a table",
    "dict_type": "must be a table",
}


class SettingsError(ConfigError):
    """Settings that are wrong; its text is the first mistake and how many more there are."""

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

    ``path`` is a configuration file; None: the one that ``find_file`` returns, if any.
    Beside ``config.toml``, ``config.d/*.toml`` are read too, in the order of their names.
    ``overrides`` are values from the command line by dotted key (``audio.device``); None leaves a key alone.
    Tables are merged key by key, everything else is replaced. A key by its former name is logged as a
    warning, one line for each place. Raises ConfigError, one line that names the place, the key, what is
    wrong with it and what was perhaps meant.
    """
    layers, files = Layers(), _files(path)
    for file in files:
        layers.put_table(read_toml(file), str(file))
    for key, value, variable in environment_layer(os.environ):
        layers.put(key, value, variable)
    _put_overrides(layers, overrides)
    for line in layers.warnings:
        _log.warning(line)
    settings = _validated(layers)
    if settings.sources and layers.place_of(("audio", "device")) == COMMAND_LINE:
        names = ", ".join(settings.sources)
        raise ConfigError(f"{COMMAND_LINE}: --device: the configuration has several sources ({names}); change theirs")
    return Configuration(settings, layers, files)


def settings_of(overrides: Mapping[str, object]) -> Settings:
    """Return the settings of the command line alone, without files and environment; see ``load_configuration``."""
    layers = Layers()
    _put_overrides(layers, overrides)
    return _validated(layers)


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


def _put_overrides(layers: Layers, overrides: Mapping[str, object]) -> None:
    for name, value in overrides.items():
        if value is not None:
            layers.put(tuple(name.split(".")), value, COMMAND_LINE)


def _validated(layers: Layers) -> Settings:
    try:
        settings = Settings.model_validate(layers.values)
    except ValidationError as error:
        raise SettingsError(problems(error, layers)) from None
    for key, section in settings.sections():
        if isinstance(section, ServerSection):
            _check_address(layers, (*key, "address"), section)
    return settings


def _check_address(layers: Layers, key: Key, section: ServerSection) -> None:
    """Raise ConfigError for an address that other machines can reach without a token."""
    address = section.address
    try:
        is_open = token_required(address) and section.token_file is None
    except ConfigError as error:
        raise ConfigError(f"{_where(layers, key)}: {error}") from error
    if is_open:
        raise ConfigError(
            f"{_where(layers, key)}: {address!r} can be reached from other machines, which needs {key[0]}.token_file; "
            f"without one, listen on 127.0.0.1"
        )


def _where(layers: Layers, key: Key) -> str:
    return f"{layers.place_of(key)}: {layers.name(key)}"


class Layers:
    """Values merged from several places: tables key by key, all else is replaced; each value keeps its place."""

    def __init__(self) -> None:
        """Start empty."""
        self.values: dict[str, Any] = {}
        self.warnings: list[str] = []
        """One line for each key by its former name, and each place where it is used."""
        self._places: dict[Key, str] = {}

    def put(self, key: tuple[str, ...], value: object, place: str) -> None:
        """Override the value of a key; ``place`` is the file or variable that it comes from.

        Raises ConfigError for a table that could belong to any of several, and for a key that is given by its
        former name, too.
        """
        *around, name = key
        table = {name: value}
        for outer in reversed(around):
            table = {outer: table}
        self.put_table(table, place)

    def put_table(self, table: Mapping[str, object], place: str) -> None:
        """Override all keys that a file has, as ``put`` does for one."""
        self._overlay(self.values, self._renamed(table, place), (), place)

    def place_of(self, key: Key) -> str | None:
        """Return where the value of a key, or the table around it, comes from; None for the defaults."""
        return next((self._places[key[:n]] for n in range(len(key), -1, -1) if key[:n] in self._places), None)

    def places_of(self, key: Key) -> list[str]:
        """Return where the value of a key comes from: none for a default, several for a table put together."""
        found: Any = self.values
        for part in key:
            found = _step(found, part)
        if found is _MISSING:
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

    def _renamed(self, table: Mapping[str, Any], place: str) -> dict[str, Any]:
        """Return a copy of a table in which keys have their present names."""
        result = copy.deepcopy(dict(table))
        for old, new in RENAMED.items():
            (old_section, _, old_name), (new_section, _, new_name) = old.partition("."), new.partition(".")
            found = result.get(old_section)
            for source in found if isinstance(found, list) else [found]:
                if not isinstance(source, dict) or old_name not in source:
                    continue
                target = source if new_section == old_section else result.setdefault(new_section, {})
                if isinstance(target, dict):  # else the validation refuses it
                    self._check_renamed(old, new, place, is_twice=new_name in target)
                    target[new_name] = source.pop(old_name)
        return result

    def _check_renamed(self, old: str, new: str, place: str, *, is_twice: bool) -> None:
        """Note a warning for a former name; raises ConfigError where the present one is given, too."""
        if place.startswith(PREFIX):
            old, new = variable_of(old), variable_of(new)
        if is_twice:
            raise ConfigError(f"{place}: {old} is the former name of {new}, which is given too; remove one of them")
        where = "" if place == old else f"{place}: "  # a variable or an option is its own place
        line = f"{where}{old} is now called {new}; the next release no longer accepts the former name"
        if line not in self.warnings:
            self.warnings.append(line)

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
        """Merge one table into the only one of a list, or start the list with it."""
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
    """Return the contents of a configuration file; raises ConfigError where it cannot be read or is no TOML."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; snn-detect config init {path} writes an example") from None
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"{path}: too long for a configuration; the limit is {_MAX_BYTES} bytes")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: line {line} is not UTF-8 text") from error
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        # Python's advice about numbers of thousands of digits is not for users.
        raise ConfigError(f"{path}: not TOML: {str(error).partition('; use sys.')[0]}") from error


def environment_layer(environment: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], object, str]]:
    """Yield key, value and variable for each ``SNN_DETECT_*``; ``__`` stands between the parts of a key.

    A value that begins with ``[``, ``{`` or a quote is TOML or JSON; any other one is text, which
    keys that are a number or a truth value parse. ``SNN_DETECT_MODEL`` is ``model.path``.
    Raises ConfigError for a value that is neither.
    """
    if environment.get(_MODEL):
        yield ("model", "path"), environment[_MODEL], _MODEL
    for variable in sorted(environment):
        if variable.startswith(PREFIX) and variable not in _NO_SETTINGS and not variable.startswith(_RECORD):
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
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(
            f'{variable}: neither TOML nor JSON; write a list as ["a", "b"], a table as {{key = "value"}}'
        ) from None


def problems(error: ValidationError, layers: Layers) -> list[str]:
    """Return one line for each key that is wrong; unknown keys first, which often explain the rest."""
    by_key: dict[Key, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(known_part(detail["loc"]), []).append(detail)
    ordered = sorted(by_key.items(), key=lambda item: item[1][0]["type"] != "extra_forbidden")
    return [f"{layers.place_of(key)}: {layers.name(key)}: {_words(key, details, layers)}" for key, details in ordered]


def _words(key: Key, details: list[ErrorDetails], layers: Layers) -> str:
    """Return what is wrong; where a value may be of several types, by the type that it looks like."""
    value = details[0]["input"]
    detail = details[0] if isinstance(value, str) else details[-1]
    context = detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            return _unknown(key, layers)
        case "missing":
            return "is missing"
        case "value_error":
            return str(context["error"])
        case "literal_error":
            return _not_among(context["expected"], value)
        case "string_pattern_mismatch" if context["pattern"].startswith("^[a-zA-Z0-9_-]"):
            return _SLUG_WORDS + _not(value)
    words = _WORDS.get(detail["type"])
    return (words.format(**context) if words else detail["msg"]) + _not(value)


def _unknown(key: Key, layers: Layers) -> str:
    name, siblings = str(key[-1]), list(fields_of(key[:-1]))
    if name.lower() in _SECRETS and (file := nearest(f"{name}_file", (s for s in siblings if s.endswith("_file")))):
        return f"secrets are not kept in here; write it into a file of its own and name that file with {file}"
    around = "".join(f"{part}." for part in key[:-1] if isinstance(part, str))
    everywhere = list(known_keys())
    near = nearest(name, siblings)
    # A section is no place for a value, though it may have the name of one: [command] command = "...".
    elsewhere = [k for k in everywhere if k.rpartition(".")[2] == name.lower() and not fields_of((k,))]
    meant = (
        (around + near if near else None)
        or (elsewhere[0] if elsewhere and (len(elsewhere) == 1 or not around) else None)
        or (None if around else nearest(name, everywhere))
    )
    if meant is None:
        return f"no such key; known here are {', '.join(siblings)}"
    from_environment = (layers.place_of(key) or "").startswith(PREFIX)
    return f"no such key; did you mean {variable_of(meant) if from_environment else meant}?"


def _not_among(expected: str, value: object) -> str:
    known = [word.strip("'") for word in expected.replace(" or ", ", ").split(", ")]
    near = nearest(value, known) if isinstance(value, str) else None
    return f"must be {expected}{_not(value)}" + (f"; did you mean {near!r}?" if near else "")


def _not(value: object) -> str:
    """Return the end of a line that shows the value that was found, shortened."""
    if isinstance(value, dict):
        return ", not a table"
    if isinstance(value, list | tuple):
        return f", not a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return ", not a number of so many digits"
    text = str(value).lower()
    if isinstance(value, str):
        text = repr(redacted_url(value) if "//" in value or "@" in value else value)
    return f", not {text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + '...'}"


def section_of(annotation: Any) -> type[Section] | None:
    """Return the section that a field's type is, or holds; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((s for a in typing.get_args(annotation) if (s := section_of(a))), None)


def fields_of(key: Key) -> dict[str, Any]:
    """Return name and type of each key in the section at ``key``; none where there is no section."""
    section: type[Section] | None = Settings
    for at, part in enumerate(key):
        if isinstance(part, str) and key[:at] not in NAMED:
            field = section.model_fields.get(part) if section else None
            section = section_of(field.annotation) if field else None
    return {name: field.annotation for name, field in section.model_fields.items()} if section else {}


def known_keys(section: type[Section] = Settings, prefix: str = "") -> Iterator[str]:
    """Yield every key in dotted form, sections and what is in them, but for tables that users name."""
    for name, field in section.model_fields.items():
        yield prefix + name
        if (prefix + name,) not in NAMED and (inner := section_of(field.annotation)):
            yield from known_keys(inner, f"{prefix}{name}.")


def known_part(location: Key) -> Key:
    """Return the part of pydantic's location that is a key; behind it come names of a union's members."""
    if location[-1:] == (_NAME,):
        return location[:-1]
    for n, part in enumerate(location):
        if isinstance(part, str) and location[:n] not in NAMED and part not in (fields := fields_of(location[:n])):
            annotation = fields_of(location[: n - 1]).get(str(location[n - 1])) if n else None
            is_entry = bool(fields) or typing.get_origin(annotation) is dict
            return location[: n + 1] if is_entry else location[:n]
    return location


def _sections_in(kind: type) -> Iterator[Key]:
    for name, field in Settings.model_fields.items():
        if typing.get_origin(field.annotation) is kind and section_of(field.annotation):
            yield (name,)


SEVERAL: Final[frozenset[Key]] = frozenset(_sections_in(tuple))
"""The sections of which there may be any number."""
NAMED: Final[frozenset[Key]] = frozenset(_sections_in(dict))
"""The tables of sections that users name, such as ``[sources.kitchen]``."""


def _step(found: Any, part: str | int) -> Any:
    try:
        return found[part]
    except (KeyError, IndexError, TypeError):
        return _MISSING


def toml_value(value: Any) -> str:
    """Write a value of JSON as TOML does."""
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{toml_key(k)} = {toml_value(v)}' for k, v in value.items())} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_key(key: str) -> str:
    """Write a key of a table as TOML does."""
    return key if _BARE_KEY.fullmatch(key) else toml_value(key)
