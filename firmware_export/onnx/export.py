"""The streaming ONNX file of a trained run: one self-describing model, written only after it passes for its network."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import torch

from detector.engine import names
from detector.errors import ConfigError
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
    parse_strictly,
)
from detector.messages import Samples, Spikes
from detector.network import StreamingNetwork, load_model
from firmware_export.files import atomic_output
from firmware_export.onnx.graph import build_graph, graph_state_shapes, spike_outputs
from firmware_export.onnx.parity import (
    Traces,
    check_equal,
    comparison_sound,
    encoded,
    largest_difference,
    step_file,
)
from models import DEMO_SCENE
from models.network.csnn import THRESHOLD, SpikingConvNet, finished
from models.recipe import Decoding, Recipe, load_recipe
from models.training.runs import load_run

BLOCK_FRAMES: Final = 8
"""Frames in the block graph: more gain little, and a push of fewer frames cannot use it."""
TOLERANCE: Final = 1e-4
"""Largest difference of a score between torch and onnxruntime; spikes and states must be equal."""


@dataclass(frozen=True, slots=True)
class Parity:
    """The result of the comparison over real sound."""

    frames: int
    seconds: float
    layers: int
    largest_score_difference: float


def export_run(run: Path, recipe_path: Path | None, out: Path, sound: tuple[Path, ...], metrics: Path | None) -> Parity:
    """Export a finished run; ``recipe_path`` may give another decoding than the run's own copy of its recipe.

    ``sound`` is compared on, the demo scene without any; ``metrics`` is the JSON of ``snn-train evaluate`` for the
    manifest. Raises ConfigError, SourceError or ParityError; ``out`` is written completely or not at all.
    """
    net, recipe, record = load_run(run)
    if not isinstance(net, SpikingConvNet):
        raise ConfigError(f"{run}: a CNN has no streaming form; name the run of a spiking network")
    if recipe_path is not None:
        recipe = _with_decoding_of(recipe, recipe_path)
    values = _metrics(metrics) if metrics else {}
    samples = comparison_sound(sound or (DEMO_SCENE,), recipe.features.sample_rate_hz)
    return export(net, lambda finished: build_manifest(recipe, finished, record, values), samples, out)


def export(
    trained: SpikingConvNet, manifest_of: Callable[[SpikingConvNet], Manifest], sound: Samples, out: Path
) -> Parity:
    """Write the model file ``out`` after comparing it with the network over ``sound``, samples at the model's rate.

    ``manifest_of`` returns the manifest of the finished network. Raises ParityError, and writes nothing, where torch
    step by step, torch over the sequence and onnxruntime differ in a spike or by more than ``TOLERANCE`` in a score;
    ConfigError where ``out`` cannot be written.
    """
    net = finished(trained)
    step, block = build_graph(net, 1), build_graph(net, BLOCK_FRAMES)
    manifest = manifest_of(net)
    metadata = {
        METADATA_KEY: manifest.to_json(),
        BLOCK_KEY: base64.b64encode(block.SerializeToString()).decode("ascii"),
    }
    onnx.helper.set_model_props(step, metadata)
    with atomic_output(out) as part:
        part.write_bytes(step.SerializeToString())
        return check_parity(net, part, sound)


def check_parity(net: SpikingConvNet, path: Path, sound: Samples) -> Parity:
    """Compare a finished network with its model file over samples at the model's rate, frame by frame.

    Raises ParityError, naming the first layer and frame that differ.
    """
    model = load_model(path)
    spikes = encoded(model.manifest, sound)
    stepped, sequence, streamed = _step_torch(net, spikes), _sequence_torch(net, spikes), step_file(model, spikes)
    for layer in (name for name in stepped if name != names.SCORES):
        check_equal(path, f"{layer} of a torch step and a torch sequence", stepped[layer], sequence[layer])
        check_equal(path, f"{layer} of torch and onnxruntime", stepped[layer], streamed[layer])
    blocks = StreamingNetwork(model).push(spikes)
    check_equal(path, "scores of single frames and blocks", streamed[names.SCORES], blocks)
    largest = max(
        largest_difference(path, stepped[names.SCORES], other[names.SCORES], TOLERANCE)
        for other in (sequence, streamed)
    )
    rate = model.manifest.features.sample_rate_hz
    return Parity(len(spikes), len(sound) / rate, len(stepped) - 1, largest)


def build_manifest(
    recipe: Recipe, net: SpikingConvNet, training: TrainingRecord, metrics: dict[str, float]
) -> Manifest:
    """Return the manifest of a finished network: all parameters that are bound to its weights."""
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


def _step_torch(net: SpikingConvNet, spikes: Spikes) -> Traces:
    state, rows = net.initial_state(), []
    with torch.no_grad():
        for frame in torch.from_numpy(spikes):
            probe: dict[str, torch.Tensor] = {}
            scores, state = net.step(frame[None], state, probe)
            rows.append({names.SCORES: scores[0].numpy(), **{k: v.flatten().numpy() for k, v in probe.items()}})
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _sequence_torch(net: SpikingConvNet, spikes: Spikes) -> Traces:
    probe: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        logits, _ = net(torch.from_numpy(spikes)[None], None, probe)
    layers = {name: v[0].transpose(0, 1).flatten(1).numpy() for name, v in probe.items()}
    return {names.SCORES: torch.sigmoid(logits[0]).numpy(), **layers}


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
    """Return each layer's inputs, neurons and dense multiply-adds per step, and the output with its spikes."""
    spec, outputs = net.spec, spike_outputs(net)
    channels, width = spec.planes, spec.n_mels
    wide = spec.planes * spec.n_mfcc
    rows = [LayerSpec(names.TO_BANDS, "dense", wide, channels * width, wide * width, "")]
    for i, conv in enumerate(spec.convs, 1):
        out, taps = -(-width // conv.stride), channels * conv.frames
        macs = out * conv.channels * taps * conv.bands
        name = names.conv(i)
        rows.append(LayerSpec(name, "conv", taps * width, conv.channels * out, macs, outputs[name]))
        channels, width = conv.channels, out
    inputs = channels * width
    rows.append(LayerSpec(names.DENSE, "dense", inputs, spec.hidden, inputs * spec.hidden, outputs[names.DENSE]))
    rows.append(LayerSpec(names.READOUT, "readout", spec.hidden, spec.classes, spec.hidden * spec.classes, ""))
    return tuple(rows)


def _with_decoding_of(trained: Recipe, path: Path) -> Recipe:
    """Return a run's recipe with the name, version and decoding of another recipe of the same network."""
    other = load_recipe(path)
    for part in ("features", "encoder", "network"):
        if getattr(other, part) != getattr(trained, part):
            raise ConfigError(
                f"{path}: its [{part}] is not what the run was trained with; change nothing but [decoding]"
            )
    return dataclasses.replace(trained, name=other.name, version=other.version, decoding=other.decoding)


def _metrics(path: Path) -> dict[str, float]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: the metrics cannot be read ({error}); make them with snn-train evaluate --json"
        ) from error
    values: dict[str, float] = parse_strictly(dict[str, float], data, str(path), "metrics", ConfigError)
    return values
