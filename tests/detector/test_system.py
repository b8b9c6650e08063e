from __future__ import annotations

from pathlib import Path

import pytest

from detector.system import Backoff, LastingChoice, all_printable, csv_cell, printable, replace_file, write_text


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


@pytest.mark.parametrize(
    "text", ["\x1b[31m", "\x9b31m", "\x1b]0;title\x07", "\r", "\x00", "\u202e", "\u2028", "\udcff", "\t"]
)
def test_what_would_control_a_terminal_is_replaced(text: str) -> None:
    assert printable(f"a{text}b").replace("\N{REPLACEMENT CHARACTER}", "").isprintable()
    assert printable(f"a{text}\nb").count("\n") == 1
    found = all_printable({"labels": [text], text: ({"x": text}, 1, None, 2.5)})
    assert "".join(str(found)).isprintable()


def test_what_is_printable_stays() -> None:
    text = "flûte, 犬の鳴き声, 🎸 (C:\\sounds) 'x'"
    assert printable(text) == text
    assert all_printable({"a": [text, 1, None]}) == {"a": [text, 1, None]}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r\n=1", " =1"])
def test_a_text_that_a_spreadsheet_would_compute_begins_with_a_quote(text: str) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["guitar", "", "2026-11-23T18:04:05+01:00", -31.2, None, 7])
def test_other_cells_stay(value: object) -> None:
    assert csv_cell(value) == value


def test_a_choice_outlasts_the_process_and_another_word_is_none(tmp_path: Path) -> None:
    path = tmp_path / "state" / "sensitivity"
    choice = LastingChoice(path, ("low", "high"))
    assert choice.word is None
    choice.set("high")
    assert LastingChoice(path, ("low", "high")).word == "high"
    assert path.read_text() == "high\n"
    assert LastingChoice(path, ("low",)).word is None
    choice.set(None)
    assert (choice.word, path.exists()) == (None, False)
    path.write_bytes(b"\xff\n")
    assert LastingChoice(path, ("low", "high")).word is None


def test_a_choice_that_cannot_be_kept_holds_until_the_end(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file in place of the folder")
    choice = LastingChoice(tmp_path / "state" / "sensitivity", ("low", "high"))
    with pytest.raises(OSError, match="state"):
        choice.set("low")
    assert choice.word == "low"
