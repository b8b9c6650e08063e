"""Clips: the right sound, cut where it has to be, in a folder that keeps its bounds on a disk that is full."""

from __future__ import annotations

import os
import threading
import tracemalloc
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from detector.audio.live_source import SoundRing
from detector.errors import DetectorError
from detector.messages import AudioChunk, Samples
from detector.sinks.base import RetryableError, SavedClip, SinkWorker
from detector.sinks.clips import ClipFolder, Clips, ClipSink, clip_name
from tests.detector.sinks.live_records import health, offset, onset
from tests.detector.sinks.small_disk import SmallDisk
from tests.service import wait_until

RATE = 1000
"""Low, so that long sounds are short work."""
TIME = datetime.fromisoformat("2026-11-23T18:04:05.120+01:00")
SETTINGS = Clips(pre_roll_s=1, post_roll_s=2, max_s=10, min_free_bytes=0)


def sound_of(first: int, end: int) -> Samples:
    """Return samples whose values are their positions."""
    return ((np.arange(first, end) % 30_000) / 32768).astype(np.float32)


class Bench:
    """A sink without a worker: sound goes in, clips come out."""

    def __init__(self, directory: Path, settings: Clips = SETTINGS) -> None:
        self.directory = directory
        self.written: list[SavedClip] = []
        self.sink = ClipSink(settings, directory, self.written.append)
        self.tap = self.sink.taps({"mic": RATE})["mic"]
        self.sink.open()
        self.position = 0

    def on_chunk(self, until_s: float, gap: bool = False, step: int = 37) -> None:
        """Add sound after the last."""
        end = round(until_s * RATE)
        while self.position < end:
            to = min(end, self.position + step)
            self.tap.on_chunk(AudioChunk(sound_of(self.position, to), self.position, gap))
            self.position, gap = to, False

    def lose(self, seconds: float) -> None:
        """Lose sound; what comes next has a gap before it."""
        self.position += round(seconds * RATE)

    def begin(self, onset_s: float, number: int = 1, label: str = "guitar") -> None:
        moment = (TIME + timedelta(seconds=onset_s)).isoformat()
        self.sink.write(onset(label, number, onset_s=onset_s, time=moment))

    def end(self, offset_s: float, number: int = 1, label: str = "guitar") -> None:
        self.sink.write(offset(label, number, offset_s=offset_s))

    def spans(self) -> list[tuple[float, float]]:
        """Return where the clips that were written begin and end, and check each sample in them."""
        found = []
        for record in self.written:
            pcm, rate = soundfile.read(record.path, dtype="int16")
            assert rate == RATE
            assert Path(record.path).stat().st_size == record.bytes
            first = int(pcm[0])
            np.testing.assert_array_equal(pcm, np.arange(first, first + len(pcm)))
            found.append((first / RATE, (first + len(pcm)) / RATE))
        return found

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "clips")


def test_a_clip_has_its_pre_roll_and_its_post_roll(bench: Bench) -> None:
    bench.on_chunk(5)
    bench.begin(4)
    bench.on_chunk(7)
    bench.end(6)
    bench.sink.tick()
    assert bench.files() == []  # the post-roll is still to come
    bench.on_chunk(7.999)
    bench.sink.tick()
    assert bench.files() == []
    bench.on_chunk(8.1)
    bench.sink.tick()
    assert bench.spans() == [(3, 8)]
    assert bench.files() == ["20261123T170409.120Z_guitar_id-1.flac"]
    path = bench.directory / bench.files()[0]
    assert bench.written == [SavedClip("mic", "id-1", "guitar", str(path), path.stat().st_size)]
    assert path.stat().st_mode & 0o007 == 0
    assert bench.directory.stat().st_mode & 0o007 == 0


def test_sounds_at_once_and_after_each_other_have_clips_of_their_own(bench: Bench) -> None:
    bench.on_chunk(5)
    bench.begin(4, 1)
    bench.begin(4.5, 2, "speech")
    bench.on_chunk(6)
    bench.end(5, 1)
    bench.on_chunk(9)
    bench.end(6, 2, "speech")
    bench.begin(8, 3)
    bench.end(8.5, 3)
    bench.on_chunk(11)
    bench.sink.tick()
    assert sorted(bench.spans()) == [(3, 7), (3.5, 8), (7, 10.5)]
    assert {record.label for record in bench.written} == {"guitar", "speech"}


def test_the_beginning_of_the_sound_bounds_the_pre_roll(bench: Bench) -> None:
    bench.on_chunk(1)
    bench.begin(0.25)
    bench.end(0.5)
    bench.on_chunk(3)
    bench.sink.tick()
    assert bench.spans() == [(0, 2.5)]


