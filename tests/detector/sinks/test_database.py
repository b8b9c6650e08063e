"""Events in SQLite: none lost, none twice, nothing written while nothing happens, whatever the disk does."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from detector.errors import ConfigError
from detector.events_db import VERSION, EventReader, EventStore, StoredEvent, Wanted
from detector.sinks import database as database_module
from detector.sinks.base import RetryableError, SinkWorker
from detector.sinks.database import Database, DatabaseSink
from tests.detector.sinks.live_records import clip, gap, health, offset, onset
from tests.detector.sinks.small_disk import SmallDisk
from tests.service import wait_until

AT_ONCE = Database(path=Path("unused"), commit_s=0)
LATER = Database(path=Path("unused"), commit_s=300)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


def opened(path: Path, settings: Database = AT_ONCE) -> DatabaseSink:
    sink = DatabaseSink(settings, path)
    sink.open()
    return sink


@pytest.fixture
def sink(path: Path) -> Iterator[DatabaseSink]:
    found = opened(path)
    yield found
    found.close()


def rows(path: Path, table: str = "events") -> list[dict[str, Any]]:
    """Read as another program does."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY number")]  # noqa: S608


def number_of_events(path: Path, where: str = "true") -> int:
    """Return the number of events, where there are too many to read."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        found: int = connection.execute(f"SELECT count(*) FROM events WHERE {where}").fetchone()[0]  # noqa: S608
    return found


def ids(path: Path) -> list[str]:
    return [row["id"] for row in rows(path)]


def test_an_event_becomes_a_row(sink: DatabaseSink, path: Path) -> None:
    sink.write(onset())
    (row,) = rows(path)
    assert row == {
        "number": 1,
        "id": "id-1",
        "source": "mic",
        "device": "usb-id:0d8c:0014",
        "label": "guitar",
        "category": "music",
        "onset_s": 5123.44,
        "offset_s": None,
        "onset_utc": "2026-11-23T17:04:05.120Z",
        "offset_utc": None,
        "clock_synced": 1,
        "score": 0.91,
        "threshold": 0.6,
        "peak": None,
        "mean": None,
        "reason": None,
        "model": "household-1.2.0",
        "model_sha256": "abababababab",
        "clip": None,
        "level_dbfs": -31.24,
    }
    sink.write(offset())
    sink.write(clip())
    ended = {"offset_s": 5126.86, "offset_utc": "2026-11-23T17:04:08.540Z", "peak": 0.97, "mean": 0.9}
    assert rows(path) == [row | ended | {"reason": "ended", "clip": "/clips/a.flac"}]


def test_gaps_are_stored_and_health_is_not(sink: DatabaseSink, path: Path) -> None:
    sink.write(gap())
    sink.write(gap())
    sink.write(health())
    (row,) = rows(path, "gaps")
    assert (row["at_s"], row["lost_s"], row["cause"], row["at_utc"]) == (
        12.3,
        0.5,
        "overrun",
        "2026-11-23T17:04:05.120Z",
    )
    assert rows(path) == []


def test_an_id_written_twice_stays_one_row(sink: DatabaseSink, path: Path) -> None:
    for record in (onset(), onset(), offset(), offset(), onset()):
        sink.write(record)
    (row,) = rows(path)
    assert (row["reason"], row["peak"], row["score"]) == ("ended", 0.97, 0.91)


def test_an_offset_whose_onset_was_dropped_is_an_event_all_the_same(sink: DatabaseSink, path: Path) -> None:
    sink.write(offset())
    (row,) = rows(path)
    assert (row["onset_utc"], row["score"], row["peak"]) == ("2026-11-23T17:04:05.120Z", None, 0.97)
    sink.write(onset())  # late, by whatever way
    (row,) = rows(path)
    assert (row["score"], row["peak"], row["reason"]) == (0.91, 0.97, "ended")


def test_names_that_are_no_text_do_not_stop_it(sink: DatabaseSink, path: Path) -> None:
    sink.write(onset(device="caf\udce9"))
    assert rows(path)[0]["device"] == "caf\\udce9"


def test_records_wait_in_memory_and_are_committed_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    sink = opened(path, Database(path=path, commit_s=5))
    for number in range(10):
        sink.write(onset(number=number))
    sink.tick()
    assert rows(path) == []
    now += 3.9
    sink.tick()
    assert rows(path) == []
    now += 0.9  # the next tick would be too late
    sink.tick()
    assert len(rows(path)) == 10
    sink.close()


def test_not_too_many_wait_in_memory(path: Path) -> None:
    sink = opened(path, LATER)
    for number in range(501):
        sink.write(onset(number=number))
    assert len(rows(path)) == 500
    sink.close()
    assert len(rows(path)) == 501


def state_of(path: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_mtime_ns, p.stat().st_size) for p in path.parent.iterdir()}


def test_nothing_is_written_while_nothing_happens(path: Path) -> None:
    sink = opened(path, Database(path=path, commit_s=0, retention_days=1))
    sink.write(onset())
    before = state_of(path)
    for _ in range(5):
        sink.write(health())
        sink.tick()
    assert state_of(path) == before
    sink.close()


def test_events_left_open_by_a_crash_are_closed(path: Path) -> None:
    program = (
        "import sys, os; from pathlib import Path; from detector.sinks.database import DatabaseSink\n"
        "from detector.sinks.database import Database\n"
        "from tests.detector.sinks.live_records import onset, offset\n"
        "path = Path(sys.argv[1]); sink = DatabaseSink(Database(path=path, commit_s=0), path); sink.open()\n"
        "for record in (onset(number=1), offset(number=1), onset(number=2)): sink.write(record)\n"
        "os._exit(1)\n"
    )
    subprocess.run([sys.executable, "-c", program, path], check=False, cwd=Path(__file__).parents[3])
    assert [row["reason"] for row in rows(path)] == ["ended", None]
    sink = opened(path)
    assert [row["reason"] for row in rows(path)] == ["ended", "interrupted"]
    # After a reload the event may still be going on: its own end puts it right.
    sink.write(offset(number=2))
    assert [row["reason"] for row in rows(path)] == ["ended", "ended"]
    sink.close()


def test_a_reader_does_not_hold_the_writer(sink: DatabaseSink, path: Path) -> None:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (0,)
        sink.write(onset())
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (0,)
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)


def test_a_locked_file_is_waited_for(path: Path) -> None:
    worker = SinkWorker("database", DatabaseSink(AT_ONCE, path))
    wait_until(path.exists, "the file")
    wait_until(lambda: Path(f"{path}-wal").exists() and _has_tables(path), "the tables")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(5):
            worker.submit(onset(number=number))
        wait_until(lambda: not worker.counts.working, "the first refusal")
        assert worker.counts.waiting == 5
        other.execute("ROLLBACK")
    worker.begin_close(20)
    assert worker.join()
    assert ids(path) == [f"id-{number}" for number in range(5)]
    assert worker.counts.written == 5


def _has_tables(path: Path) -> bool:
    try:
        rows(path)
    except sqlite3.OperationalError:
        return False
    return True


def test_a_full_disk_costs_nothing(small_disk: SmallDisk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = small_disk.path / "events.db"
    worker = SinkWorker("database", DatabaseSink(Database(path=path, commit_s=0.01), path))
    worker.submit(onset(number=0))
    wait_until(lambda: path.exists() and _has_tables(path) and len(rows(path)) == 1, "the first row")
    small_disk.fill()
    for number in range(1, 300):
        worker.submit(onset(number=number))
        worker.submit(offset(number=number))
    wait_until(lambda: not worker.counts.working, "the refusal")
    assert len(rows(path)) < 299
    small_disk.make_room()
    worker.begin_close(30)
    assert worker.join()
    assert ids(path) == [f"id-{number}" for number in range(300)]
    assert {row["reason"] for row in rows(path)[1:]} == {"ended"}
    assert (worker.counts.dropped, worker.counts.failed) == (0, 0)
    logged = ["works again" in message for message in caplog.messages]
    assert logged == [bool(number % 2) for number in range(len(logged))]  # each change once, and all is well at the end
    assert 2 <= len(logged) < 20


def test_a_record_that_was_refused_is_the_workers_alone(small_disk: SmallDisk) -> None:
    sink = opened(small_disk.path / "events.db")
    small_disk.fill()
    for _ in range(3):
        with pytest.raises(RetryableError):
            sink.write(onset())
    sink.close()  # nothing is left in here that could be lost


def test_a_small_disk_is_not_filled_by_what_sqlite_keeps_besides(small_disk: SmallDisk) -> None:
    path = small_disk.path / "events.db"
    sink = opened(path)
    for number in range(500):
        sink.write(onset(number=number))
        sink.write(offset(number=number))
    assert len(rows(path)) == 500
    sink.close()


def test_a_full_disk_at_the_start(small_disk: SmallDisk) -> None:
    path = small_disk.path / "events.db"
    small_disk.fill()
    sink = DatabaseSink(AT_ONCE, path)
    with pytest.raises(RetryableError, match="cannot be written"):
        sink.open()
    small_disk.make_room()
    sink.open()
    sink.write(onset())
    assert ids(path) == ["id-1"]
    sink.close()


def test_what_is_lost_at_the_end_is_said(small_disk: SmallDisk) -> None:
    path = small_disk.path / "events.db"
    sink = opened(path, LATER)
    for number in range(400):
        sink.write(onset(number=number))
    small_disk.fill()
    with pytest.raises(RetryableError, match="400 records are lost"):
        sink.close()


@pytest.mark.parametrize("damage", ["text", "middle"])
def test_a_damaged_file_is_put_aside(path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    if damage == "text":
        path.write_text("this is no database\n" * 500)
    else:
        sink = opened(path)
        for number in range(200):
            sink.write(onset(number=number))
        sink.close()
        with path.open("r+b") as file:
            file.seek(3 * 4096)
            file.write(os.urandom(4 * 4096))
    before = path.read_bytes()
    sink = opened(path)
    sink.write(onset())
    assert ids(path) == ["id-1"]
    (aside,) = path.parent.glob("events.db.damaged-*")
    assert aside.read_bytes() == before
    (message,) = caplog.messages
    assert message.startswith(f"{path}: the database is damaged (")
    assert f"it is now {aside}, and a new one is started" in message
    sink.close()


def test_damage_while_it_is_used_costs_nothing_that_waits(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = opened(path)
    for number in range(200):
        sink.write(onset(number=number))
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))
    with closing(sqlite3.connect(path, isolation_level=None)) as other, pytest.raises(sqlite3.DatabaseError):
        other.execute("DELETE FROM events")
    for number in range(200, 210):
        sink.write(onset(number=number))
    sink.close()
    assert len(list(path.parent.glob("events.db.damaged-*"))) == 1
    assert ids(path) == [f"id-{number}" for number in range(200, 210)]
    assert sum("is damaged" in message for message in caplog.messages) == 1


def test_a_file_that_was_removed_is_created_again(
    sink: DatabaseSink, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink.write(onset(number=1))
    for ending in ("", "-wal", "-shm"):
        Path(f"{path}{ending}").unlink()
    sink.write(onset(number=2))
    assert ids(path) == ["id-2"]
    assert "removed or replaced" in caplog.text


def test_folders_are_made_for_the_default_place_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "snn-detect" / "events.db"
    named = DatabaseSink(Database(path=path), path)
    with pytest.raises(RetryableError, match="there is no directory"):
        named.open()
    sink = DatabaseSink(Database(), path)
    sink.open()
    sink.close()
    assert path.exists()
    assert path.stat().st_mode & 0o007 == 0


def test_retention(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = datetime.fromisoformat(str(onset().time))
    days = timedelta(days=1)
    sink = opened(path, Database(path=path, commit_s=0, retention_days=7))
    for age in (30, 7.01, 6.99, 0):
        sink.write(onset(number=int(100 * age), time=(now - age * days).isoformat(), clock_synced=False))
        sink.write(gap(time=(now - age * days).isoformat(), clock_synced=False))
    sink.tick()
    assert len(rows(path)) == 4  # while the clock may be wrong, nothing is deleted by it
    sink.write(health(time=now.isoformat()))
    sink.tick()
    assert ids(path) == ["id-699", "id-0"]
    assert len(rows(path, "gaps")) == 2
    assert "4 old records deleted" in caplog.text
    sink.close()


VERSION_1 = """
CREATE TABLE events (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, device TEXT, label TEXT NOT NULL,
    category TEXT, onset_s REAL NOT NULL, offset_s REAL, onset_utc TEXT, offset_utc TEXT, clock_synced INTEGER,
    score REAL, threshold REAL, peak REAL, mean REAL, reason TEXT, model TEXT, model_sha256 TEXT, clip TEXT
);
CREATE INDEX events_by_time ON events (onset_utc);
CREATE INDEX events_by_label ON events (label, onset_utc);
INSERT INTO events VALUES (
    1, 'old-1', 'mic', 'hw:1', 'guitar', 'music', 1.5, 2.5, '2026-01-01T00:00:01.500Z', '2026-01-01T00:00:02.500Z', 1,
    0.8, 0.6, 0.9, 0.7, 'ended', 'household-0.1', 'ab12', NULL
);
PRAGMA user_version = 1;
"""


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_a_file_of_version_1_is_brought_to_this_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1)
    sink = opened(path)
    sink.write(onset())
    sink.write(gap())
    sink.close()
    assert version(path) == VERSION
    old, new = rows(path)
    assert (old["id"], old["score"], old["level_dbfs"]) == ("old-1", 0.8, None)
    assert (new["id"], new["level_dbfs"]) == ("id-1", -31.24)
    assert len(rows(path, "gaps")) == 1


def test_a_migrated_file_and_a_new_one_have_the_same_tables(tmp_path: Path) -> None:
    def tables(path: Path) -> list[tuple[str, str, int]]:
        opened(path).close()
        with closing(sqlite3.connect(path)) as connection:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]
            return [(n, c[1], c[3]) for n in names for c in connection.execute(f"PRAGMA table_info({n})")]

    with closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript(VERSION_1)
    assert tables(tmp_path / "old.db") == tables(tmp_path / "new.db")


def test_a_migration_is_done_wholly_or_not_at_all(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1 + "CREATE TABLE gaps (in_the_way TEXT);")
    sink = DatabaseSink(AT_ONCE, path)
    with pytest.raises(RetryableError, match="gaps already exists"):
        sink.open()
    assert version(path) == 1
    assert "level_dbfs" not in rows(path)[0]


def test_a_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(VERSION_1 + "PRAGMA user_version = 99;")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=rf"events.db: was written by a newer snn-detect \(version 99 .* {VERSION}\)"):
        opened(path)
    assert version(path) == 99
    assert rows(path)[0]["id"] == "old-1"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "tables",
    [
        "CREATE TABLE events (id INTEGER, what TEXT)",
        "CREATE TABLE states (id INTEGER); PRAGMA user_version = 1",
        "CREATE TABLE events (onset_utc TEXT, label TEXT); PRAGMA user_version = 99",
        "CREATE VIEW events AS SELECT 1",
        "PRAGMA user_version = 2",
    ],
)
def test_a_file_of_another_program_is_left_alone(path: Path, tables: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(tables)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"events.db: is a database of another program and stays as it is"):
        opened(path)
    with pytest.raises(ConfigError, match="another program"):
        EventReader(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def filled(path: Path, count: int) -> None:
    """Write a file with so many events of ten labels in two categories, half a minute apart, the last of them rare."""
    EventStore(path).close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            """
            WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < :count)
            INSERT INTO events (id, source, label, category, onset_s, offset_s, onset_utc, offset_utc, reason)
            SELECT printf('%08d-0000-4000-8000-000000000000', k),
                CASE WHEN k % 5000 = 1 THEN 'attic' WHEN k % 2 THEN 'mic' ELSE 'yard' END,
                CASE WHEN k % 10000 = 0 THEN 'rare' ELSE 'label' || (k % 10) END,
                CASE WHEN k % 10000 = 0 THEN 'rare' WHEN k % 10 < 5 THEN 'low' ELSE 'high' END,
                30 * k, 30 * k + 1,
                strftime('%Y-%m-%dT%H:%M:%S.000Z', '2026-01-01', '+' || (30 * k) || ' seconds'),
                strftime('%Y-%m-%dT%H:%M:%S.000Z', '2026-01-01', '+' || (30 * k + 1) || ' seconds'), 'ended'
            FROM n
            """,
            {"count": count},
        )


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "events.db"
    filled(path, 200_000)
    return path


def steps_of(connection: sqlite3.Connection, act: Callable[[], object]) -> int:
    """Return how many thousand steps of SQLite's machine something takes: unlike seconds, the same everywhere."""
    steps = [0]

    def count() -> int:
        steps[0] += 1
        return 0

    connection.set_progress_handler(count, 1000)
    act()
    connection.set_progress_handler(None, 0)
    return steps[0]


