"""The C detector, stage by stage, on the runtime's values of the stage before, or the integer reference's."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from detector.audio.sources import read_sound
from detector.decoder import EventDecoder
from detector.encoder import DeltaEncoder
from detector.errors import ConfigError
from detector.features import MfccExtractor
from detector.manifest import EncoderParams, MfccParams
from detector.messages import Event, Frames
from detector.network import default_model_path, load_model, trace
from detector.pipeline import Detector
from firmware_export.c99 import fixed_reference
from firmware_export.c99.build import Host, build_host, from_pcm, to_pcm
from firmware_export.c99.export import export_c
from firmware_export.c99.fixed_point import CEPSTRUM_BITS, fixed_point
from firmware_export.c99.formats import FLOAT, INT8, INT8_FLOAT_FRONT_END, NumberFormat
from firmware_export.cli import cli
from firmware_export.onnx.export import build_manifest, export
from firmware_export.onnx.int8 import to_int8
from firmware_export.onnx.parity import comparison_sound
from firmware_export.onnx.read import read_network
from models import DEMO_SCENE
from models.network.csnn import SpikingConvNet
from tests.firmware_export.onnx.test_export import RECORD, small_recipe
from tests.model_files import changed_model, with_evidence

STRICT = "-O1 -Wall -Wextra -Werror -Wconversion -Wdouble-promotion -fsanitize=address,undefined"
HOUSEHOLD = default_model_path()
NOISE = np.random.default_rng(0)

FRONT_ENDS: dict[str, dict[str, Any]] = {
    "speech": {"frame_length": 400, "hop_length": 160, "n_fft": 512, "n_mels": 26, "n_mfcc": 13}
    | {"preemphasis": 0.97, "lifter": 22, "append_energy": True, "window": "hamming", "log_floor": 0.0},
    "frame longer than the transform": {"frame_length": 800, "n_fft": 512, "n_mels": 20, "n_mfcc": 20},
    "hop longer than the frame": {"frame_length": 256, "hop_length": 500, "n_fft": 256, "n_mels": 16, "n_mfcc": 12},
}


def small_model(params: MfccParams, folder: Path, rule: str = "send_on_delta") -> Path:
    """Write a small untrained model over a front end."""
    if rule == "frame_difference":
        recipe = small_recipe(dataclasses.replace(params, log_floor=1e-8))
        encoder = EncoderParams("frame_difference", recipe.encoder.thresholds, 0.0, ())
        recipe = dataclasses.replace(recipe, features=params, encoder=encoder)
    else:
        recipe = small_recipe(dataclasses.replace(params, log_floor=params.log_floor or 1e-8))
        recipe = dataclasses.replace(recipe, features=params)
    recipe = dataclasses.replace(recipe, network=dataclasses.replace(recipe.network, n_mels=params.n_mels))
    torch.manual_seed(1)
    net = SpikingConvNet(recipe.network, recipe.encoder).train()
    for _ in range(10):
        net(torch.from_numpy((NOISE.random((2, 60, 4, params.n_mfcc)) < 0.1).astype(np.float32)))
    out = folder / "small.onnx"
    export(
        net,
        lambda finished: build_manifest(recipe, finished, RECORD, {}),
        comparison_sound((DEMO_SCENE,), 16000)[:32000],
        out,
    )
    return out


@pytest.fixture(scope="module")
def pcm() -> NDArray[np.int16]:
    """Give the demo scene, then silence, noise at full scale, a loud tone and an incomplete last frame."""
    scene = to_pcm(read_sound(DEMO_SCENE, 16000))
    tone = to_pcm(0.9 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32))
    loud = NOISE.integers(-32768, 32767, 16000).astype(np.int16)
    quiet = NOISE.integers(-2, 3, 16000).astype(np.int16)
    return np.concatenate([scene, np.zeros(16000, np.int16), loud, tone, quiet, loud[:123]])


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    """Give the shipped model in each number format, compiled with every warning and sanitizer."""
    folder = tmp_path_factory.mktemp("c")
    made = {}
    for number_format in (FLOAT, INT8, INT8_FLOAT_FRONT_END):
        export_c(HOUSEHOLD, folder / number_format.name, number_format)
        made[number_format.name] = build_host(folder / number_format.name, "gcc", STRICT)
    return made


def frames_of(params: MfccParams, pcm: NDArray[np.int16]) -> Frames:
    features = MfccExtractor(params)
    return np.concatenate([features.push(from_pcm(pcm)), features.flush()])


def event_keys(events: list[Event]) -> list[tuple[object, ...]]:
    return [(e.kind, e.label, e.onset_sample, e.emitted_sample, e.offset_sample, e.reason) for e in events]


def host_event_keys(events: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    keys = ("type", "label", "onset_sample", "emitted_sample", "offset_sample", "reason")
    return [tuple(e.get(key) for key in keys) for e in events]


def test_single_precision_stage_by_stage(hosts: dict[str, Host], pcm: NDArray[np.int16]) -> None:
    model, host = load_model(HOUSEHOLD), hosts[FLOAT.name]
    frames = frames_of(model.manifest.features, pcm)
    own = host.stage_output("features", pcm, np.float32, frames.shape[1])
    np.testing.assert_allclose(own, frames, rtol=1e-6, atol=1e-6)
    spikes = DeltaEncoder(model.manifest.encoder).push(frames)
    encoded = host.stage_output_of_frames("encoded", frames, np.uint8, spikes[0].size)
    np.testing.assert_array_equal(encoded, spikes.reshape(len(spikes), -1))
    steps = list(trace(model, spikes))
    fired = np.stack([np.concatenate([v for k, v in step.items() if k != "scores"]) for step in steps])
    np.testing.assert_array_equal(host.stage_output_of_frames("spikes", frames, np.uint8, fired.shape[1]), fired)
    scores = np.stack([step["scores"] for step in steps])
    np.testing.assert_allclose(
        host.stage_output_of_frames("scores", frames, np.float32, scores.shape[1]), scores, rtol=0, atol=1e-6
    )
    assert fired.sum() > 10_000


def test_single_precision_gives_the_runtimes_events(hosts: dict[str, Host], pcm: NDArray[np.int16]) -> None:
    detector, twice = Detector.load(HOUSEHOLD), np.concatenate([pcm, pcm])
    events = detector.push(from_pcm(twice)) + detector.flush()
    found = hosts[FLOAT.name].events(twice)
    assert host_event_keys(found) == event_keys(events)
    for one, other in zip(found, events, strict=True):
        assert one["score"] == pytest.approx(other.score, abs=2e-6)
        if other.kind == "offset":
            assert one["peak"] == pytest.approx(other.peak, abs=2e-6)
            assert one["mean"] == pytest.approx(other.mean, abs=1e-4)  # summed in single precision
    assert len(events) > 6


@pytest.mark.parametrize("number_format", [FLOAT, INT8], ids=lambda f: f.name)
def test_evidence_gives_the_runtimes_events(
    number_format: NumberFormat, pcm: NDArray[np.int16], tmp_path: Path
) -> None:
    """In integers to the bit, by the reference's scores; in single precision, scores are within 1e-6 before it."""
    path = changed_model(tmp_path / "m.onnx", with_evidence)
    export_c(path, tmp_path / "c", number_format)
    host = build_host(tmp_path / "c", "gcc", STRICT)
    if number_format.int8:
        # The stages before are those of the model as it ships.
        model = fixed_point(read_network(path))
        spikes = fixed_reference.encoded(model, fixed_reference.cepstra(model, pcm))
        check_scores_and_events(host, fixed_reference.run_network(model, spikes).scores, pcm, path)
        return
    detector = Detector.load(path)
    events = detector.push(from_pcm(pcm)) + detector.flush()
    found = host.events(pcm)
    assert host_event_keys(found) == event_keys(events)
    for one, other in zip(found, events, strict=True):
        assert one["score"] == pytest.approx(other.score, abs=2e-4)
    assert len({e.label for e in events if detector.classes[detector.labels.index(e.label)].decoder.evidence}) > 1


