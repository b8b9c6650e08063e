"""The C core and onnxruntime, behind one interface: the same bits in every stage, for every model and any division."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from detector import Detector, Event
from detector.audio.sources import read_sound
from detector.errors import ManifestError
from detector.messages import AudioChunk, Samples, Trace
from detector.network import ENGINE_VARIABLE, EngineName, load_model, verify
from firmware_export.onnx.int8 import export_int8
from models import DEMO_SCENE
from models.data.household import list_clips
from tests.detector.engine.topologies import VARIANTS, Variant, write_model
from tests.model_files import changed_model, with_evidence

ROOT: Final = Path(__file__).resolve().parents[3]
SHIPPED: Final = sorted((ROOT / "models" / "pretrained").glob("*.onnx"))
RATE_HZ: Final = 16000
ZERO: Final = 1e-12
"""Cepstra of digital silence are zero but for errors of rounding below it, which depend on the order of sums."""
PAUSE: Final = 0.4
"""Seconds that a gap leaves out."""


class Recorder:
    """Keeps the traces of a detector."""

    def __init__(self, *, layers: bool) -> None:
        self.wants_layers = layers
        self.seen: list[Trace] = []

    def on_trace(self, trace: Trace) -> None:
        self.seen.append(trace)


@dataclass(frozen=True)
class Output:
    """What a detector gave for a sound: events, and each stage's values frame by frame."""

    events: list[Event]
    stages: dict[str, NDArray[Any]]
    first_samples: list[int]
    """Where each frame begins."""


def detector_of(path: Path, engine: EngineName, monkeypatch: pytest.MonkeyPatch) -> Detector:
    monkeypatch.setenv(ENGINE_VARIABLE, engine)
    detector = Detector.load(path)
    assert detector.engine == engine
    return detector


def output_of(detector: Detector, chunks: list[AudioChunk], *, layers: bool = True) -> Output:
    recorder = Recorder(layers=layers)
    detector.observer = recorder
    events = [event for chunk in chunks for event in detector.push_chunk(chunk)] + detector.flush()
    detector.observer = None
    hop = detector.manifest.features.hop_length
    names = ("frames", "spikes", "membranes", "scores", "means")
    stages = {name: np.concatenate([getattr(t, name) for t in recorder.seen]) for name in names}
    for layer in recorder.seen[0].layers:
        stages[layer] = np.concatenate([t.layers[layer] for t in recorder.seen])
    begins = [t.first_sample + i * hop for t in recorder.seen for i in range(len(t.scores))]
    return Output(events, stages, begins)


def divided(sound: Samples, seed: int, most: int = 9000) -> list[AudioChunk]:
    """Return a sound in chunks of random lengths, empty ones and single samples among them; here and there a gap.

    Gaps are at the same samples for all seeds.
    """
    gaps = [int(len(sound) * part) for part in (0.37, 0.71)]
    rng, at, skipped, chunks = np.random.default_rng(seed), 0, 0, []
    while at < len(sound):
        end = min(at + int(rng.choice([0, 1, 400, int(rng.integers(most))])), len(sound))
        gap = at in gaps
        end = min([end, *(g for g in gaps if g > at)])
        if gap:
            end = max(end, at + 1)
            skipped += int(PAUSE * RATE_HZ)
        chunks.append(AudioChunk(sound[at:end], at + skipped, gap=gap))
        at = end
    return chunks


def check_same(core: Output, reference: Output, zero: float = ZERO) -> None:
    assert core.events == reference.events
    assert core.first_samples == reference.first_samples
    assert core.stages.keys() == reference.stages.keys()
    for name, expected in reference.stages.items():
        found = core.stages[name]
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        bits = f"u{found.itemsize}"
        wrong = found.view(bits) != expected.view(bits)
        if name == "frames":
            wrong &= (np.abs(found) > zero) | (np.abs(expected) > zero)
        assert not wrong.any(), (name, np.argwhere(wrong)[:3], found[wrong][:3], expected[wrong][:3])


def sounds_of(clips: list[Path], seed: int) -> Samples:
    """Return clips one after the other at levels from -60 dB to above full scale, with digital silence between."""
    rng, parts = np.random.default_rng(seed), []
    for path in clips:
        sound = read_sound(path, RATE_HZ)[: 5 * RATE_HZ]
        parts += [sound * np.float32(rng.choice([0.001, 0.03, 1.0, 5.0])), np.zeros(rng.integers(9000), np.float32)]
    return np.concatenate(parts).astype(np.float32)


@pytest.fixture(scope="session")
def scene() -> Samples:
    return read_sound(DEMO_SCENE, RATE_HZ)


