"""What replay writes for other tools: a sheet, a label track of Audacity, a table of DCASE's kind."""

from __future__ import annotations

import json
import os
import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from detector.cli.main import cli
from detector.cli.replay import raven_rows, write_rows
from detector.features import dct_matrix, log_mel_matrix, mfcc_params
from detector.messages import Event
from detector.network import load_model
from detector.records import StreamInfo, event_record
from tests.model_files import changed_model, on_trial

SCENE = Path(str(resources.files("models") / "demo" / "scene.flac"))


def replay(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["replay", "--quiet", *map(str, arguments)])


def test_labels_and_table_agree_with_the_records(tmp_path: Path) -> None:
    copy = tmp_path / "a folder" / "two\twords.flac"
    copy.parent.mkdir()
    shutil.copy(SCENE, copy)
    done = replay("--audacity", tmp_path / "labels.txt", "--tsv", tmp_path / "all.tsv", SCENE, copy)
    assert done.exit_code == 0, done.stderr
    offsets = [r for line in done.stdout.splitlines() if (r := json.loads(line))["type"] == "offset"]
    rows = [
        (
            "two words.flac" if "two" in r["source"] else "scene.flac",
            f"{r['onset_s']:.6f}",
            f"{r['offset_s']:.6f}",
            r["label"],
        )
        for r in offsets
    ]
    table = [tuple(line.split("\t")) for line in (tmp_path / "all.tsv").read_text().splitlines()]
    assert table[0] == ("filename", "onset", "offset", "event_label")
    assert sorted(table[1:]) == sorted(rows)
    assert "guitar" in {row[3] for row in table}
    track = [tuple(line.split("\t")) for line in (tmp_path / "labels-scene.txt").read_text().splitlines()]
    assert track == sorted((row[1:] for row in rows if row[0] == "scene.flac"), key=lambda row: float(row[0]))


def selection_table(path: Path) -> Any:
    import pandas  # type: ignore[import-untyped]  # slow, so not in each process of the tests

    return pandas.read_csv(path, sep="\t", dtype={"Annotation": str}, keep_default_na=False)


def test_a_selection_table_is_read_as_raven_writes_it(tmp_path: Path) -> None:
    done = replay("--raven", tmp_path / "table.txt", SCENE)
    offsets = [r for line in done.stdout.splitlines() if (r := json.loads(line))["type"] == "offset"]
    table = selection_table(tmp_path / "table.txt")
    assert list(table.columns[:5]) == ["Selection", "View", "Channel", "Begin Time (s)", "End Time (s)"]
    assert list(table["Selection"]) == [1, 2, 3, 4]
    assert set(table["Low Freq (Hz)"]) == {50.0}
    assert set(table["High Freq (Hz)"]) == {8000.0}
    found = zip(table["Begin Time (s)"], table["End Time (s)"], table["Annotation"], table["Score"], strict=True)
    assert sorted(found) == sorted((r["onset_s"], r["offset_s"], r["label"], r["peak"]) for r in offsets)


def test_selections_are_in_the_channel_that_was_used(tmp_path: Path) -> None:
    wave, rate = soundfile.read(SCENE)
    soundfile.write(tmp_path / "stereo.wav", np.stack([np.zeros_like(wave), wave], axis=1), rate)
    replay("--raven", tmp_path / "right.txt", "--channel", "right", tmp_path / "stereo.wav")
    assert set(selection_table(tmp_path / "right.txt")["Channel"]) == {2}


