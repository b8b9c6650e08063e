"""What sixteen sources cost in one process, beside one source and beside sixteen processes: processor time and memory.

    python -m tests.bench.source_cost --seconds 60 --out build/sources.json

The demo scene is played as files of 16 kHz at the pace of a microphone, by all three at the same time, so that what
else the machine does is the same for all of them. The exit code is 1 where a limit is missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import soundfile
from rich.console import Console
from rich.table import Table

from detector.audio.sources import read_sound
from detector.config.settings import Settings
from detector.service.process import SignalHandler
from detector.service.service import Service
from detector.service.source import RunOptions
from detector.system import limit_heap
from tests.bench.stream_cost import cpu_s

MAX_CPU: Final = 0.6
"""Share of the processor time of as many processes."""
MAX_MEMORY: Final = 1.6
"""Multiple of the memory of one source."""
_RATE_HZ: Final = 16000
_SETTLE_S: Final = 5.0
_START_S: Final = 300.0


def listen(files: tuple[Path, ...]) -> int:
    """Listen to files as the service does, over and over, until a signal comes."""
    devices = {path.stem: {"device": str(path)} for path in files}
    audio = {"audio": next(iter(devices.values()))} if len(files) == 1 else {"sources": devices}
    settings = Settings.model_validate({"stdout": {"format": "json"}, **audio})
    limit_heap()
    with SignalHandler(exits=True) as signals:
        return Service(settings, signals, RunOptions(files=frozenset(map(str, files)), loop=True)).run()


def measure(seconds: float, count: int) -> dict[str, Any]:
    """Return processor time and memory of one source, of ``count`` in one process, and of as many processes."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="snn-sources-")))
        files = _files(folder, count)
        groups = {"one": [files[:1]], "together": [files], "processes": [[path] for path in files]}
        running = {name: [_start(stack, folder, sounds) for sounds in group] for name, group in groups.items()}
        _wait_for_sound(folder, sum(len(sounds) for group in groups.values() for sounds in group))
        time.sleep(_SETTLE_S)
        before = {name: sum(cpu_s(p.pid) for p in processes) for name, processes in running.items()}
        begin_s = time.monotonic()
        time.sleep(seconds)
        passed_s = time.monotonic() - begin_s
        used = {name: sum(cpu_s(p.pid) for p in ps) - before[name] for name, ps in running.items()}
        memory = {name: sum(_memory_bytes(p.pid) for p in ps) for name, ps in running.items()}
        if any(p.poll() is not None for processes in running.values() for p in processes):
            raise click.ClickException("a process has ended before it was measured")
    return {
        "sources": count,
        "seconds": round(passed_s, 1),
        "cpu_percent": {name: round(100 * value / passed_s, 2) for name, value in used.items()},
        "rss_mb": {name: round(value / 1e6, 1) for name, value in memory.items()},
        "cpu_of_processes": round(used["together"] / used["processes"], 3),
        "memory_of_one": round(memory["together"] / memory["one"], 3),
    }


def _files(folder: Path, count: int) -> list[Path]:
    """Write the scene once for each source, each from another place on: no two report the same at the same time."""
    scene = read_sound(str(resources.files("models") / "demo" / "scene.flac"), _RATE_HZ)
    paths = [folder / f"s{number:02d}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        soundfile.write(path, np.roll(scene, number * len(scene) // count), _RATE_HZ, "PCM_16")
    return paths


def _start(stack: ExitStack, folder: Path, files: list[Path]) -> subprocess.Popen[bytes]:
    """Start a process on files; its records go to a file of its own."""
    command = [sys.executable, "-m", "tests.bench.source_cost", *map(str, files)]
    records, _ = tempfile.mkstemp(".jsonl", dir=folder)
    process = subprocess.Popen(command, stdout=records, stderr=subprocess.DEVNULL)
    os.close(records)
    stack.callback(process.wait, 30)
    stack.callback(process.terminate)
    return process


def _wait_for_sound(folder: Path, count: int) -> None:
    """Wait until so many sources listen, of all processes together: on a busy machine they take long to start."""
    until_s = time.monotonic() + _START_S
    while sum(path.read_text().count('"listening"') for path in folder.glob("*.jsonl")) < count:
        if time.monotonic() > until_s:
            raise click.ClickException(f"the sources do not listen after {_START_S:g} s")
        time.sleep(1.0)


def _memory_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--seconds", type=click.FloatRange(min=1), default=60.0, show_default=True, help="Time to measure.")
@click.option("--sources", "count", type=click.IntRange(2, 24), default=16, show_default=True, help="How many.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Also write the figures as JSON.")
def main(files: tuple[Path, ...], seconds: float, count: int, out: Path | None) -> None:
    """Measure; with FILES, listen to these, which is what is measured."""
    if files:
        sys.exit(listen(files))
    found = measure(seconds, count)
    table = Table("measure", "one source", f"{count} in one process", f"{count} processes", "ratio", "limit")
    cpu, memory = found["cpu_percent"], found["rss_mb"]
    limits = (f"{MAX_CPU:g} of the processes", f"{MAX_MEMORY:g} of one")
    cells = [str(cpu[name]) for name in ("one", "together", "processes")]
    table.add_row("CPU, % of a core", *cells, str(found["cpu_of_processes"]), limits[0])
    cells = [str(memory[name]) for name in ("one", "together", "processes")]
    table.add_row("RSS, MB", *cells, str(found["memory_of_one"]), limits[1])
    Console().print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(0 if found["cpu_of_processes"] <= MAX_CPU and found["memory_of_one"] <= MAX_MEMORY else 1)


if __name__ == "__main__":
    main()
