"""The command line, as users and other programs run it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from detector import Detector, __version__
from detector.cli.main import cli
from detector.cli.program import Program
from detector.messages import Samples
from detector.records import StreamInfo, as_dict, event_record
from detector.service.process import SignalHandler

Record = dict[str, Any]
MODEL = os.environ.get("SNN_DETECT_MODEL")
COMMAND = [sys.executable, "-W", "error", "-m", "detector"]


@pytest.fixture(autouse=True)
def _buffered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let processes buffer their output as they do for users, in any environment of the tests."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load(MODEL)


@pytest.fixture(scope="module")
def scene() -> Path:
    return Path(str(resources.files("models") / "demo" / "scene.flac"))


@pytest.fixture(scope="module")
def sound(scene: Path) -> Samples:
    samples, rate = soundfile.read(scene, dtype="float32")
    assert rate == 16000
    result: Samples = samples
    return result


@pytest.fixture
def lively(tmp_path: Path, detector: Detector, sound: Samples) -> tuple[Path, str]:
    """Give 4 s of sound and the option with which one sound in it is certain to be reported."""
    clip = sound[16000 * 4 : 16000 * 8]
    path = tmp_path / "lively.wav"
    soundfile.write(path, clip, 16000, subtype="FLOAT")
    means = detector.score(clip).mean(axis=0)
    label, level = detector.labels[int(means.argmax())], float(means.max())
    return path, f"--threshold={label}={level / 2}"


def test_numpy_starts_no_threads() -> None:
    """A thread of OpenBLAS for each core would spin for a while at the start."""
    code = """
import atexit, os, sys
from detector.cli.main import main
assert "numpy" not in sys.modules
@atexit.register
def count():
    import numpy
    print(len(os.listdir("/proc/self/task")))
main()
"""
    clean = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"], env=clean, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1] == "1"


def test_hash_values_are_computed_without_openssl() -> None:
    code = """
import atexit, sys
from detector.cli.main import main
@atexit.register
def count():
    import hashlib, hmac, uuid
    print(uuid.uuid5(uuid.NAMESPACE_DNS, "python.org"), hashlib.sha256(b"abc").hexdigest())
    print("libcrypto" in open("/proc/self/maps").read())
    import ssl
    print(ssl.OPENSSL_VERSION_INFO > (1,))
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == [
        "886313e1-3b8a-5372-9b90-0c9aee199e5d ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "False",
        "True",
    ]


def test_the_metadata_of_packages_is_read_only_where_it_is_asked_for() -> None:
    code = """
import atexit, sys
from detector.cli.main import main
@atexit.register
def count():
    import importlib.metadata
    import detector.config.loading
    print("email" in sys.modules)
    from importlib.metadata import PackageNotFoundError, version
    print(version("numpy"), issubclass(PackageNotFoundError, ImportError), importlib.metadata.version is version)
    print(len(importlib.metadata.entry_points(group="console_scripts")) > 0)
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["False", f"{np.__version__} True True", "True"]


def test_what_listens_loads_no_reader_of_sound_files() -> None:
    code = """
