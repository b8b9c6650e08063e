"""Lines for programs, lines for users, and scores in a file."""

from __future__ import annotations

import io
import json
import tracemalloc
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from detector.cli.replay import ScoresFile, write_rows
from detector.errors import ConfigError
from detector.messages import Event
from detector.records import EventRecord, JsonLinesSink, StreamInfo, TextSink, as_dict, event_record

ORIGIN = StreamInfo("a.wav", "a.wav", 1000, "household-1.2.0", "ab" * 32)
ONSET = event_record(Event("onset", 1, "guitar", "music", 1240, 1579, 0.83, 0.6), ORIGIN, 1)
OFFSET: Any = event_record(
    Event("offset", 1, "guitar", "music", 1240, 4999, 0.2, 0.6, 4660, 0.97, 0.9, "ended"), ORIGIN, 2
)
LABELS = ("guitar", "speech", "flûte")


def text_of(*records: EventRecord, colour: bool = False) -> str:
    out = io.StringIO()
    sink = TextSink(Console(file=out, force_terminal=colour, width=40))
    for record in records:
        sink.write(record)
    return out.getvalue()


def test_json_lines_are_sent_one_by_one(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as stream:
        sink = JsonLinesSink(stream)
        sink.write(ONSET)
        assert json.loads((tmp_path / "out").read_text()) == as_dict(ONSET)
        sink.write(replace(OFFSET, source="caf\udce9\n.wav"))
        lines = (tmp_path / "out").read_text().splitlines()
    assert json.loads(lines[1])["source"] == "caf\udce9\n.wav"
    assert len(lines) == 2


def test_json_lines_refuse_what_is_not_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        JsonLinesSink(io.StringIO()).write(replace(ONSET, latency_s=float("nan")))


def test_text_lines() -> None:
    onset, offset = text_of(ONSET, OFFSET).splitlines()[1:]
    assert onset.split() == ["1.24", "s", "guitar", "onset", "score", "0.83", "known", "+0.34", "s"]
    assert offset.split()[2:] == ["guitar", "offset", "after", "3.42", "s", "peak", "0.97", "known", "+0.34", "s"]


def test_text_lines_name_each_source_once() -> None:
    lines = text_of(ONSET, OFFSET, replace(ONSET, source="b.wav"), replace(ONSET, source="a.wav")).splitlines()
    assert [line for line in lines if line.endswith(".wav")] == ["a.wav", "b.wav", "a.wav"]


def test_text_lines_give_the_reason_and_the_time_of_a_truncated_sound() -> None:
    assert "sound ends here" in text_of(replace(OFFSET, reason="end_of_stream"))
    assert "sound was lost here" in text_of(replace(OFFSET, reason="gap"))
    assert text_of(replace(ONSET, time="2026-11-23T18:04:05.120+01:00")).rstrip().endswith("18:04:05.120+01:00")


def test_text_lines_are_coloured_on_a_terminal_only() -> None:
    assert "\x1b[" in text_of(ONSET, colour=True)
    assert "\x1b[" not in text_of(ONSET)


def test_text_lines_escape_names() -> None:
    text = text_of(replace(ONSET, source="[red]\x1b[2J\n\udce9.wav"))
    assert text.splitlines()[0] == "[red]\ufffd[2J \ufffd.wav"


def test_scores_file(tmp_path: Path) -> None:
    scores = np.random.default_rng(0).random((100, 3), np.float32)
    file = ScoresFile(tmp_path / "s.npz", LABELS)
    for part in (scores[:0], scores[:1], scores[1:40], scores[40:]):
        file.push(part)
    assert list(tmp_path.iterdir()) == []
    file.save(16000, 320, 640)
    file.close()
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]
    with np.load(tmp_path / "s.npz") as found:
        assert set(found.files) == {"scores", "times_s", "labels"}
        np.testing.assert_array_equal(found["scores"], scores)
        assert tuple(found["labels"]) == LABELS
        np.testing.assert_array_equal(found["times_s"], (np.arange(100) * 320 + 640) / 16000)
        assert (found["scores"].dtype, found["times_s"].dtype) == (np.float32, np.float64)


def test_scores_file_without_frames(tmp_path: Path) -> None:
    with closing(ScoresFile(tmp_path / "s.npz", LABELS)) as file:
        file.save(16000, 320, 640)
    with np.load(tmp_path / "s.npz") as found:
        assert found["scores"].shape == (0, 3)
        assert found["times_s"].shape == (0,)


def test_equal_scores_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        with closing(ScoresFile(tmp_path / name, LABELS)) as file:
            file.push(np.ones((5, 3), np.float32))
            file.save(16000, 320, 640)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_scores_file_replaces_an_older_one_or_leaves_it(tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    path.write_text("older")
    file = ScoresFile(path, LABELS)
    file.push(np.ones((5, 3), np.float32))
    file.close()
    assert path.read_text() == "older"
    with pytest.raises(ValueError, match="closed"):
        file.save(16000, 320, 640)
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]
    assert path.read_text() == "older"


def test_a_scores_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written there"):
        ScoresFile(tmp_path / "none" / "s.npz", LABELS)


def test_scores_take_no_memory(tmp_path: Path) -> None:
    part = np.zeros((5000, 3), np.float32)
    with closing(ScoresFile(tmp_path / "s.npz", LABELS)) as file:
        tracemalloc.start()
        for _ in range(200):
            file.push(part)
        file.save(16000, 320, 640)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 3e6  # a million frames are 12 MB of scores and 8 MB of times


def test_names_do_not_control_the_terminal_that_shows_a_table(tmp_path: Path) -> None:
    write_rows(tmp_path / "table.tsv", [("a\x1b[31m\n\x9b2J.wav", "1.0", "2.0", "guitar")])
    assert (tmp_path / "table.tsv").read_text() == "a\ufffd[31m \ufffd2J.wav\t1.0\t2.0\tguitar\n"
