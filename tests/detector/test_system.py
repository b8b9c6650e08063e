from __future__ import annotations

from pathlib import Path

import pytest

from detector.system import Backoff, replace_file, write_text


def test_the_file_appears_at_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    path.write_bytes(b"before")

    with replace_file(path) as part:
        part.write_bytes(b"after")
        assert path.read_bytes() == b"before"
        assert part.suffix == ".npz"  # matplotlib chooses the format by it

    assert path.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text("before", encoding="utf-8")

    with pytest.raises(ValueError, match="in the middle"), replace_file(path) as part:  # noqa: PT012 - the block is tested
        part.write_text("half", encoding="utf-8")
        raise ValueError("in the middle")

    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_text_that_cannot_be_encoded_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"

    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\udcff")
    assert not list(tmp_path.iterdir())

    write_text(path, "\udcff ä\n", errors="backslashreplace")
    assert path.read_bytes() == b"\\udcff \xc3\xa4\n"


def test_a_missing_folder_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "missing" / "labels.tsv", "")


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0)

    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_success_brings_back_the_shortest_pause() -> None:
    backoff = Backoff(0.5, 60.0)
    backoff.next_s()
    backoff.next_s()

    backoff.reset()

    assert [backoff.next_s(), backoff.next_s()] == [0.5, 1.0]


def test_the_first_pause_can_be_another_one() -> None:
    backoff = Backoff(0.5, 10.0, first_s=10.0)

    assert [backoff.next_s(), backoff.next_s()] == [10.0, 10.0]

    backoff.reset()

    assert backoff.next_s() == 0.5


def test_no_pause_is_longer_than_the_longest() -> None:
    assert Backoff(0.5, 0.2).next_s() == 0.2
    assert Backoff(0.5, 2.0, first_s=8.0).next_s() == 2.0