NOON = datetime(2026, 2, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ({}, 500),
        ({"labels": ("label3",)}, 500),
        ({"labels": ("label3", "label7", "rare", "none")}, 500),
        ({"labels": ("rare",)}, 20),
        ({"labels": ("none",)}, 0),
        ({"categories": ("low",)}, 500),
        ({"categories": ("rare",)}, 20),
        ({"categories": ("none",)}, 0),
        ({"labels": ("label3",), "categories": ("low",)}, 500),
        ({"labels": ("label3",), "categories": ("high",)}, 0),
        ({"sources": ("mic",)}, 500),
        ({"sources": ("attic",)}, 40),
        ({"sources": ("none",)}, 0),
        ({"sources": ("attic", "none"), "labels": ("label1",)}, 40),
        ({"sources": ("attic",), "labels": ("label3",)}, 0),
        ({"sources": ("attic",), "categories": ("low",)}, 40),
        ({"sources": ("mic", "yard"), "labels": ("label3", "label4"), "categories": ("low",)}, 500),
        ({"sources": ("mic",), "labels": ("label3",), "categories": ("high",)}, 0),
        ({"sources": ("mic", "yard"), "labels": ("label3", "label8", "none"), "categories": ("rare",)}, 0),
        ({"sources": ("mic",), "labels": ("label3",), "categories": ("high",), "until": NOON}, 0),
        ({"since": NOON}, 500),
        ({"until": NOON}, 500),
        ({"since": NOON, "until": NOON + timedelta(hours=1), "labels": ("label3", "label4")}, 24),
        ({"until": NOON, "categories": ("rare",)}, 9),
        ({"since": datetime(2030, 1, 1, tzinfo=UTC)}, 0),
        ({"ids": ("00000007-0000-4000-8000-000000000000",)}, 1),
    ],
)
def test_the_newest_of_very_many_are_found_without_reading_the_others(
    large: Path, wanted: dict[str, Any], count: int
) -> None:
    found: list[StoredEvent] = []
    with EventReader(large) as reader:
        selection = Wanted(**wanted, newest=500)
        steps = steps_of(reader._connection, lambda: found.extend(reader.events(selection)))
        assert steps <= 60, "thousand steps; through all of them it would be some 1,000"
        everything = list(reader.events(Wanted(**wanted)))
    assert len(found) == count
    assert [e.number for e in found] == [e.number for e in everything][-500:]


