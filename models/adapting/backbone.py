"""The frozen backbone of an adaptation: what identifies it, and its spikes over a stream of features."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from detector.manifest import Manifest
from detector.messages import Frames, Trace
from detector.network import Model, StreamingNetwork
from models.training.frontend import BulkEncoder

_WEIGHTS: Final = ("_weight", "_bias", "_beta", "_alpha", "to_bands")
_NEURON_AXIS: Final = {"dense_weight": 0, "dense_bias": 0, "dense_beta": 1}
"""Arrays of the dense layer, to which adaptations append neurons, with the axis of these."""


class BackboneStream:
    """Encoder and network over a stream of features, with their states carried on: a service hardly ever resets."""

    def __init__(self, model: Model, dense: int) -> None:
        """Begin with the state after a reset; of the dense layer the first ``dense`` neurons count."""
        spiking = [layer for layer in model.manifest.network.layers if layer.spikes]
        self._below, self._dense, self._kept = spiking[-2].name, spiking[-1].name, dense
        self._encoder, self._network = BulkEncoder(model.manifest.encoder), StreamingNetwork(model)

    def push(self, features: Frames) -> NDArray[np.uint8]:
        """Return the spikes of the last convolution and of the dense layer, (frames, bytes), packed into bits.

        Features are (frames, n_mfcc).
        """
        inside = Trace(0)
        self._network.push(self._encoder.push(features).astype(np.float32), inside)
        found = np.concatenate([inside.layers[self._below], inside.layers[self._dense][:, : self._kept]], axis=1)
        return np.packbits(found.astype(bool), axis=1)


def backbone_sha256(path: Path, manifest: Manifest, dense: int) -> str:
    """Return a digest of a model's front end and of all weights below its read-out, (64 hexadecimal digits).

    Of the dense layer, its first ``dense`` neurons count: a model that was adapted from another one has the same
    backbone. Where it has fewer neurons, the digest is that of its own.
    """
    digest = hashlib.sha256()
    front_end = [dataclasses.asdict(part) for part in (manifest.features, manifest.encoder)]
    digest.update(json.dumps(front_end, sort_keys=True).encode())
    for name, values in sorted(_arrays(path).items()):
        own = values
        if name in _NEURON_AXIS:
            axis = min(_NEURON_AXIS[name], values.ndim - 1)
            own = values.take(range(min(dense, values.shape[axis])), axis)
        digest.update(f"{name} {own.shape}".encode())
        digest.update(np.ascontiguousarray(own, "<f4").tobytes())
    return digest.hexdigest()


def _arrays(path: Path) -> Mapping[str, NDArray[Any]]:
    initializers = onnx.load(path).graph.initializer
    wanted = [w for w in initializers if w.name.endswith(_WEIGHTS) and not w.name.startswith("readout_")]
    return {w.name: numpy_helper.to_array(w) for w in wanted}
