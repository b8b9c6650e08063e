"""The data set recordings: classes and folds of its index, copies, and phrases played with its notes."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from detector.errors import SourceError
from models.cli.main import cli
from models.data import recordings
from models.data.clips import Clip
from models.data.copies import find_copies
from models.data.datasets import read_kinds
from models.data.household import TEST_FOLD, list_clips
from models.data.note_phrases import play_notes
from models.data.recordings import (
    NOTE_SOURCE,
    PHRASES_INDEX,
    playable_instruments,
    read_phrases,
    read_recordings,
    read_recordings_index,
)
from models.rendering.synthesis import RATE_HZ
from tests.models.conftest import write

_ROW = {"kind": "", "recording": "one", "source": "some/where", "licence": "CC0", "midi": "", "articulation": ""}


def write_index(folder: Path, *rows: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("path", "label", *_ROW, "fold"))
        writer.writeheader()
        writer.writerows([_ROW | row for row in rows])


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    t = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.asarray(0.3 * np.sin(2 * np.pi * hz * t) * np.exp(-3 * t), np.float32)


def test_labels_become_classes_and_out_of_class_sounds_stay_so(tmp_path: Path) -> None:
    write_index(
        tmp_path,
        {"path": "a.ogg", "label": "rain", "fold": "1"},
        {"path": "b.ogg", "label": "none", "recording": "two", "fold": "2"},
        {"path": "c.ogg", "label": "other_instrument", "recording": "three", "fold": "2"},
        {"path": "d.ogg", "label": "music", "recording": "four", "fold": "3"},
        {"path": "e.ogg", "label": "notes", "kind": "oboe", "recording": "five", "fold": "4"},
        {"path": "f.ogg", "label": "notes", "kind": "organ", "recording": "six", "fold": "4"},
        {"path": "g.ogg", "label": "notes", "kind": "bass_guitar", "recording": "seven", "fold": "4"},
        {"path": "h.ogg", "label": "other_instrument", "kind": "sitar", "recording": "eight", "fold": "4"},
    )
    found = {clip.path.name: (clip.label, clip.source, clip.fold) for clip in read_recordings(tmp_path)}
    assert found == {
        "a.ogg": ("rain", "recordings", 1),
        "b.ogg": (None, "recordings", 2),
        "c.ogg": (None, "recordings_instruments", 2),
        "e.ogg": ("winds", NOTE_SOURCE, 4),
        "f.ogg": (None, NOTE_SOURCE, 4),
    }


def test_kinds_are_the_class_of_a_sound_or_what_a_note_and_a_sound_of_no_class_are(tmp_path: Path) -> None:
    rows = [
        ("a", "rain", ""),
        ("b", "none", "door"),
        ("c", "notes", "oboe"),
        ("d", "winds", "oboe"),
        ("e", "none", "cat"),
    ]
    for seed, (name, _, _) in enumerate(rows):
        write(tmp_path / f"{name}.flac", seed)
    write_index(
        tmp_path,
        *({"path": f"{n}.flac", "label": a, "kind": k, "recording": n, "fold": "3"} for n, a, k in rows),
    )
    found = read_kinds(tmp_path, ["rain", "door", "oboe", "winds", "train"])
    assert {clip.path.stem: clip.label for clip in found.clips} == {"a": "rain", "b": "door", "c": "oboe", "d": "winds"}
    assert found.problems == [f"{tmp_path}: no clip for 'train': an empty class"]


def test_a_recording_in_two_folds_is_refused(tmp_path: Path) -> None:
    rows = [{"path": f"{fold}.ogg", "label": "rain", "fold": fold} for fold in "12"]
    write_index(tmp_path, *rows)
    with pytest.raises(SourceError, match=r"line 3: one of some/where is in fold 1 already and in fold 2"):
        read_recordings_index(tmp_path)
    write_index(tmp_path, *(row | {"source": f"another/{row['fold']}"} for row in rows))
    assert len(read_recordings_index(tmp_path)) == 2


@pytest.mark.parametrize("fold", ["0", "6", "", "x"])
def test_a_fold_that_does_not_exist_is_refused(tmp_path: Path, fold: str) -> None:
    write_index(tmp_path, {"path": "a.ogg", "label": "rain", "fold": fold})
    with pytest.raises(SourceError, match=r"line 2: fold .* is not 1 to 5"):
        read_recordings_index(tmp_path)


def test_packages_for_evaluation_and_copies_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "excluded_paths", lambda: frozenset({"copy.ogg"}))
    write_index(
        tmp_path,
        {"path": "scratch.ogg", "label": "dog_bark", "source": "deb:scratch", "fold": "1"},
        {"path": "copy.ogg", "label": "dog_bark", "fold": "1"},
        {"path": "kept.ogg", "label": "dog_bark", "fold": "1"},
    )
    assert [clip.path.name for clip in read_recordings(tmp_path)] == ["kept.ogg"]


def test_the_recordings_are_as_their_readme_says(data: Path) -> None:
    clips = [c for c in list_clips(data) if c.source.startswith("recordings")]
    folds: dict[str, set[int]] = defaultdict(set)
    for clip in clips:
        folds[clip.recording].add(clip.fold)
    assert max(map(len, folds.values())) == 1
    assert {c.fold for c in clips} == {1, 2, 3, 4, 5}
    assert sum(c.label is None for c in clips) > 1000
    assert all((data / "recordings" / path).is_file() for path in recordings.excluded_paths())


def test_phrases_are_in_the_fold_of_their_notes(tmp_path: Path) -> None:
    rows = []
    for fold, kind, instrument in ((2, "guitar", "first"), (TEST_FOLD, "violin", "second")):
        for pitch in (52, 59, 64):
            name = f"{kind}-{pitch}.wav"
            soundfile.write(tmp_path / name, tone(440 * 2 ** ((pitch - 69) / 12)), RATE_HZ)
            rows.append({"path": name, "label": "notes", "kind": kind, "recording": instrument, "midi": str(pitch)})
            rows[-1]["fold"] = str(fold)
    write_index(tmp_path, *rows)
    played = play_notes(tmp_path, tmp_path / "played")
    clips = list(read_phrases(tmp_path / "played"))
    assert {(c.label, c.fold, c.recording) for c in clips} == {
        ("guitar", 2, "some/where/first/guitar"),
        ("bowed_strings", TEST_FOLD, "some/where/second/violin"),
    }
    assert len(played) == len(clips) == 28
    for clip in clips:
        wave, rate = soundfile.read(clip.path)
        assert rate == RATE_HZ
        assert 4 <= wave.size / rate <= 6
        assert np.abs(wave).max() == pytest.approx(10 ** (-3 / 20), abs=1e-3)


def test_an_index_of_phrases_without_folds_is_refused(tmp_path: Path) -> None:
    (tmp_path / PHRASES_INDEX).write_text("path,class,fold,instrument,licence\na.flac,guitar,0,one,CC0\n")
    with pytest.raises(SourceError, match=r"played.csv: line 2: fold '0' is not 1 to 5"):
        list(read_phrases(tmp_path))
    with pytest.raises(SourceError, match=r"played.csv: cannot be read"):
        list(read_phrases(tmp_path / "missing"))


def test_an_instrument_of_two_pitches_is_not_played(tmp_path: Path) -> None:
    rows = [{"path": f"{p}.wav", "label": "notes", "kind": "flute", "midi": str(p), "fold": "1"} for p in (60, 62)]
    write_index(tmp_path, *rows)
    assert not playable_instruments(read_recordings_index(tmp_path), 3)
    assert len(playable_instruments(read_recordings_index(tmp_path), 2)) == 1


def test_copies_are_found_under_other_names_as_excerpts_and_at_other_levels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    original, other = (np.asarray(0.2 * rng.standard_normal(3 * RATE_HZ), np.float32) for _ in range(2))
    waves = {
        "original": (original, 5),
        "excerpt": (0.3 * original[8000:40000], 1),
        "longer": (np.concatenate([other[:20000], original]), 2),
        "other": (other, 1),
        "same_fold": (original, 5),
        "tone": (tone(440.0, 2.0), 1),
        "silence": (np.zeros(4 * RATE_HZ, np.float32), 3),
    }
    clips = {}
    for name, (wave, fold) in waves.items():
        path = tmp_path / f"{name}.ogg"
        soundfile.write(path, np.asarray(wave, np.float32), RATE_HZ)
        clips[name] = Clip(path, None, "", fold)
    copies = find_copies([clips[n] for n in waves if n != "original"], [clips["original"]], processes=1)
    assert {c.clip.path.stem for c in copies} == {"excerpt", "longer"}


def test_tones_of_one_pitch_are_no_copies(tmp_path: Path) -> None:
    t = np.arange(RATE_HZ) / RATE_HZ
    clips = []
    for fold, phase in ((1, 0.3), (5, 1.7)):
        # Two notes of one string: the same partials with other levels and phases, and other noise.
        rng = np.random.default_rng(fold)
        wave = sum(rng.uniform(0.1, 1) * np.sin(2 * np.pi * 220 * k * t + k * phase) for k in range(1, 9))
        wave = 0.05 * wave * np.exp(-3 * t) + 1e-3 * rng.standard_normal(t.size)
        path = tmp_path / f"{fold}.ogg"
        soundfile.write(path, np.asarray(wave, np.float32), RATE_HZ)
        clips.append(Clip(path, "guitar", "", fold))
    assert not find_copies(clips[:1], clips[1:], processes=1)


def test_a_silent_original_has_no_copy(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    clips = []
    for fold, wave in ((1, 0.2 * rng.standard_normal(RATE_HZ)), (5, np.zeros(RATE_HZ // 2))):
        path = tmp_path / f"{fold}.wav"
        soundfile.write(path, wave, RATE_HZ)
        clips.append(Clip(path, None, "", fold))
    assert not find_copies(clips[:1], clips[1:], processes=1)


def test_a_copy_in_the_data_folder_is_printed_with_its_original(tree: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for folder in tree.iterdir():
        (data / folder.name).symlink_to(folder)
    rng = np.random.default_rng(0)
    originals = data / "esc10"
    originals.unlink()
    for path in (tree / "esc10").glob("*/*.ogg"):
        target = originals / path.relative_to(tree / "esc10")
        target.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(target, 0.1 * rng.standard_normal(RATE_HZ), RATE_HZ)
    original = next((originals / "rain").glob("5-*"))
    write_index(data / "recordings", {"path": "a.ogg", "label": "rain", "fold": "1"})
    soundfile.write(data / "recordings" / "a.ogg", 0.5 * soundfile.read(original)[0], RATE_HZ)
    done = CliRunner().invoke(cli, ["find-copies", "--data", str(data), "--processes", "1"])
    assert done.exit_code == 0, done.output
    header, row = done.stdout.splitlines()
    assert header == "path,copy_of,correlation"
    assert row.split(",")[:2] == ["a.ogg", original.relative_to(data).as_posix()]
