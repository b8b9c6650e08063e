"""The commands ``devices`` and ``meter`` as a user runs them, on a real sound server and without one."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sound_server import SoundServer

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 60.0
PROGRAM = """
import sys, click
from detector.cli.program import Program, settle_streams
from detector.cli.meter import devices, meter
program = Program(commands=[devices, meter])
try:
    program(prog_name="snn-detect")
finally:
    settle_streams()
"""


def command(*arguments: str, before: str = "") -> list[str]:
    return [sys.executable, "-c", before + PROGRAM, *arguments]


def run(env: dict[str, str], *arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments, before=before),
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture
def without_server(tmp_path: Path) -> dict[str, str]:
    """Give an environment in which PortAudio finds no sound server."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PULSE_", "XDG_", "PIPEWIRE"))}
    return kept | {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PULSE_SERVER": f"unix:{tmp_path}/none"}


def test_devices_of_a_sound_server(sound_server: SoundServer) -> None:
    done = run(sound_server.env, "devices", "--json")
    assert done.returncode == 0
    listed = {entry["id"]: entry for entry in json.loads(done.stdout)}
    assert listed["default"] == {
        "id": "default",
        "ids": ["default"],
        "number": listed["default"]["number"],
        "name": "default",
        "channels": 32,
        "rate_hz": listed["default"]["rate_hz"],
        "rates_hz": [8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 192000],
        "default": True,
        "hardware": False,
    }
    assert [entry["default"] for entry in listed.values()].count(True) == 1
    words = run(sound_server.env, "devices")
    assert words.returncode == 0
    assert "default (the default)\n" in words.stdout
    assert words.stderr == ""


def test_without_devices_the_list_is_empty_and_a_line_gives_advice(without_server: dict[str, str]) -> None:
    if Path("/proc/asound/cards").exists() and "[" in Path("/proc/asound/cards").read_text():
        pytest.skip("this machine has a sound card")
    done = run(without_server, "devices", "--json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")
    done = run(without_server, "devices")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("no input can be opened: connect a microphone, or start the sound server (")
    assert all(package in done.stderr for package in ("libasound2-plugins", "pipewire-alsa"))
    assert done.stderr.count("\n") == 1


NO_LIBRARY = "import ctypes.util; ctypes.util.find_library = lambda name: None\n"
BROKEN_LIBRARY = "import ctypes.util; ctypes.util.find_library = lambda name: '/nowhere/libportaudio.so.2'\n"


@pytest.mark.parametrize("arguments", [("devices",), ("meter", "--seconds", "1")])
@pytest.mark.parametrize("before", [NO_LIBRARY, BROKEN_LIBRARY])
def test_without_portaudio_its_package_is_named(
    without_server: dict[str, str], arguments: tuple[str, ...], before: str
) -> None:
    done = run(without_server, *arguments, before=before)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("snn-detect: error: PortAudio is missing (")
    assert done.stderr.endswith("install the Debian package libportaudio2\n")


def test_an_impossible_selector_is_an_error(without_server: dict[str, str]) -> None:
    done = run(without_server, "meter", "--device", "hw:1,0")
    assert done.returncode == 2
    assert "numbers of cards change" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_meter_prints_a_line_a_second(sound_server: SoundServer) -> None:
    sound_server.play(ROOT / "models" / "demo" / "scene.flac")
    done = run(sound_server.env, "meter", "--seconds", "5")
    assert done.returncode == 0
    lines = [line for line in done.stdout.splitlines() if line.startswith("rms")]
    assert len(lines) >= 2
    peaks = [float(m[1]) for line in lines if (m := re.search(r"peak +(-?[\d.]+) dBFS", line))]
    assert max(peaks) > -40
    assert done.stderr == ""


def test_the_meter_waits_for_a_device_and_ends_cleanly(without_server: dict[str, str]) -> None:
    process = subprocess.Popen(
        command("meter", "--device", "nonesuch"),
        cwd=ROOT,
        env=without_server,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert line.startswith("waiting for the microphone: device 'nonesuch' is not there")
    assert (process.returncode, errors) == (130, "")


def test_the_meter_redraws_on_a_terminal(sound_server: SoundServer) -> None:
    main, side = pty.openpty()
    process = subprocess.Popen(
        command("meter"), cwd=ROOT, env=sound_server.env | {"TERM": "xterm"}, stdin=side, stdout=side, stderr=side
    )
    os.close(side)
    seen = b""
    deadline = time.monotonic() + DEADLINE_S
    while seen.count(b"dBFS") < 5 and time.monotonic() < deadline:
        seen += os.read(main, 65536)
    process.send_signal(signal.SIGINT)
    while True:
        try:
            seen += os.read(main, 65536)
        except OSError:  # the other end is closed
            break
    os.close(main)
    assert process.wait(timeout=DEADLINE_S) == 130, seen[-2000:]
    assert b"Traceback" not in seen
    assert seen.count(b"\x1b[?25l") == seen.count(b"\x1b[?25h") == 1