def test_a_front_end_in_single_precision(pcm: NDArray[np.int16], tmp_path: Path) -> None:
    export_c(HOUSEHOLD, tmp_path / "c", FLOAT)
    host = build_host(tmp_path / "c", "gcc", f"{STRICT} -DSNN_SINGLE_FRONT_END=1")
    frames = frames_of(load_model(HOUSEHOLD).manifest.features, pcm)
    own = host.stage_output("features", pcm, np.float32, frames.shape[1])
    np.testing.assert_allclose(own, frames, rtol=1e-4, atol=1e-4 * np.abs(frames).max(axis=0).min())


def test_integers_stage_by_stage_to_the_bit(hosts: dict[str, Host], pcm: NDArray[np.int16]) -> None:
    model, host = fixed_point(read_network(HOUSEHOLD)), hosts[INT8.name]
    check_integers(host, model.network.manifest.features, pcm, HOUSEHOLD)


def check_integers(host: Host, params: MfccParams, pcm: NDArray[np.int16], path: Path) -> None:
    model = fixed_point(read_network(path))
    mfcc = fixed_reference.cepstra(model, pcm)
    np.testing.assert_array_equal(host.stage_output("features", pcm, np.int32, params.n_mfcc), mfcc)
    spikes = fixed_reference.encoded(model, mfcc)
    np.testing.assert_array_equal(
        host.stage_output("encoded", pcm, np.uint8, spikes[0].size), spikes.reshape(len(spikes), -1)
    )
    output = fixed_reference.run_network(model, spikes)
    fired = np.concatenate(output.spikes, axis=1)
    np.testing.assert_array_equal(host.stage_output("spikes", pcm, np.uint8, fired.shape[1]), fired)
    check_scores_and_events(host, output.scores, pcm, path)


