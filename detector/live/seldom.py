"""Warnings that would fill a log if each of them were written."""

from __future__ import annotations

import logging
import math
import time
from typing import Final

_PAUSE_S: Final = 60.0


class Seldom:
    """Writes a warning, and those that follow within a minute as a number beside the next one."""

    def __init__(self, log: logging.Logger) -> None:
        """Write to ``log``."""
        self._log = log
        self._written_at, self._kept_back = -math.inf, 0

    def say(self, text: str, *values: object) -> None:
        """Write a text with its values, as ``logging`` does, or count it."""
        now = time.monotonic()
        if now - self._written_at < _PAUSE_S:
            self._kept_back += 1
            return
        more = f" (and {self._kept_back} like it since the last such line)" if self._kept_back else ""
        self._log.warning(text + more, *values)
        self._written_at, self._kept_back = now, 0
