"""Whole files and devices from Python: seconds that are those of replay, and a device that is closed at the end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from detector import Detection, Detector, Event, detect_file, listen
from detector.errors import ConfigError, SourceError
from detector.service.api import _Listener
from tests.contracts.live import ROOT, SCENE, scene
from tests.contracts.programs import clean_environment
from tests.service import wait_until
from tests.sound_server import SoundServer, sound_server

__all__ = ["sound_server"]
BEGIN_S, END_S = 26, 31
"""A guitar begins in this part of the scene and is still playing at its end."""


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a part of the demo scene at 44.1 kHz, in two channels."""
    path = tmp_path_factory.mktemp("api") / "part.wav"
    whole, _ = soundfile.read(SCENE, dtype="float32")
    wave = soxr.resample(whole[16000 * BEGIN_S : 16000 * END_S], 16000, 44100)
    soundfile.write(path, np.stack([wave, wave], axis=1), 44100, subtype="FLOAT")
    return path


def test_a_file_gives_the_sounds_of_replay_in_seconds() -> None:
    command = [sys.executable, "-m", "detector", "replay", "--json", "--quiet", str(SCENE)]
    done = subprocess.run(command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=True)
    offsets = [r for r in map(json.loads, done.stdout.splitlines()) if r["type"] == "offset"]
    found = detect_file(SCENE)
    assert len(found) == len(offsets) == 4
    assert sorted((d.label, d.category, d.onset_s, d.offset_s) for d in found) == sorted(
        (r["label"], r["category"], r["onset_s"], r["offset_s"]) for r in offsets
    )
    assert [(round(d.score, 4), round(d.mean, 4)) for d in found] == [(r["peak"], r["mean"]) for r in offsets]
    assert all(earlier.onset_s <= later.onset_s for earlier, later in pairwise(found))


def test_another_detector_other_labels_and_one_channel_can_be_asked_for(part: Path, tmp_path: Path) -> None:
    (whole,) = detect_file(part)
    assert (whole.label, whole.offset_s) == ("guitar", END_S - BEGIN_S)
    assert detect_file(part, only=["speech"]) == []
    strict = Detector.load(thresholds={"guitar": 0.9999})
    assert detect_file(part, strict) == []
    wave, rate = soundfile.read(part, dtype="float32")
    one_sided = tmp_path / "one-sided.wav"
    soundfile.write(one_sided, np.stack([wave[:, 0], 0 * wave[:, 0]], axis=1), rate, subtype="FLOAT")
    assert detect_file(one_sided, channel="left") == [whole]


def test_a_detector_that_is_in_use_is_left_as_it_is(part: Path) -> None:
    used = Detector.load()
    sound = scene(10)
    before = used.push(sound[:80000])
    detect_file(part, used)
    assert before + used.push(sound[80000:]) + used.flush() == used.push(sound) + used.flush()


def test_a_label_that_is_not_known_is_answered_with_the_one_that_may_be_meant(part: Path) -> None:
    with pytest.raises(ConfigError, match="only: the model knows no 'sneeze'; did you mean 'person_sneeze'"):
        detect_file(part, only=["sneeze"])
    with pytest.raises(ConfigError, match="did you mean 'dog_bark'"):
        Detector.load(thresholds={"dog": 0.5})


def test_a_file_that_is_missing_or_damaged_raises_and_its_sounds_can_be_had(part: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"missing\.wav"):
        detect_file(tmp_path / "missing.wav", on_fault=lambda _: pytest.fail("nothing could be used"))
    wave, rate = soundfile.read(part, dtype="float32")
    wave[-1000:] = np.nan
    damaged = tmp_path / "damaged.wav"
    soundfile.write(damaged, wave, rate, subtype="FLOAT")
    with pytest.raises(SourceError, match="is nan, which is not sound"):
        detect_file(damaged)
    faults: list[SourceError] = []
    (found,) = detect_file(damaged, on_fault=faults.append)
    assert (found.label, len(faults)) == ("guitar", 1)


