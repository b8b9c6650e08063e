"""Clips collected from packages: selection, trimming, index, and errors where packages are missing."""

from __future__ import annotations

import dataclasses
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from detector.errors import ConfigError, SourceError
from models import RECIPES
from models.cli.main import cli
from models.data.catalogue import INDEX, Entry, read_catalogue, read_index
from models.data.collect import Instrument, gather, playing_range, read_instruments
from models.data.household import list_clips
from models.recipe import load_recipe
from tests.models.rendering.test_patch import Recorded, patch_file

RATE_HZ = 22_050


def tone(path: Path, seconds: float, silence_s: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.2 * np.sin(2 * np.pi * 500 * np.arange(round(seconds * RATE_HZ)) / RATE_HZ)
    soundfile.write(path, np.pad(wave, round(silence_s * RATE_HZ)), RATE_HZ)


def entry(label: str = "none", excepted: tuple[str, ...] = (), limit: int | None = None) -> Entry:
    return Entry("owls", "usr/share/owls", label, "CC0-1.0", excepted, limit=limit)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.wav", "b.wav", "wolf1.wav", "night/c.wav"):
        tone(tmp_path / "usr/share/owls" / name, 1.0, silence_s=0.5)
    tone(tmp_path / "usr/share/owls/click.wav", 0.03)
    (tmp_path / "usr/share/owls/damaged.ogg").write_bytes(b"OggS and no more")
    (tmp_path / "usr/share/owls/readme.txt").write_text("no sound")
    return tmp_path


def test_clips_are_trimmed_and_listed_with_their_origin(root: Path, tmp_path: Path) -> None:
    clips, problems = gather([entry(excepted=("wolf*",))], [], root, tmp_path / "out")
    assert [c.file for c in clips] == [f"usr/share/owls/{name}" for name in ("a.wav", "b.wav", "night/c.wav")]
    assert {(c.label, c.package, c.licence) for c in clips} == {("none", "owls", "CC0-1.0")}
    assert list(read_index(tmp_path / "out")) == clips
    for c in clips:
        wave, rate_hz = soundfile.read(tmp_path / "out" / c.path)
        assert rate_hz == 16_000
        assert wave.size == pytest.approx(16_000, abs=200)  # the silence around it is gone
        assert np.abs(wave).max() == pytest.approx(10 ** (-3 / 20), abs=0.01)
    assert len(problems) == 2
    assert any("click.wav: shorter than 0.08 s" in p for p in problems)
    assert any("damaged.ogg" in p and "left out" in p for p in problems)


def test_so_many_are_taken_evenly(root: Path) -> None:
    names = [p.name for p in entry(excepted=("click*", "damaged*"), limit=2).paths(root)]
    assert names == ["a.wav", "c.wav"]


def test_only_what_is_named_is_taken(root: Path) -> None:
    named = dataclasses.replace(entry(excepted=("b*",)), only=("[ab].wav", "night/*"))
    assert [p.name for p in named.paths(root)] == ["a.wav", "c.wav"]


def test_recordings_in_a_zip_file_are_taken_out_of_it_and_nothing_is_left_behind(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    packed = Entry("seals", "audio/water", "sea_waves", "CC0-1.0", only=("wave*",), archive="usr/share/seals/all.zip")
    with pytest.raises(SourceError, match="no sounds of seals"):
        gather([packed], [], root, tmp_path / "out")
    (root / "usr/share/seals").mkdir()
    with zipfile.ZipFile(root / "usr/share/seals/all.zip", "w") as file:
        for name in ("audio/water/wave1.wav", "audio/water/drip.wav", "audio/wave2.wav"):
            file.write(root / "usr/share/owls/a.wav", name)
        file.write(root / "usr/share/owls/click.wav", "audio/water/wave0.wav")
    clips, problems = gather([packed], [], root, tmp_path / "out")
    assert [(c.path, c.file) for c in clips] == [
        ("sea_waves/seals-001.flac", "usr/share/seals/all.zip/audio/water/wave1.wav")
    ]
    assert problems == [f"{root}/usr/share/seals/all.zip/audio/water/wave0.wav: shorter than 0.08 s; left out"]
    assert not list((tmp_path / "temporary").iterdir())
    (root / "usr/share/seals/all.zip").write_bytes(b"PK and no more")
    with pytest.raises(SourceError, match=r"all\.zip: no zip file that can be read .*unpack the package again"):
        gather([packed], [], root, tmp_path / "again")


def test_a_missing_package_is_named_and_a_folder_is_not_written_over(root: Path, tmp_path: Path) -> None:
    other = Entry("hares", "usr/share/hares", "none", "CC0-1.0")
    with pytest.raises(
        SourceError, match=r"nothing to take in usr/share/owls of owls \(wolf9\*\); the catalogue is for Debian 12"
    ):
        gather([entry(), dataclasses.replace(entry(), only=("wolf9*",))], [], root, tmp_path / "out")
    with pytest.raises(SourceError, match="no sounds of hares; unpack them: apt-get download hares"):
        gather([entry(), other], [], root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        gather([entry()], [], root, tmp_path / "out")


def test_the_command_says_what_is_missing_in_one_line(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["gather", str(tmp_path / "out"), "--root", str(tmp_path)])
    assert done.exit_code == SourceError.exit_code
    assert "widelands-data" in done.stderr


def test_the_command_names_the_packages_that_are_wanted() -> None:
    debian = CliRunner().invoke(cli, ["gather", "--packages", "debian"]).output.split()
    npm = CliRunner().invoke(cli, ["gather", "--packages", "npm"]).output.split()
    evaluation = CliRunner().invoke(cli, ["gather", "--packages", "debian", "--use", "evaluate"]).output.split()
    assert debian == sorted(set(debian), key=debian.index)
    assert {"sonic-pi-samples", "freepats"} <= set(debian)
    assert npm == [i.package for i in read_instruments() if i.patch is None]
    assert evaluation == ["tuxpaint-stamps-default", "scratch"]
    done = CliRunner().invoke(cli, ["gather"])
    assert done.exit_code == 2
    assert "name the folder OUT" in done.output


def test_evaluation_material_is_of_other_packages_and_every_class_is_the_models() -> None:
    train, evaluation = read_catalogue("train"), read_catalogue("evaluate")
    assert not {e.package for e in train} & {e.package for e in evaluation}
    labels = {*load_recipe(RECIPES / "household.toml").labels, "none"}
    assert {e.label for e in (*train, *evaluation)} <= labels
    assert all(e.licence for e in (*train, *evaluation))


def test_training_takes_them_with_the_rendered_material(root: Path, tmp_path: Path, tree: Path) -> None:
    material = tmp_path / "material"
    tone(material / "other/1-00.wav", 1.0)
    (material / "index.csv").write_text("path,class\nother/1-00.wav,other\n")
    gather([entry(), entry("guitar")], [], root, material / "gathered")
    found = [(c.label, c.source, c.fold) for c in list_clips(tree, material) if c.fold == 0]
    assert found == [(None, "rendered", 0)] + [(None, "gathered", 0)] * 4 + [("guitar", "gathered", 0)] * 4
    (material / "gathered" / INDEX).unlink()
    with pytest.raises(SourceError, match=r"no gathered recordings .*make them: snn-train gather"):
        list_clips(tree, material)


def test_phrases_are_played_with_an_instruments_notes(root: Path, tmp_path: Path) -> None:
    banjo = Instrument("banjo", "guitar", 3, "guitar", "MIT")
    with pytest.raises(SourceError, match="no notes of banjo there; npm pack each"):
        gather([entry()], [banjo], root, tmp_path / "out")
    for name in ("E2.wav", "As3.wav", "C5.wav"):
        tone(root / banjo.notes / name, 2.0)
    clips, _ = gather([entry()], [banjo], root, tmp_path / "out")
    played = [c for c in clips if c.package == "banjo"]
    assert [c.path for c in played] == [f"guitar/banjo-{n:03d}.flac" for n in (1, 2, 3)]
    first, second = (soundfile.read(tmp_path / "out" / c.path)[0] for c in played[:2])
    assert not np.array_equal(first[:16000], second[:16000])
    again, _ = gather([entry()], [banjo], root, tmp_path / "again")
    assert (tmp_path / "again" / again[-1].path).read_bytes() == (tmp_path / "out" / played[-1].path).read_bytes()


def test_phrases_are_played_with_a_packages_patch(root: Path, tmp_path: Path) -> None:
    lute = Instrument("lutes", "guitar", 2, "guitar", "GPL-2+", "usr/share/lutes/lute.pat")
    with pytest.raises(SourceError, match="not all notes of lutes there; apt-get download lutes"):
        gather([entry()], [lute], root, tmp_path / "out")
    (root / "usr/share/lutes").mkdir()
    wave = np.sin(2 * np.pi * 220 * np.arange(22_050) / 22_050)
    (root / lute.notes).write_bytes(patch_file([Recorded(wave, 22_050, 220_000)]))
    clips, _ = gather([entry()], [lute], root, tmp_path / "out")
    assert [(c.path, c.file, c.licence) for c in clips if c.package == "lutes"] == [
        (f"guitar/lutes-{n:03d}.flac", "usr/share/lutes/lute.pat", "GPL-2+") for n in (1, 2)
    ]


@pytest.mark.parametrize("styles", ["bowed", "blown", "keys"])
def test_melodies_are_written_for_an_instrument_of_one_note(styles: str) -> None:
    low, high = playing_range({60})
    assert (low, high) == (51, 70)
    assert playing_range({40, 80}) == (40, 80)
    for seed in range(20):
        phrase = Instrument("x", "none", 1, styles, "MIT")._composer(0, low, high)(np.random.default_rng(seed))
        assert {low <= note.pitch <= high for note in phrase.notes} == {True}


def test_every_instrument_of_the_catalogue_has_a_class_and_styles() -> None:
    labels = {*load_recipe(RECIPES / "household.toml").labels, "none"}
    for instrument in read_instruments():
        assert instrument.label in labels
        phrase = instrument._composer(0, 40, 80)(np.random.default_rng(0))
        assert phrase.notes
