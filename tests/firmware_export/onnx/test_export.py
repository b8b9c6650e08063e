"""The exported file: the same spikes as torch over a minute of real sound, or no file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from detector.errors import ConfigError, ManifestError
from detector.manifest import BLOCK_KEY, METADATA_KEY, EncoderParams, Manifest, MfccParams, TrainingRecord
from detector.messages import Samples
from detector.network import load_model, verify
from firmware_export.onnx.export import build_manifest, check_parity, export
from firmware_export.onnx.parity import ParityError, comparison_sound
from models import DEMO_SCENE
from models.data.household import list_clips
from models.network.csnn import SpikingConvNet, finished
from models.network.spec import ConvSpec, NetworkSpec
from models.recipe import Data, Decoding, Loss, Recipe, SceneExamples, Schedule

CLASSES = {"guitar": "music", "speech": "people", "rain": "nature"}
RECORD = TrainingRecord("none", 0, 0, 0, (5,), ())


def small_recipe(features: MfccParams) -> Recipe:
    """Return a small network's recipe over the front end that ships."""
    coarse = tuple(2.0 / (1 + k) + 0.5 for k in range(features.n_mfcc))
    rest = (float(np.sqrt(features.n_mels) * np.log(features.log_floor)), *(0.0,) * (features.n_mfcc - 1))
    return Recipe(
        kind="stream",
        name="small",
        version="0.0.1",
        data=Data("household", "", "", (5,)),
        classes=CLASSES,
        features=features,
        encoder=EncoderParams("send_on_delta", (coarse, tuple(c / 4 for c in coarse)), 0.02, rest),
        network=NetworkSpec(
            kind="csnn",
            planes=4,
            n_mfcc=features.n_mfcc,
            n_mels=features.n_mels,
            level_gain=1.0,
            classes=len(CLASSES),
            convs=(ConvSpec(6, 3, 2, 5, 2, synapse=True), ConvSpec(8, 1, 1, 3, 2, synapse=False)),
            hidden=16,
            frame_rate_hz=40.0,
            membrane_tau_s=(0.02, 0.4),
            dense_tau_s=(0.05, 0.8),
            readout_tau_s=0.3,
            surrogate="fast_sigmoid",
            slope=10.0,
            initial_gain=math.inf,
            dropout=0.0,
        ),
        examples=SceneExamples("scenes", 40, {}, {}, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1, (-40.0, -1.0)),
        loss=Loss(1.0, 0.3, 0.0, 0.0, 0.0, 0.0, 0.0, 0.005),
        schedule=Schedule(1, 1, 1, 1e-3, 0.0, muon=False),
        decoding=Decoding(4, 2, 8, 4, 0.7, dict.fromkeys(CLASSES, 0.5)),
    )


@pytest.fixture
def recipe(model_params: MfccParams) -> Recipe:
    return small_recipe(model_params)


@pytest.fixture
def trained(recipe: Recipe) -> SpikingConvNet:
    """Give a network whose batch norms have statistics of real spikes."""
    torch.manual_seed(0)
    net = SpikingConvNet(recipe.network, recipe.encoder).train()
    rng = np.random.default_rng(0)
    for _ in range(30):
        net(torch.from_numpy((rng.random((4, 80, 4, recipe.features.n_mfcc)) < 0.05).astype(np.float32)))
    return net


@pytest.fixture
def model(recipe: Recipe, trained: SpikingConvNet, tmp_path: Path) -> Path:
    out = tmp_path / "small.onnx"
    export(trained, lambda net: build_manifest(recipe, net, RECORD, {}), scene(), out)
    return out


def scene() -> Samples:
    return comparison_sound((DEMO_SCENE,), 16000)[: 16000 * 6]


def test_shipped_form_of_a_minute_of_recordings(
    recipe: Recipe, trained: SpikingConvNet, tmp_path: Path, data: Path
) -> None:
    clips = [c.path for c in list_clips(data) if c.source == "esc10" and c.fold == 1][::6]
    sound = comparison_sound(tuple(clips), 16000)
    assert sound.size >= 60 * 16000
    parity = export(trained, lambda net: build_manifest(recipe, net, RECORD, {}), sound, tmp_path / "m.onnx")
    assert parity.frames > 2400
    assert parity.largest_score_difference < 1e-6


def test_manifest_comes_back_as_it_was_written(recipe: Recipe, trained: SpikingConvNet, model: Path) -> None:
    expected = build_manifest(recipe, finished(trained), RECORD, {})
    assert load_model(model).manifest == expected
    assert Manifest.from_json(expected.to_json(), "here") == expected


