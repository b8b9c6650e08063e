"""The command, a Dask scheduler and workers as processes of their own, and what an archive holds in the end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
import pyarrow.parquet as pq
import soundfile

from detector.archive.dataset import logs, taken
from tests.service import DEADLINE_S, wait_until

SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))
ARCHIVE = [sys.executable, "-m", "detector", "archive"]


def make_recordings(folder: Path, count: int, seconds: int = 5) -> None:
    """Write recordings of two recorders, half of them damaged in one of three ways."""
    scene, rate_hz = soundfile.read(SCENE, dtype="int16")
    begin = datetime(2026, 1, 31, 22)  # noqa: DTZ001 - names of files state no zone
    for number in range(count):
        place = folder / f"site{number % 2}"
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{begin + timedelta(minutes=10 * number):%Y%m%d_%H%M%S}.flac"
        soundfile.write(path, np.roll(scene, 7777 * number)[: seconds * rate_hz], rate_hz)
        whole = path.read_bytes()
        if number % 6 == 1:
            path.write_bytes(whole[: len(whole) // 2])
        elif number % 6 == 3:
            path.write_bytes(whole[:20])
        elif number % 6 == 5:
            path.write_bytes(b"no sound at all")


def content(out: Path) -> dict[str, list[Any]]:
    """Return what is in an archive, in an order of its own."""
    wanted = {
        "events": "id, label, path, time, onset_s, offset_s, score, peak, mean, reason",
        "files": "path, seconds, events, error",
    }
    found = {
        kind: sorted(duckdb.execute(f"select {columns} from '{out}/{kind}/**/*.parquet'").fetchall(), key=str)  # noqa: S608
        for kind, columns in wanted.items()
    }
    errors = duckdb.execute(f"select path, error from '{out}/errors.parquet'").fetchall()  # noqa: S608
    return found | {"errors": sorted(errors)}


def logged(out: Path) -> list[str]:
    """Return the files whose results are in logs of workers."""
    found = taken(sorted(out.glob(".archive/staged/*.arrows")))
    return [path for results in found for path in results.files["path"].to_pylist()]


def kept(out: Path) -> int:
    """Return how many files a restart will not process."""
    parts = list(out.glob("files/**/*.parquet"))
    done = [path for part in parts for path in pq.ParquetFile(part).read(["path"])["path"].to_pylist()]
    return len({*done, *logged(out)})


def to_do_again(out: Path) -> int:
    """Return how many files were begun, by the notes of the workers, and will be processed again."""
    staged = out / ".archive" / "staged"
    count = 0
    for note in staged.glob("*.at"):
        if note.stem.startswith("scan-"):
            continue
        finished = sum(len(results.files) for results in taken(logs(staged, note.stem)))
        try:
            begun = json.loads(note.read_text(encoding="ascii"))[0] + 1
        except ValueError:  # killed while it wrote that it begins one
            begun = finished + 1
        count += begun - finished
    return count


def check_visible(out: Path) -> None:
    """Check that all Parquet files that can be seen are whole."""
    for path in [*out.glob("events/**/*.parquet"), *out.glob("files/**/*.parquet"), *out.glob("errors.parquet")]:
        duckdb.execute(f"select * from '{path}'").fetchall()  # noqa: S608


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ARCHIVE, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )


class Cluster:
    """A scheduler and workers on loopback."""

    def __init__(self, folder: Path, *worker_options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._folder, self._options = folder, worker_options
        self.workers: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self.scheduler = self._start("dask_scheduler", "--port", str(self._port))
        wait_until(self._answers, "the scheduler")
        self.start_worker()
        self.start_worker()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (self.scheduler, *self.workers):
            process.send_signal(signal.SIGCONT)
            self.kill(process)

    def start_worker(self) -> None:
        limits = ("--nthreads", "1", "--no-nanny", "--death-timeout", "60")
        self.workers.append(self._start("dask_worker", self.address, *limits, *self._options))

    def restart(self) -> None:
        """Kill all of it, and start it again at the same address."""
        for process in (self.scheduler, *self.workers):
            self.kill(process)
        self.workers.clear()
        self.__enter__()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    @staticmethod
    def kill(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()

    def _start(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            f"distributed.cli.{program}",
            *arguments,
            "--host",
            "127.0.0.1",
            "--no-dashboard",
        ]
        with (self._folder / "dask.log").open("ab") as log:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment)
