"""Compare what a user sees with the files in ``expected/``, one a contract.

The files change only on purpose, and the change is part of the commit that makes it:

    UPDATE_CONTRACTS=1 python -m pytest -n 0 tests/contracts
    git diff tests/contracts/expected

The tests of this folder look from outside alone: programs as processes, the files they write, brokers, HTTP and the
names that README gives for Python. They import no module of the project but ``detector`` itself and what README
imports, so that a change of the inside leaves them as they are.
"""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

EXPECTED: Final = Path(__file__).parent / "expected"
UPDATE: Final = "UPDATE_CONTRACTS"
"""Variable that has the files written; not SNN_DETECT_..., which would be a setting."""
_BY_NAME: Final = {"scores", "metrics", "layers"}
_TYPES: Final = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string"}


def check(name: str, value: object, folder: Path | None = None) -> None:
    """Fail with a diff unless text, or a value as JSON in its own order, is what the file (in EXPECTED) holds."""
    found = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    found = found.rstrip("\n") + "\n"
    path = (folder or EXPECTED) / name
    if os.environ.get(UPDATE) == "1":
        path.write_text(found, encoding="utf-8")
        return
    expected = path.read_text(encoding="utf-8") if path.exists() else ""
    if found != expected:
        lines = difflib.unified_diff(
            expected.splitlines(), found.splitlines(), f"{path.parent.name}/{name}", "found now", lineterm="", n=4
        )
        diff = "\n".join(lines)
        pytest.fail(f"a contract with users has changed; if it is meant to: {UPDATE}=1\n{diff}", pytrace=False)


def shape(value: Any, *opaque: str) -> Any:
    """Return parsed JSON with the type of each value in its place, keys in their order; lists by their first item.

    Keys in ``opaque`` keep their name alone: what their value is depends on the machine or the moment. Tables by
    names that a model gives (labels, layers) are shown by their first entry.
    """
    if isinstance(value, dict):
        return {key: "any" if key in opaque else _entry(key, item, *opaque) for key, item in value.items()}
    if isinstance(value, list):
        return [shape(value[0], *opaque)] if value else []
    return _TYPES[type(value)]


def _entry(key: str, value: Any, *opaque: str) -> Any:
    if key in _BY_NAME and isinstance(value, dict) and len({type(item) for item in value.values()}) == 1:
        return {"<name>": shape(next(iter(value.values())), *opaque)}
    return shape(value, *opaque)
