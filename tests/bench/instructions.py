"""Instructions that each engine takes for a minute of sound and of digital silence, counted by valgrind's callgrind.

    python -m tests.bench.instructions --out tests/bench/instructions.json

Unlike times, the counts do not depend on what else the machine does. A program pushes the demo scene and then, in
another run, nothing; what differs is the work on the sound. Valgrind has no AVX-512: the core then uses AVX2.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from detector.bench import bench_sound
from detector.network import ENGINE_VARIABLE, EngineName
from detector.pipeline import Detector

ENGINES: Final[tuple[EngineName, ...]] = ("core", "onnxruntime")
PUSHES_S: Final = (0.025, 1.0)
"""Seconds of sound in a push: as live sound comes, and as files are read."""
_COLLECTED: Final = re.compile(r"Collected\s*: (\d+)")


def push(kind: str, seconds: float, push_s: float) -> None:
    """Push sound or silence in pieces; this is the program whose instructions are counted."""
    detector = Detector.load()
    rate_hz = detector.sample_rate_hz
    sound = bench_sound(rate_hz)
    sound = (np.zeros_like(sound) if kind == "silence" else sound)[: round(seconds * rate_hz)]
    length = round(push_s * rate_hz)
    detector.push(np.zeros(length, np.float32))  # what is made at the first push is no work on the sound
    detector.reset()
    for at in range(0, len(sound), length):
        detector.push(sound[at : at + length])


def count(engine: EngineName, kind: str, seconds: float, push_s: float) -> int:
    """Return the instructions of one run of the program; raises RuntimeError where valgrind cannot run it."""
    command = [
        "valgrind",
        "--tool=callgrind",
        "--callgrind-out-file=/dev/null",
        sys.executable,
        "-m",
        "tests.bench.instructions",
    ]
    environment = os.environ | {
        ENGINE_VARIABLE: engine,
        "OPENBLAS_NUM_THREADS": "1",  # its threads count while they wait
        "PYTHONHASHSEED": "0",
    }
    done = subprocess.run(
        [*command, "--program", kind, str(seconds), str(push_s)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    found = _COLLECTED.search(done.stderr)
    if done.returncode or found is None:
        raise RuntimeError(f"valgrind: {done.stderr.strip()[-500:]}")
    return int(found.group(1))


def measure(seconds: float) -> dict[str, Any]:
    """Return the instructions per second of sound, by length of the pushes, engine and kind of sound."""
    runs = [(engine, kind, push_s) for engine in ENGINES for kind in ("sound", "silence") for push_s in PUSHES_S]

    def count_work(run: tuple[EngineName, str, float]) -> float:
        return (count(*run[:2], seconds, run[2]) - count(*run[:2], 0.0, run[2])) / seconds

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:  # counts do not depend on each other
        found = dict(zip(runs, threads.map(count_work, runs), strict=True))
    per_s = {
        f"{push_s:g} s a push": {
            engine: {kind: found[engine, kind, push_s] for kind in ("sound", "silence")} for engine in ENGINES
        }
        for push_s in PUSHES_S
    }
    return {"seconds": seconds, "instructions_per_s": per_s}


def table(result: dict[str, Any]) -> Table:
    """Return the counts as a table."""
    found = Table("push", "engine", "sound", "silence", "silence / sound", title="millions of instructions a second")
    for push_s, rows in result["instructions_per_s"].items():
        for engine, row in rows.items():
            cells = (f"{row['sound'] / 1e6:.2f}", f"{row['silence'] / 1e6:.2f}", f"{row['silence'] / row['sound']:.3f}")
            found.add_row(push_s, engine, *cells)
    return found


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="Of sound.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the result goes, as JSON.")
@click.option("--program", nargs=3, type=(str, float, float), hidden=True)
def main(seconds: float, out: Path | None, program: tuple[str, float, float] | None) -> None:
    """Count the instructions of both engines."""
    if program is not None:
        push(*program)
        return
    result = measure(seconds)
    if out is not None:
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    Console().print(table(result))


if __name__ == "__main__":
    main()
