"""The bare command, ``snn-detect --device``, as users and other programs run it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from detector.cli.main import cli
from detector.config.sections import Audio
from detector.errors import ConfigError
from detector.messages import Samples
from detector.service.source import is_same_pipe
from tests.detector.service.conftest import lively, scene, sound  # noqa: F401 - fixtures
from tests.service import COMMAND, Child, Record

Lively = tuple[Samples, dict[str, float]]
CHANGING = {"id", "seq", "source", "time", "device", "clock_synced", "level_dbfs"}


def option(lively: Lively) -> str:  # noqa: F811
    return "--threshold=" + ",".join(f"{label}={value}" for label, value in lively[1].items())


def events(records: list[Record]) -> list[Record]:
    """Return onsets and offsets without the fields that differ between two runs."""
    found = [r for r in records if r["type"] in {"onset", "offset"}]
    return [{k: v for k, v in r.items() if k not in CHANGING} for r in found]


def replayed(*arguments: str | Path) -> list[Record]:
    done = subprocess.run([*COMMAND, "replay", *map(str, arguments)], capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def has_onset(records: list[Record]) -> bool:
    return any(r["type"] == "onset" for r in records)


def test_raw_sound_gives_the_events_of_replay_and_the_tee_holds_it(
    sound: Samples,  # noqa: F811
    tmp_path: Path,
) -> None:
    tee = tmp_path / "tee.wav"
    with Child("--device", "-", "--tee", tee) as child:
        child.play(sound)
        child.end_sound()
        assert child.wait() == 0
    kept, rate = soundfile.read(tee, dtype="float32")
    assert rate == 16000
    np.testing.assert_allclose(kept, np.trunc(sound * 32767) / 32768, atol=1e-7)
    assert events(child.records) == events(replayed(tee))
    assert len(child.of("onset")) > 0
    assert child.states() == [("listening", True), ("stopping", True)]
    assert child.errors[-1] == f"34.0 s processed, {len(child.of('onset'))} sounds"


def test_rate_format_and_channels_of_raw_sound(sound: Samples) -> None:  # noqa: F811
    stereo = np.stack([sound, sound], axis=1).astype("<f4").tobytes()
    options = ("--device", "-", "--format", "f32le", "--channels", "2", "--sample-rate", "16000", "--json")
    done = subprocess.run([*COMMAND, *options], input=stereo, capture_output=True, check=True)
    mono = subprocess.run(
        [*COMMAND, "replay", "-", "--format", "f32le"], input=sound.tobytes(), capture_output=True, check=True
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert events(found) == events([json.loads(line) for line in mono.stdout.splitlines()])


def test_one_channel_of_raw_sound_whose_channels_cancel(sound: Samples) -> None:  # noqa: F811
    swapped = np.stack([sound, -sound], axis=1).astype("<f4").tobytes()
    command = [*COMMAND, "--device", "-", "--format", "f32le", "--channels", "2", "--json"]
    mixed = subprocess.run(command, input=swapped, capture_output=True, check=True)
    assert events([json.loads(line) for line in mixed.stdout.splitlines()]) == []
    assert mixed.stderr.count(b"the channels cancel each other") == 1
    left = subprocess.run([*command, "--channel", "left"], input=swapped, capture_output=True, check=True)
    assert b"cancel" not in left.stderr
    mono = subprocess.run(
        [*COMMAND, "replay", "-", "--format", "f32le"], input=sound.tobytes(), capture_output=True, check=True
    )
    found = [json.loads(line) for line in left.stdout.splitlines()]
    assert events(found) == events([json.loads(line) for line in mono.stdout.splitlines()])
    absent = subprocess.run([*command, "--channel", "3"], input=swapped, capture_output=True, check=False)
    assert absent.returncode == 2
    assert b"channel 3 is not there, they have 2" in absent.stderr


def test_raw_sound_keeps_its_channel_until_a_restart() -> None:
    assert is_same_pipe(Audio(device="-", channel="left"), Audio(device="-", channel="left"))
    with pytest.raises(ConfigError, match="channel"):
        is_same_pipe(Audio(device="-"), Audio(device="-", channel="left"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_open_events(lively: Lively, number: signal.Signals, code: int) -> None:  # noqa: F811
    with Child("--device", "-", option(lively), "--quiet") as child:
        child.play(lively[0])
        child.wait_for_records(has_onset, "an onset")
        child.signal(number)
        assert child.wait() == code
    assert child.errors == []
    assert sorted(r["id"] for r in child.of("onset")) == sorted(r["id"] for r in child.of("offset"))
    assert child.of("offset")[-1]["reason"] == "shutdown"


def test_a_reader_that_closes_the_pipe_ends_the_run_quietly(sound: Samples) -> None:  # noqa: F811
    with Child("--device", "-", "--quiet", reads_stdout=False) as child:
        stdout = child.process.stdout
        assert stdout is not None
        child.play(sound)
        assert stdout.readline()
        stdout.close()
        for _ in range(20):
            child.play(sound)
        assert child.wait() == 141
    assert not any("Traceback" in line for line in child.errors)


def test_a_file_is_replayed_in_real_time(lively: Lively, tmp_path: Path) -> None:  # noqa: F811
    path = tmp_path / "clip.wav"
    soundfile.write(path, lively[0][:16000], 16000, subtype="FLOAT")
    with Child("--device", path, option(lively), "--quiet") as child:
        assert child.wait() == 0
    assert events(child.records) == events(replayed(path, option(lively)))
    assert {r["source"] for r in child.records} == {str(path)}


def test_a_missing_file_is_an_error() -> None:
    result = invoke("--device", "/nowhere/none.flac")
    assert result.exit_code == 66
    assert "/nowhere/none.flac" in result.stderr


def test_the_service_does_not_accept_a_file(scene: Path, tmp_path: Path) -> None:  # noqa: F811
    state = {"STATE_DIRECTORY": str(tmp_path)}
    with Child("run", "--config", os.devnull, "--device", scene, environment=state) as child:
        assert child.wait() == 2
    assert "replay" in child.errors[-1]


def test_an_absent_device_is_an_error_with_no_wait() -> None:
    with Child("--device", "usb-id:ffff:fffe", "--no-wait") as child:
        code = child.wait()
    if code == 2 and "PortAudio" in child.errors[-1]:
        if os.environ.get("CI") == "true":
            pytest.fail("PortAudio is missing")
        pytest.skip("PortAudio is missing")
    assert code == 69
    (line,) = child.errors
    assert line.startswith("snn-detect: error: device 'usb-id:ffff:fffe' is not there")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--device", "-", "--channel", "middle"], "channel"),
        (["--device", "-", "--only", "harp"], "harp"),
        (["--device", "-", "--threshold", "harp=0.5"], "harp"),
        (["--device", "-", "--model", "/nowhere.onnx"], "/nowhere.onnx"),
        (["--device", "-", "--sample-rate", "1"], "1 Hz"),
        (["--device", "-", "--tee", "/nowhere/x.wav"], "/nowhere/x.wav"),
    ],
)
def test_impossible_options(arguments: list[str], word: str) -> None:
    with Child(*arguments) as child:
        child.end_sound()
        assert child.wait() == 2
    errors = [line for line in child.errors if "error" in line]
    assert len(errors) == 1
    assert word in errors[0]
    assert not any("Traceback" in line for line in child.errors)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--json"],
        ["--device", "-", "replay", "x.wav"],
        ["--device", "x.wav", "--tee", "y.wav"],
        ["--device", "mic", "--sample-rate", "8000"],
    ],
)
def test_wrong_usage(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_a_model_of_the_environment_does_not_count_as_an_option_before_a_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SNN_DETECT_MODEL", "/nowhere.onnx")
    result = invoke("model", "info")
    assert "/nowhere.onnx" in result.stderr
    assert "Options belong after" not in result.stderr


def test_terminal_gets_events_as_lines_and_the_rest_on_standard_error(lively: Lively) -> None:  # noqa: F811
    data = (lively[0] * 32767).astype("<i2").tobytes()
    outer, inner = pty.openpty()
    command = [*COMMAND, "--device", "-", option(lively)]
    environment = os.environ | {"TERM": "xterm-256color"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=inner, stderr=pipe, env=environment) as process:
        os.close(inner)
        _, errors = process.communicate(data)
        text = b""
        try:
            while chunk := os.read(outer, 65536):
                text += chunk
        except OSError:  # Linux ends a terminal this way
            pass
        finally:
            os.close(outer)
    assert process.returncode == 0
    assert b"onset" in text
    assert b'"type"' not in text
    assert b"listening" not in text
    assert b"listening to stdin" in errors


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from detector.cli.main import cli; cli(['run', '--help'], standalone_mode=False); "
        "heavy = {'numpy', 'onnxruntime', 'soundfile', 'soxr', 'rich', 'pydantic', 'sounddevice'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_service_imports_only_what_its_sinks_need() -> None:
    """A board that only prints loads neither the MQTT client nor Prometheus's library, and never rich."""
    code = (
        "import sys; from detector.cli.main import cli\n"
        "try: cli(['--device', '-', '--json', '--quiet'], standalone_mode=False)\n"
        "finally:\n"
        "    found = {'paho', 'prometheus_client', 'rich', 'sqlite3', 'torch'} & set(sys.modules)\n"
        "    assert not found, found"
    )
    silence: Any = np.zeros(16000, "<i2").tobytes()
    subprocess.run([sys.executable, "-c", code], input=silence, cwd=Path.cwd(), capture_output=True, check=True)


@pytest.mark.parametrize("rate_hz", ["44100", "16000"])
def test_no_library_prints_behind_the_line_of_an_error(rate_hz: str) -> None:
    """What is alive when the interpreter ends, libraries take for leaked."""
    with Child("--device", "-", "--sample-rate", rate_hz) as child:
        child.end_sound()
        assert child.wait() == 66
    (line,) = child.errors
    assert "holds no sound" in line


def test_a_port_that_cannot_be_is_not_a_missing_one() -> None:
    with Child("--device", "-", "--web", "0.0.0.0:99999") as child:
        assert child.wait() == 2
    (line,) = child.errors
    assert "'0.0.0.0:99999': there is no such port; the highest is 65535" in line