def test_a_long_sound_is_cut(bench: Bench) -> None:
    bench.on_chunk(5)
    bench.begin(4)
    bench.on_chunk(15.9)
    bench.sink.tick()
    assert bench.files() == []
    bench.on_chunk(16)
    bench.sink.tick()
    assert bench.spans() == [(3, 16)]  # 10 s and the rolls, without waiting for its end
    bench.on_chunk(40)
    bench.end(30)
    bench.on_chunk(50)
    bench.sink.tick()
    assert len(bench.files()) == 1


def test_a_sound_is_cut_where_sound_was_lost(bench: Bench) -> None:
    bench.on_chunk(5)
    bench.begin(4)
    bench.on_chunk(6)
    bench.lose(3)
    bench.on_chunk(9.5, gap=True)
    bench.sink.tick()
    assert bench.spans() == [(3, 6)]
    bench.end(5.9)  # as the detector reports it, a moment later
    bench.sink.tick()
    assert len(bench.files()) == 1


def test_a_pre_roll_does_not_reach_across_a_gap(bench: Bench) -> None:
    bench.on_chunk(5)
    bench.lose(1)
    bench.on_chunk(6.5, gap=True)
    bench.begin(6.25)
    bench.end(6.4)
    bench.on_chunk(9)
    bench.sink.tick()
    assert bench.spans() == [(6, 8.4)]


def test_a_gap_without_a_length_is_a_gap(bench: Bench) -> None:
    bench.on_chunk(5)
    bench.on_chunk(6, gap=True)
    bench.begin(5.5)
    bench.end(5.6)
    bench.on_chunk(8)
    bench.sink.tick()
    assert bench.spans() == [(5, 7.6)]


def test_a_post_roll_that_never_comes_is_not_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    bench.on_chunk(5)
    bench.begin(4)
    bench.end(4.9)  # the device is gone
    bench.sink.tick()
    assert bench.files() == []
    now += 8
    bench.sink.tick()
    assert bench.spans() == [(3, 5)]


def test_what_is_pending_at_the_end_is_written_as_far_as_it_goes(bench: Bench) -> None:
    bench.on_chunk(5)
    bench.begin(4, 1)
    bench.begin(4.5, 2)
    bench.end(4.75, 2)
    bench.sink.close()
    assert bench.spans() == [(3, 5), (3.5, 5)]


def test_positions_that_restart_belong_to_another_sound(bench: Bench) -> None:
    bench.on_chunk(5)
    bench.begin(4)
    bench.position = 0
    bench.on_chunk(5)
    with pytest.raises(DetectorError, match="gone before it could be written"):
        bench.sink.tick()
    bench.begin(4, 2)
    bench.end(4.5, 2)
    bench.sink.close()
    assert bench.spans() == [(3, 5)]


def test_sound_that_waited_too_long_for_its_clip_is_gone(bench: Bench) -> None:
    bench.on_chunk(5)
    bench.begin(4, 1)
    bench.begin(4.9, 2)
    bench.end(4.5, 1)
    bench.on_chunk(21)  # the ring holds 18 s: the first seconds are gone
    bench.sink.tick()
    assert bench.spans() == [(3, 6.5), (3.9, 16.9)]
    bench.begin(20, 3)
    bench.end(20.1, 3)
    bench.on_chunk(60)
    with pytest.raises(DetectorError, match="gone before it could be written"):
        bench.sink.tick()


@pytest.mark.parametrize("step", [7, 999, 17_999, 18_001, 100_000])
def test_chunks_of_any_length(bench: Bench, step: int) -> None:
    bench.on_chunk(25, step=step)
    bench.begin(20)
    bench.end(21)
    bench.sink.tick()
    assert bench.spans() == [(19, 23)]


def test_loud_sound_is_clipped_and_what_is_no_number_does_no_harm(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "clips")
    wave = np.array([2, -2, 1, -1, 0.5, np.nan, np.inf, -np.inf] * 100, np.float32)
    bench.tap.on_chunk(AudioChunk(wave, 0))
    bench.begin(0)
    bench.sink.close()
    pcm, _ = soundfile.read(bench.written[0].path, dtype="int16")
    assert pcm[:5].tolist() == [32767, -32768, 32767, -32768, 16384]
    assert pcm[6:8].tolist() == [32767, -32768]


