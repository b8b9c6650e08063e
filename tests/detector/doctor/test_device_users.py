"""Who holds a microphone, by trees that look like the kernel's, and by a process that really does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from detector.audio.devices import Card
from detector.doctor.audio import DeviceUser, check_holders, find_holders
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


def test_the_kernels_owner_is_a_thread_whose_process_is_named(paths: SystemPaths) -> None:
    running(paths, 812, "arecord", "arecord", "-D", "hw:1", thread=815)
    owned(paths, 0, None)
    owned(paths, 1, 815)
    assert [(h.card, h.process.pid, h.process.name) for h in find_holders(paths)] == [(1, 812, "arecord")]


def test_an_owner_that_cannot_be_seen_is_told_by_its_number(paths: SystemPaths) -> None:
    owned(paths, 1, 900)
    assert [str(h.process) for h in find_holders(paths)] == ["unknown (process 900)"]


def test_open_files_name_those_that_the_kernel_does_not(paths: SystemPaths) -> None:
    """A container hides /proc/asound; dsnoop lets several have the same input."""
    running(paths, 700, "pulseaudio", "/usr/bin/pulseaudio")
    opened(paths, 700, "pcmC1D0c")
    running(paths, 701, "aplay", "aplay")
    opened(paths, 701, "pcmC1D0p")
    assert [(h.card, h.process.name) for h in find_holders(paths)] == [(1, "pulseaudio")]


def test_one_that_both_tell_of_is_told_once(paths: SystemPaths) -> None:
    running(paths, 700, "arecord", "arecord")
    opened(paths, 700, "pcmC1D0c")
    owned(paths, 1, 700)
    assert len(find_holders(paths)) == 1


def test_this_process_holds_nothing_that_could_be_in_its_way(paths: SystemPaths) -> None:
    owned(paths, 1, os.getpid())
    assert find_holders(paths) == ()


def test_a_real_process_is_found_and_this_one_is_not(tmp_path: Path) -> None:
    device = write(tmp_path / "dev/snd/pcmC77D0c", "")
    with device.open() as held, subprocess.Popen(["sleep", "60"], stdin=held) as sleeper:
        try:
            found = [h for h in find_holders(SystemPaths()) if h.card == 77]
        finally:
            sleeper.kill()
    assert [(h.process.pid, h.process.name) for h in found] == [(sleeper.pid, "sleep")]


def test_whoever_is_in_the_way_is_named_with_what_to_do() -> None:
    arecord = DeviceUser(1, Process(812, "arecord", ("arecord",)))
    found = check_holders([arecord], CARDS, 1, is_measured=False)
    assert (found.state, found.exit_code) == ("problem", 69)
    assert "card 1 (USB Microphone): arecord (process 812)" in found.found
    assert "kill 812" in found.advice


def test_a_sound_server_in_the_way_is_not_to_be_killed() -> None:
    server = DeviceUser(1, Process(812, "pipewire", ("/usr/bin/pipewire",)))
    found = check_holders([server], CARDS, 1, is_measured=False)
    assert found.state == "problem"
    assert "kill" not in found.advice
    assert 'audio.device = "mic"' in found.advice


def test_who_is_not_in_the_way_is_no_problem() -> None:
    server = DeviceUser(1, Process(812, "pulseaudio", ("pulseaudio",)))
    assert check_holders([server], CARDS, None, is_measured=True).state == "ok"
    assert check_holders([server], CARDS, 0, is_measured=False).state == "ok"
    assert check_holders([], CARDS, 0, is_measured=False).state == "ok"
    assert check_holders([], [], None, is_measured=False).state == "skipped"


def test_the_detector_itself_is_no_problem() -> None:
    ours = DeviceUser(1, Process(812, "python3", ("python3", "/usr/bin/snn-detect", "run", "--config", "x.toml")))
    found = check_holders([ours], CARDS, 1, is_measured=False)
    assert found.state == "ok"
    assert "snn-detect (process 812)" in found.found


def test_ours_are_known_by_what_they_were_started_with() -> None:
    for arguments, is_ours in (
        (("snn-detect", "--device", "mic"), True),
        (("/opt/venv/bin/python", "-m", "detector", "run"), True),
        (("python3", "/usr/local/bin/snn-detect", "doctor"), False),
        (("vim", "snn-detect.toml"), False),
        ((), False),
    ):
        assert Process(1, "x", arguments).is_ours == is_ours, arguments


def test_a_process_that_is_gone_is_none(paths: SystemPaths) -> None:
    assert process(paths.proc, 12345) is None
    own = process(Path("/proc"), os.getpid())
    assert own is not None
    assert own.arguments == tuple(sys.orig_argv)