def check_scores_and_events(host: Host, scores: NDArray[np.int64], pcm: NDArray[np.int16], path: Path) -> None:
    np.testing.assert_array_equal(host.stage_output("scores", pcm, np.int32, scores.shape[1]), scores)
    assert host_event_keys(host.events(pcm)) == event_keys(decoded_events(path, scores, len(pcm)))


def decoded_events(path: Path, scores: NDArray[np.int64], samples: int) -> list[Event]:
    """Return the events of the runtime's decoder for the fixed-point scores of a stream of so many samples."""
    model = fixed_point(read_network(path))
    params = model.network.manifest.features
    decoder = EventDecoder(fixed_reference.decoder_classes(model), params.hop_length, params.frame_length)
    decoder.end_at(samples)
    return decoder.push(fixed_reference.as_fractions(scores)) + decoder.flush()


def test_integer_features_are_those_of_the_runtime(pcm: NDArray[np.int16]) -> None:
    model = fixed_point(read_network(HOUSEHOLD))
    frames = frames_of(model.network.manifest.features, pcm)
    own = fixed_reference.cepstra(model, pcm) * 2.0**-CEPSTRUM_BITS
    assert np.abs(own - frames).max() < 2e-3  # of thresholds from 0.08 on
    assert np.abs(own - frames).mean() < 2e-5


def test_integers_behind_a_front_end_in_single_precision(hosts: dict[str, Host], pcm: NDArray[np.int16]) -> None:
    model, host = fixed_point(read_network(HOUSEHOLD)), hosts[INT8_FLOAT_FRONT_END.name]
    frames = frames_of(model.network.manifest.features, pcm)
    own = host.stage_output("features", pcm, np.int32, frames.shape[1])
    np.testing.assert_allclose(own * 2.0**-CEPSTRUM_BITS, frames, rtol=1e-4, atol=2e-4)
    spikes = fixed_reference.encoded(model, own.astype(np.int64))
    scores = fixed_reference.run_network(model, spikes).scores
    np.testing.assert_array_equal(host.stage_output_of_frames("scores", own, np.int32, scores.shape[1]), scores)


@pytest.mark.parametrize("number_format", [FLOAT, INT8], ids=lambda f: f.name)
def test_all_synapses_computed_give_the_same_scores(
    number_format: NumberFormat, pcm: NDArray[np.int16], tmp_path: Path
) -> None:
    export_c(HOUSEHOLD, tmp_path / "c", number_format)
    event_driven = build_host(tmp_path / "c", "gcc", "-O2")
    dense = build_host(tmp_path / "c", "gcc", "-O2", "snn_host_dense")
    width = len(load_model(HOUSEHOLD).manifest.classes)
    some = pcm[: 16000 * 8]
    assert (
        event_driven.stage_output("scores", some, np.int32, width).tobytes()
        == dense.stage_output("scores", some, np.int32, width).tobytes()
    )


