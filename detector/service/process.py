"""Processes: signals, the notifications of systemd, and processes that share the work on several files."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import socket
import sys
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
    """Return whether this process has one thread: in a forked one, locks that others hold would stay locked."""
    return sum(1 for _ in Path("/proc/self/task").iterdir()) == 1


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