def test_the_labels_of_very_many_events_are_found_without_reading_them(large: Path) -> None:
    with EventReader(large) as reader:
        names: list[str] = []
        assert steps_of(reader._connection, lambda: names.extend(reader.values("label"))) <= 1
        assert names == [*(f"label{k}" for k in range(10)), "rare"]


def test_a_store_of_very_many_events_is_opened_at_once(large: Path) -> None:
    assert large.stat().st_size > 16_000_000
    began = time.process_time()
    EventStore(large).close()
    assert time.process_time() - began < 0.1


def test_damage_in_a_large_file_is_found_where_it_is_written(
    large: Path, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(large.read_bytes())
    sink = opened(path)
    sink.write(onset(number=1))
    with path.open("r+b") as file:
        file.seek(16 * 4096)
        file.write(b"\xff" * (path.stat().st_size - 17 * 4096))
    sink.close()
    sink = opened(path)
    for number in range(2, 4):
        sink.write(onset(number=number))
    sink.close()
    assert ids(path) == ["id-2", "id-3"]
    assert "the database is damaged" in caplog.text


def test_very_many_old_events_are_deleted_in_steps(
    large: Path, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    path.write_bytes(large.read_bytes())
    monkeypatch.setattr(database_module, "_DELETE_S", 0.0)
    sink = opened(path, Database(path=path, commit_s=0, retention_days=7))
    sink.write(health(time="2026-02-08T12:00:00+00:00"))
    before = number_of_events(path, "onset_utc < '2026-02-01T12:00:00.000Z'")
    assert before > 80_000
    sink.tick()
    assert number_of_events(path) == 199_000
    sink.write(onset(number=1, time="2026-02-08T12:00:00+00:00"))  # it does not wait for the rest
    monkeypatch.setattr(database_module, "_DELETE_S", 60.0)
    sink.tick()
    assert number_of_events(path) == 200_001 - before
    assert f"{before} old records deleted" in caplog.text
    sink.close()