@pytest.mark.parametrize("name", FRONT_ENDS)
@pytest.mark.parametrize("number_format", [FLOAT, INT8], ids=lambda f: f.name)
def test_other_front_ends(
    name: str, number_format: NumberFormat, model_params: MfccParams, pcm: NDArray[np.int16], tmp_path: Path
) -> None:
    params, pcm = dataclasses.replace(model_params, **FRONT_ENDS[name]), pcm[-16000 * 6 :]
    rule = "frame_difference" if params.log_floor == 0 else "send_on_delta"
    path = small_model(params, tmp_path, rule)
    export_c(path, tmp_path / "c", number_format)
    host = build_host(tmp_path / "c", "gcc", STRICT)
    if number_format.int8:
        check_integers(host, params, pcm, path)
        return
    frames = frames_of(params, pcm)
    loud = np.abs(frames).max()
    np.testing.assert_allclose(
        host.stage_output("features", pcm, np.float32, params.n_mfcc), frames, rtol=1e-4, atol=1e-5 * loud
    )
    spikes = DeltaEncoder(load_model(path).manifest.encoder).push(frames)
    encoded = host.stage_output_of_frames("encoded", frames, np.uint8, spikes[0].size)
    np.testing.assert_array_equal(encoded, spikes.reshape(len(spikes), -1))


def test_int8_keeps_the_finest_grid_that_fits() -> None:
    weight = np.array([[[[127.4, -1.0]]], [[[0.25, 0.1]]], [[[0.0, 0.0]]], [[[63.7, 0.5]]]], np.float32)
    found = to_int8(weight)
    assert found.values[0].ravel().tolist() == [127, -1]
    assert found.values[1].ravel().tolist() == [64, 26]
    assert found.exponents[:2].tolist() == [0, 8]
    assert found.values[3].ravel().tolist() == [127, 1]
    assert np.abs(found.weight - weight).max() <= found.scale.max() / 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["c", "none.onnx", "--out", "c"], "the model cannot be read"),
        (["c", "text.onnx", "--out", "c"], "this is no ONNX file of a model"),
        (["c", str(HOUSEHOLD), "--out", "full"], "was not made by this command"),
        (["c", str(HOUSEHOLD), "--out", "text.onnx/c"], "cannot be written"),
        (["c", str(HOUSEHOLD), "--out", "c", "--float", "--int8"], "exclude each other"),
        (["c", str(HOUSEHOLD), "--out", "c", "--frontend", "fixed"], "--frontend fixed needs --int8"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.onnx").write_text("guitar")
    Path("full").mkdir()
    Path("full/mine.txt").write_text("keep me")
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == ConfigError.exit_code
    assert text in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "text.onnx"]
    assert Path("full/mine.txt").read_text() == "keep me"


def test_exporting_again_replaces_the_folder(tmp_path: Path) -> None:
    for flags in ([], ["--int8"], ["--int8", "--frontend", "float"]):
        done = CliRunner().invoke(cli, ["c", str(HOUSEHOLD), "--out", str(tmp_path / "c"), "--force", *flags])
        assert done.exit_code == 0, done.output
    assert "int8, MFCC in float" in (tmp_path / "c" / "snn_model.h").read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize(("command", "name"), [("c", "c"), ("int8", "m.onnx"), ("nir", "m.nir")])
def test_a_full_disk_is_reported_in_a_line_and_nothing_stays(command: str, name: str, tmp_path: Path) -> None:
    """By a limit on how long a file may become, which a write fails at as it does on a full disk."""
    program = [sys.executable, "-m", "firmware_export.cli", command, str(HOUSEHOLD), "--out", str(tmp_path / name)]
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", *program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    line = f"snn-export: error: {tmp_path / name}: cannot be written (File too large); name another path\n"
    assert done.stderr == line
    assert list(tmp_path.iterdir()) == []
