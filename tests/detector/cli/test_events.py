"""``snn-detect events``: stored events, for users and for programs, while they are being written."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from detector.cli.events import events
from detector.cli.program import Program
from detector.events_db import FIELDS
from detector.records import OffsetRecord, OnsetRecord
from detector.sinks.database import Database, DatabaseSink
from tests.detector.sinks.live_records import clip, offset, onset

Record = dict[str, Any]
NOW = datetime.fromisoformat("2026-11-23T18:00:00+01:00")


@click.group(cls=Program)
def program() -> None:
    """Group the commands, as the real program does."""


program.add_command(events)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Set the time zone of central Europe, and remove the settings of the user."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path / "etc"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def event(
    number: int, moment: datetime, label: str = "guitar", reason: Any = "ended", *, clock_synced: bool = True
) -> tuple[OnsetRecord, OffsetRecord]:
    """Return an onset, and its offset 3.42 s later."""
    common: Any = {"category": "music" if label == "guitar" else "voice", "clock_synced": clock_synced}
    end = (moment + timedelta(seconds=3.42)).isoformat()
    return (
        onset(label, number, time=moment.isoformat(), **common),
        offset(label, number, time=end, reason=reason, **common),
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
def sink(path: Path) -> Iterator[DatabaseSink]:
    found = DatabaseSink(Database(path=path, commit_s=0), path)
    found.open()
    yield found
    found.close()


@pytest.fixture
def stored(sink: DatabaseSink) -> DatabaseSink:
    """Give a database of six ended events, each a day older than the one before it, and an open one."""
    for age in range(6, 0, -1):
        for record in event(7 - age, NOW - timedelta(days=age), "speech" if age % 2 else "guitar"):
            sink.write(record)
    sink.write(event(7, NOW)[0])
    return sink


def run(*arguments: object) -> Result:
    return CliRunner().invoke(program, ["events", *map(str, arguments)], prog_name="snn-detect")


def found(*arguments: object) -> list[str]:
    """Return the ids that a command prints as JSON lines."""
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line)["id"] for line in result.stdout.splitlines()]


def ids(*numbers: int) -> list[str]:
    return [f"id-{number}" for number in numbers]


@pytest.mark.usefixtures("stored")
def test_events_as_json_lines() -> None:
    first = json.loads(run("query").stdout.splitlines()[0])
    assert tuple(first) == FIELDS
    assert first == {
        "id": "id-1",
        "label": "guitar",
        "category": "music",
        "source": "mic",
        "device": "usb-id:0d8c:0014",
        "onset_time": "2026-11-17T18:00:00.000+01:00",
        "offset_time": "2026-11-17T18:00:03.420+01:00",
        "duration_s": 3.42,
        "onset_s": 5123.44,
        "offset_s": 5126.86,
        "score": 0.91,
        "threshold": 0.6,
        "peak": 0.97,
        "mean": 0.9,
        "level_dbfs": -31.24,
        "reason": "ended",
        "clock_synced": True,
        "clip": None,
        "model": "household-1.2.0",
        "model_sha256": "abababababab",
    }


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ([], (1, 2, 3, 4, 5, 6, 7)),
        (["--label", "guitar"], (1, 3, 5, 7)),
        (["--label", "guitar", "--label", "speech", "--limit", "2"], (6, 7)),
        (["--category", "voice"], (2, 4, 6)),
        (["--category", "voice", "--label", "guitar"], ()),
        (["--since", "2026-11-21"], (5, 6, 7)),
        (["--until", "2026-11-19"], (1, 2, 3)),
        (["--since", "2026-11-19", "--until", "2026-11-19"], (3,)),
        (["--since", "2026-11-20T18:00:00"], (4, 5, 6, 7)),
        (["--since", "2026-11-20T18:00:00.001"], (5, 6, 7)),
        (["--since", "2026-11-20T17:00:00Z"], (4, 5, 6, 7)),
        (["--since", "2026-11-20T17:00:00+01:00", "--until", "2026-11-20T18:00:00+01:00"], ()),
        (["--limit", "3"], (5, 6, 7)),
        (["--limit", "1", "--until", "2026-11-20"], (4,)),
    ],
)
def test_query(arguments: list[str], numbers: tuple[int, ...]) -> None:
    assert found("query", *arguments) == ids(*numbers)
    assert found("export", "--format", "json", *arguments) == ids(*numbers)


@pytest.mark.parametrize(("span", "number"), [("90s", 1), ("30m", 2), ("2h", 3), ("1.5d", 4), ("2w", 5)])
def test_spans_before_now(sink: DatabaseSink, span: str, number: int) -> None:
    ages_s = (60, 1700, 7000, 129_000, 1_209_000)
    for at, age_s in enumerate(ages_s, 1):
        sink.write(event(at, datetime.now().astimezone() - timedelta(seconds=age_s))[0])
    assert found("query", "--since", span) == ids(*range(number, 0, -1))


@pytest.mark.parametrize("when", ["yesterday", "2", "2026-13-01", "h", "-2h", "99999999w", ""])
def test_a_time_that_cannot_be_parsed_is_an_error(when: str) -> None:
    result = run("query", "--since", when)
    assert result.exit_code == 2
    assert "2h, a date such as 2026-11-23" in result.stderr


@pytest.mark.usefixtures("stored")
def test_a_range_that_ends_before_it_begins_is_an_error() -> None:
    result = run("query", "--since", "2026-11-20", "--until", "2026-11-18")
    assert result.exit_code == 2
    assert "is not before" in result.stderr


@pytest.mark.usefixtures("stored")
def test_csv_has_a_heading_and_a_row_for_each_event() -> None:
    result = run("export", "--since", "2026-11-22")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["id"] for row in rows] == ids(6, 7)
    assert tuple(rows[0]) == FIELDS
    assert (rows[0]["onset_time"], rows[0]["clock_synced"]) == ("2026-11-22T18:00:00.000+01:00", "true")
    assert (rows[1]["offset_time"], rows[1]["reason"]) == ("", "")


def test_summer_time_is_that_of_the_event(sink: DatabaseSink) -> None:
    sink.write(event(1, datetime.fromisoformat("2026-07-01T10:00:00Z"))[0])
    assert json.loads(run("query").stdout)["onset_time"] == "2026-07-01T12:00:00.000+02:00"


def test_empty_results_are_reported(stored: DatabaseSink, path: Path) -> None:
    for arguments in (["query", "--label", "harp"], ["tail", "--label", "harp"]):
        result = run(*arguments)
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr == f"{path}: no such events; there are events of guitar, speech\n"
    hint = "no such events; there are events of guitar, speech; did you mean 'guitar'?"
    assert run("query", "--label", "guitarre").stderr == f"{path}: {hint}\n"
    result = run("query", "--since", "2099-01-01")
    assert result.stderr == f"{path}: no such events\n"
    assert run("export", "--since", "2099-01-01").stdout == f"{','.join(FIELDS)}\n"
    stored.close()


@pytest.mark.usefixtures("sink")
def test_an_empty_database_is_reported(path: Path) -> None:
    assert run("tail").stderr == f"{path}: holds no events yet\n"


@pytest.mark.usefixtures("stored")
def test_tail() -> None:
    assert found("tail", "-n", 2) == ids(6, 7)
    assert found("tail") == ids(*range(1, 8))
    assert found("tail", "--label", "speech", "-n", 1) == ids(6)
    assert run("tail", "-n", 0).stderr == ""


def one_error(result: Result, *words: str) -> None:
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("snn-detect: error: ")
    for word in words:
        assert word in line


def test_a_file_that_is_not_a_database_is_an_error(tmp_path: Path) -> None:
    one_error(run("tail"), str(tmp_path / "events.db"), "there is no such database")
    (tmp_path / "text.db").write_text("no database\n" * 100)
    one_error(run("tail", "--database", tmp_path / "text.db"), "text.db", "no database of events")
    (tmp_path / "empty.db").touch()
    one_error(run("tail", "--database", tmp_path / "empty.db"), "empty.db", "no database of events")
    with closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE something (else_ TEXT)")
    one_error(run("tail", "--database", tmp_path / "other.db"), "other.db", "is a database of another program")
    one_error(run("tail", "--database", tmp_path), "is a directory")


def test_a_database_of_a_newer_version_is_an_error(stored: DatabaseSink, path: Path) -> None:
    stored.close()
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version = 99")
    one_error(run("tail"), "newer snn-detect")


def test_a_damaged_database_is_an_error(stored: DatabaseSink, path: Path) -> None:
    stored.close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    one_error(run("query"), "events.db")


@pytest.mark.usefixtures("stored")
def test_the_database_of_the_settings_is_the_default(tmp_path: Path, path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "etc" / "config.toml").write_text(f'[database]\npath = "{tmp_path}/elsewhere/named.db"\n')
    one_error(run("tail"), "elsewhere/named.db")
    path.rename(tmp_path / "elsewhere" / "named.db")
    for ending in ("-wal", "-shm"):
        Path(f"{path}{ending}").rename(tmp_path / "elsewhere" / f"named.db{ending}")
    assert found("tail", "-n", 1) == ids(7)
    (tmp_path / "other.toml").write_text(f'[database]\npath = "{tmp_path}/elsewhere/named.db"\n')
    (tmp_path / "etc" / "config.toml").write_text("")
    assert found("tail", "-n", 1, "--config", tmp_path / "other.toml") == ids(7)
    assert found("query", "--config", tmp_path / "other.toml")[-1:] == ids(7)


def test_what_there_is_of_what_was_asked_for_is_named(stored: DatabaseSink, path: Path) -> None:  # noqa: ARG001
    assert run("query", "--source", "yard").stderr == f"{path}: no such events; there are events of mic\n"
    assert run("query", "--category", "Music").stderr.startswith(f"{path}: no such events; there are events of music")


# The modules are loaded first: the user may have no access to the folder of Python.
_UNPRIVILEGED = """
import os, sys
import click
import detector.events_db
from detector.cli.events import events
from detector.cli.program import Program
@click.group(cls=Program)
def program(): ...
program.add_command(events)
os.setgid(65534)
os.setuid(65534)
program(sys.argv[1:])
"""


def as_other_user(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", _UNPRIVILEGED, "events", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def shared() -> Iterator[Path]:
    """Give a database with an event in a folder that all users can read and only root can write."""
    if os.geteuid() != 0:
        pytest.skip("only root can change the user")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "events.db"
        writer = DatabaseSink(Database(path=path, commit_s=0), path)
        writer.open()
        writer.write(event(7, NOW)[0])
        yield path
        writer.close()


def test_the_right_to_read_is_enough(shared: Path) -> None:
    for ending in ("", "-wal", "-shm"):
        Path(f"{shared}{ending}").chmod(0o644)
    done = as_other_user("tail", "--database", shared)
    assert done.stderr == ""
    assert json.loads(done.stdout)["id"] == "id-7"


def test_the_right_to_read_is_enough_after_the_service_has_ended(shared: Path) -> None:
    with closing(sqlite3.connect(shared)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for ending in ("-wal", "-shm"):
        Path(f"{shared}{ending}").unlink()
    shared.chmod(0o644)
    before = list(shared.parent.iterdir())
    done = as_other_user("tail", "--database", shared)
    assert done.stderr == ""
    assert json.loads(done.stdout)["id"] == "id-7"
    assert list(shared.parent.iterdir()) == before


def test_missing_rights_are_named(shared: Path) -> None:
    done = as_other_user("tail", "--database", shared)
    assert done.returncode == 2
    assert f"{shared}: cannot be opened (permission denied); read it as root or as the service's user" in done.stderr
    shared.chmod(0o644)
    done = as_other_user("tail", "--database", shared)
    assert done.returncode == 2
    assert "the right to read events.db-wal" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# Tests that run in the background ignore Ctrl-C, and the program would inherit that.
_COMMAND = """
import signal, sys, click
signal.signal(signal.SIGINT, signal.default_int_handler)
from detector.cli.events import events
from detector.cli.program import Program, open_closed_streams, settle_streams
@click.group(cls=Program)
def program(): ...
program.add_command(events)
open_closed_streams()
try:
    program(sys.argv[1:])
