"""Log messages on standard error: one line each, written without blocking."""

from __future__ import annotations

import logging
import os
import select
import sys
from typing import Final

_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7
_STANDARD_ERROR: Final = 2
_SURE_BYTES: Final = 4096
"""What a pipe that is ready for writing takes without blocking (PIPE_BUF)."""


def configure(level: int = logging.INFO) -> None:
    """Log to standard error: messages of the package from ``level`` on, those of other libraries from warnings on."""
    # A copy: sounddevice redirects the usual descriptor while PortAudio starts, which may hang.
    descriptor = os.dup(standard_error())
    handler = _Lines(descriptor, for_journal=_is_journal(descriptor))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("detector").setLevel(level)


def standard_error() -> int:
    """Return the descriptor of standard error."""
    try:
        return sys.stderr.fileno()
    except OSError:
        return _STANDARD_ERROR


class _Lines(logging.Handler):
    """Writes one line for each message; where that would block, the message is dropped and counted."""

    def __init__(self, descriptor: int, *, for_journal: bool) -> None:
        super().__init__()
        self._descriptor, self._for_journal = descriptor, for_journal
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = " ".join(record.getMessage().split())
            if record.exc_info and record.exc_info[1] is not None:
                text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
            self._write(record.levelno, text)
        except Exception:  # noqa: BLE001 - a message that cannot be written must not end the service
            self._left_out += 1

    def _write(self, level: int, text: str) -> None:
        more = f" ({self._left_out} messages before this one were lost)" if self._left_out else ""
        line = f"{self._head(level)}{text}{more}".encode(errors="replace")[: _SURE_BYTES - 1] + b"\n"
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        if not poll.poll(0):
            self._left_out += 1
            return
        os.write(self._descriptor, line)
        self._left_out = 0

    def _head(self, level: int) -> str:
        """Return the priority for the journal, which has time and name itself; else the name."""
        if self._for_journal:
            return f"<{next((p for least, p in _PRIORITIES if level >= least), _DEBUG_PRIORITY)}>"
        kind = "error: " if level >= logging.ERROR else "warning: " if level >= logging.WARNING else ""
        return f"snn-detect: {kind}"


def _is_journal(descriptor: int) -> bool:
    """Return whether a descriptor is the journal's: systemd names its stream, which may have been replaced since."""
    status = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
