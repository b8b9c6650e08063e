"""Files with several sound tracks: chosen by number or language, by the same option in all commands."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pytest
from click.testing import CliRunner

from detector.audio.files import SoundFileReader
from detector.audio.live_source import Mixing
from detector.audio.sources import read_sound
from detector.cli.main import cli
from detector.errors import SourceError
from tests.broker import program
from tests.contracts.live import SCENE
from tests.detector.archive import processes
from tests.detector.audio.test_files import encode, wav
from tests.service import Child

LOSSLESS: Final = {"film.mkv": "pcm_s16le", "film.mov": "pcm_s16le", "film.mp4": "alac", "film.mka": "flac"}
LANGUAGES: Final = ("fra", "eng", "")
NAMES: Final = "1 (fra), 2 (eng), 3"


def film(path: Path, codec: str = "pcm_s16le", *, sounds: tuple[Path, ...] = ()) -> Path:
    """Write a film with a picture and three sound tracks, the first two with a language."""
    folder = path.parent
    sounds = sounds or tuple(wav(folder / f"{number}.wav", number) for number in range(3))
    command: list[str | Path] = [
        program("ffmpeg"),
        "-v",
        "error",
        "-f",
        "lavfi",
        "-i",
        "testsrc=size=64x64:rate=5:duration=3",
    ]
    for place in sounds:
        command += ["-i", place]
    command += ["-map", "0:v"] if path.suffix != ".mka" else []
    for number in range(len(sounds)):
        command += ["-map", f"{number + 1}:a", f"-metadata:s:a:{number}", f"language={LANGUAGES[number]}"]
    subprocess.run([*command, "-c:v", "mpeg4", "-c:a", codec, path], check=True)
    return path


def read(path: Path, track: str | None) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    reader = SoundFileReader(path, track)
    try:
        return np.concatenate([block[:, 0].copy() for block in reader.blocks(10_000)])
    finally:
        reader.close()


@pytest.mark.parametrize("name", LOSSLESS)
def test_a_track_is_chosen_by_its_number_or_its_language(tmp_path: Path, name: str) -> None:
    path = film(tmp_path / name, LOSSLESS[name])
    for track, number in {None: 0, "1": 0, "fra": 0, "2": 1, "ENG": 1, "3": 2}.items():
        np.testing.assert_array_equal(read(path, track), read(tmp_path / f"{number}.wav", None), err_msg=str(track))


def test_a_track_that_is_not_there_is_an_error_that_names_those_that_are(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mkv")
    for track in ("4", "0", "deu", "9" * 5000, "-1", "²"):
        with pytest.raises(SourceError) as caught:
            SoundFileReader(path, track)
        assert str(caught.value) == f"{path}: it has the sound tracks {NAMES}; --track {track} is not there"


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg", "a.mp3"])
def test_a_file_of_sound_alone_has_one_track_without_a_language(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name)
    assert len(read(path, "1")) == len(read(path, None))
    for track in ("2", "deu"):
        with pytest.raises(SourceError, match=re.escape(f"it has the sound tracks 1; --track {track} is not there")):
            SoundFileReader(path, track)


def test_which_track_was_taken_is_reported_where_there_are_several_and_none_was_chosen(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mkv")
    warnings: list[str] = []
    read_sound(path, 16000, mixing=Mixing(warn=warnings.append))
    assert warnings == [f"{path}: has the sound tracks {NAMES}; 1 is used, choose with --track"]
    read_sound(path, 16000, mixing=Mixing(warn=warnings.append, track="1"))
    read_sound(encode(tmp_path / "a.mka", 0, "-c:a", "flac"), 16000, mixing=Mixing(warn=warnings.append))
    assert len(warnings) == 1


@pytest.fixture
def scene_second(tmp_path: Path) -> Path:
    """Return a film with noise in the first track, and the demo scene in the second."""
    scene = tmp_path / "scene.wav"
    cut = ("-i", SCENE, "-t", "8", scene)
    subprocess.run([program("ffmpeg"), "-v", "error", *cut], check=True)
    (tmp_path / "in").mkdir()
    return film(tmp_path / "in" / "film_20261123_180405.mkv", sounds=(wav(tmp_path / "noise.wav"), scene))


def events(lines: str) -> list[tuple[str, float]]:
    """Return what was detected, and when, by records on lines."""
    records = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
    return sorted((record["label"], record["onset_s"]) for record in records if record["type"] == "onset")


def test_replay_archive_and_device_read_the_track_that_is_asked_for(scene_second: Path, tmp_path: Path) -> None:
    expected = events(CliRunner().invoke(cli, ["replay", "--json", "--quiet", str(tmp_path / "scene.wav")]).stdout)
    assert expected
    found = CliRunner().invoke(cli, ["replay", "--json", "--track", "eng", str(scene_second)])
    assert (found.exit_code, events(found.stdout)) == (0, expected)
    assert "warning" not in found.stderr
    done = processes.run(scene_second.parent, "--out", tmp_path / "out", "--jobs", "1", "--track", "2")
    assert (done.returncode, "sound tracks" in done.stderr) == (0, False)
    rows = duckdb.execute(f"select label, onset_s from '{tmp_path}/out/events/**/*.parquet'").fetchall()  # noqa: S608
    assert sorted(rows) == expected
    with Child("--device", scene_second, "--track", "eng") as child:
        assert child.wait() == 0
    assert events("\n".join(child.lines)) == expected


def test_all_commands_report_which_track_they_took_and_which_is_missing_on_one_line(scene_second: Path) -> None:
    names = "has the sound tracks 1 (fra), 2 (eng)"
    found = CliRunner().invoke(cli, ["replay", "--json", str(scene_second)])
    assert found.exit_code == 0
    note = f"snn-detect: warning: {scene_second}: {names}; 1 is used, choose with --track"
    assert [line for line in found.stderr.splitlines() if "track" in line] == [note]
    found = CliRunner().invoke(cli, ["replay", "--track", "3", str(scene_second)])
    missing = f"snn-detect: error: {scene_second}: it {names}; --track 3 is not there\n"
    assert (found.exit_code, found.stdout, found.stderr) == (66, "", missing)
    with Child("--device", scene_second) as child:
        assert child.wait() == 0
    (line,) = [line for line in child.errors if "track" in line]
    assert f"{scene_second}: {names}; 1 is used, choose with --track" in line
    with Child("--device", scene_second, "--track", "3") as child:
        assert child.wait() == 66
    assert [line for line in child.errors if "track" in line] == [missing.strip()]


def test_an_archive_counts_the_files_whose_track_was_not_chosen_and_has_a_row_for_each_without_it(
    scene_second: Path, tmp_path: Path
) -> None:
    wav(tmp_path / "in" / "a.wav")
    done = processes.run(scene_second.parent, "--out", tmp_path / "out", "--jobs", "1")
    assert done.returncode == 0
    (line,) = [line for line in done.stderr.splitlines() if "track" in line]
    several = f"1 files, such as {scene_second}, have several sound tracks"
    assert line == f"snn-detect: warning: {several}; the first is used, choose with --track"
    columns = duckdb.execute(f"select path, warning from '{tmp_path}/out/files/**/*.parquet'").fetchall()  # noqa: S608
    assert dict(columns) == {
        str(scene_second): f"{scene_second}: has the sound tracks 1 (fra), 2 (eng); 1 is used, choose with --track",
        str(tmp_path / "in" / "a.wav"): None,
    }
    refused = processes.run(scene_second.parent, "--out", tmp_path / "out", "--jobs", "1", "--track", "eng")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert 'was begun with another track (null, now "eng")' in refused.stderr
    done = processes.run(scene_second.parent, "--out", tmp_path / "eng", "--jobs", "1", "--track", "eng", "-q")
    assert done.returncode == 66
    rows = duckdb.execute(f"select path, error from '{tmp_path}/eng/errors.parquet'").fetchall()  # noqa: S608
    path = str(tmp_path / "in" / "a.wav")
    assert rows == [(path, f"{path}: it has the sound tracks 1; --track eng is not there")]


def test_raw_samples_have_no_tracks() -> None:
    found = CliRunner().invoke(cli, ["replay", "--track", "1", "-"], input=b"")
    assert found.exit_code == 2
    assert "raw samples on standard input (-) have no tracks" in found.stderr


def test_calibrate_measures_the_track_that_is_asked_for(scene_second: Path) -> None:
    found = CliRunner().invoke(cli, ["calibrate", "--no-write", "--track", "3", str(scene_second)])
    assert found.exit_code == 66
    assert "--track 3 is not there" in found.stderr
