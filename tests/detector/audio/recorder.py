"""A process that listens, seen from the test that has started it; ``listen.py`` is what runs there."""

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
Heard = dict[str, NDArray[Any]]
Answer = dict[str, Any]


class Listening:
    """A process that listens, and what it tells."""

    def __init__(self, folder: Path, env: dict[str, str], **options: Any) -> None:
        self._saved = folder / "heard.npz"
        audio = {"device": "mic"} | options.pop("audio", {})
        text = json.dumps({"audio": audio, "save": str(self._saved), **options})
        command = [sys.executable, "-m", "tests.detector.audio.listen", text]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.told: list[Answer] = []
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def until(self, *kinds: str, **values: Any) -> Answer:
        """Wait until something new is told that is of these kinds and has these values, and return it."""
        deadline = time.monotonic() + DEADLINE_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                break
            if not line:
                break
            answer: Answer = json.loads(line)
            self.told.append(answer)
            if answer["kind"] in kinds and values.items() <= answer.items():
                return answer
        pytest.fail(f"{kinds} {values} was never told, but {self.told}")

    def ask(self, command: str) -> Answer:
        self.warning(command)
        return self.until(command.split(maxsplit=1)[0])

    def warning(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()

    def end(self) -> Heard:
        """End the process and return what it has heard."""
        self.ask("end")
        assert self.process.wait(timeout=DEADLINE_S) == 0
        with np.load(self._saved) as saved:
            return dict(saved)

    def all_told(self, kind: str) -> list[Answer]:
        return [answer for answer in self.told if answer["kind"] == kind]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put("")


Listen = Callable[..., Listening]
