"""A model file with more classes: the same graph, with larger arrays in its last two layers."""

from __future__ import annotations

import base64
import dataclasses
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from detector.errors import ManifestError
from detector.manifest import BLOCK_KEY, METADATA_KEY, LayerSpec, Manifest, TensorSpec
from detector.network import load_model, verify

Float32 = NDArray[np.float32]
_CHANGED: Final = ("dense_weight", "dense_bias", "dense_beta", "readout_weight", "readout_bias", "readout_beta")
_DENSE_TENSORS: Final = frozenset({"dense_mem", "new_dense_mem", "dense_spikes"})
_CLASS_TENSORS: Final = frozenset({"readout_mem", "new_readout_mem", "scores"})


@dataclass(frozen=True, slots=True)
class Extension:
    """Rows appended to a model's arrays; all weights lie on the grid of exact sums (``models.network.csnn``)."""

    hidden_weight: Float32
    """(hidden, inputs of the dense layer)."""
    hidden_bias: Float32
    hidden_beta: Float32
    readout_weight: Float32
    """(classes, neurons of the dense layer and hidden); of the dense layer the first neurons, maybe not all."""
    readout_bias: Float32
    readout_beta: Float32


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """Sizes of the input of a head."""

    inputs: int
    """Spikes of the last convolution."""
    dense: int
    """Spikes of the dense layer."""


def backbone_of(path: Path) -> BackboneShape:
    """Return the input sizes of a head on a model; raises ManifestError for another architecture."""
    return _backbone(_arrays(_read(path)[0], path), path)


def extend(path: Path, out: Path, extension: Extension, manifest: Manifest, *, replace: bool) -> None:
    """Write the model of ``path`` with an extension to ``out``, atomically; ``replace`` removes the old classes.

    ``manifest`` has the classes in the order of the scores, and the training record; its network section is updated
    here. Raises ManifestError where the model cannot be extended, or the result fails verification.
    """
    graphs = _read(path)
    before = _arrays(graphs[0], path)
    after = _extended(before, _backbone(before, path), extension, replace=replace)
    for graph in graphs:
        _rewrite(graph, after)
    step, block = graphs
    parameters = sum(after[name].size - before[name].size for name in _CHANGED)
    metadata = {
        METADATA_KEY: _manifest(manifest, after, parameters).to_json(),
        BLOCK_KEY: base64.b64encode(block.SerializeToString()).decode("ascii"),
    }
    onnx.helper.set_model_props(step, metadata)
    onnx.checker.check_model(step)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        part = Path(folder) / out.name
        part.write_bytes(step.SerializeToString())
        verify(part)
        part.replace(out)


def _read(path: Path) -> tuple[Any, Any]:
    """Return a model's graphs over one frame and over a block."""
    load_model(path)  # raises an error where the file is no model
    step = onnx.load(path)
    metadata = {p.key: p.value for p in step.metadata_props}
    return step, onnx.load_from_string(base64.b64decode(metadata[BLOCK_KEY]))


def _arrays(model: Any, path: Path) -> dict[str, Float32]:
    found = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer if w.name in _CHANGED}
    if missing := [name for name in _CHANGED if name not in found]:
        raise ManifestError(
            f"{path}: its graph lacks {missing[0]!r}, so it cannot be extended; adapt a model with "
            "convolutions and float weights (snn-export int8 makes the small form of the result)"
        )
    return found


def _backbone(arrays: dict[str, Float32], path: Path) -> BackboneShape:
    dense, inputs = arrays["dense_weight"].shape
    if arrays["readout_weight"].shape[1] != dense:
        raise ManifestError(f"{path}: its read-out does not read its dense layer; export the model again")
    return BackboneShape(inputs, dense)


def _extended(
    arrays: dict[str, Float32], backbone: BackboneShape, extension: Extension, *, replace: bool
) -> dict[str, Float32]:
    hidden = len(extension.hidden_bias)
    kept = 0 if replace else len(arrays["readout_bias"])
    old_rows = np.pad(arrays["readout_weight"][:kept], ((0, 0), (0, hidden)))
    beta = extension.hidden_beta.reshape(1, -1)
    read = extension.readout_weight.shape[1] - hidden
    new_rows = np.insert(extension.readout_weight, [read] * (backbone.dense - read), 0, axis=1)
    return {
        "dense_weight": np.concatenate([arrays["dense_weight"], extension.hidden_weight]),
        "dense_bias": np.concatenate([arrays["dense_bias"], extension.hidden_bias]),
        "dense_beta": np.concatenate([arrays["dense_beta"].reshape(1, backbone.dense), beta], axis=1),
        "readout_weight": np.concatenate([old_rows, new_rows]),
        "readout_bias": np.concatenate([arrays["readout_bias"][:kept], extension.readout_bias]),
        "readout_beta": np.concatenate([arrays["readout_beta"][:kept], extension.readout_beta]),
    }


def _rewrite(model: Any, arrays: dict[str, Float32]) -> None:
    """Replace arrays in a graph, and the shapes of its inputs and outputs."""
    for weight in model.graph.initializer:
        if weight.name in arrays:
            weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(arrays[weight.name]), weight.name))
    for value in (*model.graph.input, *model.graph.output):
        if value.name in _DENSE_TENSORS:
            value.type.tensor_type.shape.dim[-1].dim_value = len(arrays["dense_bias"])
        elif value.name in _CLASS_TENSORS:
            value.type.tensor_type.shape.dim[-1].dim_value = len(arrays["readout_bias"])


def _manifest(manifest: Manifest, arrays: dict[str, Float32], more_parameters: int) -> Manifest:
    """Return a manifest that describes the larger arrays."""
    sizes = {"dense_mem": len(arrays["dense_bias"]), "readout_mem": len(arrays["readout_bias"])}
    network = manifest.network
    states = tuple(TensorSpec(s.name, (*s.shape[:-1], sizes.get(s.name, s.shape[-1]))) for s in network.states)
    return dataclasses.replace(
        manifest,
        network=dataclasses.replace(
            network,
            states=states,
            layers=_layers(network.layers, arrays),
            parameters=network.parameters + more_parameters,
        ),
    )


def _layers(layers: Sequence[LayerSpec], arrays: dict[str, Float32]) -> tuple[LayerSpec, ...]:
    found = []
    for layer in layers:
        weight = arrays.get(f"{layer.name}_weight")
        if weight is None:
            found.append(layer)
        else:
            neurons, inputs = weight.shape
            found.append(dataclasses.replace(layer, inputs=inputs, neurons=neurons, macs=neurons * inputs))
    return tuple(found)
