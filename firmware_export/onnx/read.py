"""The network of a model file as plain arrays: what the int8, C99 and NIR exports start from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detector.engine.graph import Topology, TopologyError, read_graph, topology_of
from detector.errors import ManifestError
from detector.manifest import Manifest
from detector.network import load_model


@dataclass(frozen=True, slots=True)
class Network(Topology):
    """A streaming network with what its file says of it."""

    manifest: Manifest
    sha256: str


def read_network(path: Path) -> Network:
    """Return the network of a model file; weights stored as int8 are returned as the floats that they represent.

    Raises ManifestError where the file is not a model of this project or its graph cannot be read back: an unknown
    operation, a missing weight, no convolution.
    """
    model = load_model(path)
    try:
        found = topology_of(read_graph(path.read_bytes()), model.manifest)
    except TopologyError as error:
        raise ManifestError(f"{path}: {error}; make the model with snn-export onnx") from error
    if len(found.layers) == 1:
        raise ManifestError(f"{path}: no convolution in this network; export it with snn-export onnx only")
    return Network(found.to_bands, found.layers, found.readout, model.manifest, model.sha256)
