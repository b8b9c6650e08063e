from __future__ import annotations

from pathlib import Path

import pytest

from detector.system.files import replace_file, write_text


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
