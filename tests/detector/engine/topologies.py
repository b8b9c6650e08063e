"""Model files of other topologies, front ends and encoders than those that ship: untrained, but complete."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from detector.manifest import EncoderParams, Manifest, MfccParams
from firmware_export.onnx.export import build_manifest, export
from firmware_export.onnx.parity import comparison_sound
from models import DEMO_SCENE
from models.network.csnn import SpikingConvNet
from models.network.spec import ConvSpec
from tests.firmware_export.onnx.test_export import RECORD, small_recipe
from tests.front_end import FRONT_END

SPEECH: Final[dict[str, Any]] = {
    "frame_length": 400,
    "hop_length": 160,
    "n_fft": 512,
    "n_mels": 26,
    "n_mfcc": 13,
    "preemphasis": 0.97,
    "lifter": 22,
    "append_energy": True,
    "window": "hamming",
    "log_floor": 0.0,
}
"""The front end of the library python_speech_features by default."""


@dataclass(frozen=True)
class Variant:
    """What differs from the small recipe of the export's tests."""

    features: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    levels: tuple[float, ...] = (1.0, 0.25)
    """The thresholds of the encoder, in parts of the coarsest."""
    rule: str = "send_on_delta"
    has_rest: bool = True


def convs(*rows: tuple[Any, ...]) -> dict[str, Any]:
    """Return convolutions given as (channels, frames, dilation, bands, stride, synapse)."""
    return {"convs": tuple(ConvSpec(*row) for row in rows)}


VARIANTS: Final[dict[str, Variant]] = {
    "no convolution": Variant(network={"kind": "fcsnn", "convs": (), "hidden": 20}),
    "one convolution": Variant(network=convs((6, 3, 2, 5, 2, True))),
    "kernels of one frame": Variant(network=convs((8, 1, 1, 5, 2, True), (9, 1, 1, 3, 1, False))),
    "odd channels": Variant(network={**convs((7, 2, 1, 5, 2, True), (13, 3, 3, 3, 2, False)), "hidden": 33}),
    "rows of many lengths": Variant(
        network={**convs((40, 2, 1, 3, 4, True), (96, 2, 2, 3, 2, False), (200, 1, 1, 3, 2, True)), "hidden": 459}
    ),
    "strides": Variant(network=convs((6, 2, 1, 7, 3, True), (5, 2, 5, 5, 4, False), (4, 2, 1, 3, 1, False))),
    "kernels wider than their input": Variant(network=convs((6, 2, 1, 81, 8, True), (8, 1, 1, 21, 2, False))),
    "no synapse": Variant(network=convs((6, 3, 1, 5, 2, False))),
    "one threshold": Variant(network={"planes": 2}, levels=(1.0,)),
    "three thresholds": Variant(network={"planes": 6}, levels=(1.0, 0.5, 0.125)),
    "frame difference": Variant(SPEECH, rule="frame_difference", has_rest=False),
    "no rest": Variant(has_rest=False),
    "speech front end": Variant(SPEECH),
    "hop longer than the frame": Variant(
        {"frame_length": 256, "hop_length": 500, "n_fft": 256, "n_mels": 16, "n_mfcc": 12}
    ),
    "frame longer than the transform": Variant({"frame_length": 800, "n_fft": 512, "n_mels": 20, "n_mfcc": 20}),
    "smallest transform": Variant({"frame_length": 16, "hop_length": 400, "n_fft": 16, "n_mels": 8, "n_mfcc": 3}),
    "long smoothing": Variant(decoding={"smoothing_frames": 250, "min_on_frames": 1, "refractory_frames": 0}),
}


def write_model(variant: Variant, folder: Path, seed: int = 1) -> Path:
    """Write the model file of a variant, after the export's own comparison with torch."""
    recipe = small_recipe(front_end(variant.features))
    coarse = recipe.encoder.thresholds[0]
    encoder = EncoderParams(
        "frame_difference" if variant.rule == "frame_difference" else "send_on_delta",
        tuple(tuple(c * level for c in coarse) for level in variant.levels),
        recipe.encoder.leak if variant.has_rest else 0.0,
        recipe.encoder.rest if variant.has_rest else (),
    )
    features = dataclasses.replace(recipe.features, **{k: v for k, v in variant.features.items() if k == "log_floor"})
    network = dataclasses.replace(recipe.network, n_mels=features.n_mels, **variant.network)
    decoding = dataclasses.replace(recipe.decoding, **variant.decoding)
    recipe = dataclasses.replace(recipe, features=features, encoder=encoder, network=network, decoding=decoding)

    def manifest_of(net: SpikingConvNet) -> Manifest:
        return build_manifest(recipe, net, RECORD, {})

    torch.manual_seed(seed)
    net, rng = SpikingConvNet(network, encoder).train(), np.random.default_rng(seed)
    for _ in range(10):
        net(torch.from_numpy((rng.random((2, 60, network.planes, features.n_mfcc)) < 0.1).astype(np.float32)))
    out = folder / "model.onnx"
    export(net, manifest_of, comparison_sound((DEMO_SCENE,), features.sample_rate_hz)[:32000], out)
    return out


def front_end(changes: dict[str, Any]) -> MfccParams:
    """Return a front end with changes; where these have no floor, one for the rest of the recipe to start from."""
    return dataclasses.replace(FRONT_END, **{**changes, "log_floor": changes.get("log_floor") or FRONT_END.log_floor})