@pytest.fixture(scope="session")
def clips(data: Path) -> list[Path]:
    """Give a clip of each class of ESC-10, instruments, guitar strings and spoken digits."""
    found = {(c.source, c.label, c.fold == 1): c.path for c in list_clips(data)}
    return [found[key] for key in sorted(found, key=str)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_models_in_the_demo_scene(path: Path, scene: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    core, reference = (detector_of(path, e, monkeypatch) for e in ("core", "onnxruntime"))
    expected = output_of(reference, divided(scene, seed=1))
    check_same(output_of(core, divided(scene, seed=2)), expected)
    check_same(output_of(core, divided(scene, seed=1)), expected)
    assert {"gap", "ended"} <= {e.reason for e in expected.events if e.kind == "offset"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_models_on_recordings(path: Path, clips: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    core, reference = (detector_of(path, e, monkeypatch) for e in ("core", "onnxruntime"))
    number = SHIPPED.index(path)
    sound = sounds_of(clips[number :: len(SHIPPED)], seed=number)
    expected = output_of(reference, divided(sound, seed=number))
    check_same(output_of(core, divided(sound, seed=number + 100)), expected)
    assert len(expected.events) > 1


def test_evidence_in_the_demo_scene(scene: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed_model(tmp_path / "m.onnx", with_evidence)
    core, reference = (detector_of(path, e, monkeypatch) for e in ("core", "onnxruntime"))
    expected = output_of(reference, divided(scene, seed=7))
    check_same(output_of(core, divided(scene, seed=8)), expected)
    classes = {c.label: c.decoder.evidence for c in core.classes}
    assert {e.label for e in expected.events if classes[e.label]} >= {"guitar", "winds"}
    columns = [i for i, evidence in enumerate(classes.values()) if evidence]
    assert len(np.unique(expected.stages["means"][:, columns])) > 300


def test_a_trace_changes_nothing(scene: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    core, reference = (detector_of(SHIPPED[-1], e, monkeypatch) for e in ("core", "onnxruntime"))
    sound = scene[: 14 * RATE_HZ]
    expected = output_of(reference, divided(sound, seed=3), layers=False)
    check_same(output_of(core, divided(sound, seed=4), layers=False), expected)
    traced = output_of(core, divided(sound, seed=5))
    for name in ("frames", "spikes", "scores"):
        assert np.array_equal(traced.stages[name], expected.stages[name])
    assert traced.events == expected.events
    untraced = [event for chunk in divided(sound, seed=6) for event in core.push_chunk(chunk)] + core.flush()
    assert untraced == expected.events


def test_silence_and_the_ends_of_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digital silence, the smallest and the largest samples that there are, noise that is hardly there, and clicks."""
    rng, n = np.random.default_rng(0), RATE_HZ
    click = np.zeros(n, np.float32)
    click[777] = 31.6
    sound = np.concatenate(
        [
            *(np.zeros(2 * n), np.full(n, 1e-45), rng.normal(size=n) * 1e-39, rng.normal(size=n) * 1e-30, click),
            *(np.zeros(n), rng.uniform(-31.6, 31.6, n), -np.zeros(n), rng.normal(size=n) * 1e-5, np.ones(n)),
        ]
    ).astype(np.float32)
    core, reference = (detector_of(SHIPPED[-1], e, monkeypatch) for e in ("core", "onnxruntime"))
    check_same(output_of(core, divided(sound, 1)), output_of(reference, divided(sound, 2)))


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(ENGINE_VARIABLE, raising=False)
        yield write_model(VARIANTS[request.param], tmp_path_factory.mktemp("variant"))


def test_other_topologies(variant: Path, scene: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=RATE_HZ).astype(np.float32)
    tiny = (noise * 1e-38).astype(np.float32)  # with subnormal samples
    sound = np.concatenate([scene[3 * RATE_HZ : 11 * RATE_HZ], np.zeros(9001, np.float32), noise, tiny, scene[:20123]])
    core, reference = (detector_of(variant, e, monkeypatch) for e in ("core", "onnxruntime"))
    expected = output_of(reference, divided(sound, seed=1))
    lift = 1 + core.manifest.features.lifter / 2
    check_same(output_of(core, divided(sound, seed=2)), expected, ZERO * lift)
    for layer in reference.manifest.network.layers:
        assert not layer.spikes or 0 < expected.stages[layer.name].mean() < 1, f"{layer.name} tests nothing"
    assert verify(variant)["engines"] is not None


@pytest.mark.parametrize("path", [SHIPPED[-1], SHIPPED[0]], ids=lambda p: p.stem)
def test_int8_weights(path: Path, scene: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    export_int8(path, tmp_path / "int8.onnx")
    core, reference = (detector_of(tmp_path / "int8.onnx", e, monkeypatch) for e in ("core", "onnxruntime"))
    sound = scene[: 20 * RATE_HZ]
    check_same(output_of(core, divided(sound, seed=2)), output_of(reference, divided(sound, seed=1)))


@pytest.mark.parametrize("weight", ["conv1_weight", "conv2_weight", "dense_weight", "readout_weight"])
def test_weights_without_an_exact_grid_go_to_onnxruntime(
    weight: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    model, path = onnx.load(SHIPPED[-1]), tmp_path / "inexact.onnx"
    stored = next(w for w in model.graph.initializer if w.name == weight)
    values = numpy_helper.to_array(stored).copy()
    values.reshape(-1)[0] = np.float32(1 / 3)
    stored.CopyFrom(numpy_helper.from_array(values, stored.name))
    onnx.save(model, path)
    loaded, layer = load_model(path), weight.removesuffix("_weight")
    assert loaded.engine == "onnxruntime"
    assert loaded.engine_reason == (
        f"the C core cannot run it: the weights of {layer} have no grid on which sums are exact"
    )
    assert Detector.load(path).push(np.zeros(RATE_HZ, np.float32)) == []
    monkeypatch.setenv(ENGINE_VARIABLE, "core")
    with pytest.raises(ManifestError, match=f"^{path}: .*weights of {layer} have no grid.*unset {ENGINE_VARIABLE}$"):
        load_model(path)


def test_a_transform_of_another_length_goes_to_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    path = write_model(Variant({"n_fft": 600, "frame_length": 600, "n_mels": 20, "n_mfcc": 20}), tmp_path)
    assert load_model(path).engine_reason == "the C core cannot run it: n_fft is 600, no power of two of 16 or more"
    assert Detector.load(path).push(np.zeros(RATE_HZ, np.float32)) == []