import sys
import detector.cli.run, detector.config.loading, detector.service.service, detector.audio.devices
print(sorted({"soundfile", "rich", "multiprocessing", "asyncio", "ssl"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def replay(*arguments: str | Path, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, ["replay", *map(str, arguments)], input=stdin)


def records(text: str) -> list[Record]:
    return [json.loads(line) for line in text.splitlines()]


def paired(found: list[Record]) -> bool:
    """Return whether each onset is followed by its offset, and each offset follows its onset."""
    opened = [r["id"] for r in found if r["type"] == "onset"]
    return sorted(opened) == sorted(r["id"] for r in found if r["type"] == "offset") and len(opened) > 0


def one_error(result: Result, code: int, *words: str) -> None:
    errors = [line for line in result.stderr.splitlines() if "error" in line.lower()]
    assert result.exit_code == code
    assert len(errors) == 1
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in errors[0]


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from detector.cli.main import cli; cli(['replay', '--help'], standalone_mode=False); "
        "heavy = {'numpy', 'onnxruntime', 'soundfile', 'soxr', 'rich'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--threshold" in done.stdout


def test_replay_needs_no_packages_of_training_and_none_of_the_service(scene: Path) -> None:
    code = (
        "import sys; from detector.cli.main import cli; cli(['replay', sys.argv[1]], standalone_mode=False); "
        "heavy = {'torch', 'snntorch', 'onnx', 'scipy', 'rich', 'pydantic'}; "
        "found = heavy & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(scene)], capture_output=True, check=True)


def test_version_and_module_entry() -> None:
    done = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"snn-detect {__version__}\n"


def test_replay_gives_the_events_of_the_library(detector: Detector, scene: Path, sound: Samples) -> None:
    m = detector.manifest
    origin = StreamInfo(str(scene), str(scene.resolve()), 16000, f"{m.name}-{m.version}", detector.sha256)
    events = detector.push(sound) + detector.flush()
    expected = [event_record(event, origin, seq) for seq, event in enumerate(events, 1)]
    result = replay(scene)
    assert result.exit_code == 0
    assert records(result.stdout) == [as_dict(record) for record in expected]
    assert paired(records(result.stdout))


def test_replay_is_repeatable(scene: Path) -> None:
    assert replay(scene).stdout == replay(scene).stdout


def test_replay_sums_up_on_stderr_unless_quiet(scene: Path) -> None:
    summary = replay(scene).stderr
    assert f"{scene}: 34.0 s" in summary
    assert "x real time" in summary
    assert replay(scene, "--quiet").stderr == ""


def test_raw_samples_give_the_events_of_the_file(scene: Path, sound: Samples) -> None:
    result = replay("-", "--format", "f32le", stdin=sound.tobytes())
    assert result.exit_code == 0
    changing = {"id", "source"}
    without = [{k: v for k, v in r.items() if k not in changing} for r in records(result.stdout)]
    assert without == [{k: v for k, v in r.items() if k not in changing} for r in records(replay(scene).stdout)]
    assert {r["source"] for r in records(result.stdout)} == {"stdin"}


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen([*COMMAND, "replay", *map(str, arguments)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def read(process: subprocess.Popen[str]) -> tuple[str, str]:
    """Return the rest of a process's output and errors when it has ended."""
    assert process.stdout is not None
    assert process.stderr is not None
    found = process.stdout.read(), process.stderr.read()
    process.wait(20)
    return found


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_events_are_printed_while_the_sound_continues(lively: tuple[Path, str]) -> None:
    clip, option = lively
    data = soundfile.read(clip, dtype="float32")[0].tobytes()
    with start("-", "--format", "f32le", option) as process:
        assert process.stdin is not None
        os.write(process.stdin.fileno(), data)
        first = first_line(process)
        time.sleep(0.7)  # until it waits for more sound
        process.send_signal(signal.SIGTERM)
        rest, errors = read(process)
    assert process.returncode == 143
    assert paired(records(first + rest))
    assert "error" not in errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_open_events(lively: tuple[Path, str], number: signal.Signals, code: int) -> None:
    clip, option = lively
    with start(clip, clip, "--realtime", option, "--quiet") as process:
        first = first_line(process)
        process.send_signal(number)
        rest, errors = read(process)
    found = records(first + rest)
    assert process.returncode == code
    assert errors == ""
    assert paired(found)
    assert found[-1]["reason"] == "end_of_stream"
    assert found[-1]["offset_s"] < 3.5


def test_a_signal_leaves_no_scores(lively: tuple[Path, str], tmp_path: Path) -> None:
    clip, option = lively
    with start(clip, "--realtime", option, "--scores", tmp_path / "s.npz") as process:
        first_line(process)
        process.terminate()
        read(process)
    assert process.returncode == 143
    assert [p.name for p in tmp_path.iterdir()] == [clip.name]


def test_realtime_takes_as_long_as_the_sound(lively: tuple[Path, str]) -> None:
    clip, option = lively
    begin = time.monotonic()
    paced = replay(clip, "--realtime", option)
    assert 3.9 < time.monotonic() - begin < 6
    assert paced.stdout == replay(clip, option).stdout


def test_a_reader_that_closes_the_pipe_ends_replay_quietly(scene: Path) -> None:
    with start(*[scene] * 5) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first_line(process)
        process.stdout.close()
        errors = process.stderr.read()
    assert process.returncode == 141
    assert "error" not in errors.lower()
    assert "Traceback" not in errors


def test_output_that_cannot_be_written_is_an_error(scene: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "replay", str(scene)], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 70
    assert len(done.stderr.splitlines()) == 1
    expected = "snn-detect: error: standard output cannot be written: no space left on device; write it elsewhere"
    assert done.stderr.startswith(expected)


def test_a_folder_that_was_removed_is_said(scene: Path, tmp_path: Path) -> None:
    """Relative names lead nowhere there; a whole one still does."""
    gone = tmp_path / "gone"
    for name, code, words in (("x.wav", 2, "the current folder has been removed; go to another one"), (scene, 0, "")):
        gone.mkdir()
        script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
        command = ["bash", "-c", script, "bash", gone, *COMMAND, "replay", "--quiet", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == (code > 0)


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "2>/dev/full", "<&-"])
def test_closed_and_full_streams(scene: Path, redirection: str) -> None:
    command = ["/bin/sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, "replay", str(scene)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "error" not in done.stderr
    assert redirection == ">&-" or paired(records(done.stdout))


def test_help_that_cannot_be_written() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 70
    assert len(done.stderr.splitlines()) == 1


def test_bad_files_do_not_stop_the_others(scene: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.wav"
    text.write_text("no sound\n" * 9)
    result = replay(tmp_path / "none.wav", scene, text, scene, "--quiet")
    assert result.exit_code == 66
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"snn-detect: error: {tmp_path / 'none.wav'}: ")
    assert lines[1].startswith(f"snn-detect: error: {text}: ")
    found = records(result.stdout)
    assert [r["seq"] for r in found] == list(range(1, len(found) + 1))
    assert len(found) == 2 * len(records(replay(scene).stdout))


def test_events_before_a_fault_are_kept(lively: tuple[Path, str], tmp_path: Path) -> None:
    clip, option = lively
    cut = tmp_path / "cut.wav"
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    result = replay(cut, option, "--scores", tmp_path / "s.npz")
    one_error(result, 66, str(cut), "header promises")
    found = records(result.stdout)
    assert paired(found)
    assert found[-1]["reason"] == "end_of_stream"
    with np.load(tmp_path / "s.npz") as scores:
        assert scores["times_s"][-1] == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize(("data", "word"), [(b"", "0 bytes"), (b"abc", "within a frame"), (b"RIFFabcd", "WAV")])
def test_bad_raw_samples(data: bytes, word: str) -> None:
    one_error(replay("-", stdin=data), 66, "standard input", word)


def test_a_chain_of_ogg_has_the_events_of_all_its_links(sound: Samples, tmp_path: Path) -> None:
    def found(path: Path) -> list[tuple[str, float]]:
        return [(r["label"], r["onset_s"]) for r in records(replay(path).stdout) if r["type"] == "onset"]

    soundfile.write(tmp_path / "link.ogg", sound, 16000)
    link = (tmp_path / "link.ogg").read_bytes()
    (tmp_path / "chain.ogg").write_bytes(link + link)
    decoded, _ = soundfile.read(tmp_path / "link.ogg", dtype="float32")
    soundfile.write(tmp_path / "both.wav", np.concatenate((decoded, decoded)), 16000, subtype="FLOAT")
    expected = found(tmp_path / "both.wav")
    assert expected[-1][1] > sound.size / 16000
    assert found(tmp_path / "chain.ogg") == expected
    (tmp_path / "chain.ogg").write_bytes(link + b"no sound" * 1000)
    broken = replay(tmp_path / "chain.ogg")
    assert broken.exit_code == 66
    assert "8000 bytes behind it" in broken.stderr
    assert records(broken.stdout)


def test_channels_that_cancel_are_a_warning_and_one_channel_has_the_events(
    scene: Path, sound: Samples, tmp_path: Path
) -> None:
    swapped = tmp_path / "swapped.wav"
    soundfile.write(swapped, np.stack((sound, -sound), axis=1), 16000, subtype="FLOAT")
    mixed = replay(swapped)
    assert (mixed.exit_code, mixed.stdout) == (0, "")
    assert f"snn-detect: warning: {swapped}: the channels cancel each other" in mixed.stderr
    assert "warning" not in replay(swapped, "--quiet").stderr
    expected = [(r["label"], r["onset_s"]) for r in records(replay(scene).stdout)]
    raw = np.stack((sound, -sound), axis=1).astype("<f4").tobytes()
    raw_options = ("-", "--format", "f32le", "--channels", "2")
    for single in (replay(swapped, "--channel", "left"), replay(*raw_options, "--channel", "1", stdin=raw)):
        assert single.exit_code == 0
        assert "warning" not in single.stderr
        assert [(r["label"], r["onset_s"]) for r in records(single.stdout)] == expected
    one_error(replay(swapped, "--channel", "3"), 66, str(swapped), "2 channels", "--channel 3")
    one_error(replay(*raw_options, "--channel", "3", stdin=raw), 2, "channel 3 is not there")
    for wrong in ("0", "middle", "-1", "1.5", "99999"):
        one_error(replay(swapped, "--channel", wrong), 2, "--channel", "left, right")


def test_scores(detector: Detector, scene: Path, sound: Samples, tmp_path: Path) -> None:
    assert replay(scene, "--scores", tmp_path / "s.npz").exit_code == 0
    with np.load(tmp_path / "s.npz") as found:
        np.testing.assert_array_equal(found["scores"], detector.score(sound))
        assert tuple(found["labels"]) == detector.labels
        f = detector.manifest.features
        assert found["times_s"][0] == f.frame_length / f.sample_rate_hz
        assert np.diff(found["times_s"]) == pytest.approx(f.hop_length / f.sample_rate_hz)


def test_scores_of_several_files(lively: tuple[Path, str], scene: Path, tmp_path: Path) -> None:
    clip, _ = lively
    assert replay(scene, clip, "--scores", tmp_path / "s.npz").exit_code == 0
    assert {p.name for p in tmp_path.glob("*.npz")} == {"s-scene.npz", "s-lively.npz"}
    one_error(replay(scene, scene, "--scores", tmp_path / "s.npz"), 2, "scene")


def test_scores_that_cannot_be_written(scene: Path, tmp_path: Path) -> None:
    one_error(replay(scene, "--quiet", "--scores", tmp_path / "none" / "s.npz"), 2, "cannot be written")


def test_only_selected_labels_are_reported(scene: Path) -> None:
    everything = records(replay(scene).stdout)
    label = everything[0]["label"]
    found = records(replay(scene, "--only", label).stdout)
    assert [r["id"] for r in found] == [r["id"] for r in everything if r["label"] == label]
    others = ",".join({r["label"] for r in everything} - {label})
    if others:
        together = records(replay(scene, "--only", others, "--only", label).stdout)
        assert together == everything
    one_error(replay(scene, "--only", "violin,harp"), 2, "'violin'", label)


def test_threshold(scene: Path, detector: Detector) -> None:
    label = records(replay(scene).stdout)[0]["label"]
    silenced = records(replay(scene, "--threshold", f"{label}=0.9999").stdout)
    assert label not in {r["label"] for r in silenced}
    both = records(replay(scene, "--threshold", f" {label}=0.41, {detector.labels[-1]}=0.42").stdout)
    assert {r["threshold"] for r in both if r["type"] == "onset" and r["label"] == label} <= {0.41}


@pytest.mark.parametrize("value", ["guitar", "guitar=", "=0.5", "guitar=loud", "0.5"])
def test_a_threshold_that_cannot_be_parsed_is_an_error(scene: Path, value: str) -> None:
    result = replay(scene, "--threshold", value)
    assert result.exit_code == 2
    assert "label=value" in result.stderr


def test_an_impossible_threshold_is_an_error(scene: Path, detector: Detector) -> None:
    label = detector.labels[0]
    one_error(replay(scene, "--threshold", "harp=0.5"), 2, "'harp'", label)
    for value in ("0", "1", "1.5", "-1", "nan"):
        one_error(replay(scene, "--threshold", f"{label}={value}"), 2, label)


def test_start_time(scene: Path) -> None:
    found = records(replay(scene, "--start-time", "2026-11-23T18:00:00+01:00").stdout)
    first = records(replay(scene).stdout)[0]
    assert first["time"] is None
    assert found[0]["time"] == f"2026-11-23T18:00:{first['onset_s']:06.3f}+01:00"
    for bad in ("2026-11-23T18:00:00", "now"):
        assert replay(scene, "--start-time", bad).exit_code == 2
    assert replay(scene, scene, "--start-time", "2026-11-23T18:00:00Z").exit_code == 2


@pytest.mark.parametrize("arguments", [[], ["scene", "--sample-rate", "8000"], ["-", "-"], ["-", "--sample-rate", "1"]])
def test_wrong_usage(scene: Path, arguments: list[str]) -> None:
    result = replay(*(str(scene) if a == "scene" else a for a in arguments), stdin=b"ab")
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [["--nope"], ["--device"], ["--nope", "replay"], ["replay", "--nope"], ["nope"]])
def test_an_unknown_option_or_command_is_one_line(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli, arguments)
    one_error(result, 2, "--nope" if "--nope" in arguments else arguments[0])
    assert len(result.stderr.splitlines()) == 1


def test_model_info(detector: Detector) -> None:
    words = CliRunner().invoke(cli, ["model", "info"])
    assert words.exit_code == 0
    training = detector.manifest.training
    data = [text for source in training.sources for text in (source.name, source.licence, source.use)]
    for text in (*detector.labels, detector.sha256, "send on delta", "MFCC", training.command, *data):
        assert text in words.stdout
    found = json.loads(CliRunner().invoke(cli, ["model", "info", "--json"]).stdout)
    assert found["sha256"] == detector.sha256
    assert tuple(c["label"] for c in found["manifest"]["classes"]) == detector.labels
    assert found["file_bytes"] == detector.path.stat().st_size


def test_model_verify(detector: Detector) -> None:
    words = CliRunner().invoke(cli, ["model", "verify", str(detector.path)])
    assert words.exit_code == 0
    assert "the model is good" in words.stdout
    found = json.loads(CliRunner().invoke(cli, ["model", "verify", "--json"]).stdout)
    assert found["block_equals_step"] is True


@pytest.mark.parametrize("command", [["model", "info"], ["model", "verify"], ["replay", "x.wav", "--model"]])
def test_a_file_that_is_not_a_model_is_an_error(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    for name in ("none.onnx", "text.onnx"):
        one_error(CliRunner().invoke(cli, [*command, str(tmp_path / name)]), 2, name)


def test_terminal_gets_readable_lines(lively: tuple[Path, str]) -> None:
    clip, option = lively
    environment = os.environ | {"TERM": "xterm-256color"}
    outer, inner = pty.openpty()
    command = [*COMMAND, "replay", str(clip), option]
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, env=environment) as process:
        os.close(inner)
        text = b""
        try:
            while data := os.read(outer, 65536):
                text += data
        except OSError:  # Linux ends a terminal this way
            pass
        finally:
            os.close(outer)
    assert process.returncode == 0
    shown = text.decode()
    assert "onset" in shown
    assert "offset" in shown
    assert "\x1b[" in shown
    assert '"type"' not in shown
    assert "x real time" in shown


@click.group(cls=Program)
def failing() -> None:
    """Group commands that fail."""


@failing.command()
def bug() -> None:
    raise KeyError("what\nis missing")


@failing.command()
def interrupt() -> None:
    raise KeyboardInterrupt


@failing.command()
def stopped_twice() -> None:
    with SignalHandler():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal must end it")


def test_bug_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNN_DETECT_DEBUG", raising=False)
    result = CliRunner().invoke(failing, ["bug"])
    one_error(result, 70, "KeyError", "SNN_DETECT_DEBUG=1")
    monkeypatch.setenv("SNN_DETECT_DEBUG", "1")
    assert "Traceback" in CliRunner().invoke(failing, ["bug"]).stderr


@pytest.mark.parametrize("command", ["interrupt", "stopped-twice"])
def test_interrupt(command: str) -> None:
    result = CliRunner().invoke(failing, [command])
    assert (result.exit_code, result.stderr) == (130, "")


def test_signal_handlers_are_restored_and_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with SignalHandler() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.goes_on()
            assert signals.exit_code == 0
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, before)
