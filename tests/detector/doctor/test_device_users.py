"""The users of a microphone, by copies of the kernel's files, and by a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from detector.audio.devices import Card
from detector.doctor.audio import DeviceUser, check_device_users, find_device_users
from detector.doctor.result import Process, SystemPaths, process
from tests.detector.doctor.conftest import write

CARDS = [Card(0, "PCH", "HDA Intel"), Card(1, "Device", "USB Microphone")]


def running(paths: SystemPaths, pid: int, name: str, *arguments: str, thread: int | None = None) -> None:
    write(paths.proc / str(pid) / "comm", f"{name}\n")
    write(paths.proc / str(pid) / "cmdline", "\0".join(arguments) + "\0")
    for number in (pid, thread or pid):
        write(paths.proc / str(number) / "status", f"Name:\t{name}\nTgid:\t{pid}\nPid:\t{number}\n")


def owned(paths: SystemPaths, card: int, owner: int | None) -> None:
    text = "closed\n" if owner is None else f"state: RUNNING\nowner_pid   : {owner}\ntrigger_time: 1.2\n"
    write(paths.proc / f"asound/card{card}/pcm0c/sub0/status", text)


def opened(paths: SystemPaths, pid: int, device: str) -> None:
    folder = paths.proc / str(pid) / "fd"
    folder.mkdir(parents=True)
    (folder / "0").symlink_to("/dev/null")
    (folder / "7").symlink_to(f"/dev/snd/{device}")


def test_the_owner_is_a_thread_and_its_process_is_named(paths: SystemPaths) -> None:
    running(paths, 812, "arecord", "arecord", "-D", "hw:1", thread=815)
    owned(paths, 0, None)
    owned(paths, 1, 815)
    assert [(u.card, u.process.pid, u.process.name) for u in find_device_users(paths)] == [(1, 812, "arecord")]


def test_an_owner_that_cannot_be_read_is_reported_by_its_number(paths: SystemPaths) -> None:
    owned(paths, 1, 900)
    assert [str(u.process) for u in find_device_users(paths)] == ["unknown (process 900)"]


def test_open_files_name_users_that_the_kernel_does_not(paths: SystemPaths) -> None:
    """A container hides /proc/asound; dsnoop lets several have the same input."""
    running(paths, 700, "pulseaudio", "/usr/bin/pulseaudio")
    opened(paths, 700, "pcmC1D0c")
    running(paths, 701, "aplay", "aplay")
    opened(paths, 701, "pcmC1D0p")
    assert [(u.card, u.process.name) for u in find_device_users(paths)] == [(1, "pulseaudio")]


def test_a_user_found_in_both_ways_is_reported_once(paths: SystemPaths) -> None:
    running(paths, 700, "arecord", "arecord")
    opened(paths, 700, "pcmC1D0c")
    owned(paths, 1, 700)
    assert len(find_device_users(paths)) == 1


def test_this_process_is_left_out(paths: SystemPaths) -> None:
    owned(paths, 1, os.getpid())
    assert find_device_users(paths) == ()


def test_a_real_process_is_found_and_this_one_is_not(tmp_path: Path) -> None:
    device = write(tmp_path / "dev/snd/pcmC77D0c", "")
    with device.open() as held, subprocess.Popen(["sleep", "60"], stdin=held) as sleeper:
        try:
            found = [u for u in find_device_users(SystemPaths()) if u.card == 77]
        finally:
            sleeper.kill()
    assert [(u.process.pid, u.process.name) for u in found] == [(sleeper.pid, "sleep")]


def test_a_blocking_process_is_named_with_advice() -> None:
    arecord = DeviceUser(1, Process(812, "arecord", ("arecord",)))
    found = check_device_users([arecord], CARDS, 1, is_measured=False)
    assert (found.state, found.exit_code) == ("problem", 69)
    assert "card 1 (USB Microphone): arecord (process 812)" in found.found
    assert "kill 812" in found.advice


def test_a_blocking_sound_server_is_not_to_be_killed() -> None:
    server = DeviceUser(1, Process(812, "pipewire", ("/usr/bin/pipewire",)))
    found = check_device_users([server], CARDS, 1, is_measured=False)
    assert found.state == "problem"
    assert "kill" not in found.advice
    assert 'audio.device = "mic"' in found.advice


def test_a_user_that_does_not_block_is_no_problem() -> None:
    server = DeviceUser(1, Process(812, "pulseaudio", ("pulseaudio",)))
    assert check_device_users([server], CARDS, None, is_measured=True).state == "ok"
    assert check_device_users([server], CARDS, 0, is_measured=False).state == "ok"
    assert check_device_users([], CARDS, 0, is_measured=False).state == "ok"
    assert check_device_users([], [], None, is_measured=False).state == "skipped"


def test_the_detector_itself_is_no_problem() -> None:
    ours = DeviceUser(1, Process(812, "python3", ("python3", "/usr/bin/snn-detect", "run", "--config", "x.toml")))
    found = check_device_users([ours], CARDS, 1, is_measured=False)
    assert found.state == "ok"
    assert "snn-detect (process 812)" in found.found


def test_a_detector_is_recognised_by_its_arguments() -> None:
    for arguments, is_detector in (
        (("snn-detect", "--device", "mic"), True),
        (("/opt/venv/bin/python", "-m", "detector", "run"), True),
        (("python3", "/usr/local/bin/snn-detect", "doctor"), False),
        (("vim", "snn-detect.toml"), False),
        ((), False),
    ):
        assert Process(1, "x", arguments).is_detector == is_detector, arguments


def test_a_process_that_has_ended_is_none(paths: SystemPaths) -> None:
    assert process(paths.proc, 12345) is None
    own = process(Path("/proc"), os.getpid())
    assert own is not None
    assert own.arguments == tuple(sys.orig_argv)
