"""Cross-validation: one run per fold and seed, several at a time, each in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from detector.errors import DetectorError
from models.console import Progress

POLL_S = 1.0


class FoldError(DetectorError):
    """A run of a fold failed; the others were continued."""


@dataclass(frozen=True, slots=True)
class FoldRun:
    """One run of a cross-validation."""

    folder: Path
    fold: int
    seed: int

    @property
    def finished(self) -> bool:
        """Whether its weights are final."""
        return (self.folder / "record.json").is_file()

    def epochs(self) -> int:
        """Return the number of completed epochs, over all stages."""
        return sum(_epochs(path) for path in (self.folder / "curves.jsonl", *self.folder.glob("stage*/curves.jsonl")))


def plan(runs: Path, folds: Sequence[int], seeds: Sequence[int]) -> list[FoldRun]:
    """Return the runs below the folder ``runs``, seed after seed."""
    return [FoldRun(runs / f"fold{fold}-seed{seed}", fold, seed) for seed in seeds for fold in folds]


def train_all(  # noqa: PLR0913 - what each run is given
    recipe: Path, epochs: int, data: Path, wanted: Sequence[FoldRun], jobs: int, warm_start: Path | None = None
) -> None:
    """Train the runs that are not finished, ``jobs`` at a time with one thread each; ``epochs`` are those of a run.

    Each begins with the weights of the run ``warm_start``, where one is given.

    Raises FoldError that names the failed runs and their log files.
    """
    waiting, running, failed = [r for r in wanted if not r.finished], dict[FoldRun, subprocess.Popen[bytes]](), []
    with _sigterm() as signals, Progress("training", epochs * len(wanted), "epochs") as bar:
        try:
            while waiting or running:
                if signals:
                    sys.exit(128 + signal.SIGTERM)
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    running[run] = _start(recipe, data, run, warm_start)
                time.sleep(POLL_S)
                exited = [run for run, process in running.items() if process.poll() is not None]
                failed += [run for run in exited if running.pop(run).returncode]
                bar.reach(sum(epochs if run.finished else min(epochs, run.epochs()) for run in wanted))
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    if failed:
        raise FoldError("; ".join(f"{run.folder}: failed, see {run.folder / 'log.txt'}" for run in failed))


@contextmanager
def _sigterm() -> Iterator[list[int]]:
    """Record a SIGTERM: exiting while a run is being started would leave its process behind."""
    received = list[int]()
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _epochs(curves: Path) -> int:
    lines = curves.read_text(encoding="utf-8").splitlines() if curves.is_file() else []
    return int(json.loads(lines[-1])["epoch"]) if lines else 0


def _start(recipe: Path, data: Path, run: FoldRun, warm_start: Path | None) -> subprocess.Popen[bytes]:
    run.folder.mkdir(parents=True, exist_ok=True)
    arguments = ["fit", recipe, "--data", data, "--run", run.folder, "--leave-out", run.fold, "--seed", run.seed]
    arguments += [] if warm_start is None else ["--warm-start", warm_start]
    command = [sys.executable, "-m", "models.cli.main", *map(str, arguments), "--threads", "1", "--workers", "0"]
    log: IO[bytes]
    with (run.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603 - this program itself