def test_memory_is_bounded(tmp_path: Path) -> None:
    peaks = []
    for number in range(3):  # what other threads of the process take meanwhile is not in all of them
        bench = Bench(tmp_path / str(number))
        bench.on_chunk(40, step=1000)
        tracemalloc.start()
        bench.begin(39)
        bench.on_chunk(400, step=1000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < 100_000


def test_labels_and_types(tmp_path: Path) -> None:
    sink = ClipSink(SETTINGS.model_copy(update={"labels": ("guitar",)}), tmp_path, list[Any]().append)
    assert sink.labels == frozenset({"guitar"})
    assert {"onset", "offset"} <= (sink.types or set())


def test_names_sort_by_time_and_hold_no_path() -> None:
    name = clip_name(TIME, "../etc/pass wd", "a/../b_c")
    assert name == "20261123T170405.120Z_etc_pass_wd_a-b-c.flac"
    assert clip_name(TIME - timedelta(milliseconds=1), "z", "z") < name < clip_name(TIME + timedelta(days=9), "a", "a")


def put_clips(bench: Bench, count: int) -> None:
    """Write clips, some seconds after each other."""
    for number in range(count):
        start = bench.position / RATE + 4
        bench.on_chunk(start + 1)
        bench.begin(start, number)
        bench.end(start + 0.5, number)
        bench.on_chunk(start + 3)
        bench.sink.tick()


def changed(**settings: Any) -> Clips:
    return SETTINGS.model_copy(update=settings)


def test_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "clips", changed(max_files=3))
    other_file = bench.directory / "00000000T000000.000Z notes.flac"
    other_file.write_text("mine")
    put_clips(bench, 5)
    assert [name[-9:] for name in bench.files()] == [" notes.flac"[-9:], "id-2.flac", "id-3.flac", "id-4.flac"]


def test_the_oldest_go_when_they_are_too_large(tmp_path: Path) -> None:
    sizes = Bench(tmp_path / "measure")
    put_clips(sizes, 5)
    most = sum(record.bytes for record in sizes.written[-3:]) + 10
    bench = Bench(tmp_path / "clips", changed(max_bytes=most))
    put_clips(bench, 5)
    assert [name[-9:] for name in bench.files()] == ["id-2.flac", "id-3.flac", "id-4.flac"]
    assert sum(path.stat().st_size for path in bench.directory.iterdir()) <= most


def test_a_clip_larger_than_all_of_them_may_be_is_not_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "clips")
    put_clips(bench, 1)
    bench.sink = ClipSink(changed(max_bytes=100), bench.directory, bench.written.append)
    bench.tap = bench.sink.taps({"mic": RATE})["mic"]
    bench.position = 0
    with pytest.raises(DetectorError, match="too little room"):
        put_clips(bench, 1)
    assert len(bench.files()) == 1  # and no other one was sacrificed for it


def test_the_oldest_go_when_they_are_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e6
    monkeypatch.setattr("time.monotonic", lambda: now)
    bench = Bench(tmp_path / "clips", changed(max_days=1))
    for name in (clip_name(TIME - timedelta(days=days), "guitar", f"{days}") for days in (3, 2, 0.5)):
        (bench.directory / name).write_text("a clip")
    bench.sink.write(health(time=TIME.isoformat(), clock_synced=False))
    bench.sink.tick()
    assert len(bench.files()) == 3  # while the clock may be wrong, nothing is deleted by it
    bench.sink.write(health(time=TIME.isoformat()))
    bench.sink.tick()
    assert [name[-8:] for name in bench.files()] == ["0-5.flac"]
    now += 3601
    bench.sink.write(health(time=(TIME + timedelta(days=1)).isoformat()))
    bench.sink.tick()
    assert bench.files() == []


def test_what_a_crash_has_left_unfinished_goes(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / f".{clip_name(TIME, 'guitar', 'x')}.part").write_text("half")
    (folder / f".{clip_name(TIME, 'guitar', 'y').removesuffix('.flac')}.4321.flac").write_text("half")
    (folder / ".notes.part").write_text("mine")
    assert Bench(folder).files() == [".notes.part"]


def free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def test_below_the_floor_none_is_written_and_none_is_sacrificed_in_vain(small_disk: SmallDisk) -> None:
    bench = Bench(small_disk.path / "clips", changed(min_free_bytes=500_000))
    put_clips(bench, 2)
    small_disk.fill(leave=100_000)
    with pytest.raises(DetectorError, match=r"too little room for a clip of \d+ bytes \(min_free_bytes 500000"):
        put_clips(bench, 1)
    assert len(bench.files()) == 2
    with pytest.raises(DetectorError, match="too little room"):
        bench.sink.tick()  # until one is written again
    small_disk.make_room()
    put_clips(bench, 1)
    assert len(bench.files()) == 3
    bench.sink.tick()


