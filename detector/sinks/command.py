"""A program that is run for each record."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import time
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field

from detector.config.secrets import redacted_arguments
from detector.config.sections import RECORD_TYPES, Labels, RecordType
from detector.errors import DetectorError
from detector.records import Record, as_dict, json_line
from detector.sinks.base import LiveSink, SinkContext, SinkSection, SinkSpec

if TYPE_CHECKING:  # imported with the first record
    import subprocess

_log = logging.getLogger(__name__)
PREFIX: Final = "SNN_DETECT_RECORD_"
"""Prefix of a record's keys in the environment; the variables of the settings have another one."""
_POLL_S: Final = 0.2
_MAX_OUTPUT_BYTES: Final = 1000
"""At most so much of the end of a program's output is logged."""
_MAX_CHARACTERS: Final = 8192
_OF_SERVICE: Final = frozenset(
    {"CREDENTIALS_DIRECTORY", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET"}
    | {"OPENBLAS_NUM_THREADS", "PYDANTIC_DISABLE_PLUGINS", "WATCHDOG_PID", "WATCHDOG_USEC"}
)
"""Variables that are for the service alone."""


class Command(SinkSection):
    """A program that is run for each record, with the record on its standard input and in its environment."""

    argv: tuple[str, ...] = Field(
        min_length=1,
        description="The program and its arguments, as a list: there is no shell.",
        examples=[["/usr/local/bin/on-sound", "--quiet"]],
    )
    types: tuple[RecordType, ...] = Field(("onset",), description=f"Types of records to run it for, {RECORD_TYPES}.")
    labels: Labels = Field((), description="Labels to run it for. Empty: all.")
    timeout_s: float = Field(10.0, gt=0, le=3600, description="Seconds after which it is killed.")

    def shown(self) -> dict[str, Any]:
        """Return the values without arguments that may be secret."""
        return super().shown() | {"argv": list(redacted_arguments(list(self.argv)))}

    def build(self, _context: SinkContext, /) -> SinkSpec:
        """Return the sink."""
        return SinkSpec.of(CommandSink, self)


class CommandSink(LiveSink):
    """Run a program for each record, one after the other, never through a shell.

    The record is a line of JSON on its standard input and, key by key, in its environment:
    SNN_DETECT_RECORD_LABEL, SNN_DETECT_RECORD_SCORE and so on; null is the empty text there.
    """

    def __init__(self, settings: Command) -> None:
        """Prepare."""
        self.types = frozenset(settings.types)
        self.labels = frozenset(settings.labels) or None
        self._settings = settings
        self._name = settings.argv[0]

    def write(self, record: Record) -> None:
        """Run the program to its end.

        Raises DetectorError where it cannot be run, fails, or takes too long; it is then killed, with its
        process group.
        """
        import subprocess

        deadline = time.monotonic() + self._settings.timeout_s
        with self._start(record) as process:
            try:
                output = _read_output(process, deadline)
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired as error:
                raise DetectorError(f"{self._name}: killed after {self._settings.timeout_s:g} s") from error
            finally:
                _kill_rest(process)
        if code:
            how = f"exit code {code}" if code > 0 else f"ended by {_signal_name(-code)}"
            raise DetectorError(f"{self._name}: {how}{f': {output}' if output else ''}")
        if output:
            _log.debug("%s: %s", self._name, output)

    def _start(self, record: Record) -> subprocess.Popen[bytes]:
        import subprocess

        # In memory, so that the service never waits for a program that does not read it.
        source = os.memfd_create("record")
        try:
            os.write(source, json_line(record).encode())
            os.lseek(source, 0, os.SEEK_SET)
            return subprocess.Popen(  # noqa: S603 - the operator's own list of arguments
                self._settings.argv,
                stdin=source,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(record),
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise DetectorError(f"{self._name}: cannot be run ({why}); check argv and the permissions") from error
        finally:
            os.close(source)


def _read_output(process: subprocess.Popen[bytes], deadline: float) -> str:
    """Read a program's output until it ends, or the program does; return its end as one line."""
    output = process.stdout
    if output is None:
        return ""
    poll, end = select.poll(), b""
    poll.register(output, select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        if poll.poll(1000 * min(left, _POLL_S)):
            data = output.read(65536)
            if not data:
                break
            end = (end + data)[-_MAX_OUTPUT_BYTES:]
        elif process.poll() is not None:
            break  # a process that it has started holds the output open
    return " ".join(end.decode(errors="replace").split())


def _kill_rest(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that still runs, with its process group."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _environment(record: Record) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _OF_SERVICE}
    return kept | {f"{PREFIX}{key.upper()}": _text(value) for key, value in as_dict(record).items()}


def _text(value: Any) -> str:
    """Return a value as text for an environment; a longer one is complete on standard input alone."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, allow_nan=False)
    text = text[:_MAX_CHARACTERS]
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "surrogateescape").decode(errors="replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
