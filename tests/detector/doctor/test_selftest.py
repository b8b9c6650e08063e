"""The self-test: it passes with the model that ships, and fails with one that detects nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import soundfile

from detector.doctor.setup import Expected, annotated, check_scene, scene_result
from detector.pipeline import Detector
from tests.detector.doctor.conftest import write

SCENE = [Expected("guitar", 4.0, 12.0), Expected("speech", 15.0, 18.6), Expected("guitar", 26.0, 32.0)]
HEADER = "filename\tonset\toffset\tevent_label\n"


def scene(folder: Path, rows: str, seconds: float = 3.0) -> Path:
    """Write a scene of silence with sounds in its table."""
    path = folder / "scene.flac"
    soundfile.write(path, np.zeros(int(16000 * seconds)), 16000)
    write(path.with_suffix(".tsv"), HEADER + rows)
    return path


def test_the_model_that_ships_passes() -> None:
    found = check_scene(Detector.load())
    assert found.state == "ok", found
    assert "sounds detected" in found.found


def test_a_detector_that_detects_nothing_fails() -> None:
    """After an update all looks well, and nothing is ever detected."""
    plain = Detector.load()
    insensitive = Detector.load(None, dict.fromkeys(plain.labels, 0.9999))
    found = check_scene(insensitive)
    assert (found.state, found.exit_code) == ("problem", 70)
    assert "0 of" in found.found


def test_a_scene_without_its_sounds_fails(tmp_path: Path, detector: Detector) -> None:
    label = detector.labels[0]
    found = check_scene(detector, scene(tmp_path, f"scene.flac\t0.5\t2.5\t{label}\n"))
    assert (found.state, found.exit_code) == ("problem", 70)
    assert f"not {label} at 0.5 s" in found.found


def test_sounds_that_the_model_does_not_know_are_not_expected(tmp_path: Path, detector: Detector) -> None:
    found = check_scene(detector, scene(tmp_path, "scene.flac\t0.5\t2.5\tvuvuzela\n"))
    assert found.state == "skipped"


def test_a_scene_that_is_missing_or_damaged_fails(tmp_path: Path, detector: Detector) -> None:
    assert check_scene(detector, tmp_path / "none.flac").exit_code == 70
    path = scene(tmp_path, f"scene.flac\t0.5\tlong\t{detector.labels[0]}\n")
    assert check_scene(detector, path).exit_code == 70
    write(path.with_suffix(".tsv"), f"{HEADER}scene.flac\t0.5\t2.5\t{detector.labels[0]}\n")
    write(path, "no sound at all")
    assert check_scene(detector, path).exit_code == 70


def test_onsets_are_matched_to_the_annotation() -> None:
    good = [("guitar", 6.2), ("speech", 15.6), ("guitar", 26.6)]
    assert scene_result(SCENE, good).found == "3 of 3 sounds detected"
    assert scene_result(SCENE, [*good, ("rain", 14.0)]).found == "3 of 3 sounds detected; also rain at 14.0 s"
    assert scene_result(SCENE, good[:2]).state == "ok"
    assert scene_result(SCENE, good[:1]).state == "problem"
    assert scene_result(SCENE, [("guitar", 13.0), ("speech", 14.0), ("drums", 27.0)]).state == "problem"


def test_the_scene_that_ships_has_its_table(tmp_path: Path) -> None:
    from importlib import resources

    path = Path(str(resources.files("models") / "demo" / "scene.flac"))
    shutil.copy(path.with_suffix(".tsv"), tmp_path / "scene.tsv")
    found = list(annotated(tmp_path / "scene.flac"))
    assert {"guitar", "speech"} <= {e.label for e in found}
    assert all(0 <= e.onset_s < e.offset_s for e in found)