def test_a_file_is_listened_to_at_its_own_pace_with_the_events_of_the_file(part: Path) -> None:
    async def collect() -> list[Event]:
        return [event async for event in listen(str(part))]

    onset, offset = asyncio.run(collect())
    (found,) = detect_file(part)
    assert (onset.kind, offset.kind, offset.reason) == ("onset", "offset", "end_of_stream")
    assert (found.onset_s, found.offset_s) == (onset.onset_s, offset.offset_s)
    assert found == Detection(
        offset.label, offset.category, offset.onset_s, found.offset_s, found.score, found.mean, offset.threshold
    )


@pytest.mark.parametrize(
    ("device", "only", "error"),
    [
        ("no-such.wav", [], SourceError),
        (str(SCENE), ["sneeze"], ConfigError),
        ("", [], ConfigError),
        ("usb-id:xyz", [], ConfigError),
    ],
)
def test_what_cannot_be_listened_to_raises_and_leaves_no_thread(
    device: str, only: list[str], error: type[Exception]
) -> None:
    async def collect() -> list[Event]:
        return [event async for event in listen(device, only=only)]

    with pytest.raises(error):
        asyncio.run(collect())
    assert [thread.name for thread in threading.enumerate() if thread.name in {"listen", "read-ahead"}] == []


def test_listening_can_be_ended_before_its_end(part: Path) -> None:
    async def first() -> Event:
        async with aclosing(listen(str(part))) as events:
            async for event in events:
                return event
        raise AssertionError("no event")

    assert asyncio.run(first()).kind == "onset"
    assert "listen" not in {thread.name for thread in threading.enumerate()}


def test_a_program_that_takes_no_events_loses_the_oldest_and_is_warned_once(caplog: pytest.LogCaptureFixture) -> None:
    events = [Event("onset", k, "guitar", "music", 400 * k, 400 * k + 799, 0.9, 0.8) for k in range(8)]

    async def late() -> list[int]:
        listener = _Listener(asyncio.get_running_loop(), 3)
        for event in events:
            listener._put([event])
        taken = [await listener.take() for _ in range(3)]
        return [event.index for event in taken if isinstance(event, Event)]

    assert asyncio.run(late()) == [5, 6, 7]
    assert len(caplog.records) == 1


PROGRAM = """
import asyncio, sys, threading
from detector import listen
from detector.errors import DeviceError

async def take():
    async for event in listen("mic"):
        print(event.kind, event.label, event.rate_hz, flush=True)

async def main():
    try:
        async for event in listen("no-such-microphone", wait=False):
            print("an event of nothing")
    except DeviceError as error:
        print("no device:", error, flush=True)
    task = asyncio.create_task(take())
    await asyncio.to_thread(sys.stdin.readline)
    task.cancel()
    await asyncio.wait([task])
    print("cancelled" if task.cancelled() else "not cancelled", flush=True)
    print([t.name for t in threading.enumerate() if t.name in ("listen", "capture")], flush=True)
    await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


def test_a_microphone_is_listened_to_until_the_task_is_cancelled_and_then_closed(
    sound_server: SoundServer,
    part: Path,
) -> None:
    def listeners() -> int:
        listed = ["pactl", "list", "short", "source-outputs"]
        done = subprocess.run(listed, env=sound_server.env, capture_output=True, text=True, check=True)
        return len(done.stdout.splitlines())

    wait_until(lambda: listeners() == 1, "the recorder of the server itself")
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    environment = {**sound_server.env, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = threading.Timer(60, process.kill)
        deadline.start()
        try:
            assert process.stdout.readline().startswith("no device: device 'no-such-microphone' is not there")
            wait_until(lambda: listeners() == 2, "the program's stream")
            sound_server.play(part, wait=True)
            assert process.stdout.readline() == "onset guitar 16000\n"
            process.stdin.write("\n")
            process.stdin.flush()
            cancelled, threads = process.stdout.readline(), process.stdout.readline()
            assert (cancelled, threads) == ("cancelled\n", "[]\n")
            wait_until(lambda: listeners() == 1, "the end of the program's stream")
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.wait(30) == 0
        finally:
            deadline.cancel()
            process.kill()
