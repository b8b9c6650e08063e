"""JSON lines in a file: whole lines, rotated in both ways, on disks that are full."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.records import OnsetRecord, as_dict, json_line
from detector.sinks.base import RetryableError, SinkWorker
from detector.sinks.json_file import JsonFile, JsonLinesFile
from tests.detector.sinks.live_records import gap, onset
from tests.detector.sinks.small_disk import SmallDisk
from tests.service import wait_until


def numbered(number: int) -> OnsetRecord:
    return onset(seq=number)


def numbers(*paths: Path) -> list[int]:
    return [json.loads(line)["seq"] for path in paths for line in path.read_text().splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def sink(path: Path) -> Iterator[JsonLinesFile]:
    file = JsonLinesFile(JsonFile(path=path))
    file.open()
    yield file
    file.close()


def test_lines_are_there_at_once_and_behind_those_of_before(sink: JsonLinesFile, path: Path) -> None:
    sink.write(numbered(1))
    assert numbers(path) == [1]
    sink.write(gap())
    sink.close()
    again = JsonLinesFile(JsonFile(path=path, types=("onset",)))
    assert again.types == frozenset({"onset"})
    again.open()
    again.write(numbered(3))
    again.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        as_dict(r) for r in (numbered(1), gap(), numbered(3))
    ]


def test_others_cannot_read_it(sink: JsonLinesFile, path: Path) -> None:
    sink.write(onset())
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


def test_nothing_is_written_while_nothing_happens(sink: JsonLinesFile, path: Path) -> None:
    before = path.stat()
    sink.tick()
    sink.close()
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (0, before.st_mtime_ns)


def test_rotation_by_renaming(sink: JsonLinesFile, path: Path, tmp_path: Path) -> None:
    old = tmp_path / "events.jsonl.1"
    sink.write(numbered(1))
    path.rename(old)
    sink.write(numbered(2))  # between the renaming and the signal
    sink.reopen()
    sink.write(numbered(3))
    assert numbers(old) == [1, 2]
    assert numbers(path) == [3]


def test_reopening_makes_the_file_though_nothing_happens(path: Path, tmp_path: Path) -> None:
    file = JsonLinesFile(JsonFile(path=path))
    worker = SinkWorker("file", file)
    wait_until(path.exists, "the first file")
    path.rename(tmp_path / "old")
    asking = threading.Thread(target=file.reopen)
    asking.start()
    asking.join()
    wait_until(path.exists, "the new file")
    worker.begin_close(20)
    assert worker.join()


def test_rotation_by_copying_and_truncating(sink: JsonLinesFile, path: Path, tmp_path: Path) -> None:
    for number in range(3):
        sink.write(numbered(number))
    (tmp_path / "copy").write_bytes(path.read_bytes())
    os.truncate(path, 0)
    sink.write(numbered(3))
    assert numbers(tmp_path / "copy", path) == [0, 1, 2, 3]


def test_rotation_loses_nothing_while_it_is_written(path: Path, tmp_path: Path) -> None:
    file = JsonLinesFile(JsonFile(path=path))
    worker = SinkWorker("file", file, bound=10_000)
    rotated: list[Path] = []
    for number in range(2000):
        worker.submit(numbered(number))
        if number % 400 == 200:
            wait_until(path.exists, "the file")
            rotated.append(path.rename(tmp_path / f"{len(rotated)}"))
            file.reopen()
    worker.begin_close(60)
    assert worker.join()
    assert numbers(*rotated, path) == list(range(2000))


def test_a_full_disk_leaves_no_half_line_and_no_double_one(small_disk: SmallDisk) -> None:
    path = small_disk.path / "events.jsonl"
    sink = JsonLinesFile(JsonFile(path=path))
    sink.open()
    small_disk.fill(leave=5000)
    refused = 0
    with pytest.raises(RetryableError, match=r"events.jsonl: cannot be written \(no space left on device\)"):  # noqa: PT012 - whichever meets the end
        while True:
            sink.write(numbered(refused))
            refused += 1
    assert numbers(path) == list(range(refused))
    assert path.read_bytes().endswith(b"\n")
    with pytest.raises(RetryableError):
        sink.write(numbered(refused))
    small_disk.make_room()
    sink.write(numbered(refused))
    sink.close()
    assert numbers(path) == list(range(refused + 1))


_LIMITED = """
import json, resource, sys
from pathlib import Path
from detector.sinks.json_file import JsonFile
from detector.sinks.json_file import JsonLinesFile
from detector.sinks.base import RetryableError
from tests.detector.sinks.live_records import onset
sink = JsonLinesFile(JsonFile(path=Path(sys.argv[1])))
sink.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
number = 0
try:
    while True:
        sink.write(onset(seq=number))
        number += 1
except RetryableError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.write(onset(seq=number))
sink.close()
"""


def test_a_file_that_may_not_grow(path: Path) -> None:
    """Show the same to those who cannot mount a disk: the system takes the first part of a line, and no more."""
    command = [sys.executable, "-W", "error", "-c", _LIMITED, str(path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    assert "cannot be written (file too large)" in done.stdout
    found = numbers(path)
    assert found == list(range(len(found)))
    assert len(found) == 4000 // len(json_line(numbered(0))) + 1  # the last one when it might grow again


def test_a_directory_that_is_missing_is_reported_and_waited_for(tmp_path: Path) -> None:
    sink = JsonLinesFile(JsonFile(path=tmp_path / "disk" / "events.jsonl"))
    with pytest.raises(RetryableError, match=rf"there is no directory {tmp_path}/disk; create it"):
        sink.open()
    (tmp_path / "disk").mkdir()
    sink.open()
    sink.write(numbered(1))
    sink.close()
    assert numbers(tmp_path / "disk" / "events.jsonl") == [1]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        sink = JsonLinesFile(JsonFile(path=tmp_path / name / "" if name == "." else tmp_path / name))
        with pytest.raises(RetryableError, match="cannot be written"):
            sink.open()
    with pytest.raises(RetryableError, match="it is not a regular file"):
        JsonLinesFile(JsonFile(path=Path("/dev/full"))).open()


def test_a_line_that_a_power_cut_has_cut_stays_alone(path: Path) -> None:
    path.write_text('{"seq":1}\n{"se')
    sink = JsonLinesFile(JsonFile(path=path))
    sink.open()
    sink.write(numbered(2))
    sink.close()
    assert path.read_text().splitlines()[:2] == ['{"seq":1}', '{"se']
    assert json.loads(path.read_text().splitlines()[2])["seq"] == 2
