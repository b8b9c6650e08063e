"""The test's side of a recording process; ``listen.py`` is the program that it runs."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 90.0
RATE = 16000
Recording = dict[str, NDArray[Any]]
Answer = dict[str, Any]


class Listening:
    """A recording process, and its answers."""

    def __init__(self, folder: Path, env: dict[str, str], **options: Any) -> None:
        self._saved = folder / "recording.npz"
        audio = {"device": "mic"} | options.pop("audio", {})
        text = json.dumps({"audio": audio, "save": str(self._saved), **options})
        command = [sys.executable, "-m", "tests.detector.audio.listen", text]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.answers: list[Answer] = []
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def until(self, *kinds: str, **values: Any) -> Answer:
        """Wait for a new answer of one of these kinds with these values, and return it."""
        deadline = time.monotonic() + DEADLINE_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if not line:
                break
            answer: Answer = json.loads(line)
            self.answers.append(answer)
            if answer["kind"] in kinds and values.items() <= answer.items():
                return answer
        pytest.fail(f"{kinds} {values} did not arrive; the answers are {self.answers}")

    def ask(self, command: str) -> Answer:
        self.send(command)
        return self.until(command.split(maxsplit=1)[0])

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def end(self) -> Recording:
        """End the process and return the recording."""
        self.ask("end")
        assert self.process.wait(timeout=DEADLINE_S) == 0
        with np.load(self._saved) as saved:
            return dict(saved)

    def all_of(self, kind: str) -> list[Answer]:
        return [answer for answer in self.answers if answer["kind"] == kind]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")


Listen = Callable[..., Listening]
