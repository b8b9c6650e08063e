"""The command: its output, its exit codes, and real microphones of a real sound server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from detector.audio.portaudio import within
from detector.audio.sources import read_sound
from detector.cli.main import cli
from detector.doctor.audio import check_access
from detector.doctor.checks import CheckRunner
from detector.doctor.result import CheckResult, SystemPaths, exit_code, ok, output_of, problem, warning
from detector.errors import DeviceError
from detector.messages import Samples
from tests.detector.doctor.conftest import Program, write
from tests.sound_server import SoundServer

COMMAND = [sys.executable, "-W", "error", "-c", "from detector.cli.diagnose import doctor; doctor()"]
UNPRIVILEGED = 65534


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove settings and paths from the environment."""
    for variable in os.environ:
        if variable.startswith("SNN_DETECT_") and variable != "SNN_DETECT_MODEL":
            monkeypatch.delenv(variable)
    monkeypatch.setenv("CONFIGURATION_DIRECTORY", str(tmp_path / "none"))


def examined(sound_server: SoundServer, *arguments: str | Path) -> tuple[int, dict[str, dict[str, str]]]:
    """Return exit code and results, by name, of the doctor in the environment of the sound server."""
    environment = sound_server.env | {k: v for k, v in os.environ.items() if k.endswith("_DIRECTORY")}
    done = subprocess.run(
        [*COMMAND, "--json", *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    document: dict[str, Any] = json.loads(done.stdout)
    assert (document["v"], document["exit_code"]) == (1, done.returncode)
    return done.returncode, {f["name"]: f for f in document["findings"]}


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a minute of the demo scene's guitar."""
    from importlib import resources

    scene: Samples = read_sound(str(resources.files("models") / "demo" / "scene.flac"), 16000)
    path = tmp_path_factory.mktemp("music") / "guitar.wav"
    soundfile.write(path, np.tile(scene[6 * 16000 : 11 * 16000], 12), 16000)
    return path


def test_a_healthy_machine_with_everything(sound_server: SoundServer, music: Path, tmp_path: Path) -> None:
    config = write(tmp_path / "config.toml", f'[database]\npath = "{tmp_path}/events.db"\n')
    sound_server.play(music)
    code, found = examined(sound_server, "--config", config, "--selftest")
    states = {name: f["state"] for name, f in found.items()}
    assert code == 0, found
    good = {
        "configuration",
        "model",
        "sinks",
        "addresses",
        "PortAudio",
        "device",
        "microphone",
        "mixer",
        "disk: database",
    }
    assert {name for name in good if states[name] != "ok"} == set(), found
    assert {"speed", "threads", "clock", "temperature", "power", "access", "holders", "broker", "service"} <= set(
        states
    )
    assert states["selftest"] == "ok"
    assert "takes any rate" in found["device"]["found"]
    assert "2 channels" in found["microphone"]["found"]
    assert states["levels"] in {"ok", "warning"}, found["levels"]
    assert not (tmp_path / "events.db").exists()
    assert "an onset is reported once the mean score over" in found["model"]["found"]


def test_a_silent_microphone_does_not_look_healthy(sound_server: SoundServer) -> None:
    code, found = examined(sound_server)
    assert code == 69
    assert (found["microphone"]["state"], found["levels"]["state"]) == ("ok", "problem")
    assert "only zeros" in found["levels"]["found"]


def test_an_absent_device_is_a_problem(sound_server: SoundServer) -> None:
    code, found = examined(sound_server, "--device", "usb-id:dead:beef")
    assert code == 69
    assert found["device"]["state"] == "problem"
    assert "usb-id:dead:beef" in found["device"]["found"]
    assert "microphone" not in found
    assert found["speed"]["state"] in {"ok", "warning"}, "the rest is checked nevertheless"


def test_a_sound_server_that_hangs_does_not_block(sound_server: SoundServer) -> None:
    sound_server.freeze()
    code, found = examined(sound_server)
    sound_server.thaw()
    assert code == 69
    assert "does not answer" in " ".join(f["found"] for f in found.values() if f["state"] == "problem")


def test_the_first_problem_decides_the_exit_code(tmp_path: Path) -> None:
    config = write(tmp_path / "config.toml", "nood = 1\n")
    done = CliRunner().invoke(cli, ["doctor", "--config", str(config), "--device", "usb-id:dead:beef", "--json"])
    assert done.exit_code == 2
    document = json.loads(done.stdout)
    assert document["findings"][0]["state"] == "problem"
    done = CliRunner().invoke(
        cli, ["doctor", "--model", str(tmp_path / "none.onnx"), "--device", "-", "--selftest", "--json"]
    )
    assert done.exit_code == 2
    states = {f["name"]: f["state"] for f in json.loads(done.stdout)["findings"]}
    assert (states["model"], states["speed"], states["selftest"]) == ("problem", "skipped", "problem")


def test_a_terminal_gets_lines_with_advice(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["doctor", "--model", str(tmp_path / "[none].onnx"), "--device", "-"])
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok       configuration ")
    assert any(line.startswith("problem  model") for line in lines)
    assert "[none].onnx" in "".join(line.strip() for line in lines), "names are not read as markup"
    assert any("-> " in line for line in lines)
    assert lines[-1].startswith("1 problem")


def test_exit_codes_are_those_of_problems_alone() -> None:
    assert exit_code([ok("a", "x"), warning("b", "x", "y")]) == 0
    assert exit_code([ok("a", "x"), problem("b", "x", "y", 69), problem("c", "x", "y", 2)]) == 69


def test_a_check_that_fails_hides_no_other(paths: SystemPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> CheckResult:
        raise RuntimeError("out of order")

    monkeypatch.setattr("detector.doctor.machine.check_temperature", broken)
    found = {f.name: f for f in CheckRunner(overrides={"audio.device": "-"}, paths=paths).results()}
    assert (found["temperature"].state, found["temperature"].exit_code) == ("problem", 70)
    assert "RuntimeError: out of order" in found["temperature"].found
    assert found["clock"].state in {"ok", "warning"}


def test_a_device_that_the_detector_itself_has_open_is_no_problem(paths: SystemPaths) -> None:
    """The sound system does not list a card that a program has open."""
    write(paths.proc / "asound/card1/id", "Device\n")
    write(paths.proc / "asound/card1/usbid", "0d8c:0014\n")
    status = write(paths.proc / "asound/card1/pcm0c/sub0/status", "state: RUNNING\nowner_pid   : 500\n")
    write(paths.proc / "500/comm", "snn-detect\n")
    arguments = write(paths.proc / "500/cmdline", "python3\0/usr/bin/snn-detect\0run\0")
    runner = CheckRunner(overrides={"audio.device": "usb-id:0d8c:0014"}, paths=paths)
    found = {f.name: f for f in runner.results()}
    assert found["device"].state == "skipped"
    assert "the detector itself" in found["device"].found
    assert found["holders"].state == "ok"
    arguments.write_text("arecord\0", encoding="utf-8")
    found = {f.name: f for f in runner.results()}
    assert (found["device"].state, found["holders"].state) == ("problem", "problem")
    status.write_text("closed\n", encoding="ascii")
    found = {f.name: f for f in runner.results()}
    assert (found["device"].state, found["holders"].state) == ("problem", "ok")


def test_programs_have_a_time_limit(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.doctor.result._TIMEOUT_S", 0.3)
    program("speaks", "echo $1")
    program("fails", "exit 3")
    program("hangs", "exec sleep 60")
    assert output_of("speaks", "yes") == "yes\n"
    assert [output_of(name) for name in ("fails", "hangs", "is-not-there")] == [None] * 3


def test_calls_that_do_not_return_are_given_up() -> None:
    import threading

    ever = threading.Event()
    with pytest.raises(DeviceError, match=r"the sound system does not answer within 0\.1 s"):
        within(0.1, lambda: ever.wait(60), "the sound system")
    ever.set()
    assert within(30, lambda: 5, "it") == 5
    with pytest.raises(ZeroDivisionError):
        within(30, lambda: 1 // 0, "it")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that every user can read."""
    with tempfile.TemporaryDirectory(prefix="snn-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@contextmanager
def unprivileged() -> Iterator[None]:
    """Become a user without rights if this one is root."""
    if os.geteuid() != 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresuid(UNPRIVILEGED, UNPRIVILEGED, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setgroups(groups)


def test_a_user_who_may_not_open_the_cards_gets_the_group(open_folder: Path) -> None:
    device = write(open_folder / "dev/snd/pcmC1D0c", "")
    device.chmod(0o666)
    with unprivileged():
        assert check_access(SystemPaths(open_folder), is_needed=True).state == "ok"
    device.chmod(0o000)
    with unprivileged():
        found = check_access(SystemPaths(open_folder), is_needed=True)
        served = check_access(SystemPaths(open_folder), is_needed=False)
    assert (found.state, found.exit_code) == ("problem", 69)
    assert "may not open" in found.found
    assert "usermod -aG audio" in found.advice
    assert served.state == "warning", "a sound server opens them"


def test_without_cards_there_is_nothing_to_open(paths: SystemPaths) -> None:
    assert check_access(paths, is_needed=True).state == "skipped"
