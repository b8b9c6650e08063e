"""``snn-detect archive`` with real processes: kills of the command, of workers and of the scheduler."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from detector.archive.dataset import taken
from detector.archive.run import Options, Run, connect
from detector.errors import DetectorError
from detector.network import ENGINE_VARIABLE
from tests.detector.archive.processes import (
    ARCHIVE,
    Cluster,
    check_visible,
    content,
    kept,
    make_recordings,
    run,
    to_do_again,
)
from tests.service import wait_until

COUNT, SECONDS = 96, 15
WORKERS = 2
"""Of one thread each."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    make_recordings(folder, COUNT, SECONDS)
    return folder


@pytest.fixture(scope="module")
def done(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Return what the command says, and the archive that it made without a disturbance."""
    out = tmp_path_factory.mktemp("archive") / "out"
    return run(recordings, "--out", out, "--time-zone", "Europe/Berlin", "--jobs", "2"), out


@pytest.fixture(scope="module")
def expected(done: tuple[subprocess.CompletedProcess[str], Path]) -> dict[str, list[Any]]:
    return content(done[1])


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start the command for a test that ends it in the middle: the slower engine, of the same bits, leaves time to."""
    return subprocess.Popen(
        [*ARCHIVE, *map(str, arguments)],
        env=os.environ | {ENGINE_VARIABLE: "onnxruntime"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def test_the_events_are_those_of_replay(recordings: Path, expected: dict[str, list[Any]]) -> None:
    files = sorted(str(p) for p in recordings.rglob("*.flac"))
    done = subprocess.run([*ARCHIVE[:-1], "replay", "--json", *files], capture_output=True, text=True, check=False)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    offsets = [r for r in records if r["type"] == "offset"]
    assert done.returncode == 66
    assert len(offsets) > 20
    assert sorted((r["id"], r["label"], r["source"], r["onset_s"], r["peak"]) for r in offsets) == sorted(
        (e[0], e[1], e[2], e[4], e[7]) for e in expected["events"]
    )


def test_broken_files_are_a_row_each_and_the_summary_counts_all(
    done: tuple[subprocess.CompletedProcess[str], Path], expected: dict[str, list[Any]]
) -> None:
    process, out = done
    assert process.returncode == 66
    assert "warning" not in process.stderr
    assert len(expected["files"]) == COUNT
    assert len(expected["errors"]) == len({path for path, _ in expected["errors"]}) == COUNT // 2
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["files"], summary["errors"]) == (COUNT, COUNT // 2)
    assert sum(summary["events"].values()) == len(expected["events"])
    assert process.stdout.startswith(f"{COUNT} files, ")
    assert (out / "events.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (out / "events").iterdir()) == ["day=2026-01-31", "day=2026-02-01"]


def test_new_files_are_added_and_then_there_is_nothing_to_do(
    recordings: Path, done: tuple[subprocess.CompletedProcess[str], Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done[1], out)
    before = content(out)
    new = tmp_path / "new"
    new.mkdir()
    shutil.copy(recordings / "site0" / "20260131_220000.flac", new / "20260201_120000.flac")
    options = (recordings, new, "--out", out, "--time-zone", "Europe/Berlin", "--jobs", "1", "-q")
    assert run(*options).returncode == 66
    after = content(out)
    assert [row for row in after["files"] if row not in before["files"]] == [
        (str(new / "20260201_120000.flac"), float(SECONDS), len(after["events"]) - len(before["events"]), None)
    ]
    parts = sorted(out.rglob("*.parquet"))
    assert run(*options).returncode == 66
    assert sorted(out.rglob("*.parquet")) == parts
    refused = run(*options, "--scores")
    assert refused.returncode == 2
    assert "was begun with another scores (false, now true)" in refused.stderr


def test_killed_at_any_moment_it_goes_on_behind_the_files_that_are_done(
    recordings: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = (recordings, "--out", out, "--time-zone", "Europe/Berlin", "--jobs", str(WORKERS), "-q")
    finished, begun = 0, 0
    for number in range(3):
        wanted = finished + secrets.randbelow(1 + (COUNT - finished) // 4) + 1
        with start(*arguments) as process:
            wait_until(lambda: process.poll() is not None or kept(out) >= wanted, "some files")  # noqa: B023
            is_last = number == 2
            if is_last:  # its workers end when they notice, and may be ready by then
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
        check_visible(out)
        assert wanted <= kept(out) < COUNT + is_last
        assert 0 <= to_do_again(out) <= WORKERS
        finished, begun = kept(out), begun + to_do_again(out)
    assert begun  # else the notes are not those of a run that was killed
    assert run(*arguments).returncode == 66
    assert content(out) == expected
    assert [p.name for p in (out / ".archive" / "staged").iterdir()] == []


def test_a_terminal_interrupts_it_and_what_is_done_is_kept(
    recordings: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = (recordings, "--out", out, "--time-zone", "Europe/Berlin", "--jobs", str(WORKERS), "-q")
    with start(*arguments) as process:
        wait_until(lambda: kept(out) >= 1, "a file")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 128 + signal.SIGINT
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert kept(out) >= 1
    assert run(*arguments).returncode == 66
    assert content(out) == expected


NOTE_FILES = """
import os
from detector.archive import worker
from detector.audio.files import SoundFileReader

def noted(path, track):
    with open(os.environ["OPENED"], "a") as file:
        file.write(f"{path}\\n")
    return SoundFileReader(path, track)

worker.SoundFileReader = noted
"""


def test_a_worker_the_scheduler_and_the_command_are_killed_and_files_in_progress_alone_are_processed_again(
    recordings: Path, expected: dict[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, opened = tmp_path / "out", tmp_path / "opened"
    monkeypatch.setenv("OPENED", str(opened))
    (tmp_path / "preload.py").write_text(NOTE_FILES)
    with Cluster(tmp_path, "--preload", str(tmp_path / "preload.py")) as cluster:
        arguments = (recordings, "--out", out, "--time-zone", "Europe/Berlin", "-q", "--scheduler", cluster.address)
        with start(*arguments) as process:
            wait_until(lambda: kept(out) >= COUNT // 8, "some files")
            cluster.kill(cluster.workers.pop(0))
            cluster.start_worker()
            wait_until(lambda: kept(out) >= COUNT // 4, "more files")
            cluster.kill(cluster.scheduler)
            assert process.stderr is not None
            lines = process.stderr.read().splitlines()
            assert (process.wait(), len(lines)) == (69, 1), lines
            assert "the scheduler is lost or does not answer" in lines[0]
        check_visible(out)
        cluster.restart()
        with start(*arguments) as process:
            wait_until(lambda: kept(out) >= COUNT // 2, "more files")
            process.kill()
        check_visible(out)
        assert run(*arguments).returncode == 66
    assert content(out) == expected
    # One of the worker, and twice one of each: with the scheduler all workers were killed, with the command none was,
    # but its results have gone to the next run.
    again = Counter(opened.read_text().splitlines())
    assert again.total() - len(again) <= 1 + 2 * WORKERS


class Quiet:
    """Progress that is not shown."""

    def advance(self, done: float, detail: str = "", total: float | None = None) -> None: ...

    def print_line(self, line: str) -> None: ...


class Removing(Quiet):
    """Removes the first log that is complete, as a disk that fails."""

    def __init__(self, out: Path) -> None:
        self.staged, self.files = out / ".archive" / "staged", 0

    def advance(self, done: float, detail: str = "", total: float | None = None) -> None:  # noqa: ARG002 - as of all progress
        for log in self.staged.glob("*.arrows"):
            if done and not self.files and not list(self.staged.glob(f"{log.name[:24]}.at")):
                self.files = sum(len(results.files) for results in taken([log]))
                log.unlink()


def test_results_that_vanish_from_the_disk_end_the_run_with_a_line_and_are_done_by_the_next(
    recordings: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    options = Options((str(recordings),), tmp_path / "out", zone="Europe/Berlin")
    progress = Removing(tmp_path / "out")
    with connect(None, 1) as client:
        with (
            closing(Run(options, progress, lambda: True)) as first,
            pytest.raises(DetectorError, match=r"the results of \d+ files, such as /.*, have been removed") as caught,
        ):
            first.run(client)
        assert f"of {progress.files} files" in str(caught.value)
        with closing(Run(options, Quiet(), lambda: True)) as second:
            second.run(client)
    assert content(tmp_path / "out") == expected


def test_work_of_a_worker_that_does_not_go_on_is_given_to_another(
    recordings: Path, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    options = Options((str(recordings),), tmp_path / "out", zone="Europe/Berlin")
    with Cluster(tmp_path) as cluster, closing(Run(options, Quiet(), lambda: True)) as run, ExitStack() as stack:
        client = stack.enter_context(connect(cluster.address, 1))
        client.wait_for_workers(2)
        client.run(warm_up)
        run.patience_s = 8.0
        halt = threading.Thread(target=stop_at_the_first_unit, args=(cluster.workers[0], tmp_path / "out"))
        halt.start()
        run.run(client)
        halt.join()
        cluster.workers[0].send_signal(signal.SIGCONT)
    assert content(tmp_path / "out") == expected


def warm_up() -> None:
    import detector.pipeline
    from detector.archive import worker  # noqa: F401

    detector.pipeline.Detector.load()


def stop_at_the_first_unit(worker: subprocess.Popen[bytes], out: Path) -> None:
    wait_until(lambda: list(out.glob(".archive/staged/*.at")), "a unit")
    worker.send_signal(signal.SIGSTOP)


PRELOAD = """
import os, signal
from detector.archive import worker
from detector.audio.files import SoundFileReader

def open_or_end(path, track):
    if path.name == "20260131_220000.flac":
        os.kill(os.getpid(), signal.SIGKILL)
    return SoundFileReader(path, track)

worker.SoundFileReader = open_or_end
"""


def test_a_file_that_ends_its_workers_is_an_error_and_the_others_are_done(
    recordings: Path, expected: dict[str, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By default it ends twice as many before Dask gives it up, and each takes seconds to start.
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1")
    out = tmp_path / "out"
    (tmp_path / "preload.py").write_text(PRELOAD)
    with Cluster(tmp_path, "--preload", str(tmp_path / "preload.py")) as cluster:
        arguments = (recordings, "--out", out, "--time-zone", "Europe/Berlin", "-q", "--scheduler", cluster.address)
        with start(*arguments) as process:
            while process.poll() is None:
                for worker in [w for w in cluster.workers if w.poll() is not None]:
                    cluster.workers.remove(worker)
                    cluster.start_worker()
                time.sleep(0.1)
            assert process.returncode == 66
    found = content(out)
    (bad,) = [row for row in found["errors"] if row not in expected["errors"]]
    assert Path(bad[0]).name == "20260131_220000.flac"
    assert "the worker ended" in bad[1]
    assert found["events"] == [row for row in expected["events"] if row[2] != bad[0]]
    assert len(found["files"]) == COUNT


def test_what_cannot_be_is_one_line(recordings: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    cases: dict[str, tuple[int, tuple[str | Path, ...]]] = {
        "no such file or folder": (66, (tmp_path / "missing", *out)),
        "the model knows no 'unicorn'": (2, (recordings, *out, "--only", "unicorn")),
        "states no date": (2, (recordings, *out, "--name", "%H%M%S")),
        "--time-zone Mars/Base: unknown": (2, (recordings, *out, "--time-zone", "Mars/Base")),
        "does not answer": (69, (recordings, *out, "--scheduler", "tcp://127.0.0.1:9")),
        "the workers of --scheduler are its own": (2, (recordings, *out, "--scheduler", "tcp://a:1", "--jobs", "2")),
        "Missing option '--out'": (2, (recordings,)),
    }
    for reason, (code, arguments) in cases.items():
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_help_and_replay_import_neither_dask_nor_arrow() -> None:
    program = (
        "import sys, detector.cli.main, detector.cli.replay, detector.cli.archive;"
        "print([m for m in ('dask', 'distributed', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([ARCHIVE[0], "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert done.stdout == "[]\n", done.stderr
