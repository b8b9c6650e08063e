"""Several files at once: the output is that of one after another, whatever happens to a file or to a process."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.service import COMMAND, Child, wait_until

SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))
LONG_S = 1800


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return three files of half an hour that take long to replay: the demo scene again and again."""
    folder = tmp_path_factory.mktemp("long")
    scene, rate_hz = soundfile.read(SCENE, dtype="int16")
    paths = [folder / f"{name}.wav" for name in "abc"]
    for path in paths:
        soundfile.write(path, np.resize(scene, LONG_S * rate_hz), rate_hz, subtype="PCM_16")
    return paths


def replay(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "replay", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=500
    )


def children(child: Child) -> list[int]:
    pid = child.process.pid
    return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def check_one_after_another(child: Child) -> None:
    """Check that the records are numbered, and of the first file before those of the others."""
    assert [r["seq"] for r in child.records] == list(range(1, len(child.records) + 1))
    sources = [Path(r["source"]).name for r in child.records]
    assert sources == sorted(sources)


def test_output_errors_and_files_are_those_of_one_job(tmp_path: Path) -> None:
    sounds = []
    for number, seconds in enumerate((5, 34, 1, 20, 12)):
        wave, rate_hz = soundfile.read(SCENE, frames=16000 * seconds)
        sounds.append(tmp_path / f"sound{number}.flac")
        soundfile.write(sounds[-1], wave, rate_hz)
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF....WAVE")
    names = [*sounds[:2], broken, *sounds[2:], tmp_path / "missing.wav"]
    found = []
    for jobs in (1, 2, 7):
        out = tmp_path / str(jobs)
        out.mkdir()
        places = ("--tsv", out / "all.tsv", "--scores", out / "s.npz", "--audacity", out / "labels.txt")
        done = replay("--jobs", str(jobs), *places, *names)
        lines = re.sub(r"in [\d.]+ s \(\d+ x", "in T s (N x", done.stderr)
        written = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
        found.append((done.returncode, done.stdout, lines, written))
    assert found[0] == found[1] == found[2]
    code, output, errors, written = found[0]
    assert code == 66
    assert len({json.loads(line)["source"] for line in output.splitlines()}) >= 3
    assert [line.split(":")[0] for line in errors.splitlines() if "error: " not in line] == list(map(str, sounds))
    assert [line.split(": ")[2] for line in errors.splitlines() if "error: " in line] == [str(broken), str(names[-1])]
    assert len(written) == 1 + 2 * len(sounds)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--only", "unicorn"), "the model knows no 'unicorn'"),
        (("--model", "no.onnx"), "no.onnx"),
        (("--jobs", "0"), "0"),
    ],
)
def test_an_impossible_option_is_reported_once(arguments: tuple[str, ...], reason: str) -> None:
    done = replay("--jobs", "2", *arguments, SCENE, SCENE)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_process_for_each_core_is_the_default(long: list[Path]) -> None:
    with Child("replay", *long) as child:
        cores = min(len(long), len(os.sched_getaffinity(child.process.pid)))
        wait_until(lambda: child.records, "an event")
        assert len(children(child)) == (cores if cores > 1 else 0)


@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_a_signal_ends_the_file_whose_turn_it_is_and_closes_its_events(
    long: list[Path], tmp_path: Path, number: signal.Signals, to_all: bool
) -> None:
    """A terminal sends it to all processes, others to the first."""
    with Child("replay", "--jobs", "2", "--tsv", tmp_path / "all.tsv", *long) as child:
        wait_until(lambda: child.of("offset"), "an event")
        for pid in children(child) if to_all else ():
            os.kill(pid, number)
        child.signal(number)
        assert child.wait() == 128 + number
        check_one_after_another(child)
        assert {r["source"] for r in child.records} == {str(long[0])}
        assert {r["id"] for r in child.of("onset")} == {r["id"] for r in child.of("offset")}
        assert [line.split(":")[0] for line in child.errors] == [str(long[0])]  # the summary
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_is_killed_costs_its_file_alone(long: list[Path]) -> None:
    with Child("replay", "--jobs", "2", *long) as child:
        wait_until(lambda: child.records, "an event")
        os.kill(children(child)[0], signal.SIGKILL)
        assert child.wait() == 70
        check_one_after_another(child)
        (error,) = [line for line in child.errors if "error: " in line]
        assert "the process that worked on it has ended (signal 9)" in error
        complete = [line.split(":")[0] for line in child.errors if f"{LONG_S:.1f} s" in line]
        assert len(complete) == len(long) - 1
        assert set(map(str, long)) == {*complete, error.split(": ")[2]}


def test_processes_end_when_the_output_is_not_read(long: list[Path]) -> None:
    with Child("replay", "--jobs", "2", *long, reads_stdout=False) as child:
        output = child.process.stdout
        assert output is not None
        output.readline()
        workers = children(child)
        assert len(workers) == 2
        output.close()
        assert child.wait() == 141
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        assert child.errors == []


def test_progress_of_all_files_is_shown(long: list[Path]) -> None:
    terminal, side = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "replay", "--jobs", "2", *map(str, long[:2])],
        stdout=subprocess.DEVNULL,
        stderr=side,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    ) as process:
        os.close(side)
        shown = b""
        wanted = re.compile(rb"2 files.*0 done; a\.wav [1-9]\d? %, b\.wav [1-9]\d? %")
        while not wanted.search(shown):
            shown += os.read(terminal, 4096)
        process.kill()
    os.close(terminal)


NO_PROC = ("unshare", "--mount", "--", "sh", "-c", 'umount -l /proc && exec "$@"', "sh")


def test_files_are_replayed_one_after_another_where_proc_is_not_mounted(tmp_path: Path) -> None:
    """How many threads there are is not known there, so that no process is forked."""
    if os.geteuid() != 0 or subprocess.run([*NO_PROC, "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root can take /proc away, and not in every container")
    wave, rate_hz = soundfile.read(SCENE, frames=16000 * 10)
    sounds = [tmp_path / f"{name}.flac" for name in "ab"]
    for path in sounds:
        soundfile.write(path, wave, rate_hz)
    expected = replay("--jobs", "1", *sounds)
    done = subprocess.run(
        [*NO_PROC, *COMMAND, "replay", *map(str, sounds)], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, expected.stdout), done.stderr
    assert len(done.stdout.splitlines()) >= 2
    assert len(done.stderr.splitlines()) == 2
