"""The C detector on this computer: compiled by a C compiler, fed with samples, read back room by room."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError
from detector.messages import Samples

Room = Literal["features", "encoded", "spikes", "scores"]
FULL_SCALE: Final = 32768


@dataclass(frozen=True, slots=True)
class Host:
    """A compiled ``snn_host``."""

    program: Path

    def events(self, pcm: NDArray[np.int16]) -> list[dict[str, Any]]:
        """Return the events of 16-bit samples (n,) at the model's rate, the stream ended behind them."""
        return [json.loads(line) for line in self._run([], pcm.tobytes()).splitlines()]

    def room(self, room: Room, pcm: NDArray[np.int16], dtype: Any, width: int) -> NDArray[Any]:
        """Return what a room gives for each frame, (frames, width)."""
        return np.frombuffer(self._run(["--probe", room], pcm.tobytes()), dtype).reshape(-1, width)

    def room_of_frames(self, room: Room, frames: NDArray[Any], dtype: Any, width: int) -> NDArray[Any]:
        """Return what a room gives for cepstra (frames, n_mfcc) in the form's own type, in place of samples."""
        return np.frombuffer(self._run(["--frames", "--probe", room], frames.tobytes()), dtype).reshape(-1, width)

    def _run(self, arguments: Sequence[str], given: bytes) -> bytes:
        done = subprocess.run([self.program, *arguments], input=given, capture_output=True, check=False)  # noqa: S603 - compiled here
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise ConfigError(f"{self.program}: ended with {done.returncode} ({words})")
        return done.stdout


def build_host(folder: Path, compiler: str = "cc", flags: str | None = "-O2", target: str = "snn_host") -> Host:
    """Compile an exported folder with its own Makefile; without ``flags`` with those that stand there.

    Raises ConfigError where make or the compiler is missing or fails.
    """
    command = ["make", "--silent", "--directory", str(folder), target, f"CC={compiler}"]
    command += [] if flags is None else [f"CFLAGS={flags}"]
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - make, by its name
    except FileNotFoundError as error:
        raise ConfigError("make is not installed; it and a C compiler build the exported detector") from error
    except subprocess.CalledProcessError as error:
        words = error.stderr.decode(errors="replace").strip().splitlines()
        raise ConfigError(
            f"{folder}: {compiler} does not build it ({words[0] if words else 'no reason given'})"
        ) from error
    return Host(folder / target)


def to_pcm(samples: Samples) -> NDArray[np.int16]:
    """Return samples in [-1, 1) as 16-bit ones, rounded and limited."""
    scaled = np.round(np.asarray(samples, np.float64) * FULL_SCALE)
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def from_pcm(pcm: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return 16-bit samples as floats in [-1, 1), as both detectors take them."""
    return pcm.astype(np.float32) / np.float32(FULL_SCALE)
