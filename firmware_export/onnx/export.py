"""Export a trained run as one self-describing streaming ONNX file, and prove that it is the same network.

What every export is compared on, and the error when it is not the same network.

Read a training run's folder and export it.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from detector.audio.sources import read_sound
from detector.encoder import DeltaEncoder
from detector.errors import ConfigError, DetectorError
from detector.features import MfccExtractor
from detector.manifest import (
    BLOCK_KEY,
    METADATA_KEY,
    SCHEMA,
    ClassSpec,
    DecoderParams,
    LayerSpec,
    Manifest,
    NetworkParams,
    TensorSpec,
    TrainingRecord,
)
from detector.messages import Samples, Spikes
from detector.network import Model, StreamingNetwork, load_model, trace
from detector.strict import parse_strictly
from firmware_export.onnx.graph import build_graph, graph_state_shapes, spike_outputs
from models import DEMO_SCENE
from models.network.csnn import THRESHOLD, SpikingConvNet, finished
from models.recipe import Decoding, Recipe, load_recipe
from models.training.runs import load_run

LEAST_SECONDS = 60


class ParityError(DetectorError):
    """The exported graph is not the network it was made of."""


def comparison_sound(paths: tuple[Path, ...], rate_hz: int) -> Samples:
    """Join sounds to at least a minute at the rate, repeating them where they are shorter."""
    joined = np.concatenate([read_sound(path, rate_hz) for path in paths])
    return np.resize(joined, max(joined.size, LEAST_SECONDS * rate_hz))


def encoded(manifest: Manifest, sound: Samples) -> Spikes:
    """Return the spikes (frames, planes, n_mfcc) that a model's network gets of sound at the model's rate."""
    features, encoder = MfccExtractor(manifest.features), DeltaEncoder(manifest.encoder)
    return encoder.push(np.concatenate([features.push(sound), features.flush()]))


Traces: TypeAlias = dict[str, NDArray[np.float32]]
"""Scores and each layer's spikes by name, (frames, values)."""
BLOCK_FRAMES = 8
"""Frames in the block graph: more gain little, and a push of fewer frames cannot use it."""
TOLERANCE = 1e-4
"""Largest difference of a score between torch and onnxruntime; spikes and states must be equal."""


@dataclass(frozen=True, slots=True)
class Parity:
    """What the comparison over real sound found."""

    frames: int
    seconds: float
    layers: int
    largest_score_difference: float


def build_manifest(
    recipe: Recipe, net: SpikingConvNet, training: TrainingRecord, metrics: dict[str, float]
) -> Manifest:
    """Gather everything that is bound to the weights of a finished network."""
    shapes = graph_state_shapes(net)
    return Manifest(
        schema=SCHEMA,
        name=recipe.name,
        version=recipe.version,
        licence="Apache-2.0",
        classes=tuple(
            ClassSpec(label, category, _decoder(recipe.decoding, label)) for label, category in recipe.classes.items()
        ),
        features=recipe.features,
        encoder=recipe.encoder,
        network=NetworkParams(
            neuron="lif",
            reset="subtract",
            threshold=THRESHOLD,
            states=tuple(TensorSpec(name, (1, *shape)) for name, shape in shapes.items()),
            block_frames=BLOCK_FRAMES,
            layers=_layers(net),
            parameters=sum(p.numel() for p in net.parameters()),
        ),
        latency_samples=recipe.features.frame_length,
        training=training,
        metrics=metrics,
    )


def export(
    trained: SpikingConvNet, manifest_of: Callable[[SpikingConvNet], Manifest], sound: Samples, out: Path
) -> Parity:
    """Write the model file ``out`` after checking it over ``sound`` (at least 60 s are wanted of it).

    Raises ParityError, and writes nothing, where torch stepping, torch over the sequence and
    onnxruntime do not give the same spikes and scores; ConfigError for a place that cannot be written.
    """
    net = finished(trained)
    step, block = build_graph(net, 1), build_graph(net, BLOCK_FRAMES)
    manifest = manifest_of(net)
    metadata = {
        METADATA_KEY: manifest.to_json(),
        BLOCK_KEY: base64.b64encode(block.SerializeToString()).decode("ascii"),
    }
    onnx.helper.set_model_props(step, metadata)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
            part = Path(folder) / out.name
            part.write_bytes(step.SerializeToString())
            parity = check_parity(net, part, sound)
            part.replace(out)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror})") from error
    return parity


