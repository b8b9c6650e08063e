"""What a network stream costs beside the same sound from PulseAudio: CPU of both at once, in the same minutes.

``python -m tests.bench.stream_cost [SECONDS]`` prints a line of JSON for each rate: per cent of a core, and the ratio.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

from tests.broker import program
from tests.sound_server import SoundServer
from tests.streams import AAC, Camera

_COMMAND = [sys.executable, "-m", "detector", "--json", "--quiet", "--device"]
_SETTLE_S = 10.0
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Return the processor time of a process so far, of all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def measure(rate_hz: int, channels: int, seconds: float) -> dict[str, float]:
    """Return per cent of a core for each source of the same noise."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sound = folder / "noise.wav"
        noise = f"anoisesrc=color=pink:amplitude=0.3:r={rate_hz}:d={seconds + 60}"
        subprocess.run(
            [program("ffmpeg"), "-v", "error", "-f", "lavfi", "-i", noise, "-ac", str(channels), str(sound)], check=True
        )
        server = stack.enter_context(closing(SoundServer(folder, rate_hz)))
        server.play(sound)
        play = f"filesrc location={sound} ! wavparse ! audioconvert ! {AAC}"
        camera = stack.enter_context(Camera(play))
        processes = {}
        for name, device, env in (("pulseaudio", "mic", server.env), ("rtsp", camera.url, None)):
            processes[name] = subprocess.Popen([*_COMMAND, device], env=env, stdout=subprocess.DEVNULL)
            stack.callback(processes[name].wait, 30)
            stack.callback(processes[name].terminate)
        time.sleep(_SETTLE_S)
        before = {name: cpu_s(process.pid) for name, process in processes.items()}
        time.sleep(seconds)
        used = {name: cpu_s(process.pid) - before[name] for name, process in processes.items()}
    shares = {name: round(100 * value / seconds, 2) for name, value in used.items()}
    return {"rate_hz": rate_hz, **shares, "ratio": round(used["rtsp"] / used["pulseaudio"], 2)}


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 300.0
    for rate_hz, channels in ((48000, 2), (16000, 1)):
        sys.stdout.write(json.dumps(measure(rate_hz, channels, seconds)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
