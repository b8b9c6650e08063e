"""Which files continue one another, what their recorder is called, and how the work is divided."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from detector.archive.plan import Recording, Rules, Unit, find, scan, streams, units
from detector.errors import SourceError
from tests.detector.archive.wav import write

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def recording(name: str, at_s: float | None, seconds: float | None = 60.0, source: str = "pond") -> Recording:
    start = None if at_s is None else BEGIN + timedelta(seconds=at_s)
    return Recording(f"/data/{name}", "/data", source, 1000, seconds, start)


def names(chains: list[list[Recording]]) -> list[list[str]]:
    return [[Path(r.path).name for r in chain] for chain in chains]


def test_files_that_continue_one_another_within_a_second_are_in_one_stream_in_order() -> None:
    files = [recording("c", 121), recording("a", 0), recording("b", 60.9), recording("d", 182.1), recording("e", 241)]
    assert names(list(streams(files))) == [["a", "b", "c"], ["d"], ["e"]]


def test_files_of_other_recorders_and_without_a_time_are_streams_of_their_own() -> None:
    files = [recording("a", 0), recording("b", 60, source="barn"), recording("c", None), recording("d", None)]
    assert names(list(streams(files))) == [["b"], ["a"], ["c"], ["d"]]


def test_behind_a_file_of_unknown_length_the_next_one_may_continue() -> None:
    files = [recording("a", 0, None), recording("b", 500), recording("c", 5000)]
    assert names(list(streams(files))) == [["a", "b"], ["c"]]


def test_a_file_that_cannot_be_used_ends_a_stream() -> None:
    broken = Recording("/data/b", "/data", "pond", 9, None, BEGIN + timedelta(seconds=60), fault="broken")
    assert names(list(streams([recording("a", 0), broken, recording("c", 120)]))) == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("pond/20260101_000000.wav", "pond"),
        ("pond/2026/01/02/20260102_000000.wav", "pond"),
        ("pond/20260102/000000.wav", "pond"),
        ("01/20260101_000000.wav", "01"),
        ("pond/2026-01-02/north/20260102_000000.wav", "pond/north"),
        ("Data/SMA01234_20260101_000000.wav", "Data/SMA01234"),
        ("20260101_000000.wav", "recordings"),
        ("clips/turdus_merula_87p_20260131T061500Z.wav", "clips"),
    ],
)
def test_the_recorder_is_its_folder_without_dates_and_the_begin_of_its_names(
    tmp_path: Path, path: str, source: str
) -> None:
    place = tmp_path / "recordings" / path
    place.parent.mkdir(parents=True)
    write(place)
    ((found, root),) = find([str(tmp_path / "recordings")])
    assert scan(found, root, Rules()).source == source


def test_folders_of_a_day_belong_to_the_folder_above(tmp_path: Path) -> None:
    for day in ("2026-01-01", "2026-01-02"):
        (tmp_path / "pond" / day).mkdir(parents=True)
        write(tmp_path / "pond" / day / f"{day.replace('-', '')}_000000.wav")
    found = find([str(tmp_path / "pond" / "2026-01-01"), str(tmp_path / "pond" / "2026-01-02")])
    assert {scan(path, root, Rules()).source for path, root in found} == {"pond"}


def test_each_file_is_found_once_and_what_is_missing_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav")
    assert [p for p, _ in find([str(tmp_path), str(path), str(tmp_path / ".." / tmp_path.name)])] == [str(path)]
    (tmp_path / "empty").mkdir()
    for given, reason in (("missing", "no such file"), ("empty", "holds no sound files")):
        with pytest.raises(SourceError, match=reason):
            list(find([str(tmp_path / given)]))


def test_a_file_that_is_no_sound_has_a_fault(tmp_path: Path) -> None:
    (tmp_path / "20260101_000000.wav").write_bytes(b"RIFF....WAVE")
    found = scan(str(tmp_path / "20260101_000000.wav"), str(tmp_path), Rules())
    assert "no sound file that can be read" in found.fault
    assert found.start == BEGIN


def test_units_hold_all_files_once_and_there_are_enough_for_all_workers() -> None:
    files = [recording(f"{n:04}", 600 * n) for n in range(200)]
    found = units(files, workers=2)
    assert sorted(r.path for unit in found for r in unit.recordings) == [r.path for r in files]
    assert len(found) >= 16
    assert len({unit.name for unit in found}) == len(found)
    assert units(files, workers=2) == found


def test_a_long_stream_is_one_unit_and_comes_first() -> None:
    short = [recording(f"s{n}", 600 * n) for n in range(10)]
    long = [recording(f"l{n}", 3600 * n, 3600.0, "barn") for n in range(5)]
    first = units([*short, *long], workers=2)[0]
    assert [r.path for r in first.recordings] == [r.path for r in long]


def test_a_file_is_taken_out_of_a_unit_by_its_number() -> None:
    unit = Unit("name", ((recording("a", 0), recording("b", 60)), (recording("c", 300),)))
    marked = unit.without(1, "too slow")
    assert [[r.fault for r in stream] for stream in marked.streams] == [["", "too slow"], [""]]
    assert [r.fault for r in unit.without(2, "too slow").recordings] == ["", "", "too slow"]
