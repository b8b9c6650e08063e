"""A process that records: events as JSON lines on its standard output, commands on its standard input.

PortAudio has one state for a whole process and takes the sound server from the environment, so tests record
in a process of their own. Commands: ``stats``, ``resources``, ``stall SECONDS``, ``cycle TIMES``, ``end``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from detector.audio import capture
from detector.audio import capture as supervisor
from detector.audio.devices import Microphone
from detector.audio.live_source import AudioBlock, AudioGap, SourceCondition, SourceEvent
from detector.config.sections import Audio
from detector.errors import DetectorError


def report(kind: str, **values: Any) -> None:
    sys.stdout.write(json.dumps({"kind": kind, **values}) + "\n")
    sys.stdout.flush()


def resources() -> dict[str, int]:
    """Return the counts of resources that must not grow."""
    return {
        "fds": sum(1 for _ in Path("/proc/self/fd").iterdir()),
        "threads": sum(1 for _ in Path("/proc/self/task").iterdir()),
        "python_threads": threading.active_count(),
    }


class Listener:
    """Keeps all sound with its positions, and reports everything else."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._audio = Audio(**options["audio"])
        self._rate_hz = options.get("rate_hz", 16000)
        self.source = Microphone(self._audio, self._rate_hz)
        self.parts: list[AudioBlock] = []
        self._loud = False
        self._is_new = True
        """Whether the next sound begins the stream or follows a gap."""

    def on_events(self, source_events: list[SourceEvent] | None) -> None:
        for item in source_events or []:
            match item:
                case AudioBlock():
                    if self._is_new:
                        report("sound", first_sample=item.chunk.first_sample, gap=bool(self.parts))
                    self._is_new = False
                    delay_s = time.monotonic() - item.received_at_s
                    self.parts.append(item)
                    if not self._loud and item.chunk.samples.any():
                        self._loud = True
                        report("loud", at_s=time.monotonic(), delay_s=delay_s)
                case AudioGap():
                    self._is_new = True
                    report("lost", **dataclasses.asdict(item))
                case SourceCondition():
                    report("condition", **dataclasses.asdict(item))

    def cycle(self, times: int) -> None:
        """Close and open, and receive sound each time."""
        for _ in range(times):
            self.source.close()
            self.source = Microphone(self._audio, self._rate_hz)
            deadline = time.monotonic() + 30
            while not any(isinstance(n, AudioBlock) for n in self.source.take(0.2) or []):
                if time.monotonic() > deadline:
                    raise TimeoutError("no sound")

    def save(self, path: str) -> None:
        """Write the samples, where each chunk begins, and when its end was recorded."""
        np.savez(
            path,
            samples=np.concatenate([np.empty(0, np.float32), *(p.chunk.samples for p in self.parts)]),
            first=np.array([p.chunk.first_sample for p in self.parts], np.int64),
            length=np.array([p.chunk.samples.size for p in self.parts], np.int64),
            received_at_s=np.array([p.received_at_s for p in self.parts]),
        )


def execute(listener: Listener, command: str) -> None:
    """Execute a command from standard input, and report its result."""
    verb, _, value = command.partition(" ")
    answer: dict[str, Any] = {}
    match verb:
        case "stats":
            answer = dataclasses.asdict(listener.source.stats)
        case "resources":
            answer = resources()
        case "stall":
            time.sleep(float(value))
        case "cycle":
            listener.cycle(int(value))
    report(verb, **answer)


def read_commands(commands: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        commands.put(line.strip())


def main() -> None:
    options = json.loads(sys.argv[1])
    if options.get("no_write_execute"):
        import ctypes

        # PR_SET_MDWE: no memory that is writable and executable, as with MemoryDenyWriteExecute=.
        if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):
            report("unsupported")
            return
    if options.get("short_waits"):
        capture._NO_FRAMES_S, capture._PAUSE_S, supervisor._HUNG_S = 1.5, (0.2, 1.0), 2.0  # type: ignore[misc]
    try:
        listener = Listener(options)
    except DetectorError as error:
        report("error", text=str(error), code=error.exit_code)
        return
    commands: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=read_commands, args=(commands,), daemon=True).start()
    report("ready", pid=os.getpid())
    while True:
        listener.on_events(listener.source.take(0.1))
        while not commands.empty():
            command = commands.get()
            if command == "end":
                listener.source.close()
                listener.save(options["save"])
                report("end", **dataclasses.asdict(listener.source.stats))
                return
            execute(listener, command)


if __name__ == "__main__":
    main()
