"""Strict reading of documents into dataclasses: every key is required, no other is allowed, no value is guessed."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

from detector.errors import DetectorError


def parse_strictly(kind: Any, data: Any, where: str, what: str, error: type[DetectorError]) -> Any:
    """Turn parsed JSON or TOML into the dataclass ``kind``, refusing missing, unknown and wrongly typed keys.

    ``where`` is the file and ``what`` the kind of document, for the one line of ``error`` that is raised.
    """
    return _Parser(where, what, error).parse(kind, data, "")


@dataclass(frozen=True, slots=True)
class _Parser:
    where: str
    what: str
    error: type[DetectorError]

    def parse(self, kind: Any, value: Any, path: str) -> Any:
        """Check ``value`` against the type ``kind``; ``path`` names the key in errors."""
        if dataclasses.is_dataclass(kind):
            return self._dataclass(kind, value, path)
        origin, args = typing.get_origin(kind), typing.get_args(kind)
        if origin in (tuple, dict):
            return self._collection(origin, args, value, path)
        if origin is Literal:
            if value not in args:
                raise self._wrong(path, " or ".join(repr(a) for a in args), value)
            return value
        if origin is types.UnionType:
            return self.parse(self._member(args, value, path), value, path)
        return self._scalar(kind, value, path)

    def _member(self, args: tuple[Any, ...], value: Any, path: str) -> Any:
        """Choose a union's member: "a text or a list", or dataclasses distinguished by their key ``kind``."""
        if not dataclasses.is_dataclass(args[0]):
            return next(a for a in args if isinstance(value, list) == (a is not str))
        names = {typing.get_args(typing.get_type_hints(a)["kind"])[0]: a for a in args}
        kind = value.get("kind") if isinstance(value, dict) else value
        if kind not in names:
            raise self._wrong(f"{path}.kind", " or ".join(repr(name) for name in names), kind)
        return names[kind]

    def _collection(self, origin: Any, args: tuple[Any, ...], value: Any, path: str) -> Any:
        if origin is tuple:
            if not isinstance(value, list):
                raise self._wrong(path, "a list", value)
            return tuple(self.parse(args[0], v, f"{path}[{i}]") for i, v in enumerate(value))
        if not isinstance(value, dict):
            raise self._wrong(path, "an object", value)
        return {k: self.parse(args[1], v, f"{path}.{k}") for k, v in value.items()}

    def _dataclass(self, kind: Any, value: Any, path: str) -> Any:
        if not isinstance(value, dict):
            raise self._wrong(path, "an object", value)
        hints = typing.get_type_hints(kind)
        prefix = f"{path}." if path else ""
        for key in hints:
            if key not in value:
                raise self.error(f"{self.where}: the {self.what} lacks the key {prefix + key!r}")
        for key in value:
            if key not in hints:
                raise self.error(f"{self.where}: the {self.what} has the unknown key {prefix + key!r}")
        return kind(**{key: self.parse(hint, value[key], prefix + key) for key, hint in hints.items()})

    def _scalar(self, kind: Any, value: Any, path: str) -> Any:
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            wanted = {int: "an integer", float: "a number", str: "a text", bool: "true or false"}[kind]
            raise self._wrong(path, wanted, value)
        return value

    def _wrong(self, path: str, wanted: str, value: Any) -> DetectorError:
        return self.error(f"{self.where}: {self.what} key {path!r} must be {wanted}, not {str(value)[:40]!r}")
