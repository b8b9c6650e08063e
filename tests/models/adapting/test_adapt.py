"""``snn-train adapt``: classes from a folder of recordings, on a network that stays as it is."""

from __future__ import annotations

import dataclasses
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
from detector.features import MfccExtractor
from detector.network import default_model_path, load_model, verify
from detector.pipeline import Detector
from firmware_export.onnx.parity import encoded
from firmware_export.onnx.read import read_network
from firmware_export.onnx.reference import check_exact, evaluate
from models.adapting.adapt import AdaptOptions, adapt
from models.adapting.backbone import BackboneStream
from models.adapting.bank import SUFFIX, Bank, write_bank
from models.adapting.card import card
from models.adapting.extension import BackboneShape, Extension, backbone_of, extend
from models.adapting.head import scores_of
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
    bells: Path,
    out: Path,
    *,
    model: Path = MODEL,
    label: str = "doorbell",
    replace: bool = False,
    examples: int = 160,
    epochs: int = 5,
    processes: int = 2,
    bank: Path | None = None,
    without: tuple[str, ...] = (),
) -> AdaptOptions:
    return AdaptOptions(
        model=model,
        classes=((label, bells),),
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
        bank=bank,
        uses_bank=bank is not None,
        without=without,
    )


@pytest.fixture(scope="module")
def result(bells: Path, few_conditions: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """Give a model with a doorbell, its card beside it."""
    out = tmp_path_factory.mktemp("adapted") / "own.onnx"
    asked = options(bells, out)
    found = adapt(asked)
    assert found.old_scores_equal
    assert found.classes[0].recall["balanced"].value >= 0.8
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


@pytest.fixture(scope="module")
def own_bank(bank: Bank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bank") / f"own{SUFFIX}"
    write_bank(path, bank)
    return path


@pytest.fixture(scope="module")
def with_bank(bells: Path, own_bank: Path, few_conditions: None, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: ARG001
    """Give a model with a doorbell that was trained with a bank."""
    out = tmp_path_factory.mktemp("banked") / "own.onnx"
    asked = options(bells, out, bank=own_bank)
    found = adapt(asked)
    assert found.old_scores_equal
    assert {"instruments", "other classes"} <= set(found.classes[0].false["balanced"])
    assert found.classes[0].false["balanced"]["other classes"].total > 20
    out.with_suffix(".md").write_text(card(asked, found), encoding="utf-8")
    return out


def test_a_new_class_has_three_operating_points(with_bank: Path) -> None:
    before, after = load_model(MODEL).manifest, load_model(with_bank).manifest
    added = after.classes[-1]
    assert after.operating_points == before.operating_points
    assert added.low is not None
    assert added.high is not None
    assert added.high.on_threshold <= added.decoder.on_threshold <= added.low.on_threshold
    assert Detector.load(with_bank).at("high").labels == after.labels
    assert [s.name for s in after.training.sources[-2:]] == [f"bank own{SUFFIX}", "doorbell"]
    text = with_bank.with_suffix(".md").read_text(encoding="utf-8")
    assert all(f"| doorbell | {name} | " in text for name in ("low", "balanced", "high"))
    assert f"- bank own{SUFFIX}: " in text


def test_a_model_without_its_old_classes_has_them_as_measured(bells: Path, own_bank: Path, tmp_path: Path) -> None:
    found = adapt(options(bells, tmp_path / "bell.onnx", replace=True, examples=40, epochs=1, bank=own_bank))
    points = found.manifest.operating_points
    assert points is not None
    assert 0 <= points.low <= points.balanced <= points.high
    assert found.manifest.sensitivities == ("low", "balanced", "high")


def test_an_adapted_model_can_be_adapted_with_the_same_bank(
    with_bank: Path, bells: Path, own_bank: Path, tmp_path: Path
) -> None:
    out = tmp_path / "two.onnx"
    found = adapt(options(bells, out, model=with_bank, label="chime", examples=40, epochs=1, bank=own_bank))
    assert found.old_scores_equal
    assert Detector.load(out).labels == (*Detector.load(with_bank).labels, "chime")
    check_exact(read_network(out))


def test_scores_on_stored_spikes_are_those_of_the_model(tmp_path: Path) -> None:
    shape, rng, grid = backbone_of(MODEL), np.random.default_rng(0), 2.0**-10
    weights = [np.round(rng.normal(0, 0.1, size) / grid) * grid for size in ((8, shape.inputs), (1, shape.dense + 8))]
    extension = Extension(
        hidden_weight=weights[0].astype(np.float32),
        hidden_bias=np.full(8, 0.125, np.float32),
        hidden_beta=rng.uniform(0.5, 0.95, 8).astype(np.float32),
        readout_weight=weights[1].astype(np.float32),
        readout_bias=np.full(1, -0.25, np.float32),
        readout_beta=np.full(1, 0.9, np.float32),
    )
    manifest = load_model(MODEL).manifest
    spec = dataclasses.replace(manifest.classes[0], label="own")
    more = dataclasses.replace(manifest, classes=(*manifest.classes, spec))
    extend(MODEL, tmp_path / "own.onnx", extension, more, replace=False)
    wave = read_sound(SCENE, RATE)[: 20 * RATE]
    detector = Detector.load(tmp_path / "own.onnx")
    expected = detector.process(wave)[0][:, -1]
    features = MfccExtractor(manifest.features).push(wave)
    fired = BackboneStream(load_model(MODEL), shape.dense).push(features)
    found = scores_of(extension, fired, BackboneShape(shape.inputs, shape.dense))[:, 0]
    assert expected.std() > 0.01
    assert np.abs(found - expected).max() < 1e-5


def test_kinds_of_the_bank_are_left_out_by_name_and_by_option(bells: Path, own_bank: Path, tmp_path: Path) -> None:
    asked = options(bells, tmp_path / "own.onnx", label="rooster_2", examples=40, epochs=1, bank=own_bank)
    found = adapt(dataclasses.replace(asked, without=("rain",)))
    assert f"own{SUFFIX}: without rain, rooster, which may be of a new class" in found.problems
    kept = found.manifest.training.sources[-2].use
    alone = adapt(dataclasses.replace(asked, classes=(("gong", bells),), out=tmp_path / "gong.onnx"))
    assert kept != alone.manifest.training.sources[-2].use
    with pytest.raises(ConfigError, match=r"--without: .*did you mean 'rain'\?"):
        adapt(dataclasses.replace(asked, without=("rains",)))
    with pytest.raises(ConfigError, match="there is no bank"):
        adapt(dataclasses.replace(asked, uses_bank=False, without=("rain",)))


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
        ("contradict each other", (MODEL, "--add-class", "bell", bells, "--no-bank", "--bank", tmp_path, "--out", out)),
        ("cannot be read", (MODEL, "--add-class", "bell", bells, "--bank", tmp_path / "none.bank", "--out", out)),
        ("did you mean 'speech'?", (MODEL, "--add-class", "bell", bells, "--without", "speach", "--out", out)),
        ("no sound files", (MODEL, "--add-class", "bell", bells, "--background", tmp_path, "--out", out)),
    )
    for words, arguments in wrong:
        done = command(*arguments)
        assert done.exit_code in {2, 66}, done.output
        assert words in done.stderr
    assert not list(tmp_path.iterdir())