def test_files_of_one_name_are_not_mixed_in_a_table(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        shutil.copy(SCENE, tmp_path / folder / "scene.flac")
    table = tmp_path / "table.tsv"
    files = (str(tmp_path / folder / "scene.flac") for folder in ("a", "b"))
    done = CliRunner().invoke(cli, ["replay", "--tsv", str(table), *files])
    assert done.exit_code == 2
    assert "--tsv: several files are called 'scene.flac'; replay them one at a time" in done.stderr
    assert not table.exists()


def test_labels_of_selections_are_texts_whatever_they_look_like(tmp_path: Path) -> None:
    origin = StreamInfo("a.wav", "a.wav", 1000, "household-1.2.0", "ab" * 32)
    offsets = [
        event_record(Event("offset", k, label, "x", 100 * k, 5000, 0.2, 0.6, 4660, 0.97, 0.9, "ended"), origin, k)
        for k, label in enumerate(("007", "NA", "two\twords", "1e3"))
    ]
    write_rows(tmp_path / "table.txt", raven_rows(offsets, 0, 500))
    table = selection_table(tmp_path / "table.txt")
    assert list(table["Annotation"]) == ["007", "NA", "two words", "1e3"]
    assert list(table["Begin Time (s)"]) == [0.0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_a_sheet_shows_every_stage(tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"sheet{suffix}"
    plain = replay(SCENE)
    drawn = replay("--picture", target, SCENE)
    assert drawn.stdout == plain.stdout  # drawing changes no result
    assert list(tmp_path.iterdir()) == [target]
    if suffix == ".png":
        from matplotlib.image import imread

        picture = imread(target)[..., :3]
        assert picture.shape[1] > 1500
        # No panel is empty: no fifth of the height is blank.
        inked = (picture[:, picture.shape[1] // 4 :] < 0.9).reshape(len(picture), -1).max(axis=1).tolist()
        assert max(len(run) for run in "".join("x" if i else " " for i in inked).split("x")) < len(inked) / 5
    else:
        text = target.read_text(encoding="utf-8")
        assert text.count("<image") >= 3  # features, encoder, layers
        assert all(word in text for word in ("encoder", "log mel", "guitar"))


def test_a_file_without_sound_events_or_shorter_than_a_frame_has_its_sheet(tmp_path: Path) -> None:
    for seconds in (0.01, 2.0):
        sound = tmp_path / "quiet.wav"
        soundfile.write(sound, np.zeros(round(16000 * seconds), np.float32), 16000)
        done = replay("--picture", tmp_path / "quiet.png", "--audacity", tmp_path / "quiet.txt", "--force", sound)
        assert done.exit_code == 0, done.stderr
        assert (tmp_path / "quiet.png").stat().st_size > 5000
        assert (tmp_path / "quiet.txt").read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--picture", "out.jpeg"), "must end in .png or .pdf or .svg"),
        (("--picture", "nowhere/out.png"), "there is no folder nowhere"),
        (("--audacity", "nowhere/out.txt"), "there is no folder nowhere"),
        (("--tsv", "nowhere/out.tsv"), "there is no folder nowhere"),
        (("--tsv", "."), "is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_reported_first(arguments: tuple[str, ...], reason: str) -> None:
    done = replay(*arguments, SCENE)
    assert done.exit_code == 2
    assert reason in done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    done = replay("--picture", tmp_path / "out.png", SCENE)
    assert done.exit_code == 2
    assert re.search(r"pip install -e '.*\[plot\]'", done.stderr)


@pytest.mark.parametrize(("n_mfcc", "lifter"), [(40, 0), (26, 22), (13, 22)])
def test_log_mel_energies_are_restored_from_cepstra(n_mfcc: int, lifter: int) -> None:
    p = mfcc_params(numcep=n_mfcc, nfilt=40 if n_mfcc == 40 else 26, ceplifter=lifter, appendEnergy=False)
    bands = np.random.default_rng(0).normal(size=(5, p.n_mels)).cumsum(axis=1)
    back = bands @ dct_matrix(p) @ log_mel_matrix(p)
    if p.n_mfcc == p.n_mels:
        np.testing.assert_allclose(back, bands, atol=1e-9)
    else:  # only what the truncation removed is missing
        np.testing.assert_allclose(back @ dct_matrix(p), bands @ dct_matrix(p), atol=1e-9)


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("name", [b"$x_{$.wav", b"a$b$c.wav", b"odd-\xff.wav", b"bell\x07\n.wav"])
def test_any_name_of_a_file_can_stand_in_a_picture(name: bytes, suffix: str, tmp_path: Path) -> None:
    path, target = tmp_path / os.fsdecode(name), tmp_path / f"sheet{suffix}"
    soundfile.write(os.fsencode(path), np.zeros(16000, np.float32), 16000)
    done = replay("--quiet", "--picture", target, path)
    assert done.exit_code == 0, done.stderr
    if suffix == ".svg":
        ElementTree.fromstring(target.read_text(encoding="utf-8"))  # noqa: S314 - our own file


def test_classes_on_trial_are_reported_on_request_only(tmp_path: Path) -> None:
    path = changed_model(tmp_path / "m.onnx", lambda m: on_trial(m, "speech"))

    def labels(*arguments: str | Path) -> set[str]:
        done = replay(*arguments, SCENE)
        assert done.exit_code == 0, done.stderr
        return {json.loads(line)["label"] for line in done.stdout.splitlines()}

    everything = labels()
    assert {"guitar", "speech"} < everything
    assert labels("--model", path) == {"speech"}
    assert labels("--model", path, "--all-classes") == everything
    assert labels("--model", path, "--only", "guitar") == labels("--model", path, "--all-classes", "--only", "guitar")
    assert labels("--model", path, "--only", "guitar") == {"guitar"}


def test_a_model_with_all_classes_on_trial_is_one_clear_line(tmp_path: Path) -> None:
    path = changed_model(tmp_path / "m.onnx", on_trial)
    done = replay("--model", path, SCENE)
    assert done.exit_code == 2
    name = f"household {load_model().manifest.version}"
    assert f"error: all classes of {name} are on trial; name those to report (--only" in done.stderr


def test_model_info_marks_classes_on_trial(tmp_path: Path) -> None:
    path = changed_model(tmp_path / "m.onnx", lambda m: on_trial(m, "guitar"))
    text = CliRunner().invoke(cli, ["model", "info", str(path)]).stdout
    assert "ready: found 9/10, 0.5 false an hour, 0.4 s late" in next(x for x in text.splitlines() if " guitar " in x)
    assert "on trial: found 1/10" in next(line for line in text.splitlines() if " rain " in line)
