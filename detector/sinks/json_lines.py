"""Records as lines of JSON, for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TextIO


class JsonLinesSink:
    """One JSON object a line, each line sent at once."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``, which stays open."""
        self._stream = stream

    def write(self, record: Mapping[str, Any]) -> None:
        """Write and flush one line."""
        self._stream.write(json_line(record))
        self._stream.flush()


def json_line(record: Mapping[str, Any]) -> str:
    """Return a record as a line; what is not ASCII is escaped, since names of files may be no text."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n"
