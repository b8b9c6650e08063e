"""``snn-train adapt``: classes from a folder of recordings, on a network that stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from detector.audio.live_source import Mixing
from detector.audio.sources import read_sound
from detector.errors import ConfigError, SourceError
from detector.network import default_model_path, load_model, verify
from detector.pipeline import Detector
from firmware_export.onnx.parity import encoded
from firmware_export.onnx.read import read_network
from firmware_export.onnx.reference import check_exact, evaluate
from models.adapting.adapt import AdaptOptions, adapt, card
from models.adapting.sounds import check_labels, negative_sounds, positive_sounds
from models.cli.main import cli

RATE = 16000
MODEL = default_model_path()
SCENE = MODEL.parent.parent / "demo" / "scene.flac"

pytestmark = pytest.mark.usefixtures("few_conditions")


def chime(rng: np.random.Generator) -> np.ndarray:
    """Return a doorbell: two tones that decay, in some noise."""
    wave, first_hz = np.zeros(3 * RATE), rng.uniform(600, 900)
    t = np.arange(RATE) / RATE
    for at_s, hz in ((0.3, first_hz * 1.26), (0.9, first_hz)):
        at = int((at_s + rng.uniform(0, 0.3)) * RATE)
        wave[at : at + RATE] += sum(np.sin(2 * np.pi * hz * k * t) / k for k in (1, 2, 3)) * np.exp(-4 * t)
    wave *= rng.uniform(0.02, 0.3)
    return np.asarray(wave + 0.001 * rng.standard_normal(wave.size), np.float32)


@pytest.fixture(scope="module", autouse=True)
def _few_noises() -> Iterator[None]:
    """Compute three noises of each kind instead of six: training and each evaluation take them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.adapting.sounds._NOISES_PER_KIND", 3)
        yield


@pytest.fixture(scope="module")
def bells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bells")
    for n in range(25):
        soundfile.write(folder / f"{n:02d} of the street.wav", chime(np.random.default_rng(n)), RATE)
    return folder


def options(  # noqa: PLR0913 - options
    bells: Path, out: Path, *, replace: bool = False, examples: int = 160, epochs: int = 5, processes: int = 2
) -> AdaptOptions:
    return AdaptOptions(
        model=MODEL,
        classes=(("doorbell", bells),),
        out=out,
        category="things",
        replace=replace,
        background=None,
        material=None,
        data=None,
        seed=0,
        processes=processes,
        examples=examples,
        epochs=epochs,
    )


