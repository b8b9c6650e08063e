"""The service as a process with raw samples on its standard input, at the pace of a microphone."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, Final

import numpy as np

from detector.messages import Samples
from tests.check_processor import ROOT
from tests.service import COMMAND, RATE

NOISE_AMPLITUDE: Final = 3e-4
"""Standard deviation of the noise of a quiet place: -70 dBFS."""
_BLOCK: Final = 640


class Microphone:
    """snn-detect in a quiet place, where a sound can be played."""

    def __init__(self, config: Path, folder: Path) -> None:
        """Take its configuration; what it logs, and its state, go below ``folder``."""
        self._config, self._folder = config, folder
        self._random = np.random.default_rng(0)
        self._sound: Samples = np.empty(0, np.float32)
        self._lock = threading.Lock()
        self._quiet_blocks = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_playing(self) -> bool:
        """Whether the sound still lasts."""
        with self._lock:
            return len(self._sound) > 0

    @property
    def quiet_s(self) -> float:
        """For how long the place has been quiet, as the service knows it."""
        return self._quiet_blocks * _BLOCK / RATE

    def start(self) -> None:
        """Start the service and the sound of the place."""
        with (self._folder / "snn-detect.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*COMMAND, "run", "--config", str(self._config)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={"STATE_DIRECTORY": str(self._folder / "state"), "PATH": "/usr/bin:/bin"},
            )
        assert self._process.stdin is not None
        arguments = (self._process, self._process.stdin)
        threading.Thread(target=self._feed, args=arguments, name="microphone", daemon=True).start()

    def kill(self) -> None:
        """End the service at once; the sound ends meanwhile."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        with self._lock:
            self._sound, self._quiet_blocks = self._sound[:0], 0

    def play(self, sound: Samples) -> None:
        """Play a sound (n,); does not wait."""
        with self._lock:
            self._sound = sound

    def _feed(self, process: subprocess.Popen[bytes], pipe: IO[bytes]) -> None:
        begin, count = time.monotonic(), 0
        with contextlib.suppress(OSError), pipe:
            while process.poll() is None:
                block = np.clip(self._next(), -1, 1) * 32767
                pipe.write(block.astype("<i2").tobytes())
                pipe.flush()
                count += 1
                time.sleep(max(0.0, begin + count * _BLOCK / RATE - time.monotonic()))

    def _next(self) -> Samples:
        block = self._random.normal(0, NOISE_AMPLITUDE, _BLOCK).astype(np.float32)
        with self._lock:
            part, self._sound = self._sound[:_BLOCK], self._sound[_BLOCK:]
            self._quiet_blocks = 0 if len(part) else self._quiet_blocks + 1
        block[: len(part)] += part
        return block