def check_parity(net: SpikingConvNet, path: Path, sound: Samples) -> Parity:
    """Compare a finished network with its model file over sound at the model's rate, frame by frame.

    Raises ParityError that names the first layer and frame that differ.
    """
    model = load_model(path)
    spikes = encoded(model.manifest, sound)
    stepped, sequence, streamed = _step_torch(net, spikes), _sequence_torch(net, spikes), _step_onnx(model, spikes)
    for layer in (name for name in stepped if name != "scores"):
        _same(path, f"{layer} in a torch sequence", stepped[layer], sequence[layer])
        _same(path, f"{layer} in onnxruntime", stepped[layer], streamed[layer])
    _same(path, "scores in blocks", streamed["scores"], StreamingNetwork(model).push(spikes))
    largest = max(float(np.abs(stepped["scores"] - other["scores"]).max()) for other in (sequence, streamed))
    if largest > TOLERANCE:
        raise ParityError(f"{path.name}: scores differ by {largest:.2g}, more than {TOLERANCE:g}; nothing was written")
    rate = model.manifest.features.sample_rate_hz
    return Parity(len(spikes), len(sound) / rate, len(stepped) - 1, largest)


def _step_torch(net: SpikingConvNet, spikes: Spikes) -> Traces:
    state, rows = net.initial_state(), []
    with torch.no_grad():
        for frame in torch.from_numpy(spikes):
            probe: dict[str, torch.Tensor] = {}
            scores, state = net.step(frame[None], state, probe)
            rows.append({"scores": scores[0].numpy(), **{k: v.flatten().numpy() for k, v in probe.items()}})
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _sequence_torch(net: SpikingConvNet, spikes: Spikes) -> Traces:
    probe: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        logits, _ = net(torch.from_numpy(spikes)[None], None, probe)
    layers = {name: v[0].transpose(0, 1).flatten(1).numpy() for name, v in probe.items()}
    return {"scores": torch.sigmoid(logits[0]).numpy(), **layers}


def _step_onnx(model: Model, spikes: Spikes) -> Traces:
    rows = list(trace(model, spikes))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _same(path: Path, what: str, wanted: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    if not np.array_equal(wanted, found):
        frame = int(np.flatnonzero((wanted != found).any(axis=1))[0])
        raise ParityError(f"{path.name}: {what} differs from torch stepping at frame {frame}; nothing was written")


def _decoder(decoding: Decoding, label: str) -> DecoderParams:
    on = decoding.on_thresholds[label]
    return DecoderParams(
        smoothing_frames=decoding.smoothing_frames,
        on_threshold=on,
        off_threshold=on * decoding.off_ratio,
        min_on_frames=decoding.min_on_frames,
        min_off_frames=decoding.min_off_frames,
        refractory_frames=decoding.refractory_frames,
    )


def _layers(net: SpikingConvNet) -> tuple[LayerSpec, ...]:
    """Describe the layers: their inputs per step, neurons, and dense multiply-adds per step."""
    spec, outputs = net.spec, spike_outputs(net)
    channels, width = spec.planes, spec.n_mels
    wide = spec.planes * spec.n_mfcc
    rows = [LayerSpec("to_bands", "dense", wide, channels * width, wide * width, "")]
    for i, conv in enumerate(spec.convs, 1):
        out, taps = -(-width // conv.stride), channels * conv.frames
        macs = out * conv.channels * taps * conv.bands
        rows.append(LayerSpec(f"conv{i}", "conv", taps * width, conv.channels * out, macs, outputs[f"conv{i}"]))
        channels, width = conv.channels, out
    inputs = channels * width
    rows.append(LayerSpec("dense", "dense", inputs, spec.hidden, inputs * spec.hidden, outputs["dense"]))
    rows.append(LayerSpec("readout", "readout", spec.hidden, spec.classes, spec.hidden * spec.classes, ""))
    return tuple(rows)


def export_run(run: Path, recipe_path: Path | None, out: Path, sound: tuple[Path, ...], metrics: Path | None) -> Parity:
    """Export an ended run; ``recipe_path`` may give other decoding than the run's own copy had.

    Raises ConfigError, SourceError or ParityError; ``out`` is written whole or not at all.
    """
    net, recipe, record = load_run(run)
    if not isinstance(net, SpikingConvNet):
        raise ConfigError(f"{run}: a run of a CNN, which has no streaming form; export a spiking network's run")
    if recipe_path is not None:
        recipe = _with_decoding_of(recipe, recipe_path)
    figures = _figures(metrics) if metrics else {}
    samples = comparison_sound(sound or (DEMO_SCENE,), recipe.features.sample_rate_hz)
    return export(net, lambda finished: build_manifest(recipe, finished, record, figures), samples, out)


def _with_decoding_of(trained: Recipe, path: Path) -> Recipe:
    """Return the recipe of a run with name, version and decoding of another that is otherwise the same network."""
    other = load_recipe(path)
    for part in ("features", "encoder", "network"):
        if getattr(other, part) != getattr(trained, part):
            raise ConfigError(
                f"{path}: its [{part}] is not what the run was trained with; only the decoding may differ"
            )
    return dataclasses.replace(trained, name=other.name, version=other.version, decoding=other.decoding)


def _figures(path: Path) -> dict[str, float]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no figures there ({error}); make them with snn-train evaluate --json") from error
    figures: dict[str, float] = parse_strictly(dict[str, float], data, str(path), "figures", ConfigError)
    return figures
