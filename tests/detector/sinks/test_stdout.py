"""Standard output: whole lines to readers of every kind, those that stall and those that leave."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from detector.errors import DetectorError
from detector.records import OnsetRecord, as_dict
from detector.sinks import stdout as standard_output
from detector.sinks.base import RetryableError
from detector.sinks.stdout import StandardOutput, Stdout
from tests.detector.sinks.live_records import gap, offset, onset, status
from tests.detector.sinks.small_disk import SmallDisk

JSON = Stdout(format="json")


class Pipe:
    """A pipe: the sink has one end, the test the other."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def taken(self) -> bytes:
        """Return what has come so far."""
        found = b""
        with suppress(BlockingIOError):
            while data := os.read(self.reader, 65536):
                found += data
        return found

    def stop_reading(self) -> None:
        os.close(self.reader)
        self.reader = -1


@pytest.fixture
def pipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pipe]:
    monkeypatch.setattr(standard_output, "_TIMEOUT_S", 0.05)
    ends = Pipe()
    yield ends
    for end in (ends.reader, ends.writer):
        if end >= 0:
            os.close(end)


def opened(descriptor: int, settings: Stdout = JSON) -> StandardOutput:
    sink = StandardOutput(settings, descriptor)
    sink.open()
    return sink


def numbered(number: int, length: int = 0) -> OnsetRecord:
    return onset(seq=number, device="x" * length)


def fill(sink: StandardOutput, length: int = 0) -> int:
    """Write until the reader's end is full; return the number of the record that was not taken."""
    number = 0
    while True:
        try:
            sink.write(numbered(number, length))
        except RetryableError as error:
            assert "stalled" in str(error)  # noqa: PT017 - the loop has to end somewhere
            return number
        number += 1


def test_records_of_the_types_asked_for_come_as_json_lines(pipe: Pipe) -> None:
    sink = opened(pipe.writer, Stdout(types=("onset", "gap")))  # auto: no terminal
    assert sink.types == frozenset({"onset", "gap"})
    for record in (onset(), gap()):
        sink.write(record)
    assert [json.loads(line) for line in pipe.taken().splitlines()] == [as_dict(onset()), as_dict(gap())]
    sink.close()


def test_a_terminal_gets_text_in_colour() -> None:
    outer, inner = pty.openpty()
    try:
        opened(inner, Stdout()).write(onset())
        text = os.read(outer, 65536).decode()
    finally:
        os.close(outer)
        os.close(inner)
    assert "guitar" in text
    assert '"type"' not in text


def test_text_may_be_asked_for_and_is_plain_off_a_terminal(pipe: Pipe) -> None:
    sink = opened(pipe.writer, Stdout(format="text"))
    for record in (onset(), offset(), gap(), status("silent", detail="nothing but zeros")):
        sink.write(record)
    lines = pipe.taken().decode().splitlines()
    assert [line.split()[0] for line in lines] == ["mic", "5123.44", "5126.86", "12.30", "silent"]
    assert not any("\x1b" in line for line in lines)


def test_a_stalled_reader_gets_whole_lines_and_none_twice(pipe: Pipe) -> None:
    sink = opened(pipe.writer)
    refused = fill(sink)
    with pytest.raises(RetryableError):
        sink.write(numbered(refused))
    found = pipe.taken()
    for number in range(refused, refused + 3):
        sink.write(numbered(number))
    found += pipe.taken()
    assert found.endswith(b"\n")
    assert [json.loads(line)["seq"] for line in found.splitlines()] == list(range(refused + 3))


def test_lines_longer_than_a_pipe_takes_at_once_come_whole(pipe: Pipe) -> None:
    sink = opened(pipe.writer)
    refused = fill(sink, 50_000)
    found = pipe.taken()
    assert not found.endswith(b"\n")  # the last one has begun
    for number in range(refused, refused + 3):
        while True:
            try:
                sink.write(numbered(number, 50_000))
                break
            except RetryableError:
                found += pipe.taken()
        found += pipe.taken()
    sink.tick()
    found += pipe.taken()
    assert [json.loads(line)["seq"] for line in found.splitlines()] == list(range(refused + 3))


