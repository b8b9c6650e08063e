"""Logs of workers: what is whole in them counts, however a worker ends, and each file once."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from detector.archive import dataset
from detector.archive.dataset import Staged, logs, moments, read_log, schema, taken

START = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
LABELS = ("007", "Music/Bass")


def add(staged: Staged, *files: str, scores: int = 2) -> None:
    """Add a stream of these files, with an event in each and some seconds of scores."""
    for name in files:
        staged.add("events", {"id": f"event of {name}", "source": "x", "path": name, **moments(START, 0)})
        staged.add("files", {"path": name, "source": "x", "size_bytes": 7, "seconds": 3.0, **moments(START, 0)})
    place: dict[str, Any] = {"source": "x", "path": files[0], "in_file_s": 0.0, "stream": files[0]}
    for second in range(scores):
        row = place | {"second": second, **moments(START, second)} | {f"score_{name}": 0.5 for name in LABELS}
        staged.add_scores({column: [value] for column, value in row.items()})
    staged.end_stream()


def paths(*found: Path, done: tuple[str, ...] = ()) -> list[list[str]]:
    return [results.files["path"].to_pylist() for results in taken(found, done)]


def log_of(folder: Path, staged: Staged) -> Path:
    return folder / f"{staged.name}.arrows"


def test_each_stream_counts_from_its_end_on(tmp_path: Path) -> None:
    with Staged(tmp_path, "unit", LABELS) as staged:
        log = log_of(tmp_path, staged)
        assert paths(log) == []
        add(staged, "a", "b")
        assert paths(log) == [["a", "b"]]
        staged.add("files", {"path": "c", "source": "x", **moments(START, 0)})
        assert paths(log) == [["a", "b"]]
        staged.end_stream()
    (first, second) = read_log(log)
    assert first.events["id"].to_pylist() == ["event of a", "event of b"]
    assert [row["second"] for table in first.scores() for row in table.to_pylist()] == [0, 1]
    assert (first.seconds, first.sizes) == ({"a": 3.0, "b": 3.0}, {"a": 7, "b": 7})
    assert (second.files["path"].to_pylist(), len(second.events), list(second.scores())) == (["c"], 0, [])


def test_a_log_that_is_cut_anywhere_has_the_streams_that_are_whole(tmp_path: Path) -> None:
    with Staged(tmp_path, "unit", LABELS) as staged:
        ends = []
        for name in ("a", "b", "c"):
            add(staged, name)
            ends.append(log_of(tmp_path, staged).stat().st_size)
    whole = log_of(tmp_path, staged).read_bytes()
    cut = tmp_path / "cut.arrows"
    for size in {*range(0, len(whole), 97), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends)}:
        cut.write_bytes(whole[:size])
        assert len(paths(cut)) == sum(end <= size for end in ends), size


def test_what_a_power_failure_has_left_as_zeros_does_not_count(tmp_path: Path) -> None:
    with Staged(tmp_path, "unit", LABELS) as staged:
        add(staged, "a")
        end = log_of(tmp_path, staged).stat().st_size
        add(staged, "b")
    log = log_of(tmp_path, staged)
    whole = log.read_bytes()
    log.write_bytes(whole[:end] + bytes(len(whole) - end))
    assert paths(log) == [["a"]]
    for at in range(end, len(whole), 61):
        log.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert paths(log) == [["a"]], at


def test_the_first_results_of_a_file_count_and_those_of_files_that_are_done_do_not(tmp_path: Path) -> None:
    found = []
    for number, streams in enumerate(((("a", "b"), ("c",)), (("b", "c"), ("d",)))):
        with Staged(tmp_path, f"unit{number}", LABELS) as staged:
            for stream in streams:
                add(staged, *stream)
        found.append(log_of(tmp_path, staged))
    assert paths(*found) == [["a", "b"], ["c"], ["d"]]
    assert paths(*found[::-1]) == [["b", "c"], ["d"]]
    assert paths(*found, done=("a", "d")) == [["c"]]
    assert paths(tmp_path / "missing.arrows") == []


def test_an_error_leaves_what_is_whole(tmp_path: Path) -> None:
    staged = Staged(tmp_path, "unit", LABELS)
    unknown = {name: [None] for name in schema("scores", LABELS).names}
    with contextlib.suppress(pa.ArrowTypeError), staged:
        add(staged, "a")
        staged.add_scores(unknown | {"source": [1]})
        add(staged, "b")
    assert paths(log_of(tmp_path, staged)) == [["a"]]


def test_a_disk_that_is_full_ends_the_unit_and_nothing_is_lost_in_between(tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.detector.archive.test_logs import LABELS, Staged, add, schema\n"
        "columns = schema('scores', LABELS).names\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 200_000))\n"
        "with Staged(Path(sys.argv[1]), 'unit', LABELS) as staged:\n"
        "    add(staged, 'a')\n"
        "    try:\n"
        "        for _ in range(400):\n"
        "            staged.add_scores(dict.fromkeys(columns, [None] * 100))\n"
        "    except OSError:\n"
        "        pass\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "    add(staged, 'b')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "OSError: [Errno 27] File too large" in done.stderr
    (log,) = logs(tmp_path, "unit")
    assert paths(log) == [["a"]]


def test_a_worker_that_is_killed_has_lost_what_it_was_writing_alone(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.detector.archive.test_logs import LABELS, Staged, add\n"
        "with Staged(Path(sys.argv[1]), 'unit', LABELS) as staged:\n"
        "    add(staged, 'a')\n"
        "    add(staged, 'b')\n"
        "    staged.add('files', {'path': 'c'})\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert paths(*logs(tmp_path, "unit")) == [["a"], ["b"]]


def test_an_attempt_whose_log_was_taken_meanwhile_ends(tmp_path: Path) -> None:
    with Staged(tmp_path, "unit", LABELS) as staged:
        add(staged, "a")
        log_of(tmp_path, staged).unlink()
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            add(staged, "b")


def test_what_another_release_has_staged_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Staged(tmp_path, "unit", LABELS) as staged:
        add(staged, "a")
    monkeypatch.setattr(dataset, "_release", lambda: b"other columns".ljust(32))
    assert paths(log_of(tmp_path, staged)) == []
