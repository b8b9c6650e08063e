"""Text for people: what a live source reports besides onsets and offsets."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from detector.messages import GapCause
from detector.records import Record, TextSink
from tests.detector.sinks.live_records import clip, gap, health, offset, onset, status


def line_of(record: Record) -> str:
    out = io.StringIO()
    TextSink(Console(file=out, width=40)).write(record)
    heading, line = out.getvalue().splitlines()
    assert heading == "mic"
    assert line.endswith(f"  {record.time}")
    return line.removesuffix(f"  {record.time}").rstrip()


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("overrun", "was not read in time"),
        ("queue", "too slow"),
        ("device", "was away"),
        ("suspended", "slept"),
    ],
)
def test_gaps(cause: GapCause, words: str) -> None:
    line = line_of(gap(cause))
    assert line.startswith("     12.30 s  sound lost      0.50 s (")
    assert words in line


def test_states_begin_and_end() -> None:
    began = line_of(status("dc_offset", detail="the mean is 0.2; check the microphone's supply"))
    assert began.split(maxsplit=2) == ["dc", "offset", "the mean is 0.2; check the microphone's supply"]
    assert line_of(status("silent", active=False, detail="sound again")).split(maxsplit=2)[:2] == ["not", "silent"]


def test_states_stand_where_labels_do() -> None:
    assert line_of(status("silent")).index("silent") == line_of(onset()).index("guitar")


def test_details_are_not_obeyed_by_the_terminal() -> None:
    assert "\x1b" not in line_of(status("silent", detail="a\x1b[2Jb"))


def test_labels_and_paths_are_not_obeyed_either() -> None:
    for record in (onset("a\x1b[2Jb"), offset("a\x9b2Jb"), clip(path="/clips/\u202ea\x07\nb.flac")):
        assert line_of(record).replace("\N{REPLACEMENT CHARACTER}", "").isprintable()


def test_clips() -> None:
    assert line_of(clip()).split() == ["guitar", "clip", "/clips/a.flac"]


def test_health_is_its_numbers_texts_and_flags() -> None:
    line = line_of(health())
    assert "rms_dbfs -48.23" in line
    assert "silent False" in line
    assert "sinks" not in line


def test_sounds_cut_by_the_end_of_the_service() -> None:
    assert "listening ends here" in line_of(offset(reason="shutdown"))