def test_verify_accepts_it(model: Path) -> None:
    assert verify(model)["block_equals_step"] is True


def test_another_network_is_refused_and_nothing_written(recipe: Recipe, model: Path) -> None:
    torch.manual_seed(5)
    other = finished(SpikingConvNet(recipe.network, recipe.encoder).eval())
    with pytest.raises(
        ParityError, match=r"conv1 of torch and onnxruntime differ from frame \d+ on; nothing was written"
    ):
        check_parity(other, model, scene())


def test_a_weight_changed_in_the_file_is_found(trained: SpikingConvNet, model: Path) -> None:
    graph = onnx.load(model)
    weight = next(w for w in graph.graph.initializer if w.name == "conv2_weight")
    values = numpy_helper.to_array(weight).copy()
    values += 0.5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(graph, model)
    with pytest.raises(ParityError):
        check_parity(finished(trained), model, scene())


def test_failed_export_leaves_the_old_file(trained: SpikingConvNet, model: Path) -> None:
    before = model.read_bytes()

    def wrong(_: SpikingConvNet) -> Manifest:
        raise ManifestError("no")

    with pytest.raises(ManifestError):
        export(trained, wrong, scene(), model)
    assert model.read_bytes() == before
    assert [p.name for p in model.parent.iterdir()] == [model.name]


def test_a_path_that_cannot_be_written_is_reported_in_a_line(
    recipe: Recipe, trained: SpikingConvNet, model: Path
) -> None:
    before = sorted(model.parent.iterdir())
    with pytest.raises(ConfigError, match="cannot be written"):
        export(trained, lambda net: build_manifest(recipe, net, RECORD, {}), scene(), model / "m.onnx")
    assert sorted(model.parent.iterdir()) == before


def with_manifest(model: Path, old: str, new: str) -> Path:
    """Change the manifest's text inside the file."""
    graph = onnx.load(model)
    for prop in graph.metadata_props:
        if prop.key == METADATA_KEY:
            assert old in prop.value
            prop.value = prop.value.replace(old, new, 1)
    onnx.save(graph, model)
    return model


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"schema":1', '"schema":9', "schema 9 is unknown"),
        ('"hop_length":400,', "", "lacks the key 'features.hop_length'"),
        ('"hop_length":400', '"hop_length":400,"hop":1', "unknown key 'features.hop'"),
        ('"hop_length":400', '"hop_length":"400"', "must be an integer"),
        ('"rule":"send_on_delta"', '"rule":"sod"', "encoder.rule"),
        ('"name":"dense_mem","shape":[1,16]', '"name":"dense_mem","shape":[1,17]', "dense_mem"),
        ('"name":"dense_mem"', '"name":"dense_memory"', "dense_mem"),
        ('"label":"guitar"', '"label":"speech"', "distinct labels"),
        ('{"schema"', '["schema"', "not JSON"),
    ],
)
def test_a_wrong_manifest_is_reported_with_its_key(model: Path, old: str, new: str, text: str) -> None:
    with pytest.raises(ManifestError, match=text):
        load_model(with_manifest(model, old, new))


def test_files_that_are_no_model(tmp_path: Path, model: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        load_model(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("guitar")
    with pytest.raises(ManifestError, match="is no ONNX file"):
        load_model(tmp_path / "text.onnx")
    graph = onnx.load(model)
    del graph.metadata_props[:]
    onnx.save(graph, tmp_path / "no-manifest.onnx")
    with pytest.raises(ManifestError, match="no manifest"):
        load_model(tmp_path / "no-manifest.onnx")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (b'"licence"', b'"licenc\xff"', "its metadata is no text"),
        (BLOCK_KEY.encode() + b"\x12", b"snn_detect.black\x12", "no block graph"),
        (b"CAkSCnNubi1kZXRlY3Q6", "CAkSCnNubi1kZXRlY3\u00e4".encode(), "is damaged"),
        (b"CAkSCnNubi1kZXRlY3Q6", b"CAkSCnNubi1kZXRlY3Q*", "is damaged"),
    ],
)
def test_damaged_metadata_is_reported_in_a_line(model: Path, old: bytes, new: bytes, text: str) -> None:
    data = model.read_bytes()
    assert data.count(old) == 1
    assert len(old) == len(new)
    model.write_bytes(data.replace(old, new))
    with pytest.raises(ManifestError, match=text):
        load_model(model)
