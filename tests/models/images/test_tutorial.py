"""The commands that draw: what they print, what they write, what they refuse."""

from __future__ import annotations

import gzip
import re
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from detector.errors import ConfigError, SourceError
from models.cli.main import cli, main
from models.images.encodings import encode_all, relative_error
from models.images.tutorial import digit, sound

RATE_HZ = 16000
NAMES = ["rate", "latency, log", "latency, linear", "frame difference", "send-on-delta"]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments], env={"SNN_DETECT_DATA": None})


def check_png(path: Path) -> None:
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 1500
    assert height > 1000


def errors(output: str) -> dict[str, float]:
    """Return the relative error of each encoding in a table."""
    rows = (re.match(r"(\D+?) +\d+ +[\d.]+ +[\d.]+ +([\d.]+)$", line) for line in output.splitlines())
    return {row[1]: float(row[2]) for row in rows if row}


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """Give three seconds: a tone that comes and goes, and at 1.25 s what is no sound."""
    t = np.arange(3 * RATE_HZ) / RATE_HZ
    wave = 0.3 * np.sin(2 * np.pi * 440 * t) * np.sin(2 * np.pi * t) ** 2
    wave[RATE_HZ * 5 // 4] = np.nan
    soundfile.write(tmp_path / "tone.wav", wave.astype(np.float32), RATE_HZ, subtype="FLOAT")
    return tmp_path / "tone.wav"


@pytest.fixture
def mnist(tmp_path: Path) -> Path:
    """Give a test set of two images; the second is a bar."""
    images = np.zeros((2, 28, 28), np.uint8)
    images[1, 4:24, 12:16] = 255
    files = {
        "t10k-images-idx3-ubyte.gz": struct.pack(">4B3I", 0, 0, 8, 3, 2, 28, 28) + images.tobytes(),
        "t10k-labels-idx1-ubyte.gz": struct.pack(">4BI", 0, 0, 8, 1, 2) + bytes([0, 1]),
    }
    (tmp_path / "mnist").mkdir()
    for name, content in files.items():
        (tmp_path / "mnist" / name).write_bytes(gzip.compress(content))
    return tmp_path


def test_a_sound_in_every_encoding(wav: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder" / "tone.png"
    # No more is read: the NaN a quarter of a second later does no harm.
    result = invoke("show-encoding", wav, "--seconds", 1, "--out", out)
    assert result.exit_code == 0, result.output
    assert "tone.wav, 1.0 s: 39 frames of 40 values" in result.output
    found = errors(result.output)
    assert list(found) == NAMES
    assert found["latency, linear"] < found["rate"]
    assert found["send-on-delta"] < found["frame difference"]
    check_png(out)


def test_a_digit_in_every_encoding(mnist: Path, tmp_path: Path) -> None:
    out = tmp_path / "bar.png"
    result = invoke("show-encoding", "--mnist", 1, "--data", mnist, "--out", out)
    assert result.exit_code == 0, result.output
    assert "MNIST test image 1, a 1: 28 frames of 28 values" in result.output
    found = errors(result.output)
    assert list(found) == NAMES
    # Black and white: certain in each step of the rate, first or never as latency.
    assert found["rate"] == found["latency, log"] == found["latency, linear"] == 0
    assert found["send-on-delta"] < found["frame difference"]
    check_png(out)


def test_send_on_delta_of_an_image_is_within_a_sixteenth(data: Path) -> None:
    source = digit(data, 0)
    sent = encode_all(source.frames, source.scale, source.params)[-1]
    assert np.abs(sent.decoded - source.frames).max() <= 1 / 16 + 1e-6


def test_a_real_sound_is_reconstructed_from_the_shipped_encoder(data: Path) -> None:
    source = sound(data / "guitar_notes" / "A#3.flac", 2.0)
    encodings = encode_all(source.frames, source.scale, source.params)
    found = {e.name: relative_error(e.decoded, source.frames, source.deviation) for e in encodings}
    assert found["send-on-delta"] < 0.3
    assert found["frame difference"] > 1


def test_silence_has_no_deviation_to_measure_in(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE_HZ), RATE_HZ)
    result = invoke("show-encoding", tmp_path / "silence.wav", "--out", tmp_path / "silence.png")
    assert result.exit_code == 0, result.output
    assert len(re.findall(r" -$", result.output, re.MULTILINE)) == len(NAMES)
    check_png(tmp_path / "silence.png")


def test_a_sound_shorter_than_a_frame_is_one_frame(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "click.wav", np.full(100, 0.5), RATE_HZ)
    assert sound(tmp_path / "click.wav", 5.0).frames.shape == (1, 40)


def test_one_neuron(tmp_path: Path) -> None:
    result = invoke("show-neuron", "--beta", 0.8, "--out", tmp_path / "n.png")
    assert result.exit_code == 0, result.output
    assert "step current: 15 spikes with the immediate reset, 13 with" in result.output
    check_png(tmp_path / "n.png")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["show-encoding"], "either a sound FILE or"),
        (["show-encoding", "x.wav", "--mnist", 1], "either a sound FILE or"),
        (["show-encoding", "--mnist", 1], "--mnist needs --data"),
        (["show-encoding", "--mnist", -1], "'--mnist'"),
        (["show-encoding", "x.wav", "--seconds", 0], "'--seconds'"),
        (["show-encoding", "x.wav", "--out", "x.pdf"], "ends in .png"),
        (["show-neuron", "--beta", 1.5], "'--beta'"),
    ],
)
def test_what_cannot_be_asked(arguments: list[object], text: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr.splitlines()[-1]


def test_no_such_image(mnist: Path, tmp_path: Path) -> None:
    result = invoke("show-encoding", "--mnist", 2, "--data", mnist, "--out", tmp_path / "x.png")
    assert result.exit_code == ConfigError.exit_code
    assert result.stderr == "snn-train: error: --mnist 2: the test set has the images 0 to 1\n"
    assert not (tmp_path / "x.png").exists()


def test_a_damaged_sound(wav: Path, tmp_path: Path) -> None:
    result = invoke("show-encoding", wav, "--seconds", 3, "--out", tmp_path / "x.png")
    assert result.exit_code == SourceError.exit_code
    assert "is not sound" in result.stderr


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = invoke("show-neuron", "--out", tmp_path / "file" / "n.png")
    assert result.exit_code == ConfigError.exit_code
    assert "cannot be written" in result.stderr


def test_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["snn-train", "show-encoding", "missing.wav"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 66
    error = capsys.readouterr().err
    assert error.startswith("snn-train: error: missing.wav: cannot be opened")
    assert error.count("\n") == 1
