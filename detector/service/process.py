"""Processes: signals, log messages, notifications of systemd, and processes that share the work on several files."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from detector.errors import DetectorError
from detector.system import printable

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

_TURN_S: Final = 0.2
_END_S: Final = 2.0
"""How long a process may take to notice that what it emits is not read any more."""
_STARTING: Final = -1
_END: Final = (signal.SIGINT, signal.SIGTERM)
_REQUESTS: Final = (signal.SIGHUP, signal.SIGUSR1)
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


def hold_requests() -> None:
    """Hold back SIGHUP and SIGUSR1, which would end a service that is still starting, until there is a handler."""
    if sys.argv[1:2] == ["run"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, _REQUESTS)


class SignalHandler:
    """Takes signals as requests, so that nothing is interrupted while locks are held or modules are imported.

    While entered, the first SIGINT or SIGTERM sets ``number``; the loop ends before its next turn, with the
    detector intact so that open events can be closed. A second one ends the process at once: by
    KeyboardInterrupt, or by ``os._exit`` for a service, whose threads may hang. A service also takes SIGHUP to
    reload the settings and SIGUSR1 to reopen files.
    """

    def __init__(self, *, exits: bool = False, reloads: bool = False) -> None:
        """Prepare. ``exits``: a second signal ends the process by ``os._exit``; ``reloads``: SIGHUP, SIGUSR1 too."""
        self.number: int | None = None
        """Number of the signal that asks for the end."""
        self.reload = False
        self.reopen = False
        self._exits = exits
        self._numbers = (*_END, *(_REQUESTS if reloads else ()))
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def exit_code(self) -> int:
        """128 and the signal's number; 0 where there was none."""
        return 0 if self.number is None else 128 + self.number

    def goes_on(self) -> bool:
        """Return whether no signal has asked for the end yet."""
        return self.number is None

    def __enter__(self) -> Self:
        """Install the handler, except for SIGINT and SIGTERM where the parent ignores them (shells, in background)."""
        for number in self._numbers:
            if number not in _END or signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _REQUESTS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous handlers; requests to a service that is ending are ignored."""
        for number, handler in self._previous.items():
            is_request = number in _REQUESTS and handler is signal.SIG_DFL
            signal.signal(number, signal.SIG_IGN if is_request else handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self.reload = True
        elif number == signal.SIGUSR1:
            self.reopen = True
        elif self.number is None:
            self.number = number
        elif self._exits:
            os._exit(128 + number)
        else:
            raise KeyboardInterrupt


_log = logging.getLogger(__name__)
_PATIENCE_S: Final = 1.0
"""Timeout for what must arrive; a status or watchdog message is soon followed by another."""


class Notifier:
    """Notifies systemd. No method raises: errors are logged once. ``status`` and ``watchdog`` never block."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        """Take the socket and the watchdog's period from the environment."""
        self._address = environment.get("NOTIFY_SOCKET") or None
        self._troubled = False
        self._status = ""
        self._period_s = _watchdog_s(environment) if self._address else None
        self._fed_at: float | None = None

    @property
    def watchdog_s(self) -> float | None:
        """Seconds without ``watchdog()`` after which systemd ends the service; None where there is no watchdog."""
        return self._period_s

    def ready(self) -> None:
        """Notify that the start, or a reload, is complete."""
        self._send("READY=1", _PATIENCE_S)

    def status(self, text: str) -> None:
        """Send the state of the service as one line, unless it is the same as before."""
        line = printable(" ".join(text.split()).encode(errors="replace").decode())
        if line != self._status and self._send(f"STATUS={line}"):
            self._status = line

    def reloading(self) -> None:
        """Notify that the settings are being reloaded; ``ready`` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}", _PATIENCE_S)

    def stopping(self) -> None:
        """Notify that the service is stopping."""
        self._send("STOPPING=1", _PATIENCE_S)

    def watchdog(self) -> None:
        """Feed the watchdog, whenever sound has been processed; sent at most twice a period."""
        if self._period_s is None:
            return
        now = time.monotonic()
        due = self._fed_at is None or now - self._fed_at >= self._period_s / 2
        if due and self._send("WATCHDOG=1"):
            self._fed_at = now

    def _send(self, message: str, patience_s: float = 0.0) -> bool:
        """Send a datagram, blocking at most so long while systemd's queue is full; return whether it was sent."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(patience_s)
                sender.sendto(message.encode(errors="replace"), _name(self._address))
        except OSError as error:
            if not self._troubled:
                _log.warning("systemd cannot be notified (NOTIFY_SOCKET=%s): %s", self._address, error)
            self._troubled = True
            return False
        self._troubled = False
        return True


def _name(address: str) -> str:
    """Return the address as the kernel expects it; raises OSError for anything but a Unix socket."""
    if not address.startswith(("/", "@")):
        raise OSError("not the name of a Unix socket")
    return f"\0{address[1:]}" if address.startswith("@") else address


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return the watchdog's period; None where there is none, or it is for another process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        period_us = int(environment.get("WATCHDOG_USEC", "0"))
    except ValueError:
        _log.warning("WATCHDOG_USEC=%s is not a number; the watchdog is not fed", environment["WATCHDOG_USEC"])
        return None
    return period_us / 1e6 if period_us > 0 else None


@dataclass(frozen=True, slots=True)
class FileProgress:
    """How far the work on a file has come."""

    frames: int
    total: int | None
    """None: not known."""


Emit: TypeAlias = Callable[[Any], object]
Work: TypeAlias = Callable[[int, Emit], object]
"""Works on one of several files, emits what comes of it, errors too, and None behind the rest."""


