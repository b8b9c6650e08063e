"""Data sets in other layouts: good clips are kept, every other one is reported in a line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import SourceError
from models import RECIPES
from models.cli.main import cli
from models.data.clips import Clip
from models.data.datasets import load_good_clips, read_classes, read_esc, read_folders, read_manifest, spread
from models.data.household import list_clips

RATE_HZ = 16000
THEMES = RECIPES / "themes.csv"


def sound(path: Path, samples: int = 400) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(samples, 0.25, np.float32), RATE_HZ)
    return path


def manifest(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "clips.csv"
    path.write_text(text, encoding="utf-8")
    return path


def only(problems: list[str], part: str) -> str:
    (found,) = [p for p in problems if part in p]
    return found


def test_a_manifest_gives_paths_labels_sources_and_folds(tmp_path: Path) -> None:
    first, second = sound(tmp_path / "set" / "a.wav"), sound(tmp_path / "b.wav")
    text = f"\ufefflabel, fold,path,ytid\ncat,1,set/a.wav,x\n\ndog,5,{second},y\n"
    listing = read_manifest(manifest(tmp_path, text), tmp_path, ["cat", "dog"])
    assert listing.clips == [Clip(first, "cat", "set", 1), Clip(second, "dog", "clips", 5)]
    assert listing.problems == []


def test_what_is_wrong_with_a_row_is_reported_and_the_others_are_kept(tmp_path: Path) -> None:
    good = sound(tmp_path / "good.wav")
    sound(tmp_path / "other.wav")
    (tmp_path / "sub").mkdir()
    (tmp_path / "text.wav").write_text("no sound at all", encoding="utf-8")
    (tmp_path / "empty.wav").touch()
    rows = ["good.wav,cat,1", "sub/../good.wav,cat,2", "gone.wav,cat,1", "text.wav,cat,1", "empty.wav,cat,1"]
    rows += ["other.wav,cat,0", "other.wav,cat,6", "other.wav,cat,1.0", "other.wav,cat", "other.wav,cow,1", ",cat,1"]
    listing = read_manifest(manifest(tmp_path, "path,label,fold\n" + "\n".join(rows)), tmp_path, ["cat", "dog"])
    assert listing.clips == [Clip(good, "cat", "clips", 1)]
    assert len(listing.problems) == len(rows) - 1 + 1
    assert "line 3" in only(listing.problems, "kept once")
    assert "line 4" in only(listing.problems, "gone.wav")
    assert "no sound file" in only(listing.problems, "text.wav")
    assert "0 bytes" in only(listing.problems, "empty.wav")
    assert [p.split("fold ")[1].split(" is")[0] for p in listing.problems if "not 1 to 5" in p] == [
        "'0'",
        "'6'",
        "'1.0'",
        "''",
    ]
    assert "(1 clips)" in only(listing.problems, "'cow'")
    assert "empty class" in only(listing.problems, "'dog'")
    assert all("\n" not in p for p in listing.problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\na.wav,cat\n", "no column fold.*names path,label"),
        ("", "no column path, label, fold.*names nothing"),
        ("path,label,fold\n", "no clip for cat"),
        ("path,label,fold\ngone.wav,cat,1\n", r"no clip for cat \(.*gone\.wav"),
        ("path,label,fold\na\0b.wav,cat,1\n", "no clip for cat"),
    ],
)
def test_where_nothing_can_go_on_there_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        read_manifest(manifest(tmp_path, text), tmp_path, ["cat"])


def test_missing_and_unreadable_data_sets_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "gone"
    for read in (read_folders, read_esc):
        with pytest.raises(SourceError, match=r"gone: no such folder"):
            read(path, ["cat"])
    with pytest.raises(SourceError, match="cannot be read"):
        read_manifest(path, tmp_path, ["cat"])
    latin = tmp_path / "latin.csv"
    latin.write_bytes(b"path,label,fold\n\xe4.wav,cat,1\n")
    with pytest.raises(SourceError, match="UTF-8"):
        read_manifest(latin, tmp_path, ["cat"])


def test_folders_are_classes_at_any_depth_and_with_any_type(tmp_path: Path) -> None:
    names = ["cat/a.wav", "cat/x/y/b.FLAC", "cat/x/c.ogg", "cat/d.mp3", "cat/e.aiff", "dog/a.wav", "cow/a.wav"]
    for name in names:
        sound(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("who barked", encoding="utf-8")
    (tmp_path / "cat" / ".hidden.wav").touch()
    listing = read_folders(tmp_path, ["cat", "dog", "hen"])
    assert sorted(c.path.relative_to(tmp_path).as_posix() for c in listing.clips) == sorted(names[:-1])
    assert {c.fold for c in listing.clips if c.label == "cat"} == {1, 2, 3, 4, 5}
    assert {c.source for c in listing.clips} == {tmp_path.name}
    assert len(listing.problems) == 3
    assert "1 files" in only(listing.problems, "notes.txt")
    assert "left out" in only(listing.problems, "'cow'")
    assert "empty class" in only(listing.problems, "'hen'")


def test_files_of_one_origin_share_a_fold() -> None:
    folder = Path("cat")
    names = ["tom_1", "tom_2", "tom_3", "kit-a", "kit-b", "x (1)", "x (2)", "sub/tom_1", "p", "q"]
    folds = {n: spread([folder / f"{n}.wav" for n in names], folder)[folder / f"{n}.wav"] for n in names}
    assert folds["tom_1"] == folds["tom_2"] == folds["tom_3"]
    assert folds["kit-a"] == folds["kit-b"]
    assert folds["x (1)"] == folds["x (2)"]
    assert len({folds["tom_1"], folds["kit-a"], folds["x (1)"], folds["p"], folds["q"]}) >= 4


def test_a_mere_series_is_spread_file_by_file() -> None:
    folder = Path("cat")
    paths = [folder / f"cat_{i:03d}.wav" for i in range(50)]
    assert Counter(spread(paths, folder).values()) == dict.fromkeys(range(1, 6), 10)


def test_single_files_even_out_what_groups_leave_uneven() -> None:
    folder = Path("cat")
    names = [*"abcdefghijkl", *(f"tom_{i}" for i in range(4)), *(f"zoe_{i}" for i in range(4))]
    folds = spread([folder / f"{name}.wav" for name in names], folder)
    assert Counter(folds.values()) == dict.fromkeys(range(1, 6), 4)


@given(st.lists(st.from_regex(r"\A[a-c]{1,3}[-_]?[0-9a]{0,2}\Z"), unique=True, max_size=60), st.randoms())
def test_folds_do_not_depend_on_the_order_and_stay_level(names: list[str], random: object) -> None:
    folder = Path("cat")
    paths = [folder / f"{name}.wav" for name in names]
    folds = spread(paths, folder)
    random.shuffle(paths)  # type: ignore[attr-defined]
    assert spread(paths, folder) == folds
    assert set(folds) == set(paths)
    sizes = [list(folds.values()).count(fold) for fold in range(1, 6)]
    stems = Counter(name.rstrip("0123456789") if name[-1].isdigit() else name for name in names)
    largest = max([n for n in stems.values() if 2 * n <= len(names)], default=1)
    assert max(sizes) - min(sizes) <= max(largest, 6)


def test_escs_own_names_carry_their_fold(tmp_path: Path) -> None:
    for name in ("1-10-A", "1-10-B", "4-11-A", "5-12-A"):
        sound(tmp_path / "001 - Dog bark" / f"{name}.ogg")
        sound(tmp_path / "sea_waves" / f"{name}-11.wav")
    sound(tmp_path / "sea_waves" / "first.wav")
    sound(tmp_path / "010 - Fire crackling" / "2-1-A.ogg")
    listing = read_esc(tmp_path, ["dog_bark", "sea_waves"])
    assert Counter((c.label, c.fold) for c in listing.clips if c.label == "dog_bark") == {
        ("dog_bark", 1): 2,
        ("dog_bark", 4): 1,
        ("dog_bark", 5): 1,
    }
    assert sorted(c.fold for c in listing.clips if c.label == "sea_waves") == [1, 1, 4, 5]
    assert "first.wav" in only(listing.problems, "not 1 to 5")
    assert "(1 clips)" in only(listing.problems, "Fire crackling")


@pytest.mark.parametrize(
    "header",
    ["filename,fold,target,category,esc10,src_file,take", "filename,fold,category,category_name,esc10,src_file,take"],
)
def test_esc50_is_read_by_its_table_and_by_either_name(tmp_path: Path, header: str) -> None:
    rows = [("1-10-A-0.wav", 1, 0, "dog"), ("2-11-A-0.wav", 2, 0, "dog"), ("3-12-A-17.wav", 3, 17, "pouring_water")]
    rows += [("4-13-A-0.wav", 4, 0, "dog"), ("5-14-A-47.wav", 5, 47, "airplane")]
    for name, *_ in rows[:3]:
        sound(tmp_path / "audio" / name)
    (tmp_path / "meta").mkdir()
    lines = [header, *(f"{name},{fold},{target},{label},True,10,A" for name, fold, target, label in rows)]
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join(lines), encoding="utf-8")
    listing = read_esc(tmp_path, ["dog_bark", "Pouring water"])
    assert [(c.path.name, c.label, c.fold) for c in listing.clips] == [
        ("1-10-A-0.wav", "dog_bark", 1),
        ("2-11-A-0.wav", "dog_bark", 2),
        ("3-12-A-17.wav", "Pouring water", 3),
    ]
    assert "4-13-A-0.wav" in only(listing.problems, "cannot be opened")
    assert "'airplane' (1 clips)" in only(listing.problems, "none of")
    assert len(listing.problems) == 2


def test_the_recordings_have_the_folds_that_the_household_gives_them(data: Path) -> None:
    folds = {c.path: (c.label, c.fold) for c in list_clips(data)}
    labels = sorted({c.label for c in list_clips(data) if c.source == "esc10" and c.label})
    listing = read_esc(data / "esc10", labels)
    assert {c.path: (c.label, c.fold) for c in listing.clips} == {p: f for p, f in folds.items() if "esc10" in p.parts}
    assert listing.problems == []


def test_good_clips_are_loaded_and_the_others_reported(tmp_path: Path) -> None:
    good = sound(tmp_path / "good.wav", 800)
    cut = sound(tmp_path / "cut.wav", 8000)
    cut.write_bytes(cut.read_bytes()[:4000])
    tiny = tmp_path / "tiny.wav"
    soundfile.write(tiny, np.zeros(1, np.float32), 48000)
    clips = [Clip(p, "cat", "x", 1) for p in (tmp_path / "gone.wav", good, cut, tiny)]
    kept, waves, problems = load_good_clips(clips, 8000, processes=1)
    assert kept == [clips[1]]
    assert [(w.shape, w.dtype) for w in waves] == [((400,), np.dtype("float32"))]
    assert len(problems) == 3
    assert "cannot be opened" in only(problems, "gone.wav")
    assert "header promises" in only(problems, "cut.wav")
    assert "holds no sound" in only(problems, "tiny.wav")
    with pytest.raises(SourceError, match=r"none of 1 clips.*gone\.wav"):
        load_good_clips(clips[:1], 8000, processes=1)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, list(arguments))
    return done.exit_code, done.output + str(done.exception or "")


def test_the_themes_are_what_the_command_writes(data: Path, tmp_path: Path) -> None:
    classes = ["animals=esc10/dog_bark,esc10/rooster", "music=instruments/*"]
    classes += ["things=esc10/helicopter,esc10/chainsaw,esc10/clock_tick"]
    out = tmp_path / "themes.csv"
    code, said = run("manifest", "--data", str(data), "--out", str(out), *(f"--class={c}" for c in classes))
    assert code == 0, said
    assert out.read_bytes() == THEMES.read_bytes()


def test_the_themes_keep_the_households_folds(data: Path) -> None:
    listing = read_manifest(THEMES, data, ["animals", "music", "things"])
    assert listing.problems == []
    assert Counter(c.label for c in listing.clips) == {"animals": 80, "music": 220, "things": 120}
    folds = {c.path: (c.source, c.fold) for c in list_clips(data)}
    assert all(folds[c.path] == (c.source, c.fold) for c in listing.clips)


def test_a_manifest_of_folders_can_be_read_back(tmp_path: Path) -> None:
    for name in ("a/x/1.wav", "a/y/2.wav", "b/3.wav", "b/4.wav"):
        sound(tmp_path / name)
    out = tmp_path / "out.csv"
    code, said = run("manifest", "--data", str(tmp_path), "--class=one=a/*,gone", "--class=two=b", "--out", str(out))
    assert code == 0
    assert "gone: no such folder" in said
    assert f"{out}: 4 clips" in said
    written = read_classes(tmp_path, [("one", "a/*"), ("one", "gone"), ("two", "b")])
    assert read_manifest(out, tmp_path, ["one", "two"]).clips == written.clips


@pytest.mark.parametrize("bad", ["animals", "=a", "a=", "a=/etc", "a=../x", "a=x,,y"])
def test_a_class_that_cannot_be_is_reported(tmp_path: Path, bad: str) -> None:
    code, said = run("manifest", "--data", str(tmp_path), f"--class={bad}", "--out", str(tmp_path / "out.csv"))
    assert code == 2
    assert "such as" in said
