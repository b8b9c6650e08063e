"""What a worker stages: the events of replay, of files that are cut, damaged, or continue one another."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from detector import Detector
from detector.archive import dataset, worker
from detector.archive.plan import Recording, Rules, Unit, find, scan, streams
from detector.audio.files import SoundFileReader
from detector.audio.sources import read_chunks
from detector.messages import Event

SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))
BEGIN = datetime(2026, 1, 31, 23, 59, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load()


@pytest.fixture
def job(detector: Detector, tmp_path: Path) -> worker.Job:
    (tmp_path / "staged").mkdir()
    return worker.Job(
        folder=str(tmp_path),
        staging=str(tmp_path / "staged"),
        model=None,
        model_sha256=detector.sha256,
        thresholds=(),
        sensitivity="balanced",
        labels=detector.labels,
        channel="mean",
        wants_scores=False,
    )


def staged(job: worker.Job, recordings: Sequence[Recording]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all tables that processing these leaves."""
    unit = Unit("unit", tuple(tuple(stream) for stream in streams(recordings)))
    return rows_of(job, worker.process(unit, job).staged)


def rows_of(job: worker.Job, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of all tables in these logs."""
    rows: dict[str, list[dict[str, Any]]] = {"events": [], "files": [], "scores": []}
    for results in dataset.taken(Path(job.staging) / f"{name}.arrows" for name in names):
        rows["events"] += results.events.to_pylist()
        rows["files"] += results.files.to_pylist()
        rows["scores"] += [row for table in results.scores() for row in table.to_pylist()]
    return rows


def scanned(folder: Path) -> list[Recording]:
    return [scan(path, root, Rules()) for path, root in find([str(folder)])]


def offsets(detector: Detector, path: Path) -> list[Event]:
    """Return the events of one file, computed apart from the archive."""
    events: list[Event] = []
    try:
        for chunk in read_chunks(path, detector.sample_rate_hz):
            events += detector.push(chunk.samples)
    finally:
        events += detector.flush()
    return [event for event in events if event.kind == "offset"]


def write_cut(folder: Path, at: Sequence[float], rate_hz: int = 16000, suffix: str = "wav") -> Path:
    """Write the demo scene in pieces named by their start, and whole; return the whole file."""
    wave, own = soundfile.read(SCENE, dtype="float32")
    if rate_hz != own:
        import soxr

        wave = soxr.resample(wave, own, rate_hz)
    folder.mkdir(parents=True)
    whole = folder.parents[1] / f"whole.{suffix}"
    soundfile.write(whole, wave, rate_hz)
    whole_wave, _ = soundfile.read(whole, dtype="int16")
    ends = [*(round(s * rate_hz) for s in at), len(wave)]
    for begin, end in zip([0, *ends], ends, strict=False):
        start = BEGIN + timedelta(seconds=begin / rate_hz)
        soundfile.write(folder / f"{start:%Y%m%d_%H%M%S.%f}.{suffix}", whole_wave[begin:end], rate_hz)
    return whole


@pytest.mark.parametrize(("rate_hz", "suffix"), [(16000, "flac"), (48000, "wav")])
def test_files_that_continue_one_another_give_the_events_of_the_whole_one(
    job: worker.Job, detector: Detector, tmp_path: Path, rate_hz: int, suffix: str
) -> None:
    whole = write_cut(tmp_path / "in" / "pond", (4.5, 6.0, 11.3), rate_hz, suffix)
    expected = offsets(detector, whole)
    rows = staged(job, scanned(tmp_path / "in"))
    assert len(expected) >= 3
    assert [(r["label"], r["onset_s"], r["offset_s"]) for r in rows["events"]] == [
        (e.label, e.onset_sample / 16000, (e.offset_sample or 0) / 16000) for e in expected
    ]
    assert [r["peak"] for r in rows["events"]] == [round(e.peak or 0, 4) for e in expected]
    assert len({r["stream"] for r in rows["files"]}) == 1


def test_an_event_has_its_file_its_place_there_and_its_time(job: worker.Job, tmp_path: Path) -> None:
    write_cut(tmp_path / "in" / "pond", (4.0, 11.0))
    rows = staged(job, scanned(tmp_path / "in"))
    files = {r["path"]: r for r in rows["files"]}
    assert sum(r["events"] for r in files.values()) == len(rows["events"])
    for event in rows["events"]:
        file = files[event["path"]]
        assert 0 <= event["in_file_s"] < file["seconds"]
        assert event["time"] == file["time"] + timedelta(seconds=event["in_file_s"])
        assert abs(event["time"] - BEGIN - timedelta(seconds=event["onset_s"])) <= timedelta(microseconds=1)
        assert event["date"] == event["local_time"].date()


def test_files_further_apart_than_a_second_are_streams_of_their_own(
    job: worker.Job, detector: Detector, tmp_path: Path
) -> None:
    write_cut(tmp_path / "in" / "pond", (4.5, 11.3))
    recordings = [
        dataclasses.replace(r, start=(r.start or BEGIN) + timedelta(seconds=1.5 * n))
        for n, r in enumerate(scanned(tmp_path / "in"))
    ]
    rows = staged(job, recordings)
    expected = [(e.label, e.onset_sample / 16000) for r in recordings for e in offsets(detector, Path(r.path))]
    assert [(r["label"], r["in_file_s"]) for r in rows["events"]] == expected
    assert len({r["stream"] for r in rows["files"]}) == 3


def test_a_length_that_the_header_does_not_state_is_known_behind_the_file(job: worker.Job, tmp_path: Path) -> None:
    write_cut(tmp_path / "in" / "pond", (4.5, 11.3))
    recordings = [dataclasses.replace(r, seconds=None) for r in scanned(tmp_path / "in")]
    last = dataclasses.replace(recordings[2], start=(recordings[2].start or BEGIN) + timedelta(seconds=30))
    rows = staged(job, [*recordings[:2], last])
    assert [r["stream"] for r in rows["files"]] == [recordings[0].path] * 2 + [last.path]


def test_a_damaged_file_keeps_its_events_and_ends_the_stream(
    job: worker.Job, detector: Detector, tmp_path: Path
) -> None:
    write_cut(tmp_path / "in" / "pond", (12.0, 20.0), suffix="flac")
    first, second, third = sorted((tmp_path / "in" / "pond").iterdir())
    whole = first.read_bytes()
    recordings = scanned(tmp_path / "in")
    first.write_bytes(whole[: len(whole) * 3 // 4])
    second.write_bytes(b"RIFF....WAVE")
    rows = staged(job, recordings)
    assert [bool(r["error"]) for r in rows["files"]] == [True, True, False]
    assert "its header promises 12.00 s" in rows["files"][0]["error"]
    assert "no sound file that can be read" in rows["files"][1]["error"]
    with pytest.raises(Exception, match="its header promises"):
        offsets(detector, first)
    expected = [(e.label, e.onset_sample / 16000) for e in offsets(detector, third)]
    assert [(r["label"], r["in_file_s"]) for r in rows["events"] if r["path"] == str(third)] == expected
    early = [r for r in rows["events"] if r["path"] == str(first)]
    assert early
    assert all(r["offset_s"] <= rows["files"][0]["seconds"] + 0.05 for r in early)


def test_what_an_attempt_before_has_staged_is_not_processed_again(
    job: worker.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cut(tmp_path / "in" / "pond", (4.0, 8.0, 12.0, 16.0))
    recordings = scanned(tmp_path / "in")
    apart = [dataclasses.replace(r, start=None) for r in (recordings[0], recordings[1], recordings[4])]
    unit = Unit("unit", ((apart[0],), (apart[1],), tuple(recordings[2:4]), (apart[2],)))
    first = worker.process(unit, job)
    expected = rows_of(job, first.staged)
    log = Path(job.staging) / f"{first.staged[0]}.arrows"
    opened: list[str] = []
    tried: list[int] = []

    def noted(path: Path, track: str | None) -> SoundFileReader:
        opened.append(str(path))
        return SoundFileReader(path, track)

    monkeypatch.setattr(worker, "SoundFileReader", noted)
    whole = log.read_bytes()
    paths = [recording.path for recording in unit.recordings]
    for size in (*range(0, len(whole), 50), len(whole)):
        log.write_bytes(whole[:size])
        again = paths[sum(len(results.files) for results in dataset.read_log(log)) :]
        if len(again) == len(opened):
            continue
        opened.clear()
        outcome = worker.process(unit, job)
        assert opened == again
        assert outcome.seconds == pytest.approx(first.seconds)
        assert rows_of(job, outcome.staged) == expected
        assert outcome.staged[0] == first.staged[0]
        (log.parent / f"{outcome.staged[1]}.arrows").unlink()
        tried.append(len(again))
    assert tried == [5, 4, 3, 1, 0]


def test_the_files_of_a_stream_are_noted_by_their_number_in_the_unit(
    job: worker.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cut(tmp_path / "in" / "pond", (4.0, 8.0, 12.0))
    apart = [dataclasses.replace(r, start=None) for r in scanned(tmp_path / "in")]
    unit = Unit("unit", tuple((r,) for r in apart))
    notes: dict[str, int] = {}

    def noted(path: Path, track: str | None) -> SoundFileReader:
        notes[path.name] = json.loads(Path(worker.note_path(job.staging, "unit")).read_text())[0]
        return SoundFileReader(path, track)

    monkeypatch.setattr(worker, "SoundFileReader", noted)
    with dataset.Staged(Path(job.staging), "unit", job.labels) as before:
        before.add("files", {"path": apart[1].path, "seconds": 4.0})
        before.end_stream()
    worker.process(unit, job)
    assert notes == {Path(apart[number].path).name: number for number in (0, 2, 3)}


def test_an_error_of_the_program_costs_one_file(
    job: worker.Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cut(tmp_path / "in" / "pond", (12.0,))
    recordings = [dataclasses.replace(r, start=None) for r in scanned(tmp_path / "in")]
    opened = SoundFileReader

    def fails(path: Path, track: str | None) -> Any:
        if str(path) == recordings[0].path:
            raise MemoryError("too much")
        return opened(path, track)

    monkeypatch.setattr(worker, "SoundFileReader", fails)
    rows = staged(job, recordings)
    assert "internal error: MemoryError" in rows["files"][0]["error"]
    assert rows["files"][1]["error"] is None
    assert rows["events"]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), RuntimeError("x")])
def test_nothing_else_leaves_a_task(job: worker.Job, monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fails(_job: worker.Job) -> Detector:
        raise error

    monkeypatch.setattr(worker, "_detector", fails)
    with pytest.raises(worker.WorkerError):
        worker.process(Unit("unit", ()), job)


def test_the_scores_are_the_highest_of_each_second(job: worker.Job, detector: Detector, tmp_path: Path) -> None:
    whole = write_cut(tmp_path / "in" / "pond", (4.5, 11.3))
    rows = staged(dataclasses.replace(job, wants_scores=True), scanned(tmp_path / "in"))["scores"]
    wave, _ = soundfile.read(whole, dtype="float32")
    scores = detector.score(wave)
    per_s = 16000 // detector.manifest.features.hop_length
    expected = [scores[at : at + per_s].max(axis=0) for at in range(0, len(scores), per_s)]
    found = np.array([[row[f"score_{label}"] for label in detector.labels] for row in rows])
    assert np.array_equal(found, np.array(expected))
    assert [row["second"] for row in rows] == list(range(len(expected)))
    files = sorted((tmp_path / "in" / "pond").iterdir())
    assert [row["path"] for row in rows[4:6]] == [str(files[0]), str(files[1])]
    assert rows[5]["in_file_s"] == pytest.approx(0.5)


def test_another_model_on_a_worker_is_refused(job: worker.Job) -> None:
    worker._local.job = None
    with pytest.raises(worker.WorkerError, match="another model"):
        worker.process(Unit("unit", ()), dataclasses.replace(job, model_sha256="0" * 64))


def test_a_folder_that_the_worker_does_not_see_is_named(job: worker.Job) -> None:
    with pytest.raises(worker.WorkerError, match="has to be on a disk that all share"):
        worker.process(Unit("unit", ()), dataclasses.replace(job, staging="/no/such/folder"))


def test_names_that_are_no_text_are_kept_readable(job: worker.Job, tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "in") + b"/p\xffond"
    Path(os.fsdecode(folder)).mkdir(parents=True)
    write_cut(tmp_path / "cut" / "pond", ())
    (source,) = (tmp_path / "cut" / "pond").iterdir()
    shutil.copy(source, os.fsdecode(folder + b"/r\xe4_20260101_000000.wav"))
    rows = staged(job, scanned(tmp_path / "in"))
    assert [r["source"] for r in rows["files"]] == ["p\\xffond/r\\xe4"]
    assert rows["files"][0]["path"].endswith("p\\xffond/r\\xe4_20260101_000000.wav")
    assert {r["path"] for r in rows["events"]} == {rows["files"][0]["path"]}