finally:
    settle_streams()
"""


@contextmanager
def following(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-W", "error", "-c", _COMMAND, "events", "tail", "--follow", *map(str, arguments)]
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_event(process: subprocess.Popen[str]) -> Record:
    assert process.stdout is not None
    record: Record = json.loads(process.stdout.readline())
    return record


def test_following_shows_new_events_and_their_ends(sink: DatabaseSink, path: Path) -> None:
    for record in event(1, NOW):
        sink.write(record)
    with following("--database", path, "--label", "guitar") as process:
        assert next_event(process)["id"] == "id-1"
        began, ended = event(2, NOW + timedelta(seconds=10))
        sink.write(began)
        seen = next_event(process)
        assert (seen["id"], seen["reason"]) == ("id-2", None)
        sink.write(event(3, NOW, "speech")[0])
        sink.write(ended)
        seen = next_event(process)
        assert (seen["id"], seen["reason"], seen["duration_s"]) == ("id-2", "ended", 3.42)
        for record in event(4, NOW + timedelta(seconds=20)):
            sink.write(record)
        assert next_event(process)["id"] == "id-4"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stdout is not None
        assert process.stderr is not None
        assert (process.stdout.read(), process.stderr.read()) == ("", "")


def test_following_continues_with_a_database_that_is_replaced(sink: DatabaseSink, path: Path) -> None:
    for number in (1, 2):
        sink.write(event(number, NOW)[1])
    with following("--database", path, "-n", 1) as process:
        assert next_event(process)["id"] == "id-2"
        for ending in ("", "-wal", "-shm"):
            Path(f"{path}{ending}").rename(f"{path}.aside{ending}")
        sink.write(event(3, NOW)[1])
        assert next_event(process)["id"] == "id-3"


def test_following_ends_when_its_reader_has_closed_the_pipe_without_new_events(
    stored: DatabaseSink, path: Path
) -> None:
    with following("--database", path, "-n", 1) as process:
        next_event(process)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""
    stored.close()


def test_a_reader_that_closes_the_pipe_ends_the_query(sink: DatabaseSink, path: Path) -> None:
    for number in range(3000):
        sink.write(event(number, NOW)[1])
    command = [sys.executable, "-W", "error", "-c", _COMMAND, "events", "query", "--database", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        next_event(process)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == ""


def test_a_terminal_gets_readable_lines(stored: DatabaseSink, path: Path) -> None:
    stored.write(event(8, NOW, reason="interrupted", clock_synced=False)[1])
    stored.write(clip(number=8))
    outer, inner = pty.openpty()
    command = [sys.executable, "-c", _COMMAND, "events", "tail", "--database", str(path), "-n", "3"]
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner) as process:
        os.close(inner)
        text = ""
        while select.select([outer], [], [], 60)[0]:
            try:
                text += os.read(outer, 65536).decode()
            except OSError:  # Linux ends a terminal this way
                break
        os.close(outer)
    assert process.returncode == 0
    lines = text.splitlines()
    assert lines[0].split() == (
        ["2026-11-22T18:00:00.000+01:00", "speech", "3.42", "s", "score", "0.91", "peak", "0.97"]
    )
    assert "going on" in lines[1]
    assert lines[2].split()[-5:] == ["interrupted", "clock", "not", "set", "/clips/a.flac"]


def test_a_database_can_be_read_while_it_is_written(sink: DatabaseSink, path: Path) -> None:
    sink.write(event(0, NOW)[1])
    with following("--database", path) as process:
        assert next_event(process)["id"] == "id-0"
        for number in range(1, 200):
            sink.write(event(number, NOW)[1])
            if number % 50 == 0:
                assert found("query", "--database", path) == ids(*range(number + 1))
        assert [next_event(process)["id"] for _ in range(199)] == ids(*range(1, 200))


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from detector.cli.events import events; events(['query', '--help'], standalone_mode=False); "
        "heavy = {'numpy', 'pydantic', 'rich', 'sqlite3'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_labels_from_elsewhere_are_safe_in_a_terminal_and_in_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "events.db"
    sink = DatabaseSink(Database(path=path, commit_s=0), path)
    sink.open()
    for number, label in enumerate(("a\x1b[2Jb", "=HYPERLINK(1)", "@x", "-x")):
        sink.write(onset(label, number))
        sink.write(offset(label, number))
    sink.close()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    events.main(["query", "--database", str(path)], standalone_mode=False)
    assert capsys.readouterr().out.replace("\n", "").isprintable()
    events.main(["export", "--database", str(path)], standalone_mode=False)
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert sorted(row["label"] for row in table)[:3] == ["'-x", "'=HYPERLINK(1)", "'@x"]
    assert table[0]["level_dbfs"] == "-31.24"


@pytest.mark.parametrize("command", ["tail", "query", "export"])
def test_a_limit_of_many_digits_is_one_line(command: str, stored: DatabaseSink, path: Path) -> None:
    stored.close()
    many = run(command, "--database", path, "--limit", "9" * 5000)
    one_error(many, "--limit")
    assert len(many.stderr) < 2100
    one_error(run(command, "--database", path, "--limit", "9" * 30), "--limit")
    assert run(command, "--database", path, "--limit", str(2**63 - 1)).exit_code == 0