def test_a_heading_is_not_lost_when_its_line_had_to_wait(pipe: Pipe) -> None:
    fill(opened(pipe.writer))
    sink, record = opened(pipe.writer, Stdout(format="text")), onset()
    with pytest.raises(RetryableError):
        sink.write(record)
    pipe.taken()
    sink.write(record)
    assert pipe.taken().decode().splitlines()[0] == "mic"


def test_a_reader_that_has_gone(pipe: Pipe) -> None:
    sink = opened(pipe.writer)
    sink.tick()
    assert not sink.reader_has_gone
    pipe.stop_reading()
    with pytest.raises(DetectorError, match="its reader has closed it"):
        sink.tick()  # noticed without a record, too
    assert sink.reader_has_gone
    with pytest.raises(DetectorError, match="its reader has closed it"):
        sink.write(onset())


def test_a_reader_that_goes_while_it_stalls(pipe: Pipe) -> None:
    sink = opened(pipe.writer)
    fill(sink, 50_000)
    pipe.stop_reading()
    with pytest.raises(DetectorError, match="its reader has closed it"):
        sink.write(onset())
    sink.close()


def test_a_full_disk(small_disk: SmallDisk) -> None:
    path = small_disk.path / "out.jsonl"
    with path.open("wb") as file:
        sink = opened(file.fileno())
        sink.write(numbered(0))
        small_disk.fill()
        refused = 1
        with pytest.raises(RetryableError, match="No space left on device"):  # noqa: PT012 - whichever meets the end
            while True:
                sink.write(numbered(refused))
                refused += 1
        small_disk.make_room()
        sink.write(numbered(refused))
    assert [json.loads(line)["seq"] for line in path.read_text().splitlines()] == list(range(refused + 1))


def test_others_at_the_same_pipe_do_not_find_it_changed(pipe: Pipe) -> None:
    before = fcntl.fcntl(pipe.writer, fcntl.F_GETFL)
    sink = opened(pipe.writer)
    fill(sink)
    sink.close()
    assert fcntl.fcntl(pipe.writer, fcntl.F_GETFL) == before


def test_a_pipe_that_another_process_has_made_non_blocking(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    sink = opened(pipe.writer)
    refused = fill(sink)
    found = pipe.taken()
    sink.write(numbered(refused))
    assert [json.loads(line)["seq"] for line in (found + pipe.taken()).splitlines()] == list(range(refused + 1))


_STALLED = """
import sys
from detector.sinks.stdout import Stdout
from detector.sinks.stdout import StandardOutput
from detector.sinks.base import SinkWorker
from tests.detector.sinks.live_records import onset
worker = SinkWorker("stdout", StandardOutput(Stdout(format="json")))
for number in range(5000):
    worker.submit(onset(seq=number, device="x" * 100))
print("submitted", file=sys.stderr, flush=True)
sys.stdin.readline()
worker.begin_close(0.5)
worker.join()
"""


_ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[3])}


def test_a_process_whose_reader_stalls_for_ever_ends(tmp_path: Path) -> None:
    script = tmp_path / "stalled.py"
    script.write_text(_STALLED)
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-W", "error", script], env=_ENVIRONMENT, **pipes) as process:  # type: ignore[call-overload, unused-ignore]
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        first = list(iter(process.stderr.readline, b"submitted\n"))
        assert first[0] == b"stdout: 1 record was dropped: its queue is full\n"
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.wait(60) == 0  # before anything was read
        lines = process.stdout.read().splitlines()
        errors = b"".join(first) + process.stderr.read()
        assert b"Traceback" not in errors
    numbers = [json.loads(line)["seq"] for line in lines]
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 100
    assert b"dropped: they could not be written before the end" in errors
    dropped = re.findall(rb"stdout: (\d+) records? (?:was|were) dropped", errors)
    # The last line, and the rest of one before it, may still find room after the time is over.
    assert sum(map(int, dropped)) - (5000 - len(numbers)) in {0, 1, 2}
