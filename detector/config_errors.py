"""What is wrong with a configuration: one line a mistake, with its place, its key, and what was perhaps meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from detector.config_keys import Key, fields_of, known_keys, known_part, nearest
from detector.config_layers import PREFIX, Layers, variable_of

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_SECRETS: Final = frozenset({"password", "passwd", "passphrase", "token", "secret", "api_key"})
_LONGEST: Final = 40
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
_SLUG_WORDS: Final = "must be 1 to 64 letters (a to z), digits, _ and -"


def problems(error: ValidationError, layers: Layers) -> list[str]:
    """Return one line for each key that is wrong; unknown keys first, which often explain the rest."""
    by_key: dict[Key, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(known_part(detail["loc"]), []).append(detail)
    ordered = sorted(by_key.items(), key=lambda item: item[1][0]["type"] != "extra_forbidden")
    return [f"{layers.place_of(key)}: {layers.name(key)}: {_words(key, details, layers)}" for key, details in ordered]


def _words(key: Key, details: list[ErrorDetails], layers: Layers) -> str:
    """Say what is wrong; where a value may be of several kinds, the kind that it looks like speaks."""
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
    elsewhere = [k for k in everywhere if k.rpartition(".")[2] == name.lower()]
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
    """Return the value that was found, as far as a line can show it."""
    if isinstance(value, dict):
        return ", not a table"
    if isinstance(value, list | tuple):
        return f", not a list of {len(value)}"
    text = repr(value) if isinstance(value, str) else str(value).lower()
    return f", not {text if len(text) <= _LONGEST else text[:_LONGEST] + '...'}"
