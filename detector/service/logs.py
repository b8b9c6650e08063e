"""Log messages on standard error: one line each, written without blocking, and so many a minute at most."""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from typing import Final

from detector.system import printable

_PRIORITIES: Final = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG_PRIORITY: Final = 7
_STANDARD_ERROR: Final = 2
_SURE_BYTES: Final = 4096
"""What a pipe that is ready for writing takes without blocking (PIPE_BUF)."""
_PACKAGE: Final = "detector"
_WINDOW_S: Final = 60.0
_MAX_ALIKE: Final = 20
"""Messages alike that are written within the window: of one text with any values, or of one library."""
_MAX_KINDS: Final = 500


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
    logging.getLogger(_PACKAGE).setLevel(level)
    threading.excepthook = _log_failure


def standard_error() -> int:
    """Return the descriptor of standard error."""
    try:
        return sys.stderr.fileno()
    except OSError:
        return _STANDARD_ERROR


def _log_failure(failure: threading.ExceptHookArgs) -> None:
    """Log the error that has ended a thread, as a line in place of a traceback."""
    thread = failure.thread.name if failure.thread else "unknown"
    error = f"{failure.exc_type.__name__}: {failure.exc_value}"
    logging.getLogger(__name__).error("internal error: the thread %s has ended: %s", thread, error)


class _Lines(logging.Handler):
    """Writes one line for each message; where that would block, the message is dropped and counted.

    Messages alike are bounded; the next one that is written says how many were left out.
    """

    def __init__(self, descriptor: int, *, for_journal: bool) -> None:
        super().__init__()
        self._descriptor, self._for_journal = descriptor, for_journal
        self._left_out = 0
        self._alike: dict[tuple[str, str], _Alike] = {}

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if (omitted := self._omitted(record)) is None:
                return
            text = record.getMessage()
            if record.exc_info and record.exc_info[1] is not None:
                text += f" ({type(record.exc_info[1]).__name__}: {record.exc_info[1]})"
            if omitted:
                text += f" (and {omitted} like it were left out)"
            self._write(record.levelno, printable(" ".join(text.split())))
        except Exception:  # noqa: BLE001 - a message that cannot be written must not end the service
            self._left_out += 1

    def _omitted(self, record: logging.LogRecord) -> int | None:
        """Return how many messages like this one were left out before it; None where this one is left out, too."""
        package, _, _ = record.name.partition(".")
        key = (record.name, str(record.msg)) if package == _PACKAGE else (package, "")
        if key not in self._alike and len(self._alike) >= _MAX_KINDS:
            self._alike.clear()
        return self._alike.setdefault(key, _Alike()).count()

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


class _Alike:
    """Counts messages that are alike, in windows of time."""

    def __init__(self) -> None:
        self._since_s = time.monotonic()
        self._seen = self._omitted = 0

    def count(self) -> int | None:
        """Count a message; return how many were left out before it, None where it is left out."""
        now = time.monotonic()
        if now - self._since_s >= _WINDOW_S:
            self._since_s, self._seen = now, 0
        self._seen += 1
        if self._seen > _MAX_ALIKE:
            self._omitted += 1
            return None
        omitted, self._omitted = self._omitted, 0
        return omitted


def _is_journal(descriptor: int) -> bool:
    """Return whether a descriptor is the journal's: systemd names its stream, which may have been replaced since."""
    status = os.fstat(descriptor)
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
