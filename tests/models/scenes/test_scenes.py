"""Scenes: what is placed where, how loud, that nothing was trained on, and that a seed gives its bytes."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from detector.audio.live_source import Mixing
from detector.audio.sources import read_sound
from detector.errors import ConfigError
from detector.manifest import DataSource
from detector.network import load_model
from models.cli.main import cli
from models.data.catalogue import Gathered, write_index
from models.data.clips import Clip
from models.data.segments import JOIN_S, active_spans
from models.rendering.synthesis import FURTHER_SOUNDFONTS, SOUNDFONT
from models.scenes import sounds
from models.scenes.folder import read_scenes
from models.scenes.mixing import Reference, joined, mix
from models.scenes.plan import KINDS, Placement, Segment, compose
from models.scenes.sounds import Sound, check_not_trained_on, cut_sounds, folder_sounds, render
from models.scenes.synthetic import rendered_sounds

RATE_HZ = 16000
MODEL = load_model().path


def tone(seconds: float, level: float = 0.5) -> NDArray[np.float32]:
    return np.asarray(level * np.sin(np.arange(round(seconds * RATE_HZ))), np.float32)


def silence(seconds: float) -> NDArray[np.float32]:
    return np.zeros(round(seconds * RATE_HZ), np.float32)


def make(out: Path, tree: Path, *options: str) -> Result:
    """Make 72 s of scenes of the small tree's fifth fold."""
    given = ["--for", str(MODEL), "--data", str(tree), "--rendered", "none", "--hours", "0.02", "--segment", "24"]
    given += ["--background", "rain,room,hum", "--unknown", "0", "--format", "wav"]
    return CliRunner().invoke(cli, ["make-scenes", str(out), *given, *options])


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def scene(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "one"
    done = make(out, tree)
    assert done.exit_code == 0, done.output
    return out


def test_a_seed_gives_its_bytes_and_another_seed_others(scene: Path, tree: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "again", tree).exit_code == 0
    assert make(tmp_path / "other", tree, "--seed", "1").exit_code == 0
    for name in ("scene-01.wav", "events.tsv", "unknown.tsv", "backgrounds.tsv"):
        assert (tmp_path / "again" / name).read_bytes() == (scene / name).read_bytes()
    assert (tmp_path / "other" / "scene-01.wav").read_bytes() != (scene / "scene-01.wav").read_bytes()


def test_the_reference_is_a_table_of_the_field_and_reads_back(scene: Path) -> None:
    rows, read = table(scene / "events.tsv"), read_scenes(scene)
    assert list(rows[0])[:4] == ["filename", "onset", "offset", "event_label"]
    (stream,) = read.streams
    assert stream.seconds == pytest.approx(72)
    assert len(stream.events) == len(rows) == sum(read.manifest.events.values()) > 5
    assert stream.events[0].onset_s == float(rows[0]["onset"])
    for event in stream.events:
        (span,) = (s for s in stream.spans if s.onset_s <= event.onset_s < s.offset_s)
        assert event.offset_s <= span.offset_s
        assert event.background == span.background
        assert event.label not in span.contains


def test_sounds_are_of_the_fold_that_was_left_out(scene: Path, tree: Path) -> None:
    clips = {clip for row in table(scene / "events.tsv") for clip in row["clip"].split()}
    beginnings = {"esc10": "5-", "instruments": "4.", "guitar_notes": "E4."}
    for clip in clips:
        source, name = clip.split("/")[0], clip.split("/")[-1]
        assert (tree / clip).is_file()
        if source == "speech_digits":
            assert name.split("_")[1] in {"theo", "yweweler"}
        else:
            assert name.startswith(beginnings[source])


def test_events_of_a_class_are_apart_by_more_than_a_pause(scene: Path) -> None:
    last: dict[str, float] = {}
    for row in table(scene / "events.tsv"):
        assert float(row["onset"]) - last.get(row["event_label"], -10.0) > JOIN_S
        last[row["event_label"]] = float(row["offset"])


def test_onset_and_offset_are_where_the_reference_says(scene: Path) -> None:
    """The tree's tones over the lowest background: where a dry event begins, the stretch gets louder."""
    wave = read_sound(scene / "scene-01.wav", RATE_HZ)
    rows = [r for r in table(scene / "events.tsv") if r["snr_db"] == "20" and r["reverberant"] == "0"]
    assert rows
    for row in rows:
        at = round(float(row["onset"]) * RATE_HZ)
        before, behind = wave[at - 1600 : at - 480], wave[at + 160 : at + 1760]
        assert np.std(behind) > 2 * np.std(before)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--fold", "4"], "household was trained on it"),
        (["--background", "wind"], "background 'wind' is unknown"),
        (["--background", "rain", "--only", "rain"], "contains every class"),
        (["--level", "0", "-20"], "expected the lower one first"),
        (["--add", "trumpet=x"], "--add: household knows no 'trumpet'; it knows guitar"),
        (["--add", "none=/nowhere"], "no such folder"),
        (["--unknown", "0.5"], "no held-out sound of no class"),
        (["--snr", "loud"], "expected decibels"),
    ],
)
def test_what_cannot_be_is_reported_in_a_line_and_leaves_nothing(
    tree: Path, tmp_path: Path, options: list[str], wanted: str
) -> None:
    done = make(tmp_path / "out", tree, *options)
    assert wanted in done.stderr
    assert done.exit_code == (66 if "no such folder" in wanted else 2)
    assert list(tmp_path.iterdir()) == []


