"""``snn-detect calibrate`` as users run it: minutes of synthetic sound, the live pipeline, real files."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import tomllib
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from detector.calibration.measure import Measurement, ScoreStore
from detector.cli.main import cli
from detector.config.loading import load_settings
from detector.messages import Samples
from detector.pipeline import Detector
from detector.service.process import SignalHandler
from detector.statistics import poisson_upper_bound
from tests.service import Child, wait_until

RATE = 16000
SECONDS = 150
MODEL = os.environ.get("SNN_DETECT_MODEL")
SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove settings from the environment, but for the model under test."""
    for variable in os.environ:
        if variable.startswith(("SNN_DETECT_", "XDG_")) or variable.endswith("_DIRECTORY"):
            monkeypatch.delenv(variable)
    if MODEL:
        monkeypatch.setenv("SNN_DETECT_MODEL", MODEL)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture(scope="module")
def backgrounds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Give two recordings of one kind of sound that causes false alarms."""
    folder = tmp_path_factory.mktemp("backgrounds")
    paths = (folder / "first.flac", folder / "second.flac")
    for seed, path in enumerate(paths):
        soundfile.write(path, clatter(np.random.default_rng(seed)), RATE)
    return paths


def clatter(rng: np.random.Generator) -> Samples:
    """Return faint noise with bursts of noise and, as of plucked strings, tones that decay."""
    wave = 0.002 * rng.standard_normal(SECONDS * RATE)
    at = 0
    while (at := at + int(rng.exponential(0.7) * RATE)) < len(wave) - 2 * RATE:
        t = np.arange(int(rng.uniform(0.1, 2.0) * RATE)) / RATE
        pitch = rng.uniform(90, 500)
        tones = sum(np.sin(2 * np.pi * pitch * k * t) * np.exp(-k * t) / k for k in range(1, 13))
        burst = tones if rng.random() < 0.9 else rng.standard_normal(t.size)
        wave[at : at + t.size] += rng.uniform(0.02, 0.2) * burst * np.exp(-t * rng.uniform(1, 4))
    return np.asarray(wave.clip(-1, 1), np.float32)


def calibrate(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["calibrate", *map(str, arguments)])


def reported(path: Path, *arguments: str) -> Counter[str]:
    """Return how many onsets of each label ``snn-detect replay`` reports."""
    done = CliRunner().invoke(cli, ["replay", str(path), "--json", "-q", *arguments])
    assert done.exit_code == 0, done.output
    records = map(json.loads, done.stdout.splitlines())
    return Counter(r["label"] for r in records if r["type"] == "onset")


def line_of(done: Result) -> str:
    (line,) = done.stderr.splitlines()
    return line


def test_the_promise_holds_on_a_second_recording(backgrounds: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = backgrounds
    out = tmp_path / "50-calibration.toml"
    done = calibrate(first, "--out", out, "--json", "--max-false-alarms", "30")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    written = tomllib.loads(out.read_text(encoding="utf-8"))
    hours = SECONDS / 3600
    assert written["calibration"]["hours"] == pytest.approx(hours, abs=1e-4)
    assert written["calibration"]["promise_per_hour"] == pytest.approx(poisson_upper_bound(0) / hours, rel=1e-2)
    rows = {c["label"]: {r["threshold"]: r["false_alarms"] for r in c["rows"]} for c in found["classes"]}
    own = {c["label"]: rows[c["label"]][c["own_threshold"]] for c in found["classes"]}
    # What the table reports for the model's own thresholds is what the pipeline reports.
    assert {label: n for label, n in own.items() if n} == dict(reported(first))
    assert sum(own.values()) > 5
    thresholds = written["listening"]["thresholds"]
    option = "--threshold=" + ",".join(f"{label}={value}" for label, value in thresholds.items())
    held = [c["label"] for c in found["classes"] if c["is_held"]]
    assert len(held) >= len(found["classes"]) - 2
    again, before = reported(second, option), reported(second)
    assert sum(again.values()) < sum(before.values())
    for label in held:
        assert again[label] <= written["calibration"]["promise_per_hour"] * hours


def test_scores_are_kept_and_files_are_measured_once(backgrounds: tuple[Path, Path], tmp_path: Path) -> None:
    scores = tmp_path / "site.scores"
    first = calibrate(backgrounds[0], "--scores", scores, "--json", "--no-write")
    assert first.exit_code == 0, first.output
    size = scores.stat().st_size
    assert size < SECONDS * RATE / 8  # too small for sound
    again = calibrate(backgrounds[0], "--scores", scores, "--json", "--no-write")
    assert json.loads(again.stdout)["classes"] == json.loads(first.stdout)["classes"]
    assert scores.stat().st_size == size
    both = calibrate(backgrounds[1], "--scores", scores, "--json", "--no-write")
    assert json.loads(both.stdout)["calibration"]["hours"] == pytest.approx(2 * SECONDS / 3600, abs=1e-4)


class StopsAfter(SignalHandler):
    """A signal after so many chunks."""

    def __init__(self, chunks: int) -> None:
        super().__init__()
        self.left = chunks

    def advance(self, *_: float) -> None:
        """Count a chunk that was measured."""
        self.left -= 1
        self.number = self.number if self.left else signal.SIGINT


def test_a_file_is_continued_where_it_was_left(backgrounds: tuple[Path, Path], tmp_path: Path) -> None:
    detector = Detector.load(MODEL)
    measured = []
    for chunks in (40, 10**6):
        store = ScoreStore(tmp_path / "site.scores", detector)
        signals = StopsAfter(chunks)
        Measurement(detector, store, signals).measure_file(backgrounds[0], None, signals.advance)
        assert signals.goes_on() == (chunks > 40)
        measured.append(store.background_hours * 3600)
        assert Measurement(detector, store, SignalHandler()).is_measured(backgrounds[0]) == (chunks > 40)
        store.close()
    assert measured == [pytest.approx(40, abs=1), pytest.approx(SECONDS, abs=0.2)]


def test_one_channel_of_recordings_with_swapped_wires(backgrounds: tuple[Path, Path], tmp_path: Path) -> None:
    sound, _ = soundfile.read(backgrounds[0], dtype="float32")
    swapped, scores = tmp_path / "swapped.flac", tmp_path / "scores.sqlite"
    soundfile.write(swapped, np.stack((sound, -sound), axis=1), RATE)
    options = ("--no-write", "--json", "--quiet")
    expected = json.loads(calibrate(backgrounds[0], *options).stdout)["classes"]
    mean = calibrate(swapped, *options, "--scores", scores)
    assert json.loads(mean.stdout)["classes"] != expected
    # The same file by another channel is another recording.
    left = calibrate(swapped, *options, "--channel", "left")
    assert json.loads(left.stdout)["classes"] == expected
    both = json.loads(calibrate(swapped, *options, "--channel", "left", "--scores", scores).stdout)
    assert both["calibration"]["hours"] == pytest.approx(2 * SECONDS / 3600, rel=0.01)
    assert calibrate(swapped, *options, "--channel", "middle").exit_code == 2


def test_interrupted_live_sound_is_continued_later(tmp_path: Path) -> None:
    scores, sound = tmp_path / "site.scores", clatter(np.random.default_rng(2))[: 12 * RATE]
    command = ("calibrate", "--device", "-", "--scores", scores, "--no-write", "--json", "--hours", str(20 / 3600))
    with Child(*command) as child:
        child.play(sound)
        child.play(np.zeros(3 * RATE, np.float32))
        wait_until(lambda: any("zeros" in line for line in child.errors), "the report of the silence after the sound")
        child.signal(signal.SIGINT)
        assert child.wait() == 130
        assert "the same command continues" in child.errors[-1]
        measured = json.loads("\n".join(child.lines))["calibration"]["hours"] * 3600
    with Child(*command) as child:
        child.play(np.tile(sound, 2))
        assert child.wait() == 0
        found = json.loads("\n".join(child.lines))["calibration"]
    assert 12 < measured < 16
    assert found["hours"] * 3600 == pytest.approx(20, abs=1.5)  # to a chunk, and four digits of an hour
    assert found["device"] == "stdin"


def test_recordings_give_the_recall_of_a_threshold(tmp_path: Path) -> None:
    sound, _ = soundfile.read(SCENE, dtype="float32")
    folder = tmp_path / "guitars"
    folder.mkdir()
    soundfile.write(folder / "yes.wav", sound[6 * RATE : 12 * RATE], RATE)
    soundfile.write(folder / "no.wav", np.zeros(2 * RATE, np.float32), RATE)
    (folder / "notes.txt").write_text("no sound")
    (folder / "broken.flac").write_bytes(b"fLaC")
    quiet = tmp_path / "quiet.wav"
    soundfile.write(quiet, 0.001 * np.random.default_rng(0).standard_normal(20 * RATE), RATE)
    done = calibrate(quiet, "--target", f"guitar={folder}", "--only", "guitar", "--json", "--no-write")
    assert done.exit_code == 66  # one file could not be measured, and the others count
    assert "broken.flac" in line_of(done)
    (guitar,) = json.loads(done.stdout)["classes"]
    assert {r["recall"]["total"] for r in guitar["rows"]} == {2}
    assert guitar["rows"][0]["recall"]["hits"] == 1
    words = calibrate(quiet, "--target", f"guitar={folder}", "--only", "guitar", "--no-write")
    assert "1/2 = 50.0 %" in words.stdout
    assert "(<= 540)" in words.stdout  # 3.0 in 20 s
    assert "cannot promise" in words.stdout


def test_the_fragment_lies_beside_the_configuration_and_is_replaced(tmp_path: Path) -> None:
    config, quiet = tmp_path / "config.toml", tmp_path / "quiet.wav"
    config.write_text("")
    soundfile.write(quiet, 0.001 * np.random.default_rng(0).standard_normal(5 * RATE), RATE)
    for _ in range(2):
        assert calibrate(quiet, "--config", config).exit_code == 0
    fragment = tmp_path / "config.d/50-calibration.toml"
    assert [p.name for p in fragment.parent.iterdir()] == [fragment.name]
    assert CliRunner().invoke(cli, ["config", "check", str(config)]).exit_code == 0
    shown = json.loads(CliRunner().invoke(cli, ["config", "show", "--json", str(config)]).stdout)
    assert shown["places"]["listening.thresholds"] == str(fragment)
    assert shown["settings"]["calibration"]["model_sha256"] == Detector.load(MODEL).sha256
    fragment.write_text("[listening]\n")
    done = calibrate(quiet, "--config", config)
    assert done.exit_code == 2
    assert "is not a calibration" in line_of(done)


def test_one_of_several_sources_has_a_fragment_of_its_own(tmp_path: Path) -> None:
    quiet, config = tmp_path / "quiet.wav", tmp_path / "config.toml"
    soundfile.write(quiet, np.zeros(60 * 16000, np.float32), 16000)
    config.write_text('[sources.kitchen]\n[sources.garden]\nonly = ["guitar"]\n')
    assert calibrate(quiet, "--config", config, "--source", "garden", "--quiet").exit_code == 0
    fragment = tmp_path / "config.d" / "50-calibration-garden.toml"
    assert calibrate(quiet, "--config", config, "--source", "garden", "--quiet").exit_code == 0  # it replaces its own
    kitchen, garden = load_settings(config).each()
    assert (kitchen.calibration, kitchen.listening.thresholds) == (None, {})
    assert garden.calibration is not None
    assert garden.listening.thresholds.keys() == {"guitar"}
    assert "[sources.garden.calibration]" in fragment.read_text()
    for options, words in (([], "kitchen, garden"), (["--source", "hall"], "--source hall: the configuration has")):
        done = calibrate(quiet, "--config", config, *options)
        assert done.exit_code == 2
        assert words in line_of(done)


def test_there_is_no_listening_for_hours_behind_an_error_in_a_recording(tmp_path: Path) -> None:
    """No settings would be written at the end."""
    text, out = tmp_path / "no-sound.wav", tmp_path / "settings.toml"
    text.write_text("no sound")
    done = calibrate("--hours", "8", "--device", "mic", "--target", f"guitar={text}", "--out", out)
    assert done.exit_code == 66, done.output
    error, status = done.stderr.splitlines()
    assert "no-sound.wav: no sound file that can be read" in error
    assert status.startswith("not listening: correct what is named above")
    assert not out.exists()


def test_errors_are_one_line(tmp_path: Path) -> None:
    empty, quiet, text = tmp_path / "empty", tmp_path / "quiet.wav", tmp_path / "text.scores"
    empty.mkdir()
    soundfile.write(quiet, np.zeros(RATE, np.float32), RATE)
    text.write_text("no scores, though long enough to be some")
    other = tmp_path / "other.scores"
    ScoreStore(other, Detector.load(MODEL)).close()
    with sqlite3.connect(other) as connection:
        connection.execute("UPDATE model SET sha256 = 'ab'")
    connection.close()
    for code, words, *arguments in (
        (66, "no sound files in this folder", empty),
        (66, "none.wav", tmp_path / "none.wav", "--no-write"),
        (2, "the model knows no 'tuba'", quiet, "--target", f"tuba={quiet}"),
        (2, "the model knows no 'tuba'", quiet, "--only", "tuba"),
        (2, "label=folder", quiet, "--target", "guitar"),
        (2, "--hours", quiet, "--hours", "1"),
        (2, "name their file with --scores", "--hours", "0"),
        (2, "is not a file of scores", quiet, "--scores", text),
        (2, "holds scores of the model", quiet, "--scores", other),
        (2, "there is no folder", quiet, "--out", tmp_path / "none/a.toml"),
    ):
        done = calibrate(*arguments)
        assert done.exit_code == code, done.output
        assert any(words in line for line in done.stderr.splitlines()), done.stderr
        assert "Traceback" not in done.stderr
