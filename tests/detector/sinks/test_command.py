"""A program for each record: what it is given, how it may end, and that it never stays."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from detector.errors import DetectorError
from detector.records import as_dict
from detector.sinks.base import SinkWorker
from detector.sinks.command import Command, CommandSink
from tests.detector.sinks.live_records import gap, health, onset
from tests.resources import left_open, resources
from tests.service import wait_until


def sink_for(*argv: str | Path, **settings: Any) -> CommandSink:
    return CommandSink(Command(argv=tuple(map(str, argv)), **settings))


def script(directory: Path, text: str) -> Path:
    """Write a program of the shell, which may be run."""
    path = directory / "on-sound"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_record_comes_on_standard_input(tmp_path: Path) -> None:
    sink = sink_for(script(tmp_path, 'cat > "$1"'), tmp_path / "out", types=("onset", "gap"), labels=("guitar",))
    assert (sink.types, sink.labels) == (frozenset({"onset", "gap"}), frozenset({"guitar"}))
    sink.write(onset())
    text = (tmp_path / "out").read_text()
    assert json.loads(text) == as_dict(onset())
    assert text.endswith("\n")


def test_the_record_is_in_the_environment(tmp_path: Path) -> None:
    program = script(tmp_path, f'exec {sys.executable} -c "$1" > {tmp_path}/out')
    code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('SNN_DETECT_')}))"
    sink_for(program, code).write(onset(level_dbfs=None, device="a\0b\udce9"))
    found = json.loads((tmp_path / "out").read_text())
    expected = {
        "LABEL": "guitar",
        "ID": "id-1",
        "TYPE": "onset",
        "SCORE": "0.91",
        "CLOCK_SYNCED": "true",
        "TIME": "2026-11-23T18:04:05.120+01:00",
        "LEVEL_DBFS": "",
    }
    assert expected.items() <= {k.removeprefix("SNN_DETECT_RECORD_"): v for k, v in found.items()}.items()
    assert found["SNN_DETECT_RECORD_DEVICE"].startswith("a\ufffdb")


def test_what_is_meant_for_the_service_stays_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "CREDENTIALS_DIRECTORY",
        "OPENBLAS_NUM_THREADS",
        "PYDANTIC_DISABLE_PLUGINS",
    ):
        monkeypatch.setenv(name, "/secret")
    monkeypatch.setenv("KEPT", "yes")
    sink_for("/bin/sh", "-c", f"env > {tmp_path}/out").write(onset())
    text = (tmp_path / "out").read_text()
    assert "/secret" not in text
    assert "KEPT=yes" in text


@pytest.mark.parametrize("argument", ["$(touch bad)", "; touch bad", "`touch bad`", "a b", "*", ""])
def test_arguments_are_no_shell_words(tmp_path: Path, argument: str) -> None:
    program = script(tmp_path, 'printf "%s" "$1" > out')
    sink_for("/usr/bin/env", "--chdir", tmp_path, program, argument).write(onset())
    assert (tmp_path / "out").read_text() == argument
    assert not (tmp_path / "bad").exists()


def test_records_are_data_for_the_program_too(tmp_path: Path) -> None:
    sink_for(script(tmp_path, "true")).write(onset("$(touch bad); `x`\n'\""))
    assert [p.name for p in tmp_path.iterdir()] == ["on-sound"]


def test_a_failure_is_reported_with_the_end_of_its_output(tmp_path: Path) -> None:
    program = script(tmp_path, "echo first; echo the lamp is not there >&2; exit 3")
    with pytest.raises(DetectorError, match=r"on-sound: exit code 3: first the lamp is not there$"):
        sink_for(program).write(onset())


def test_a_program_ended_by_a_signal() -> None:
    with pytest.raises(DetectorError, match=r"^/bin/sh: ended by SIGSEGV"):
        sink_for("/bin/sh", "-c", "kill -SEGV $$").write(onset())


def test_much_output_is_neither_kept_nor_in_the_way(tmp_path: Path) -> None:
    program = script(tmp_path, "head -c 3000000 /dev/zero | tr '\\0' x; echo the end; exit 1")
    with pytest.raises(DetectorError, match=r"the end$") as caught:
        sink_for(program).write(onset())
    assert len(str(caught.value)) < 1200


def test_output_that_is_no_text() -> None:
    with pytest.raises(DetectorError, match="exit code 1: \ufffd"):
        sink_for("/bin/sh", "-c", r"printf '\377\n'; exit 1").write(onset())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none", "no such file or directory"),
        ("text", "permission denied"),
        ("broken", "exec format error"),
        (".", "permission denied"),
    ],
)
def test_a_program_that_cannot_be_run(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "broken").write_text("no program")
    (tmp_path / "broken").chmod(0o755)
    with pytest.raises(DetectorError, match=rf"cannot be run \({words}\)"):
        sink_for(tmp_path / name).write(onset())


def test_programs_are_found_by_path() -> None:
    sink_for("true").write(onset())


def test_a_program_that_reads_nothing() -> None:
    sink_for("true").write(onset(device="x" * 1_000_000))


def test_a_program_that_takes_too_long_is_killed_with_all_it_started(tmp_path: Path) -> None:
    program = script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/child; echo $$ > {tmp_path}/parent; wait")
    with pytest.raises(DetectorError, match=r"on-sound: killed after 0.5 s"):
        sink_for(program, timeout_s=0.5).write(onset())
    for name in ("parent", "child"):
        pid = int((tmp_path / name).read_text())
        wait_until(lambda pid=pid: not is_alive(pid), f"the end of the {name}")  # type: ignore[misc]


def test_a_program_that_ignores_signals_is_killed() -> None:
    with pytest.raises(DetectorError, match="killed after"):
        sink_for("/bin/sh", "-c", "trap '' TERM INT HUP; while :; do sleep 1; done", timeout_s=0.3).write(onset())


def test_a_program_that_closes_its_output_and_goes_on_is_killed() -> None:
    with pytest.raises(DetectorError, match="killed after"):
        sink_for("/bin/sh", "-c", "exec >&- 2>&-; sleep 1000", timeout_s=0.3).write(onset())


def test_what_a_program_leaves_running_does_not_hold_it(tmp_path: Path) -> None:
    program = script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/child")
    sink_for(program, timeout_s=600).write(onset())
    pid = int((tmp_path / "child").read_text())
    assert is_alive(pid)  # a lamp that is dimmed slowly, say
    os.kill(pid, 9)


def test_failures_are_counted_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    program = script(tmp_path, 'test "$SNN_DETECT_RECORD_SEQ" -ge 3')
    worker = SinkWorker("command", sink_for(program, types=("onset",)))
    for number in range(5):
        worker.submit(onset(number=number, seq=number))
    worker.begin_close(60)
    assert worker.join()
    assert (worker.counts.written, worker.counts.failed) == (2, 3)
    assert caplog.messages == [f"command: {program}: exit code 1", "command: works again"]


def test_nothing_stays_open(tmp_path: Path) -> None:
    good, bad = sink_for("true"), sink_for(tmp_path / "none")
    good.write(gap())
    before = resources()
    for _ in range(10):
        good.write(health())
        with pytest.raises(DetectorError):
            bad.write(health())
    assert left_open(before) == []
