"""The data set: whole at any moment, whatever interrupts a commit, and readable by DuckDB."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from detector.archive import dataset
from detector.archive.dataset import METADATA_KEY, DataSet, Staged, folder_name, moments
from detector.errors import ConfigError

SETTINGS = {"model": "m-1.0.0", "model_sha256": "ab12", "thresholds": {"007": 0.5}}
LABELS = ("007", "Music/Bass")
START = datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)


class KilledError(BaseException):
    """Stands for the end of the process."""


def stage(data: DataSet, number: int, *, error: str | None = None) -> str:
    """Stage a unit of one file with two events, on two days, and one second of scores."""
    path = f"/in/{number}.wav"
    with Staged(data.staging, f"unit{number}", LABELS) as staged:
        for k in range(2):
            row = {"id": f"{number}-{k}", "source": "01", "label": LABELS[k], "onset_s": 2.0 * k, "path": path}
            staged.add("events", row | moments(START, 2.0 * k))
        place = {"source": "01", "path": path, "in_file_s": 0.0, "stream": path, "second": 0, **moments(START, 0)}
        staged.add_scores({name: [value] for name, value in place.items()} | {f"score_{n}": [0.5] for n in LABELS})
        row = {"path": path, "source": "01", "size_bytes": 10, "seconds": 3.0, "events": 2, "error": error}
        staged.add("files", row | moments(START, 0))
        staged.end_stream()
    return staged.name


def read(folder: Path, kind: str, columns: str) -> list[Any]:
    place = f"{folder}/{kind}/**/*.parquet" if kind != "errors" else f"{folder}/errors.parquet"
    return sorted(duckdb.execute(f"select {columns} from '{place}'").fetchall())  # noqa: S608 - of the test itself


@pytest.fixture
def data(tmp_path: Path) -> Iterator[DataSet]:
    found = DataSet(tmp_path / "out", SETTINGS)
    yield found
    found.close()


def test_duckdb_reads_all_types_as_they_were(data: DataSet) -> None:
    data.commit([stage(data, 1, error="cut off")])
    rows = read(data.folder, "events", "label, source, onset_s, day, recorder, date, time, local_time")
    first, last = rows
    assert first[:5] == ("007", "01", 0.0, date(2026, 1, 31), "_01")
    assert first[5:] == (date(2026, 1, 31), START, START.replace(tzinfo=None))
    assert last[:5] == ("Music/Bass", "01", 2.0, date(2026, 2, 1), "_01")
    assert last[5:] == (date(2026, 2, 1), START + timedelta(seconds=2), datetime(2026, 2, 1, 0, 0, 1))  # noqa: DTZ001
    assert read(data.folder, "errors", "path, error") == [("/in/1.wav", "cut off")]
    assert read(data.folder, "scores", '"score_Music/Bass"') == [(0.5,)]
    part = next((data.folder / "events").rglob("*.parquet"))
    metadata = json.loads(pq.ParquetFile(part).schema_arrow.metadata[METADATA_KEY])
    assert metadata == SETTINGS


def test_events_without_a_time_are_in_a_partition_of_their_own(data: DataSet) -> None:
    with Staged(data.staging, "unit", LABELS) as staged:
        staged.add("events", {"id": "a", "source": "x", "label": "007", "path": "/in/a.wav", **moments(None, 3)})
        staged.add("files", {"path": "/in/a.wav", "source": "x", "size_bytes": 1, **moments(None, 0)})
        staged.end_stream()
    data.commit([staged.name, stage(data, 1)])
    assert sorted((r[0], str(r[1])) for r in read(data.folder, "events", "day, date") if r[1] is None) == [
        ("unknown", "None")
    ]
    assert len(read(data.folder, "events", "id")) == 3


def steps() -> Iterator[tuple[Any, str]]:
    """Yield what a commit does to the disk, one call each."""
    yield from ((Path, name) for name in ("replace", "unlink", "mkdir"))
    yield from ((dataset, name) for name in ("sync", "write_text"))
    yield shutil, "rmtree"


def interrupt(patch: pytest.MonkeyPatch, after: int) -> None:
    """Have the process end before the ``after``-th of these calls, and with it all later ones."""
    count = itertools.count()

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if next(count) >= after:
                raise KilledError
            return real(*arguments, **named)

        return call

    for owner, name in steps():
        patch.setattr(owner, name, counted(getattr(owner, name)))


def test_a_commit_that_is_interrupted_anywhere_loses_nothing_and_leaves_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # takes long, and no power fails here
    expected = [("1-0",), ("1-1",), ("2-0",), ("2-1",)]
    for after in itertools.count():
        folder = tmp_path / str(after)
        data = DataSet(folder, SETTINGS)
        data.commit([stage(data, 1, error="first")])
        names = [stage(data, 2, error="second")]
        is_complete = False
        with pytest.MonkeyPatch.context() as patch:
            interrupt(patch, after)
            try:
                data.commit(names)
                is_complete = True
            except KilledError:
                pass
        data.close()
        for part in [*folder.glob("*/**/*.parquet"), folder / "errors.parquet"]:
            if ".archive" not in part.parts:
                pq.ParquetFile(part).read()
        assert len(read(folder, "events", "id")) == len({*read(folder, "events", "id")})
        again = DataSet(folder, SETTINGS)
        again.commit(again.staged())
        assert read(folder, "events", "id") == expected, after
        assert read(folder, "files", "path") == [("/in/1.wav",), ("/in/2.wav",)]
        assert read(folder, "errors", "error") == [("first",), ("second",)]
        assert sorted(again.done) == ["/in/1.wav", "/in/2.wav"]
        assert list(again.staging.iterdir()) == []
        again.close()
        if is_complete:
            break
    assert after > 15


def test_what_a_worker_staged_twice_counts_once(data: DataSet) -> None:
    names = [stage(data, 1), stage(data, 1)]
    data.commit(names)
    data.commit([stage(data, 1), stage(data, 2)])
    assert read(data.folder, "events", "id") == [("1-0",), ("1-1",), ("2-0",), ("2-1",)]
    assert data.staged() == []


def test_a_staged_file_that_is_cut_off_is_not_done(data: DataSet) -> None:
    name = stage(data, 1)
    path = data.staging / f"{name}.arrows"
    path.write_bytes(path.read_bytes()[:-200])
    data.commit([name, stage(data, 2)])
    assert list(data.done) == ["/in/2.wav"]


def test_other_settings_another_process_and_a_folder_of_something_else_are_refused(
    data: DataSet, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="is in use by process"):
        DataSet(data.folder, SETTINGS)
    data.close()
    with pytest.raises(ConfigError, match=r"begun with another model_sha256 \(\"ab12\", now \"cd34\"\)"):
        DataSet(data.folder, SETTINGS | {"model_sha256": "cd34"})
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.doc").touch()
    with pytest.raises(ConfigError, match="holds something else"):
        DataSet(other, SETTINGS)
    data._lock = DataSet(data.folder, SETTINGS | {"version": "9.9"})._lock


def test_there_are_tables_where_nothing_was_found(data: DataSet) -> None:
    data.finish()
    assert read(data.folder, "events", "label") == read(data.folder, "errors", "path") == []


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("pond", "pond"),
        ("01", "_01"),
        ("_01", "__01"),
        ("site/north", "site~2Fnorth"),
        ("a~b", "a~7Eb"),
        ("NaN", "_NaN"),
        ("2026-01-01", "_2026-01-01"),
        ("Größe", "Gr~C3~B6~C3~9Fe"),
        ("", "_"),
    ],
)
def test_the_folder_of_a_recorder_is_never_read_as_another_type(source: str, name: str) -> None:
    assert folder_name(source) == name


def test_long_names_stay_apart() -> None:
    names = {folder_name("x" * 300 + end) for end in "ab"}
    assert len(names) == 2
    assert all(len(name) < 200 for name in names)
