"""AudioSet's files to a manifest: themes stay apart, videos stay whole, classes stay level."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import ConfigError, SourceError
from models.cli.main import cli
from models.data.audioset import Ontology, Segment, select, themes_of_classes
from models.data.clips import read_rows

HEADER = """\
# Segments csv created Sun Mar  5 10:54:31 2017
# num_ytids=9, num_segs=9, num_unique_labels=9, num_positive_labels=9
# YTID, start_seconds, end_seconds, positive_labels
"""
# A tree in the real form: Bell lies below two themes, and one branch goes round in a circle.
NODES = {
    "/m/an": ("Animal", ["/m/dog", "/m/cat"]),
    "/m/dog": ("Dog", ["/m/bark"]),
    "/m/bark": ("Bark", []),
    "/m/cat": ("Cat", ["/m/an"]),
    "/m/mu": ("Music", ["/m/gui", "/m/bell"]),
    "/m/gui": ("Guitar, plucked", []),
    "/m/th": ("Sounds of things", ["/m/saw", "/m/bell"]),
    "/m/saw": ("Chainsaw", []),
    "/m/bell": ("Bell", ["/m/chb"]),
    "/m/chb": ("Church bell", []),
    "/m/sp": ("Speech", []),
}
THEMES = {"animals": ["Animal"], "music": ["Music"], "things": ["sounds of THINGS"]}


@pytest.fixture
def ontology(tmp_path: Path) -> Path:
    path = tmp_path / "ontology.json"
    extra = {"description": "", "citation_uri": "", "positive_examples": [], "restrictions": []}
    nodes = [{"id": i, "name": name, "child_ids": below, **extra} for i, (name, below) in NODES.items()]
    path.write_text(json.dumps(nodes), encoding="utf-8")
    return path


def segments(tmp_path: Path, *lines: str, name: str = "balanced.csv") -> Path:
    path = tmp_path / name
    path.write_text(HEADER + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def line(ytid: str, start: float, *classes: str) -> str:
    return f'{ytid}, {start:.3f}, {start + 10:.3f}, "{",".join(classes)}"'


LINES = (
    line("-aaaaaaaaa1", 30, "/m/bark", "/m/sp"),
    line("-aaaaaaaaa1", 90, "/m/cat"),
    line("baaaaaaaaa2", 0, "/m/gui", "/m/mu"),
    line("caaaaaaaaa3", 0, "/m/gui"),
    line("daaaaaaaaa4", 0, "/m/saw"),
    line("eaaaaaaaaa5", 0, "/m/saw", "/m/dog"),
    line("faaaaaaaaa6", 0, "/m/chb", "/m/gui"),
    line("gaaaaaaaaa7", 0, "/m/sp"),
)


def test_what_lies_below_belongs_to_the_theme(ontology: Path) -> None:
    owners = themes_of_classes(Ontology(ontology), THEMES)
    assert owners["/m/bark"] == owners["/m/cat"] == {"animals"}
    assert owners["/m/chb"] == owners["/m/bell"] == {"music", "things"}
    assert "/m/sp" not in owners


def test_segments_of_exactly_one_theme_are_chosen(tmp_path: Path, ontology: Path) -> None:
    selection = select([segments(tmp_path, *LINES)], Ontology(ontology), THEMES, per_class=9)
    assert {t: [s.path for s in found] for t, found in selection.clips.items()} == {
        "animals": ["-aaaaaaaaa1_30000.flac", "-aaaaaaaaa1_90000.flac"],
        "music": ["baaaaaaaaa2_0.flac", "caaaaaaaaa3_0.flac"],
        "things": ["daaaaaaaaa4_0.flac"],
    }
    assert selection.clips["animals"][0] == Segment("-aaaaaaaaa1", 30.0, 40.0, ("/m/bark", "/m/sp"))
    notes = "\n".join(selection.notes)
    assert "2 classes lie below music and things" in notes
    assert "Bell, Church bell" in notes
    assert "2 segments with classes of two themes: dropped" in notes
    assert "1 segments of no theme: dropped" in notes
    assert "animals: 2 of 2 segments kept" in notes


def test_what_is_listed_twice_is_taken_once(tmp_path: Path, ontology: Path) -> None:
    tables = [segments(tmp_path, *LINES), segments(tmp_path, *LINES, name="unbalanced.csv")]
    once, twice = (select(t, Ontology(ontology), THEMES) for t in (tables[:1], tables))
    assert once.clips == twice.clips
    assert any("8 segments listed before" in note for note in twice.notes)


def test_lines_that_are_no_segments_are_counted(tmp_path: Path, ontology: Path) -> None:
    bad = [
        "short, 0, 10",
        'tooshort, 0.0, 10.0, "/m/saw"',
        'haaaaaaaaa8, ten, 20, "/m/saw"',
        'haaaaaaaaa8, 9, 3, "/m/saw"',
    ]
    selection = select([segments(tmp_path, *bad, *LINES)], Ontology(ontology), THEMES)
    assert any("4 lines are no segments (the first is line 4)" in note for note in selection.notes)


@given(st.integers(1, 30), st.integers(0, 3), st.sampled_from([None, 1, 4, 100]))
def test_classes_are_level_and_the_choice_is_seeded(
    tmp_path_factory: pytest.TempPathFactory, count: int, seed: int, per_class: int | None
) -> None:
    folder = tmp_path_factory.mktemp("audioset")
    nodes = [{"id": "/m/a", "name": "A", "child_ids": []}, {"id": "/m/b", "name": "B", "child_ids": []}]
    (folder / "ontology.json").write_text(json.dumps(nodes), encoding="utf-8")
    lines = [line(f"a{i:010}", 0, "/m/a") for i in range(30)] + [line(f"b{i:010}", 0, "/m/b") for i in range(count)]
    tree, themes = Ontology(folder / "ontology.json"), {"a": ["A"], "b": ["B"]}
    chosen = select([segments(folder, *lines)], tree, themes, per_class, seed).clips
    backwards = select([segments(folder, *lines[::-1])], tree, themes, per_class, seed).clips
    assert chosen == backwards
    assert len(chosen["a"]) == (count if per_class is None else min(30, per_class))
    assert len(chosen["b"]) == min(count, per_class or count)
    other = select([segments(folder, *lines)], tree, themes, 15, seed + 1).clips["a"]
    assert other != select([segments(folder, *lines)], tree, themes, 15, seed).clips["a"]


@given(st.from_regex(r"\A[A-Za-z0-9_-]{11}\Z"), st.floats(0, 9000), st.floats(0, 9000))
def test_pieces_of_a_video_share_a_fold(ytid: str, first: float, second: float) -> None:
    folds = {Segment(ytid, start, start + 10, ()).fold for start in (first, second)}
    assert len(folds) == 1
    assert folds < {1, 2, 3, 4, 5}


def test_all_folds_are_used_alike() -> None:
    folds = Counter(Segment(f"{i:011}", 0, 10, ()).fold for i in range(5000))
    assert min(folds.values()) > 900


def test_an_unknown_name_is_answered_with_the_nearest(ontology: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no class 'Animals'; the nearest is 'Animal'"):
        Ontology(ontology).find("Animals")
    labels = tmp_path / "class_labels_indices.csv"
    labels.write_text('index,mid,display_name\n0,/m/gui,"Guitar"\n', encoding="utf-8")
    assert Ontology(ontology, labels).find("guitar") == ["/m/gui"]
    assert Ontology(ontology).find("/m/gui") == Ontology(ontology).find("Guitar, plucked") == ["/m/gui"]


def test_themes_that_cannot_be_are_reported(tmp_path: Path, ontology: Path) -> None:
    tree = Ontology(ontology)
    with pytest.raises(ConfigError, match=r"'bells'.*music"):
        themes_of_classes(tree, {"music": ["Music"], "bells": ["Bell"]})
    with pytest.raises(SourceError, match=r"'speech'.*--segments"):
        select([segments(tmp_path, *LINES[:3])], tree, {"animals": ["Animal"], "speech": ["Speech"]})


def test_files_that_are_not_audiosets_are_reported(tmp_path: Path, ontology: Path) -> None:
    (tmp_path / "list.json").write_text('[{"id": 1}]', encoding="utf-8")
    (tmp_path / "text.json").write_text("{", encoding="utf-8")
    for name in ("list.json", "text.json", "gone.json"):
        with pytest.raises(SourceError, match=rf"{name}.*ontology\.json"):
            Ontology(tmp_path / name)
    for table in (ontology, tmp_path / "gone.csv"):
        with pytest.raises(SourceError, match="segment files"):
            select([table], Ontology(ontology), THEMES)


def test_the_command_writes_what_manifests_are_read_with(tmp_path: Path, ontology: Path) -> None:
    out = tmp_path / "manifest.csv"
    themes = [f"--theme={label}={name}" for label, (name,) in THEMES.items()]
    tables = [f"--segments={segments(tmp_path, *LINES)}"]
    done = CliRunner().invoke(cli, ["audioset-manifest", *tables, f"--ontology={ontology}", *themes, f"--out={out}"])
    assert done.exit_code == 0, done.output
    assert "things: 1 of 1 segments kept" in done.output
    assert f"{out}: 3 clips" in done.output
    rows = [row for _, row in read_rows(out, ("ytid", "start_s", "end_s", "path", "label", "fold", "labels"))]
    assert [row["label"] for row in rows] == ["animals", "music", "things"]
    assert rows[2] == {
        "ytid": "daaaaaaaaa4",
        "start_s": "0.0",
        "end_s": "10.0",
        "path": "daaaaaaaaa4_0.flac",
        "label": "things",
        "fold": str(Segment("daaaaaaaaa4", 0, 10, ()).fold),
        "labels": "Chainsaw",
    }
    with out.open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file))[3:6] == ["path", "label", "fold"]
