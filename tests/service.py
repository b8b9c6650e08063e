"""The service as a process of its own, for tests: fed with sound, listened to, and watched as systemd would."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import pytest

from detector.messages import Samples

Record = dict[str, Any]
COMMAND = [sys.executable, "-W", "error", "-m", "detector"]
DEADLINE_S = 300.0
"""Long enough for a busy machine; nothing waits for it when all is well."""
RATE = 16000


def wait_until(holds: Callable[[], object], what: str) -> None:
    """Wait until something holds; fail after a generous time."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not happen within {DEADLINE_S:g} s")
        time.sleep(0.02)


class NotifySocket:
    """Receive the notifications of a service to systemd, in order."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "notify"
        self.messages: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        threading.Thread(target=self._receive, name="notify-socket", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def count(self, message: str) -> int:
        """Return how often a message has come."""
        return self.messages.count(message)

    def wait_for(self, message: str, times: int = 1) -> None:
        """Wait until a message has come so often."""
        wait_until(lambda: self.count(message) >= times, f"{message} ({times}) among {self.messages}")

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._socket.recv(65536):
                self.messages.append(data.decode())


class Child:
    """A process of snn-detect whose output is read as it comes."""

    def __init__(
        self, *arguments: str | Path, environment: dict[str, str] | None = None, reads_stdout: bool = True
    ) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("SNN_DETECT_", "NOTIFY_", "WATCHDOG_"))}
        if model := os.environ.get("SNN_DETECT_MODEL"):
            clean["SNN_DETECT_MODEL"] = model
        clean.pop("PYTHONUNBUFFERED", None)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdin=pipe, stdout=pipe, stderr=pipe, env=clean | (environment or {})
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self._readers = [_reading(self._stream("stderr"), self.errors)]
        if reads_stdout:
            self._readers.append(_reading(self._stream("stdout"), self.lines))
        self._sound: queue.Queue[bytes | None] = queue.Queue()
        threading.Thread(target=self._feed, name="feed", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._sound.put(None)
        for name in ("stdin", "stdout", "stderr"):
            with contextlib.suppress(OSError):
                self._stream(name).close()

    @property
    def records(self) -> list[Record]:
        """The records on standard output."""
        return [json.loads(line) for line in list(self.lines)]

    def of(self, *kinds: str) -> list[Record]:
        """Return the records of some types."""
        return [r for r in self.records if r["type"] in kinds]

    def states(self) -> list[tuple[str, bool]]:
        """Return what the status records say."""
        return [(r["state"], r["active"]) for r in self.of("status")]

    def play(self, sound: Samples) -> None:
        """Write sound to standard input, as fast as it is taken; does not wait."""
        data = (np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes()
        for at in range(0, len(data), 1280):
            self._sound.put(data[at : at + 1280])

    def end_sound(self) -> None:
        """Close standard input behind what is still to be written."""
        self._sound.put(None)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait_for_records(self, holds: Callable[[list[Record]], object], what: str) -> None:
        """Wait until the records on standard output are as wanted; fail at once where the process has ended before."""

        def settled() -> bool:
            ended = self.process.poll() is not None
            if holds(self.records):
                return True
            assert not ended, f"{what} did not come before the end: {self.errors}"
            return False

        wait_until(settled, f"{what} among {self.lines[-5:]}, {self.errors}")

    def wait(self) -> int:
        """Wait for the end, and for all its output; return the exit code."""
        code = self.process.wait(DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        return code

    def _stream(self, name: str) -> IO[bytes]:
        stream: IO[bytes] | None = getattr(self.process, name)
        assert stream is not None
        return stream

    def _feed(self) -> None:
        stdin = self._stream("stdin")
        with contextlib.suppress(OSError, ValueError):
            while (data := self._sound.get()) is not None:
                stdin.write(data)
                stdin.flush()
            stdin.close()


@contextlib.contextmanager
def service(
    config: Path, *arguments: str, notify: NotifySocket | None = None, watchdog_s: float | None = None, **options: Any
) -> Iterator[Child]:
    """Run the service on raw sound, as systemd would start it."""
    environment: dict[str, str] = {"STATE_DIRECTORY": str(config.parent / "state"), **options.pop("environment", {})}
    if notify is not None:
        environment["NOTIFY_SOCKET"] = str(notify.path)
    if watchdog_s is not None:
        environment["WATCHDOG_USEC"] = str(round(watchdog_s * 1e6))
    with Child("run", "--config", config, *arguments, environment=environment, **options) as child:
        yield child


def _reading(stream: IO[bytes], lines: list[str]) -> threading.Thread:
    def read() -> None:
        with contextlib.suppress(OSError, ValueError):
            for line in stream:
                lines.append(line.decode().rstrip("\n"))  # noqa: PERF401 - each line as it comes

    thread = threading.Thread(target=read, name="read", daemon=True)
    thread.start()
    return thread
