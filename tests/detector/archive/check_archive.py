"""Measure the archive: many hours with the memory of all processes, two workers against one, and a restart.

    python -m tests.detector.archive.check_archive [--hours 1000] [--folder build/archive] [--result FILE.json]

The recordings are a simulation: a few minutes of sound, linked under many names. Scheduler and workers are processes
of their own on this machine. It ends with 1 where a bound is not kept.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile

from detector.archive.dataset import arrow
from detector.archive.run import Options, Run, connect
from detector.audio.sources import read_chunks
from detector.pipeline import Detector
from tests.detector.archive.processes import kept, to_do_again

SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))
MINUTE = 60
SPEED_FILES = 900
"""Fifteen hours: what a run takes once, about a second, is then a few hundredths of it."""
ROUNDS = 5
WORKERS = 2
MAX_GROWTH_BYTES = 30 << 20
MIN_SPEEDUP, MIN_EFFICIENCY = 1.8, 0.8
COMMAND = [sys.executable, "-m", "detector", "archive"]


def make_minutes(folder: Path) -> list[Path]:
    """Write the recordings that are linked: one full of sounds, others nearly silent, as most of an archive is."""
    scene, rate_hz = soundfile.read(SCENE, dtype="int16")
    folder.mkdir(parents=True)
    found = []
    for number in range(6):
        samples = np.zeros(MINUTE * rate_hz, np.int16)
        length = len(samples) if number == 0 else 6 * rate_hz
        samples[:length] = np.resize(np.roll(scene, 31_337 * number), length)
        found.append(folder / f"minute{number}.{'wav' if number % 2 else 'flac'}")
        soundfile.write(found[-1], samples, rate_hz)
    return found


def link(minutes: list[Path], folder: Path, count: int, recorders: int = 20) -> None:
    """Link minutes as ``count`` recordings, one every ten minutes for each recorder."""
    begin = datetime(2026, 1, 1)  # noqa: DTZ001 - names of files state no zone
    for number in range(count):
        minute = minutes[number % len(minutes)]
        start = begin + timedelta(minutes=10 * (number // recorders))
        place = folder / f"site{number % recorders:02d}"
        place.mkdir(parents=True, exist_ok=True)
        os.link(minute, place / f"{start:%Y%m%d_%H%M%S}{minute.suffix}")


class Silent:
    """Progress that is not shown."""

    def advance(self, done: float, detail: str = "", total: float | None = None) -> None:
        pass

    def print_line(self, line: str) -> None:
        pass


def bare(folder: Path) -> tuple[float, float]:
    """Return wall and processor seconds of decoding and detection alone, in one process."""
    detector = Detector.load()
    begin, used = time.perf_counter(), time.process_time()
    for path in sorted(folder.rglob("*.*")):
        for chunk in read_chunks(path, detector.sample_rate_hz, detector.chunk_samples):
            detector.process(chunk.samples)
        detector.finish()
    return time.perf_counter() - begin, time.process_time() - used


def warm_up() -> int:
    """Have a worker import its modules; return its process id."""
    arrow()
    Detector.load()
    return os.getpid()


def archived(folder: Path, out: Path, jobs: int) -> tuple[float, float]:
    """Return wall seconds, and processor seconds of the workers, of an archive on so many processes."""
    shutil.rmtree(out, ignore_errors=True)
    run = Run(Options((str(folder),), out, zone="UTC"), Silent(), lambda: True)
    with connect(None, jobs) as client:
        workers = [psutil.Process(pid) for pid in client.run(warm_up).values()]
        used = sum(sum(w.cpu_times()[:2]) for w in workers)
        begin = time.perf_counter()
        run.run(client)
        wall_s = time.perf_counter() - begin
        used = sum(sum(w.cpu_times()[:2]) for w in workers) - used
    run.close()
    return wall_s, used


def speed(minutes: list[Path], folder: Path) -> dict[str, Any]:
    """Compare the bare detector, one worker and two, in turns."""
    link([minutes[0]], folder / "in", SPEED_FILES, recorders=4)
    bare(folder / "in")
    rounds: dict[str, list[tuple[float, float]]] = {"bare": [], "1": [], "2": []}
    for _ in range(ROUNDS):
        rounds["bare"].append(bare(folder / "in"))
        rounds["1"].append(archived(folder / "in", folder / "out", 1))
        rounds["2"].append(archived(folder / "in", folder / "out", 2))
    wall = {name: statistics.median(w for w, _ in of) for name, of in rounds.items()}
    used = {name: statistics.median(u for _, u in of) for name, of in rounds.items()}
    return {
        "sound_h": SPEED_FILES * MINUTE / 3600,
        "wall_s": wall,
        "processor_s": used,
        "speedup_of_two_workers": statistics.median(a[0] / b[0] for a, b in zip(rounds["1"], rounds["2"], strict=True)),
        "one_worker_against_bare": statistics.median(
            a[0] / b[0] for a, b in zip(rounds["bare"], rounds["1"], strict=True)
        ),
        "processor_time_of_bare_in_that_of_two": used["bare"] / used["2"],
    }


@contextmanager
def cluster() -> Iterator[tuple[str, dict[str, psutil.Process]]]:
    """Start a scheduler and two workers; yield the address, and the processes by name."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    own = [sys.executable, "-m"]
    # As the README says: the history of Dask's profiler grows for an hour.
    environment = os.environ | {"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    options = ("--host", "127.0.0.1", "--no-dashboard")
    commands = {"scheduler": [*own, "distributed.cli.dask_scheduler", "--port", str(port), *options]}
    for number in (1, 2):
        commands[f"worker {number}"] = [
            *(*own, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", *options)
        ]
    processes = {name: subprocess.Popen(command, **quiet) for name, command in commands.items()}  # type: ignore[call-overload]
    try:
        yield address, {name: psutil.Process(p.pid) for name, p in processes.items()}
    finally:
        for process in processes.values():
            process.kill()
            process.wait()


def many_hours(minutes: list[Path], folder: Path, hours: float, limit_s: float) -> dict[str, Any]:
    """Archive many hours on a cluster of three processes, and watch their memory."""
    count = round(hours * 3600 / MINUTE)
    link(minutes, folder / "in", count)
    with cluster() as (address, processes):
        begin = time.perf_counter()
        command = [*COMMAND, str(folder / "in"), "--out", str(folder / "out"), "--time-zone", "UTC"]
        with subprocess.Popen([*command, "--scheduler", address], stdout=subprocess.DEVNULL) as client:
            watched = processes | {"command": psutil.Process(client.pid)}
            memory: dict[str, list[int]] = {name: [] for name in watched}
            while client.poll() is None:
                if time.perf_counter() - begin > limit_s:
                    client.send_signal(signal.SIGTERM)
                    limit_s = math.inf
                time.sleep(5)
                for name, process in watched.items():
                    if client.poll() is None:
                        memory[name].append(process.memory_info().rss)
            code = client.returncode
        wall_s = time.perf_counter() - begin
        used = {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}
    files = [row for part in (folder / "out" / "files").rglob("*.parquet") for row in _seconds(part)]
    quarter = {name: max(1, len(of) // 4) for name, of in memory.items()}
    return {
        "exit_code": code,
        "files": count,
        "files_done": len(files),
        "hours_done": round(sum(files) / 3600, 1),
        "wall_s": round(wall_s),
        "processor_s": {name: round(seconds) for name, seconds in used.items()},
        "memory_mb": {
            name: {
                # The first quarter has start-up and the plan in it.
                "second quarter": round(statistics.mean(of[quarter[name] : 2 * quarter[name]] or of) / 2**20, 1),
                "last quarter": round(statistics.mean(of[-quarter[name] :]) / 2**20, 1),
                "peak": round(max(of) / 2**20, 1),
            }
            for name, of in memory.items()
        },
    }


def _seconds(part: Path) -> list[float]:
    import pyarrow.parquet as pq

    found: list[float] = pq.ParquetFile(part).read(["seconds"])["seconds"].to_pylist()
    return found


def restart(minutes: list[Path], folder: Path, count: int = 300) -> dict[str, Any]:
    """Kill the command and its workers, some times in the middle; return what was begun and has to be done again."""
    link(minutes, folder / "in", count)
    out = folder / "out"
    command = [*COMMAND, str(folder / "in"), "--out", str(out), "--time-zone", "UTC", "--jobs", str(WORKERS), "-q"]
    again = []
    for wanted in (count // 10, count // 3, 2 * count // 3):
        with subprocess.Popen(command, start_new_session=True) as process:
            while kept(out) < wanted and process.poll() is None:
                time.sleep(0.05)
            if process.poll() is not None:
                raise SystemExit(f"the archive ended with {process.returncode} before it could be killed")
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(1)
        again.append(to_do_again(out))
    code = subprocess.run(command, check=False).returncode
    summary = json.loads((out / "summary.json").read_text())
    return {
        "files": count,
        "exit_code": code,
        "files_begun_and_done_again": again,
        "files_after": summary["files"],
    }


def bounds_kept(found: dict[str, Any]) -> dict[str, bool]:
    """Return which bounds are kept."""
    result = {}
    if "speed" in found:
        result["speedup"] = found["speed"]["speedup_of_two_workers"] >= MIN_SPEEDUP
        result["efficiency"] = found["speed"]["processor_time_of_bare_in_that_of_two"] >= MIN_EFFICIENCY
    if "restart" in found:
        result["restart"] = found["restart"]["files_after"] == found["restart"]["files"]
        result["files_in_progress"] = max(found["restart"]["files_begun_and_done_again"]) <= WORKERS
    if "many_hours" in found:
        many = found["many_hours"]
        growth = [of["last quarter"] - of["second quarter"] for of in many["memory_mb"].values()]
        result["memory"] = max(growth) * 2**20 <= MAX_GROWTH_BYTES
        result["complete"] = many["files_done"] == many["files"]
    return result


def main() -> int:
    """Measure, write the result, and return the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("build/archive"))
    parser.add_argument("--limit", type=float, default=math.inf, help="End the many hours after so many seconds.")
    parser.add_argument("--parts", default="speed,restart,many_hours")
    parser.add_argument("--result", type=Path)
    given = parser.parse_args()
    shutil.rmtree(given.folder, ignore_errors=True)
    minutes = make_minutes(given.folder / "minutes")
    found: dict[str, Any] = {"date": f"{datetime.now().astimezone():%Y-%m-%d}", "cores": os.cpu_count()}
    found["load_at_begin"] = os.getloadavg()[0]
    parts = given.parts.split(",")
    if "speed" in parts:
        found["speed"] = speed(minutes, given.folder / "speed")
    if "restart" in parts:
        found["restart"] = restart(minutes, given.folder / "restart")
    if "many_hours" in parts:
        found["many_hours"] = many_hours(minutes, given.folder / "many", given.hours, given.limit)
    found["kept"] = bounds_kept(found)
    text = json.dumps(found, indent=2)
    sys.stdout.write(f"{text}\n")
    if given.result is not None:
        given.result.write_text(text + "\n", encoding="utf-8")
    shutil.rmtree(given.folder)
    return 0 if all(found["kept"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
