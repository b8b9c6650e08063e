"""Capture volumes: muted, low, not stored; the texts are those of real cards."""

from __future__ import annotations

import os
import subprocess

import pytest

from detector.audio.devices import Card
from detector.doctor.audio import Control, check_mixer, controls
from detector.doctor.result import SystemPaths
from tests.detector.doctor.conftest import Program, write
from tests.sound_server import SoundServer, require_programs

CARD = Card(1, "Device", "USB Microphone")
USB = """Simple mixer control 'Mic',0
  Capabilities: pvolume pvolume-joined cvolume cvolume-joined pswitch pswitch-joined cswitch cswitch-joined
  Playback channels: Mono
  Capture channels: Mono
  Limits: Playback 0 - 31 Capture 0 - 16
  Mono: Playback 16 [52%] [-4.00dB] [off] Capture {volume} [{percent}%] [1.49dB] [{switch}]
Simple mixer control 'Auto Gain Control',0
  Capabilities: pswitch pswitch-joined
  Playback channels: Mono
  Mono: Playback [on]
"""
HDA = """Simple mixer control 'Master',0
  Capabilities: pvolume pvolume-joined pswitch pswitch-joined
  Mono: Playback 64 [74%] [-17.25dB] [on]
Simple mixer control 'Line',0
  Capabilities: pvolume pswitch cswitch cswitch-exclusive
  Capture exclusive group: 0
  Front Left: Playback 0 [0%] [-34.50dB] [off] Capture [{line}]
  Front Right: Playback 0 [0%] [-34.50dB] [off] Capture [{line}]
Simple mixer control 'Mic',0
  Capabilities: cswitch cswitch-exclusive
  Front Left: Capture [{mic}]
  Front Right: Capture [{mic}]
Simple mixer control 'Capture',0
  Capabilities: cvolume cswitch
  Limits: Capture 0 - 46
  Front Left: Capture {volume} [{percent}%] [0.00dB] [{switch}]
  Front Right: Capture {volume} [{percent}%] [0.00dB] [{switch}]
"""


def usb(percent: int, switch: str = "on") -> str:
    return USB.format(volume=percent * 16 // 100, percent=percent, switch=switch)


def hda(percent: int = 50, switch: str = "on", mic: str = "on", line: str = "off") -> str:
    return HDA.format(volume=percent * 46 // 100, percent=percent, switch=switch, mic=mic, line=line)


def says(program: Program, text: str) -> None:
    program("amixer", f"[ \"$*\" = '-c 1 scontents' ] || exit 1\ncat <<'END'\n{text}END")


def test_only_the_capture_side_counts() -> None:
    assert list(controls(usb(62))) == [Control("Mic", 62, True)]
    assert list(controls(hda())) == [
        Control("Line", None, False),
        Control("Mic", None, True),
        Control("Capture", 50, True),
    ]
    assert list(controls("")) == []


def test_a_normal_volume_is_shown(paths: SystemPaths, program: Program) -> None:
    write(paths.mixer_state, "state.Device {}\n")
    says(program, usb(62))
    found = check_mixer(paths, CARD)
    assert (found.state, found.found, found.advice) == ("ok", "Mic 62 %", "")


def test_a_volume_that_was_never_stored_gets_advice(paths: SystemPaths, program: Program) -> None:
    says(program, usb(62))
    found = check_mixer(paths, CARD)
    assert found.state == "ok"
    assert "alsactl store 1" in found.advice


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (usb(62, "off"), "Mic is muted"),
        (usb(0), "Mic is very low"),
        (usb(5), "Mic is very low"),
        (hda(switch="off"), "Capture is muted"),
        (hda(percent=3), "Capture is very low"),
        (hda(mic="off"), "Line is muted"),
    ],
)
def test_muted_and_low_are_warnings_with_advice(paths: SystemPaths, program: Program, text: str, words: str) -> None:
    says(program, text)
    found = check_mixer(paths, CARD)
    assert found.state == "warning"
    assert words in found.found
    assert "amixer -c 1 sset" in found.advice
    assert "alsactl store 1" in found.advice


@pytest.mark.parametrize("text", [hda(line="on", mic="off"), hda(), usb(10), usb(100)])
def test_one_input_that_is_on_is_enough(paths: SystemPaths, program: Program, text: str) -> None:
    says(program, text)
    assert check_mixer(paths, CARD).state == "ok"


def test_a_card_without_volumes_is_skipped(paths: SystemPaths, program: Program) -> None:
    says(program, "")
    assert check_mixer(paths, CARD).state == "skipped"


def test_a_mixer_that_fails_is_skipped(paths: SystemPaths, program: Program) -> None:
    program("amixer", "echo 'amixer: Invalid card number' >&2; exit 1")
    assert check_mixer(paths, CARD).state == "skipped"


def test_the_sound_servers_own_volume_is_read(
    paths: SystemPaths, sound_server: SoundServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_programs(("amixer",), "alsa-utils")
    for name, value in sound_server.env.items():
        if os.environ.get(name) != value:
            monkeypatch.setenv(name, value)
    found = check_mixer(paths, None)
    assert (found.state, found.found) == ("ok", "Capture 100 %")
    subprocess.run(["pactl", "set-source-mute", "virt.monitor", "1"], env=sound_server.env, check=True)
    found = check_mixer(paths, None)
    assert found.state == "warning"
    assert "Capture is muted" in found.found
