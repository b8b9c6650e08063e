"""Measure what the page costs the detector: without it, without viewers, with one viewer.

    python -m tests.bench.web_cost

The demo scene is written to standard input of three detectors in real time. They run at the same time, so that other
load on the machine affects all of them alike; their CPU time is measured once they have settled. ``--json`` prints
the results for programs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click
import numpy as np

from detector.audio.sources import read_sound
from detector.cli.terminal import Message, WebClient
from detector.errors import DetectorError
from detector.pipeline import Detector

CASES: Final = ("without the page", "page, no viewer", "page, one viewer")
_CHUNK_S: Final = 0.04
_SETTLE_S: Final = 8.0
_TICKS_HZ: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class _Run:
    name: str
    process: subprocess.Popen[bytes]
    port: int
    """That of its page; 0 without."""

    def cpu_s(self) -> float:
        """Return the CPU time of the process, in all its threads."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / _TICKS_HZ

    def rss_bytes(self) -> int:
        """Return its resident memory."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


def measure(seconds: float) -> dict[str, Any]:
    """Return CPU time per second of sound and memory of each case, and the frames that a viewer is sent.

    Raises DetectorError where a detector does not start.
    """
    with contextlib.ExitStack() as stack:
        runs = [stack.enter_context(_running(name)) for name in CASES]
        stack.enter_context(_playing([run.process for run in runs]))
        stream = WebClient("127.0.0.1", runs[2].port, None).stream()
        _count_frames(stream, _SETTLE_S)
        before, begin = [run.cpu_s() for run in runs], time.monotonic()
        frames = _count_frames(stream, seconds)
        passed = time.monotonic() - begin
        shares = [(run.cpu_s() - cpu_s) / passed for run, cpu_s in zip(runs, before, strict=True)]
        memory = [run.rss_bytes() for run in runs]
    cases = {
        name: {"cpu_percent": 100 * share, "rss_mb": rss / 1e6}
        for name, share, rss in zip(CASES, shares, memory, strict=True)
    }
    return {
        "seconds": passed,
        "cases": cases,
        "no_viewer_points": 100 * (shares[1] - shares[0]),
        "viewer_points": 100 * (shares[2] - shares[0]),
        "frames_per_s": frames / passed,
        "page_bytes": sum(f.stat().st_size for f in _static_files()),
    }


@contextlib.contextmanager
def _running(name: str) -> Iterator[_Run]:
    web = [] if name == CASES[0] else ["--web", "127.0.0.1:0"]
    command = [sys.executable, "-m", "detector", "--device", "-", "--json", *web]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        yield _Run(name, process, _port(process) if web else 0)
    finally:
        process.kill()
        process.wait()


def _port(process: subprocess.Popen[bytes]) -> int:
    lines = []
    for line in process.stderr or ():
        lines.append(line.decode().strip())
        if found := re.search(r"the page is at http://127\.0\.0\.1:(\d+)/", lines[-1]):
            return int(found[1])
    raise DetectorError(f"the detector does not start: {' '.join(lines) or 'no message'}")


@contextlib.contextmanager
def _playing(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Write the scene to all of them in a loop, chunk by chunk in real time."""
    rate_hz = Detector.load().sample_rate_hz
    wave = read_sound(str(resources.files("models") / "demo" / "scene.flac"), rate_hz)
    pcm = (np.clip(wave, -1, 1) * 32767).astype("<i2")
    length, stopped = round(_CHUNK_S * rate_hz), threading.Event()

    def play() -> None:
        begin, chunk = time.monotonic(), 0
        while not stopped.is_set():
            data = pcm.take(np.arange(chunk * length, (chunk + 1) * length), mode="wrap").tobytes()
            for process in processes:
                with contextlib.suppress(OSError):
                    os.write(process.stdin.fileno(), data)  # type: ignore[union-attr]
            chunk += 1
            stopped.wait(max(0.0, begin + chunk * _CHUNK_S - time.monotonic()))

    thread = threading.Thread(target=play, name="play", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def _count_frames(stream: Iterator[Message], seconds: float) -> int:
    """Read the stream for that long, and return the number of frames."""
    until, frames = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        kind, message = next(stream)
        frames += message["frames"] if kind == "frames" else 0
    return frames


def _static_files() -> Iterator[Path]:
    return Path(str(resources.files("detector.web") / "static")).iterdir()


@click.command()
@click.option("--seconds", default=60.0, show_default=True, type=click.FloatRange(min=5), help="How long to measure.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def main(*, seconds: float, as_json: bool) -> None:
    """Measure what the page costs the detector."""
    try:
        stats = measure(seconds)
    except DetectorError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json.dumps(stats, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("case", "CPU of one core", "memory", title=f"{stats['seconds']:.0f} s of sound")
    for name, case in stats["cases"].items():
        table.add_row(name, f"{case['cpu_percent']:.2f} %", f"{case['rss_mb']:.0f} MB")
    table.add_row("no viewer: difference", f"{stats['no_viewer_points']:+.2f} points", "")
    table.add_row("one viewer: difference", f"{stats['viewer_points']:+.2f} points", "")
    table.add_row("frames sent per second", f"{stats['frames_per_s']:.1f}", "")
    table.add_row("files of the page", "", f"{stats['page_bytes'] / 1000:.0f} kB")
    Console().print(table)


if __name__ == "__main__":
    main()
