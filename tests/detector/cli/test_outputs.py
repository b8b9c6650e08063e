"""No command replaces one of its inputs or a file of another kind; one of its own kind only with --force."""

from __future__ import annotations

import os
import shutil
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from detector.cli.main import cli
from detector.messages import AudioChunk
from detector.service.source import Tee
from detector.system import PICTURE, WAV, FileKind, Output, check_outputs, replace_file
from tests.service import Child, wait_until

SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))
MODEL = Path(str(resources.files("models") / "pretrained" / "household.onnx"))
RATE = 16000
REPLAY_OUTPUTS = ("--tsv", "--audacity", "--raven", "--scores", "--picture")
SUFFIX = {"--scores": ".npz", "--picture": ".svg"}


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Give a recording with a guitar in it."""
    wave, _ = soundfile.read(SCENE, dtype="float32", frames=9 * RATE)
    path = tmp_path / "a.wav"
    soundfile.write(path, wave, RATE)
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [*map(str, arguments)])


def refused(done: Result, words: str) -> None:
    (line,) = done.stderr.splitlines()
    assert done.exit_code == 2, done.output
    assert words in line
    assert not done.stdout


@pytest.mark.parametrize("option", ["--tsv", "--audacity", "--raven"])
def test_the_first_of_several_recordings_is_not_taken_for_an_output(option: str, sound: Path) -> None:
    """What a shell makes of ``replay --tsv *.wav``."""
    other = sound.with_name("b.wav")
    shutil.copy(sound, other)
    before = sound.read_bytes()
    # A model that cannot be read shows that the outputs are checked before anything is read.
    missing = sound.with_name("missing.onnx")
    refused(run("replay", "--model", missing, option, sound, other), "exists, is not")
    refused(run("replay", "--model", missing, "--force", option, sound, other), "exists, is not")
    refused(run("replay", "--model", missing, option, sound, sound), "is read by this command")
    assert (sound.read_bytes(), other.read_bytes()) == (before, before)
    assert sorted(p.name for p in sound.parent.iterdir()) == ["a.wav", "b.wav"]


@pytest.mark.parametrize("option", REPLAY_OUTPUTS)
def test_what_exists_is_replaced_only_with_force_and_only_by_its_own_kind(option: str, sound: Path) -> None:
    out = sound.with_name("out" + SUFFIX.get(option, ".txt"))
    command = ("replay", sound, "--quiet", "--json", option, out)
    assert run(*command).exit_code == 0
    first = out.read_bytes()
    out.write_bytes(first + b" ")
    refused(run(*command), "exists already; name another file, or replace this one with --force")
    assert out.read_bytes() == first + b" "
    assert run(*command, "--force").exit_code == 0
    assert len(out.read_bytes()) == len(first)
    out.write_text("Dear diary")
    refused(run(*command, "--force"), "exists, is not")
    assert out.read_text() == "Dear diary"


def test_a_link_to_an_input_counts_as_the_input(sound: Path) -> None:
    hard, soft = sound.with_name("hard.tsv"), sound.with_name("soft.tsv")
    hard.hardlink_to(sound)
    soft.symlink_to(sound)
    for link in (hard, soft):
        refused(run("replay", sound, "--tsv", link, "--force"), "is read by this command")


def test_two_outputs_cannot_be_one_file(sound: Path) -> None:
    out = sound.with_name("out.txt")
    refused(run("replay", sound, "--tsv", out, "--audacity", out), "--tsv writes the same file")
    refused(run("replay", sound, "--tsv", out, "--audacity", f"{sound.parent}/../{sound.parent.name}/out.txt"), "same")
    assert not out.exists()


@pytest.mark.parametrize("option", REPLAY_OUTPUTS)
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("folder{}", "is a directory"),
        ("none/out{}", "there is no folder"),
        ("pipe{}", "is a device or a pipe"),
        ("a.wav/out{}", "there is no folder"),
        ("x" * 300 + "{}", "cannot be written"),
    ],
)
def test_places_that_cannot_be_files_are_refused_before_anything_is_read(
    option: str, place: str, words: str, sound: Path
) -> None:
    suffix = SUFFIX.get(option, "")
    (sound.parent / f"folder{suffix}").mkdir()
    os.mkfifo(sound.parent / f"pipe{suffix}")
    refused(run("replay", "--model", "/none", sound, option, sound.parent / place.format(suffix)), words)


def test_a_device_is_not_replaced_by_a_file() -> None:
    """Root could: a rename over /dev/null would leave a machine without it."""
    null = FileKind("a table", WAV.head)
    with pytest.raises(Exception, match="is a device or a pipe"):
        check_outputs([Output("--tsv", Path("/dev/null"), null)], force=True)


def test_the_model_is_not_replaced(sound: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.npz"
    shutil.copy(MODEL, model)
    refused(run("replay", "--model", model, sound, "--scores", model, "--force"), "is read by this command")


def test_tee_replaces_only_recordings_and_only_with_force(sound: Path) -> None:
    text, before = sound.with_name("notes.wav"), sound.read_bytes()
    text.write_text("no recording")
    refused(run("--device", "-", "--tee", sound), "exists already")
    refused(run("--device", "-", "--tee", text, "--force"), "is not a WAV file")
    refused(run("--device", sound, "--web", "127.0.0.1:0", "--tee", sound, "--force"), "is read by this command")
    assert (sound.read_bytes(), text.read_text()) == (before, "no recording")


def test_tee_with_force_puts_the_complete_recording_in_place_at_the_end(sound: Path) -> None:
    before = sound.read_bytes()
    with Child("--device", "-", "--tee", sound, "--force", "--json") as child:
        child.play(np.full(RATE, 0.25, np.float32))
        wait_until(lambda: list(sound.parent.glob(".a.*.wav")), "the new file")
        assert sound.read_bytes() == before
        child.end_sound()
        assert child.wait() == 0
    wave, _ = soundfile.read(sound, dtype="float32")
    assert len(wave) == RATE
    assert [p.name for p in sound.parent.iterdir()] == ["a.wav"]


def test_tee_writes_a_new_file_under_its_name_from_the_beginning(tmp_path: Path) -> None:
    tee = Tee(tmp_path / "new.wav", RATE)
    tee.on_chunk(AudioChunk(np.zeros(RATE, np.float32), 0))
    assert [p.name for p in tmp_path.iterdir()] == ["new.wav"]
    tee.close()


def test_a_replaced_link_leads_to_the_new_file(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    with replace_file(link) as part:
        part.write_text("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_kinds_are_recognised_by_their_first_bytes(tmp_path: Path) -> None:
    place = tmp_path / "file"
    for head, kind, is_own in (
        (b"\x89PNG\r\n\x1a\n123", PICTURE, True),
        (b"<?xml version='1.0'?><svg>", PICTURE, True),
        (b"%PDF-1.4", PICTURE, True),
        (b"<html>", PICTURE, False),
        (b"RIFF1234WAVEfmt ", WAV, True),
        (b"RIFF1234AVI LIST", WAV, False),
        (b"", WAV, True),
    ):
        place.write_bytes(head)
        if is_own:
            check_outputs([Output("--out", place, kind)], force=True)
        else:
            with pytest.raises(Exception, match="is not replaced"):
                check_outputs([Output("--out", place, kind)], force=True)


@pytest.mark.parametrize("given", [["--target", "guitar=MISSING"], ["MISSING"], ["--scores", "SAME", "--out", "SAME"]])
def test_calibrate_checks_its_places_before_it_listens(given: list[str], tmp_path: Path) -> None:
    arguments = [a.replace("MISSING", f"{tmp_path}/missing").replace("SAME", f"{tmp_path}/same.toml") for a in given]
    live = () if given == ["MISSING"] else ("--device", "-")
    done = CliRunner().invoke(cli, ["calibrate", *live, *arguments], input=b"\0" * 64000)
    (line,) = done.stderr.splitlines()
    assert done.exit_code == (2 if "SAME" in given else 66), done.output
    assert "is read" in line or "missing" in line or "writes the same file" in line
    assert list(tmp_path.iterdir()) == []


def test_calibrate_writes_no_settings_on_an_error(sound: Path) -> None:
    quiet, broken, out = (sound.with_name(name) for name in ("quiet.wav", "broken.flac", "50.toml"))
    soundfile.write(quiet, 0.001 * np.random.default_rng(0).standard_normal(5 * RATE), RATE)
    broken.write_bytes(b"fLaC")
    done = run("calibrate", quiet, broken, "--out", out)
    assert done.exit_code == 66
    assert "no settings are written" in done.stderr
    assert not out.exists()
    assert run("calibrate", quiet, "--out", out).exit_code == 0
    refused(run("calibrate", quiet, "--out", out), "exists already")
    refused(run("calibrate", quiet, "--out", quiet, "--force"), "is read by this command")
    assert run("calibrate", quiet, "--out", out, "--force").exit_code == 0
