"""Shared by tests of the exported C: programs besides Python, the model, and sound."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from detector.audio.sources import read_sound
from firmware_export.c99.build import to_pcm
from tests.sound_server import require_programs

ROOT: Final = Path(__file__).resolve().parents[2]
MODEL: Final = ROOT / "models" / "pretrained" / "household.onnx"
SOURCES: Final = Path(__file__).resolve().parent / "c"
RATE_HZ: Final = 16000
STRICT: Final = "-std=c99 -Wall -Wextra -Werror -Wconversion -Wdouble-promotion -ffp-contract=off"


def need(*programs: str, missing: tuple[str, ...] = ()) -> None:
    """Skip where a program or a named part is missing; in CI that is a failure."""
    packages = "make gcc clang libclang-rt-dev cmake gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
    require_programs(programs, f"{packages} libasound2-dev", missing)


def scene(from_s: float = 0, to_s: float = 60) -> NDArray[np.int16]:
    """Return a part of the demo scene: the guitar plays from 4 s to 12 s."""
    sound = read_sound(ROOT / "models" / "demo" / "scene.flac", RATE_HZ)
    return to_pcm(sound[int(from_s * RATE_HZ) : int(to_s * RATE_HZ)])


def detector_sources(folder: Path) -> list[Path]:
    """Return the sources of an exported detector, without those that print its events."""
    return [p for p in sorted(folder.glob("snn_*.c")) if p.name not in {"snn_host.c", "snn_print.c"}]


def run(*command: str | Path, stdin: bytes = b"", cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program and return its standard output; fail with its messages where it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr.decode(errors="replace") + done.stdout.decode(errors="replace")[-2000:]
    return done.stdout.decode()