@dataclass(slots=True, eq=False)
class _Worker:
    process: BaseProcess
    link: Connection[Any, Any]
    number: int | None = _STARTING
    """Of the file on which it works; None: it waits for one."""


def can_fork() -> bool:
    """Return whether this process has one thread: in a forked one, locks that others hold would stay locked.

    Libraries have threads that Python does not know, so that it is False where /proc is not mounted.
    """
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir()) == 1
    except OSError:
        return False


class Workers:
    """Processes that work on files; they are forked, see ``can_fork``.

    What they emit comes out in the order of the files, as if one had worked on all of them, but for ``FileProgress``,
    which comes out at once. Only this process handles the signals of a terminal.
    """

    def __init__(
        self, prepare: Callable[[SignalHandler], Work], names: Sequence[str], signals: SignalHandler, jobs: int
    ) -> None:
        """Start that many, in each of which ``prepare`` returns what works; raises what ``prepare`` raises."""
        self._prepare, self._names, self._signals = prepare, names, signals
        self._waiting = deque(range(len(names)))
        self._workers: list[_Worker] = []
        self._is_ending = False
        try:
            for _ in range(jobs):
                self._start()
            for worker in self._workers:
                self._begin(worker, self._receive(worker))
        except BaseException:
            self.close()
            raise

    def run(self, emit: Callable[[int, Any], object]) -> None:
        """Work on all files; once a signal has asked for the end, no further than the one whose turn it is then."""
        kept: dict[int, deque[Any]] = {number: deque() for number in self._waiting}
        turn = 0
        while turn < len(kept) and (self._signals.goes_on() or turn not in self._waiting):
            for number, output in self._outputs():
                if isinstance(output, FileProgress):
                    emit(number, output)
                else:
                    kept[number].append(output)
            while turn < len(kept) and kept[turn]:
                output = kept[turn].popleft()
                emit(turn, output)
                turn += output is None
                if output is None and not self._signals.goes_on():
                    return

    def close(self) -> None:
        """End the processes: when nothing reads what they emit, they end by themselves."""
        for worker in self._workers:
            worker.link.close()
        for worker in self._workers:
            worker.process.join(_END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def _start(self) -> None:
        from multiprocessing import get_context

        context = get_context("fork")
        link, other = context.Pipe()
        inherited = [link, *(worker.link for worker in self._workers)]
        process = context.Process(target=_work, args=(self._prepare, self._signals, other, inherited), daemon=True)
        process.start()
        other.close()
        self._workers.append(_Worker(process, link))

    def _begin(self, worker: _Worker, error: Exception | None) -> None:
        if error is not None:
            raise error
        worker.number = None

    def _receive(self, worker: _Worker) -> Any:
        """Return the next output of a process, or the error that it has ended by itself."""
        try:
            return worker.link.recv()
        except (EOFError, OSError):
            self._workers.remove(worker)
            worker.link.close()
            worker.process.join()
            name = "" if worker.number is None or worker.number == _STARTING else f"{self._names[worker.number]}: "
            code = worker.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            return DetectorError(f"{name}the process that worked on it has ended ({how})")

    def _outputs(self) -> Iterator[tuple[int, Any]]:
        """Wait a moment for what is emitted, and yield it with the number of its file."""
        from multiprocessing.connection import wait

        self._assign()
        ready = wait([worker.link for worker in self._workers], _TURN_S)
        for worker in [worker for worker in self._workers if worker.link in ready]:
            number, output = worker.number, self._receive(worker)
            if number == _STARTING:
                self._begin(worker, output)
                continue
            if number is not None:
                yield number, output
            if worker not in self._workers:
                if number is not None:
                    yield number, None
                if self._waiting:
                    self._start()
            elif output is None:
                worker.number = None

    def _assign(self) -> None:
        """Give files to the processes that wait for one; once a signal has asked for the end, stop the others."""
        if self._signals.goes_on():
            for worker in self._workers:
                if worker.number is None and self._waiting:
                    worker.number = self._waiting.popleft()
                    with contextlib.suppress(OSError):  # it has ended, which is noticed where it is read
                        worker.link.send(worker.number)
        elif not self._is_ending:
            self._is_ending = True
            for worker in self._workers:
                os.kill(worker.process.pid or 0, signal.SIGUSR1)


def _work(
    prepare: Callable[[SignalHandler], Work],
    signals: SignalHandler,
    link: Connection[Any, Any],
    inherited: Iterable[Connection[Any, Any]],
) -> None:
    """Work on the files whose numbers arrive until the other end of the link is closed."""
    for other in inherited:  # the parent's, which must be closed where it ends
        other.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda number, _: setattr(signals, "number", number))

    def emit(output: Any) -> None:
        link.send(_portable(output) if isinstance(output, Exception) else output)

    with contextlib.suppress(OSError, EOFError):  # the link is closed
        try:
            work = prepare(signals)
        except Exception as error:  # noqa: BLE001 - raised again by the parent
            emit(error)
            return
        emit(None)
        while True:
            work(link.recv(), emit)


def _portable(error: Exception) -> Exception:
    """Return an error as another process can load it."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - its own
    except Exception:  # noqa: BLE001 - it may refuse in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def configure_logs(level: int = logging.INFO) -> None:
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

    Messages alike, of one text before its values or of one ``alike`` that is given with them, are bounded; the next one
    that is written says how many were left out.
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
        key = (record.name, str(getattr(record, "alike", record.msg))) if package == _PACKAGE else (package, "")
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