@pytest.fixture(scope="module")
def result(bells: Path, few_conditions: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """Give a model with a doorbell, its card beside it."""
    out = tmp_path_factory.mktemp("adapted") / "own.onnx"
    asked = options(bells, out)
    found = adapt(asked)
    assert found.old_scores_equal
    assert found.classes[0].recall.value >= 0.8
    out.with_suffix(".md").write_text(card(asked, found), encoding="utf-8")
    return out


def test_unseen_recordings_are_found_and_the_old_classes_stay(result: Path) -> None:
    old, new = Detector.load(MODEL), Detector.load(result)
    assert new.labels == (*old.labels, "doorbell")
    waves = [chime(np.random.default_rng(1000 + n)) for n in range(20)]
    found = [any(e.label == "doorbell" for e in new.push(wave) + new.flush()) for wave in waves]
    assert sum(found) >= 16
    for wave in [*waves[:3], read_sound(SCENE, RATE)]:
        assert np.array_equal(new.score(wave)[:, : len(old.labels)], old.score(wave))
    quiet = 0.003 * np.random.default_rng(0).standard_normal(20 * RATE).astype(np.float32)
    assert not any(e.label == "doorbell" for e in new.push(quiet) + new.flush())


def test_the_result_is_an_ordinary_model(result: Path) -> None:
    before, after = load_model(MODEL).manifest, load_model(result).manifest
    assert verify(result)["block_equals_step"]
    assert after.name == f"{before.name}-doorbell"
    assert after.classes[:-1] == before.classes
    assert after.training.clips == before.training.clips + 25
    assert after.training.sources[-1].licence == "the user's own"
    assert after.metrics["doorbell_recall"] >= 0.8
    assert after.network.parameters - before.network.parameters == sum(
        (b.neurons * (b.inputs + 2) - a.neurons * (a.inputs + 2))
        for a, b in zip(before.network.layers[-2:], after.network.layers[-2:], strict=True)
    )
    text = result.with_suffix(".md").read_text(encoding="utf-8")
    assert "| doorbell | " in text
    assert "to the bit" in text


def test_its_sums_are_exact_so_that_every_export_can_take_it(result: Path) -> None:
    network = read_network(result)
    check_exact(network)
    wave = chime(np.random.default_rng(5))
    scores = evaluate(network, encoded(network.manifest, wave))["scores"]
    assert np.abs(scores - Detector.load(result).score(wave)).max() < 1e-4


def test_the_old_classes_can_be_left_out(bells: Path, tmp_path: Path) -> None:
    out = tmp_path / "bell.onnx"
    found = adapt(options(bells, out, replace=True, examples=40, epochs=1, processes=1))
    assert found.manifest.labels == ("doorbell",)
    assert Detector.load(out).score(chime(np.random.default_rng(77))).shape[1] == 1
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_bad_recordings_are_reported_one_by_one_and_the_good_ones_kept(bells: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(bells, tmp_path / "doorbell")
    (folder / "broken.wav").write_bytes(b"RIFF")
    (folder / "empty.flac").touch()
    found = positive_sounds({"doorbell": folder}, RATE)
    assert len(found.clips) == 25
    assert {c.fold for c in found.clips} == {1, 2, 3, 4, 5}
    assert sum("broken.wav" in p or "empty.flac" in p for p in found.problems) == 2
    for path in sorted(folder.glob("*.wav"))[:6]:
        path.unlink()
    with pytest.raises(ConfigError, match=r"19 recordings of 'doorbell' can be used, and it takes 20.*broken\.wav"):
        positive_sounds({"doorbell": folder}, RATE)
    with pytest.raises(SourceError, match="no such folder"):
        positive_sounds({"doorbell": tmp_path / "none"}, RATE)


def test_backgrounds_are_cut_and_neighbours_stay_together(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "room.wav", 0.01 * np.random.default_rng(0).standard_normal(50 * RATE), RATE)
    found = negative_sounds(RATE, 0, tmp_path / "room.wav", None, None)
    pieces = [c.fold for c in found.clips if c.source == "background"]
    assert pieces == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert all(c.label is None for c in found.clips)


def test_one_channel_of_recordings_with_swapped_wires(bells: Path, tmp_path: Path) -> None:
    folder = tmp_path / "swapped"
    folder.mkdir()
    for path in bells.glob("*.wav"):
        sound, rate = soundfile.read(path)
        soundfile.write(folder / path.name, np.stack((sound, -sound), axis=1), rate)
    expected = positive_sounds({"bell": bells}, RATE)
    found = positive_sounds({"bell": folder}, RATE, Mixing("left"))
    for wave, other in zip(found.waves, expected.waves, strict=True):
        np.testing.assert_array_equal(wave, other)
    background = negative_sounds(RATE, 0, folder, None, None, Mixing("left"))
    assert all(
        np.abs(wave).max() > 0.01
        for clip, wave in zip(background.clips, background.waves, strict=True)
        if clip.source == "background"
    )


@pytest.mark.parametrize("label", ["Door bell", "", "türklingel", "x" * 41, "-bell"])
def test_labels_are_plain(label: str) -> None:
    with pytest.raises(ConfigError, match="small letters"):
        check_labels([label], ())


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["adapt", *map(str, arguments)])


def test_what_cannot_be_is_said_before_anything_is_learnt(bells: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.onnx"
    wrong: tuple[tuple[str, tuple[str | Path, ...]], ...] = (
        ("the model has that class already", (MODEL, "--add-class", "guitar", bells)),
        ("no such folder", (MODEL, "--add-class", "bell", tmp_path / "none")),
        ("there is no folder", (MODEL, "--add-class", "bell", bells, "--out", tmp_path / "none/own.onnx")),
        ("cannot be read", (tmp_path / "none.onnx", "--add-class", "bell", bells)),
        ("no index.csv", (MODEL, "--add-class", "bell", bells, "--material", tmp_path, "--out", out)),
        ("no sound files", (MODEL, "--add-class", "bell", bells, "--background", tmp_path, "--out", out)),
    )
    for words, arguments in wrong:
        done = command(*arguments)
        assert done.exit_code in {2, 66}, done.output
        assert words in done.stderr
    assert not list(tmp_path.iterdir())
