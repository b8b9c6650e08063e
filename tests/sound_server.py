"""A private PulseAudio whose microphone records what the tests play: a null sink and its monitor.

PortAudio reads the environment when it is loaded, so the listening program is a process of its own,
with ``SoundServer.env``.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

_PROGRAMS: Final = ("pulseaudio", "paplay", "parec", "pactl")
_PACKAGES: Final = "pulseaudio pulseaudio-utils libasound2-plugins libportaudio2"
_PLUGIN: Final = ("lib*/alsa-lib/libasound_module_pcm_pulse.so", "lib/*/alsa-lib/libasound_module_pcm_pulse.so")
_START_S: Final = 30.0
_ALSA: Final = "pcm.!default { type pulse }\nctl.!default { type pulse }\n"


def require_sound_server() -> None:
    """Skip where a part of it is missing, except in CI, where that is a failure."""
    parts = [] if ctypes.util.find_library("portaudio") else ["PortAudio"]
    if not any(found for pattern in _PLUGIN for found in Path("/usr").glob(pattern)):
        parts.append("ALSA's plug-in for PulseAudio")
    require_programs(_PROGRAMS, _PACKAGES, parts)


def require_programs(programs: Sequence[str], packages: str, missing: Sequence[str] = ()) -> None:
    """Skip where a program, or something else that is ``missing``, is not there; in CI that is a failure."""
    missing = [*missing, *(name for name in programs if shutil.which(name) is None)]
    if not missing:
        return
    reason = f"no {', '.join(missing)}; on Debian: apt install {packages}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class SoundServer:
    """PulseAudio in a folder of its own, for any user, without anything else of a desktop."""

    def __init__(self, folder: Path, rate_hz: int = 48000) -> None:
        """Start the server; ``folder`` must have a short name (sockets' names have a bound)."""
        self._folder, self._rate_hz = folder, rate_hz
        self._runtime, self._home = folder / "run", folder / "home"
        for path in (self._runtime, self._home):
            path.mkdir(mode=0o700)
        self.env: Final = {
            **{
                k: v
                for k, v in os.environ.items()
                if not k.startswith(("PULSE_", "XDG_", "DBUS_", "ALSA_", "PIPEWIRE"))
            },
            "HOME": str(self._home),
            "XDG_RUNTIME_DIR": str(self._runtime),
            "XDG_CONFIG_HOME": str(self._home / "config"),
            "PULSE_SERVER": f"unix:{self._socket}",
            "PULSE_SOURCE": "virt.monitor",
            "PULSE_SINK": "virt",
        }
        self.write_alsa_config(_ALSA)
        self._clients: list[subprocess.Popen[bytes]] = []
        self._process = self._start()

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._process.pid

    @property
    def _socket(self) -> Path:
        return self._runtime / "pulse" / "native"

    def write_alsa_config(self, text: str) -> None:
        """Replace the .asoundrc that names the inputs; a running program sees it when PortAudio starts again."""
        (self._home / ".asoundrc").write_text(text, encoding="utf-8")

    def play(self, path: Path | str, *, wait: bool = False) -> subprocess.Popen[bytes]:
        """Play a sound file (WAV or FLAC) into the microphone, and wait for its end only if asked to."""
        player = subprocess.Popen(["paplay", "--device=virt", str(path)], env=self.env, stderr=subprocess.DEVNULL)
        self._clients.append(player)
        if wait:
            player.wait(timeout=600)
        return player

    def kill(self) -> None:
        """End the server as a crash does."""
        self._process.kill()
        self._process.wait(timeout=10)

    def freeze(self) -> None:
        """Stop the server without ending it: it no longer answers."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server go on."""
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Start a server that was killed again."""
        shutil.rmtree(self._runtime / "pulse", ignore_errors=True)
        self._process = self._start()

    def close(self) -> None:
        """End the server and all that plays."""
        for process in (*self._clients, self._process):
            if process.poll() is None:
                process.kill()
            process.wait(timeout=10)

    def _start(self) -> subprocess.Popen[bytes]:
        log = self._folder / "pulseaudio.log"
        sink = f"module-null-sink sink_name=virt rate={self._rate_hz} channels=2"
        command = [
            "pulseaudio",
            "-n",
            "--daemonize=no",
            "--system=false",
            "--exit-idle-time=-1",
            "--use-pid-file=false",
        ]
        command += [f"--load={sink}", "--load=module-native-protocol-unix"]
        with log.open("ab") as output:
            process = subprocess.Popen(command, env=self.env, stdout=output, stderr=output)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait(timeout=10)
                raise RuntimeError(f"pulseaudio does not start: {log.read_text(errors='replace')}")
            time.sleep(0.05)
        self._keep_awake()
        return process

    def _keep_awake(self) -> None:
        """Listen all the time: a null sink that is idle looks for listeners every two seconds only, a card does not."""
        command = ["parec", "--device=virt.monitor", "--latency-msec=20", "--raw", "/dev/null"]
        self._clients.append(subprocess.Popen(command, env=self.env, stderr=subprocess.DEVNULL))

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self._socket))
            except OSError:
                return False
        return subprocess.run(["pactl", "info"], env=self.env, capture_output=True, check=False).returncode == 0


@pytest.fixture
def sound_server() -> Iterator[SoundServer]:
    """Give a sound server of the test's own; without PulseAudio, skip, except in CI, where that is a failure."""
    require_sound_server()
    # Not tmp_path: with a test's name in it, the socket's name may become too long.
    with tempfile.TemporaryDirectory(prefix="snn-") as folder:
        server = SoundServer(Path(folder))
        try:
            yield server
        finally:
            server.close()