def test_a_copy_of_a_training_clip_is_refused_whatever_it_is_called(tree: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    shutil.copyfile(tree / "esc10" / "rain" / "1-7-A.ogg", own / "new.ogg")
    done = make(tmp_path / "out", tree, "--add", f"none={own}")
    assert "was trained on it" in done.stderr
    shutil.copyfile(tree / "esc10" / "rain" / "5-7-A.ogg", own / "new.ogg")
    assert make(tmp_path / "out", tree, "--add", f"none={own}").exit_code == 0


def test_one_channel_of_added_recordings(tmp_path: Path) -> None:
    sound = 0.1 * np.random.default_rng(0).standard_normal(RATE_HZ)
    soundfile.write(tmp_path / "a.wav", np.stack((sound, -sound), axis=1), RATE_HZ, subtype="FLOAT")
    (found,), problems = folder_sounds("rain", tmp_path, RATE_HZ, Mixing("right"))
    assert problems == []
    assert np.sqrt(np.square(found.wave).mean()) == pytest.approx(0.1, rel=0.1)


def test_rendered_training_material_is_refused(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "material" / "other"
    folder.mkdir(parents=True)
    (tmp_path / "material" / "index.csv").write_text("path,class\n")
    done = make(tmp_path / "out", tree, "--add", f"none={folder}")
    assert "rendered training material" in done.stderr


def test_gathered_training_material_is_refused_and_evaluation_material_is_not(tmp_path: Path) -> None:
    manifest = load_model().manifest
    training = replace(manifest.training, sources=(DataSource("gathered", "per clip", "packages"),))
    trained = replace(manifest, training=training)
    untrained = replace(manifest, training=replace(training, sources=()))
    for package, is_refused in (("widelands-data", True), ("scratch", False)):
        folder = tmp_path / package / "none"
        folder.mkdir(parents=True)
        write_index(folder.parent, [Gathered("none/x.flac", "none", package, "x.ogg", "CC0-1.0")])
        check_not_trained_on(untrained, [folder], None)
        with pytest.raises(ConfigError, match="gathered training material") if is_refused else nullcontext():
            check_not_trained_on(trained, [folder], None)


def test_a_folder_that_is_there_is_left_alone(scene: Path, tree: Path) -> None:
    before = (scene / "scenes.json").read_bytes()
    assert "exists already" in make(scene, tree).stderr
    assert (scene / "scenes.json").read_bytes() == before
    assert json.loads(before)["fold"] == 5


def test_a_short_pause_belongs_to_a_sound_and_a_long_one_parts_two() -> None:
    wave = np.concatenate([silence(1), tone(1), silence(1.5), tone(1), silence(3), tone(0.5), silence(1)])
    assert active_spans(wave, RATE_HZ) == [(16000, 72000), (120000, 128000)]
    first, second = cut_sounds("guitar", "x", "y", wave, RATE_HZ)
    rendered = render(first, None, RATE_HZ)
    assert rendered is not None
    assert rendered.offset - rendered.onset == pytest.approx(3.5 * RATE_HZ, abs=160)
    assert second.wave.size < RATE_HZ


def test_a_clip_without_a_sound_has_no_event() -> None:
    assert list(cut_sounds(None, "x", "y", silence(2), RATE_HZ)) == []


def segment(background: str, snrs_db: tuple[float, ...], level_db: float = -20.0) -> Segment:
    placed = tuple(Placement(0, 32000 * (i + 1), snr, None) for i, snr in enumerate(snrs_db))
    return Segment(0, 0, 32000 * (len(snrs_db) + 2), background, level_db, (0, 1, 0), placed)


def test_sounds_stand_above_the_background_as_far_as_the_reference_says() -> None:
    (sound,) = cut_sounds("guitar", "x", "y", np.concatenate([silence(0.1), tone(1), silence(0.1)]), RATE_HZ)
    empty, both = (mix(segment("room", snrs), [sound], RATE_HZ) for snrs in ((), (10.0,)))
    assert empty.wave[:1000].any()
    ground = float(np.std(both.wave[8000:24000]))
    alone = both.references[0]
    event = both.wave[alone.onset : alone.offset]
    assert 20 * np.log10(np.sqrt(float(np.var(event)) - ground**2) / ground) == pytest.approx(10, abs=1)
    assert alone.level_db == pytest.approx(-20, abs=0.1)
    assert [r.level_db for r in mix(segment("silence", (20.0, 0.0)), [sound], RATE_HZ).references] == [-20, -40]


@pytest.mark.parametrize("name", KINDS)
def test_backgrounds_have_unit_level_but_for_silence(name: str) -> None:
    bank = [Sound(label, "x", "y", tone(2)) for label in ("speech", "drums", "rain")]
    wave = compose(name, np.random.default_rng(0), 5 * RATE_HZ, RATE_HZ, bank)
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(0 if name == "silence" else 1, abs=1e-3)


def test_sounds_of_a_class_that_a_short_pause_parts_are_one_event() -> None:
    def at(label: str | None, onset_s: float, offset_s: float) -> Reference:
        place = (round(onset_s * RATE_HZ), round(offset_s * RATE_HZ))
        return Reference(label, *place, 10.0, -20.0, "room", "x", "y", reverberant=False)

    found = joined([at("a", 5, 6), at("a", 1, 2), at("b", 2.5, 3), at("a", 3.5, 4), at(None, 1, 2)], RATE_HZ)
    assert [(r.label, r.onset / RATE_HZ, r.offset / RATE_HZ) for r in found] == [
        (None, 1, 2),
        ("a", 1, 6),
        ("b", 2.5, 3),
    ]


@pytest.mark.parametrize("font", [SOUNDFONT, *FURTHER_SOUNDFONTS], ids=lambda font: font.stem)
def test_a_sound_font_of_training_is_refused_by_whatever_name(tmp_path: Path, font: Path) -> None:
    (tmp_path / font.name).touch()
    link = tmp_path / "default-GM.sf2"
    link.symlink_to(tmp_path / font.name)
    for path in (font, link):
        with pytest.raises(ConfigError, match="sound font of the training material"):
            rendered_sounds(0, path)


def test_halves_share_no_recording() -> None:
    clips = [Clip(Path(f"{i}.ogg"), "rain", "recordings", 5, f"place {i // 3}") for i in range(12)]
    clips += [Clip(Path(f"single {i}.ogg"), "rain", "esc10", 5) for i in range(4)]
    halves = [sounds._halved(clips, half) for half in sounds.HALVES]
    assert sorted(len(half) for half in halves) == [8, 8]
    assert not {c.recording for c in halves[0] if c.recording} & {c.recording for c in halves[1]}
    assert {c.path for half in halves for c in half} == {c.path for c in clips}
    assert sounds._halved(clips, None) == clips


def test_a_recording_of_several_classes_is_in_one_half() -> None:
    clips = [Clip(Path("0.ogg"), "rain", "recordings", 5, "walk"), Clip(Path("1.ogg"), None, "recordings", 5, "street")]
    clips += [Clip(Path("2.ogg"), None, "recordings", 5, "walk"), Clip(Path("3.ogg"), None, "recordings", 5, "yard")]
    halves = [{c.recording for c in sounds._halved(clips, half)} for half in sounds.HALVES]
    assert halves == [{"walk", "street"}, {"yard"}]
