"""The user's service under a real user manager of systemd, which has no privileges."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import soundfile

from tests.sound_server import require_programs, require_sound_server

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tests" / "user_manager.sh"
GROUP = "snn-detect-tester"
EXPOSURE = 5.2
"""Of the unit by systemd-analyze; the bound that test_systemd.py has for the file."""
PROGRAM = f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m detector "$@"\n'
SETTINGS = """[audio]
device = "mic"
[[file]]
path = "~/events.jsonl"
[stdout]
enabled = false
"""


def closed(path: Path) -> list[str]:
    """Return the uppermost folder above a path that other users cannot enter."""
    return [str(p) for p in reversed(path.parents) if not p.stat().st_mode & 0o001][:1]


@pytest.mark.parametrize(("lines", "mounts"), [("", "shared"), ("PrivateUsers=yes", "own")])
def test_it_starts_detects_reloads_and_stops(tmp_path: Path, lines: str, mounts: str) -> None:
    """Without user namespace, as by systemd before 254 or where the kernel forbids it, and with one."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a user and its manager")
    require_sound_server()
    require_programs(["unshare", "setpriv", "dbus-daemon", "systemctl"], "util-linux dbus systemd")
    write_files(tmp_path, lines)
    done = run_manager(tmp_path)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("this container has no namespaces or control groups for a user manager")
    found = re.findall(r"^(\w+)=(.*)$", done.stdout, re.MULTILINE)
    values = dict(found)
    assert [values.get(key) for key in ("start", "ActiveState", "reload", "stop", "Result", "NRestarts")] == [
        *("0", "active", "0", "0", "success", "0")
    ], done.stdout + done.stderr
    assert [value for key, value in found if key == "event"] == ["listening", "onset", "reloaded", "stopping"]
    assert (values["NoNewPrivs"], values["Seccomp"], values["mounts"]) == ("1", "2", mounts)
    assert float(values["exposure"]) <= EXPOSURE


def site_packages() -> list[Path]:
    """Return the folders of installed packages outside the environment, to which a .pth file may lead."""
    return [p for p in map(Path, sys.path) if p.name == "site-packages" and p.is_dir()]


def remove_groups() -> None:
    """Remove the control groups of the script, whose processes have ended with its namespace."""
    for top in (*Path("/sys/fs/cgroup").glob(GROUP), *Path("/sys/fs/cgroup").glob(f"*/{GROUP}")):
        for folder, _, _ in os.walk(top, topdown=False):
            Path(folder).rmdir()


def write_files(folder: Path, lines: str) -> None:
    """Write what the script takes: the unit as it is but for the program's place, and a guitar to play."""
    unit = (ROOT / "systemd" / "user" / "snn-detect.service").read_text(encoding="utf-8")
    texts = {
        "snn-detect.service": unit.replace("/usr/bin/snn-detect", "/run/home/bin/snn-detect"),
        "drop-in.conf": f"[Service]\n{lines}\n",
        "program": PROGRAM,
        "config.toml": SETTINGS,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    scene, rate_hz = soundfile.read(str(resources.files("models") / "demo" / "scene.flac"), frames=16000 * 8)
    soundfile.write(folder / "sound.wav", scene, rate_hz)


def run_manager(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the script, and leave no control group behind."""
    needed = list(dict.fromkeys(map(str, (ROOT, Path(sys.prefix), Path(sys.base_prefix), *site_packages()))))
    hidden = list(dict.fromkeys(folder for path in needed for folder in closed(Path(path) / "x")))
    command = ["unshare", "--pid", "--fork", "--mount", "--mount-proc", "--kill-child", "bash", str(SCRIPT)]
    command += [str(folder), ":".join(hidden), ":".join(needed)]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    finally:
        remove_groups()