def test_the_oldest_go_when_the_disk_gets_full(small_disk: SmallDisk) -> None:
    bench = Bench(small_disk.path / "clips", changed(min_free_bytes=500_000))
    put_clips(bench, 4)
    small_disk.fill(leave=500_000)
    put_clips(bench, 1)
    assert free_bytes(small_disk.path) >= 500_000 - 8192
    assert 1 <= len(bench.files()) < 5
    assert bench.files()[-1].endswith(Path(bench.written[-1].path).name)


def test_a_disk_that_is_full_all_at_once_leaves_no_part(small_disk: SmallDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(small_disk.path / "clips")
    small_disk.fill()
    monkeypatch.setattr(ClipFolder, "_free_bytes", lambda _self: 10**9)  # another program has filled it
    with pytest.raises(DetectorError, match=r"cannot be written \(no space left on device\)"):
        put_clips(bench, 1)
    assert bench.files() == []
    small_disk.make_room()
    bench.position = 0
    put_clips(bench, 1)
    assert len(bench.files()) == 1


def test_a_full_disk_is_logged_once_and_blocks_nothing(small_disk: SmallDisk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    settings = changed(min_free_bytes=900_000, post_roll_s=0)
    sink = ClipSink(settings, small_disk.path / "clips", list[Any]().append)
    tap = sink.taps({"mic": RATE})["mic"]
    worker = SinkWorker("clips", sink)
    small_disk.fill()
    for number in range(20):
        tap.on_chunk(AudioChunk(sound_of(number * RATE, (number + 1) * RATE), number * RATE))
        worker.submit(onset(number=number, onset_s=number + 0.1))
        worker.submit(offset(number=number, offset_s=number + 0.5))
    wait_until(lambda: not worker.counts.working, "the first that is not written")
    for number in range(20):  # and more, for some seconds
        tap.on_chunk(AudioChunk(sound_of((20 + number) * RATE, (21 + number) * RATE), (20 + number) * RATE))
        worker.submit(onset(number=20 + number, onset_s=number + 20.1))
        worker.submit(offset(number=20 + number, offset_s=number + 20.5))
        threading.Event().wait(0.1)
    assert len(caplog.messages) == 1
    assert "too little room" in caplog.messages[0]
    assert worker.counts.failed == 0
    small_disk.make_room()
    tap.on_chunk(AudioChunk(sound_of(40 * RATE, 42 * RATE), 40 * RATE))
    worker.submit(onset(number=40, onset_s=40.1))
    worker.submit(offset(number=40, offset_s=40.5))
    wait_until(lambda: worker.counts.working, "a clip")
    worker.begin_close(20)
    assert worker.join()
    assert caplog.messages[1:] == ["clips: works again"]


def test_folders_are_made_for_the_default_place_alone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "clips"
    named = ClipSink(changed(directory=path), path, list[Any]().append)
    with pytest.raises(RetryableError, match="there is no directory"):
        named.open()
    Bench(path)
    assert path.is_dir()


def test_clips_are_whole_while_sound_comes_in_another_thread(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "clips", changed(max_s=300))
    stop = threading.Event()

    def on_chunk() -> None:
        while not stop.wait(0.002):
            bench.on_chunk(bench.position / RATE + 0.1, step=20)

    thread = threading.Thread(target=on_chunk)
    thread.start()
    try:
        for number in range(20):
            at = bench.position / RATE
            bench.begin(at, number)
            bench.end(at + 0.2, number)
            wait_until(lambda at=at: bench.position / RATE > at + 3, "the post-roll")  # type: ignore[misc]
            bench.sink.tick()
    finally:
        stop.set()
        thread.join()
    assert len(bench.written) == 20
    for record in bench.written:
        pcm, _ = soundfile.read(record.path, dtype="int16")
        assert 2200 <= len(pcm) <= 3200
        assert (np.diff(pcm.astype(int)) % 30_000 == 1).all()


def test_sound_of_another_stream_is_not_read() -> None:
    ring = SoundRing(1000)
    ring.push(AudioChunk(sound_of(0, 500), 0))
    assert ring.segment_from(100, 0) is not None
    ring.push(AudioChunk(sound_of(0, 300), 0))  # the source was opened again: positions restart
    assert ring.segment_from(100, 0) is None
    assert len(ring.read(0, 300, 0)) == 0
    assert len(ring.read(0, 300, 1)) == 300
