"""The spiking network as onnxruntime runs it: explicit state, one frame or one block of frames a call.

The neuron's equation and why its sums are exact stand in ``models/network.py``. Because they are
exact, a block of frames in one call gives the bits of as many calls with one frame each; the block
graph exists only to save the cost of calls when many frames are waiting.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from detector.errors import ManifestError
from detector.manifest import BLOCK_KEY, METADATA_KEY, Manifest
from detector.messages import Scores, Spikes

DEFAULT_MODEL = "household.onnx"


@dataclass(frozen=True, slots=True)
class Model:
    """A model file, read and checked: immutable, shared by any number of streams."""

    path: Path
    sha256: str
    manifest: Manifest
    session: Any
    block: bytes
    """The block graph, not yet loaded: live streams never need it."""


def default_model_path() -> Path:
    """Return the path of the model that ships with the package ``models``."""
    return Path(str(resources.files("models") / "pretrained" / DEFAULT_MODEL))


def load_model(path: Path | str | None = None) -> Model:
    """Read a model file; None is the shipped one.

    Raises ManifestError where the file is missing, is no ONNX file, has no or a wrong manifest, or
    its tensors are not those that the manifest names.
    """
    path = default_model_path() if path is None else Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: the model cannot be read ({error.strerror}); name an .onnx file") from error
    session = _session(data, str(path))
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in metadata:
        raise ManifestError(f"{path}: no manifest ({METADATA_KEY}) in this ONNX file; make models with snn-export onnx")
    manifest = Manifest.from_json(metadata[METADATA_KEY], str(path))
    _check_tensors(session, manifest, 1, str(path))
    try:
        block = base64.b64decode(metadata.get(BLOCK_KEY, ""), validate=True)
    except binascii.Error as error:
        raise ManifestError(f"{path}: the block graph ({BLOCK_KEY}) is damaged; export the model again") from error
    if not block:
        raise ManifestError(f"{path}: no block graph ({BLOCK_KEY}); export the model again")
    return Model(path, hashlib.sha256(data).hexdigest(), manifest, session, block)


class StreamingNetwork:
    """Turn spikes into scores, keeping the membranes between calls."""

    def __init__(self, model: Model) -> None:
        """Start from the state after a reset."""
        self._model = model
        self._params = model.manifest.network
        self._outputs = ["scores", *(f"new_{s.name}" for s in self._params.states)]
        self._names = [s.name for s in self._params.states]
        self._block: Any = None
        self.reset()

    def reset(self) -> None:
        """Set every membrane, synapse and past to zero."""
        self._feed: dict[str, NDArray[np.float32]] = {
            s.name: np.zeros(s.shape, np.float32) for s in self._params.states
        }

    @property
    def state(self) -> dict[str, NDArray[np.float32]]:
        """The state tensors as they stand, by name."""
        return {name: self._feed[name].copy() for name in self._names}

    def push(self, spikes: Spikes) -> Scores:
        """Return scores (frames, classes) of spikes (frames, planes, n_mfcc)."""
        frames, size = len(spikes), self._params.block_frames
        scores = np.empty((frames, len(self._model.manifest.classes)), np.float32)
        at = 0
        while frames - at >= size:
            scores[at : at + size] = self._call(self._block_session(), spikes[at : at + size])
            at += size
        for i in range(at, frames):
            scores[i] = self._call(self._model.session, spikes[i : i + 1])
        return scores

    def _call(self, session: Any, spikes: Spikes) -> Scores:
        feed = self._feed
        feed["spikes"] = spikes
        scores, *state = session.run(self._outputs, feed)
        feed.update(zip(self._names, state, strict=True))
        result: Scores = scores
        return result

    def _block_session(self) -> Any:
        if self._block is None:
            where = f"{self._model.path} (block graph)"
            self._block = _session(self._model.block, where)
            _check_tensors(self._block, self._model.manifest, self._params.block_frames, where)
        return self._block


def verify(path: Path | str | None = None, frames: int = 400, seed: int = 0) -> dict[str, object]:
    """Check a model beyond its manifest: frame by frame and in blocks it must give the same bits.

    Raises ManifestError where it does not, or where scores leave [0, 1].
    """
    model = load_model(path)
    m = model.manifest
    rng = np.random.default_rng(seed)
    spikes = (rng.random((frames, 2 * len(m.encoder.thresholds), m.features.n_mfcc)) < 0.1).astype(np.float32)  # noqa: PLR2004
    single, block = StreamingNetwork(model), StreamingNetwork(model)
    one_by_one = np.concatenate([single.push(spikes[i : i + 1]) for i in range(frames)])
    at_once = block.push(spikes)
    states_equal = all(np.array_equal(single.state[k], v) for k, v in block.state.items())
    if not (np.array_equal(one_by_one, at_once) and states_equal):
        raise ManifestError(f"{model.path}: blocks of frames give other bits than single frames; export it again")
    if not (np.isfinite(at_once).all() and at_once.min() >= 0 and at_once.max() <= 1):
        raise ManifestError(f"{model.path}: scores leave [0, 1]; export the model again")
    return {"path": str(model.path), "sha256": model.sha256, "frames": frames, "block_equals_step": True}


def spike_rates(model: Model, spikes: Spikes) -> dict[str, float]:
    """Return the share of neurons that spike per frame, by layer and for the encoder, over these spikes."""
    layers = [o.name for o in model.session.get_outputs() if o.name.endswith("_spikes")]
    names = [s.name for s in model.manifest.network.states]
    feed = {s.name: np.zeros(s.shape, np.float32) for s in model.manifest.network.states}
    totals = np.zeros(len(layers))
    for i in range(len(spikes)):
        found = model.session.run([*layers, *(f"new_{n}" for n in names)], feed | {"spikes": spikes[i : i + 1]})
        totals += [layer.mean() for layer in found[: len(layers)]]
        feed = dict(zip(names, found[len(layers) :], strict=True))
    rates = {name.removesuffix("_spikes"): float(t) / len(spikes) for name, t in zip(layers, totals, strict=True)}
    return {"encoder": float(spikes.mean()), **rates}


def _session(data: bytes, where: str) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Higher levels may fold the leak into the convolution's sum, which would round in another order.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no public base class
        reason = str(error).splitlines()[0][:120]
        raise ManifestError(f"{where}: onnxruntime cannot load this as a model ({reason})") from error


def _check_tensors(session: Any, manifest: Manifest, frames: int, where: str) -> None:
    """Compare the graph's inputs and outputs with the manifest, name by name and shape by shape."""
    planes = 2 * len(manifest.encoder.thresholds)
    wanted = {"spikes": (frames, planes, manifest.features.n_mfcc)}
    wanted |= {s.name: s.shape for s in manifest.network.states}
    _compare(wanted, {i.name: tuple(i.shape) for i in session.get_inputs()}, "input", where)
    results = {"scores": (frames, len(manifest.classes))}
    results |= {f"new_{s.name}": s.shape for s in manifest.network.states}
    have = {o.name: tuple(o.shape) for o in session.get_outputs()}
    _compare(results, {n: s for n, s in have.items() if not n.endswith("_spikes")}, "output", where)


def _compare(wanted: dict[str, Any], have: dict[str, Any], what: str, where: str) -> None:
    for name in wanted.keys() | have.keys():
        if wanted.get(name) != have.get(name):
            raise ManifestError(
                f"{where}: the graph's {what} {name!r} is {have.get(name, 'missing')}, "
                f"the manifest says {wanted.get(name, 'nothing of it')}; export the model again"
            )
