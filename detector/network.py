"""Model files, and the spiking network in onnxruntime: explicit state, one frame or one block of frames a call.

A model runs in the C core (``detector.engine``) where the core is there and can; else, or where ``ENGINE_VARIABLE``
says so, its network runs in onnxruntime, which is not imported before. Both give the same bits.

For the neuron's equation, and why its sums are exact, see ``models/network/csnn.py``. Because they are exact, a
block of frames in one call gives the bits of as many calls with one frame each; the block graph exists only to
save the cost of calls when many frames are waiting.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import os
import typing
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from detector.encoder import check_encoder
from detector.engine.core import CoreError, CoreModel, CoreStream, DamagedCoreError, library
from detector.engine.graph import FLOAT, Graph, TopologyError, read_graph, topology_of
from detector.errors import ConfigError, ManifestError
from detector.features import check_mfcc
from detector.manifest import BLOCK_KEY, METADATA_KEY, Manifest
from detector.messages import Scores, Spikes, Trace

# Releases from 1.31 on send telemetry and store a device id, unless this is set before they are imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

EngineName = Literal["core", "onnxruntime"]
_BASE64: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
ENGINE_VARIABLE: Final = "SNN_DETECT_ENGINE"
"""Environment variable: ``core`` or ``onnxruntime`` in place of the choice that is made for a model."""


class BoundGraph:
    """A session whose inputs and outputs are bound to fixed arrays: a call allocates and copies no tensor."""

    def __init__(
        self,
        session: Any,
        frames: int,
        states: tuple[dict[str, NDArray[np.float32]], ...],
        where: str,
        extra: tuple[str, ...] = (),
    ) -> None:
        """Bind the states, and ``extra`` outputs to have beside the scores, where they are no state.

        ``where`` names the file in errors.
        """
        self._session, self._where = session, where
        inputs = {i.name: i.shape for i in session.get_inputs()}
        self._spikes = np.zeros(inputs["spikes"], np.float32)
        self._by_frame = self._spikes[0].transpose(1, 0, 2)
        shapes = {o.name: o.shape for o in session.get_outputs()}
        self._scores = np.zeros((frames, shapes["scores"][1]), np.float32)
        own = [name for name in extra if name.removeprefix("new_") not in states[0]]
        self.extra = {name: np.zeros(shapes[name], np.float32) for name in own}
        """The outputs that were asked for; they hold until the next call."""
        self._bindings = [self._bind(states[k], states[1 - k]) for k in range(2)]

    def run(self, spikes: Spikes, current: int) -> Scores:
        """Run on spikes (frames, planes, n_mfcc) from states ``current`` to the others.

        The scores hold until the next call. Raises ManifestError for a graph that cannot be computed.
        """
        self._by_frame[:] = spikes
        try:
            self._session.run_with_iobinding(self._bindings[current])
        except Exception as error:
            raise ManifestError(
                f"{self._where}: onnxruntime cannot run this model ({_reason(error)}); export the model again"
            ) from error
        return self._scores

    def _bind(self, old: dict[str, NDArray[np.float32]], new: dict[str, NDArray[np.float32]]) -> Any:
        binding = self._session.io_binding()
        binding.bind_cpu_input("spikes", self._spikes)
        for name, value in old.items():
            binding.bind_cpu_input(name, value)
        results = {"scores": self._scores, **{f"new_{n}": v for n, v in new.items()}, **self.extra}
        for name, value in results.items():
            binding.bind_output(name, "cpu", 0, np.float32, value.shape, value.ctypes.data)
        return binding


DEFAULT_MODEL = "household.onnx"
_LARGEST_FILE: Final = 256 << 20
"""Bytes of a model file at most: a hundred times those of the model that ships."""


class Model:
    """A model file, read and checked: immutable, shared by any number of streams."""

    def __init__(self, path: Path, data: bytes, graph: Graph, manifest: Manifest, engine: EngineName | None) -> None:
        """Use ``load_model``."""
        self.path = path
        self.sha256 = hashlib.sha256(data).hexdigest()
        self.manifest = manifest
        self.core: CoreModel | None = None
        """The model in the C core; None where onnxruntime runs it."""
        self.engine_reason = f"as {ENGINE_VARIABLE} says" if engine else "the same bits at a fraction of the cost"
        """Why the engine is the one that it is."""
        self.core_is_damaged = False
        """Whether the core was installed and cannot be loaded."""
        if engine != "onnxruntime":
            try:
                library()
                self.core = CoreModel(manifest, topology_of(graph, manifest))
            except (CoreError, TopologyError) as error:
                self.engine_reason = f"the C core cannot run it: {error}"
                self.core_is_damaged = isinstance(error, DamagedCoreError)
        if self.core is None:
            if engine == "core":
                raise ManifestError(f"{path}: {self.engine_reason}; unset {ENGINE_VARIABLE}")
            self.__dict__["session"] = _session(data, str(path))

    @property
    def engine(self) -> EngineName:
        """What runs the network."""
        return "onnxruntime" if self.core is None else "core"

    @cached_property
    def session(self) -> Any:
        """The session of onnxruntime, for one frame a call.

        Raises ManifestError where the file has changed or onnxruntime cannot load it.
        """
        return _session(self._data(), str(self.path))

    @property
    def block(self) -> bytes:
        """The block graph; live streams never need it."""
        return base64.b64decode(read_graph(self._data()).metadata[BLOCK_KEY])

    def _data(self) -> bytes:
        data = _read(self.path)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise ManifestError(f"{self.path}: the file has changed since it was loaded; start again")
        return data


def shipped_file(name: str) -> Path:
    """Return the path of a file of the package ``models`` of this distribution, such as ``demo/scene.flac``.

    It lies beside this package, wherever that is; to import ``models`` could give one of the program that uses it.
    """
    return Path(__file__).resolve().parents[1] / "models" / name


def default_model_path() -> Path:
    """Return the path of the model that ships."""
    return shipped_file(f"pretrained/{DEFAULT_MODEL}")


def load_model(path: Path | str | None = None) -> Model:
    """Read a model file; None is the shipped one.

    Raises ManifestError where the file is missing, is no ONNX file, has no or a wrong manifest, or
    its tensors are not those that the manifest names.
    """
    path = default_model_path() if path is None else Path(path)
    data, where = _read(path), str(path)
    graph = _graph(data, where)
    if METADATA_KEY not in graph.metadata:
        raise ManifestError(f"{path}: no manifest ({METADATA_KEY}) in this ONNX file; make models with snn-export onnx")
    manifest = Manifest.from_json(graph.metadata[METADATA_KEY], where)
    _check_tensors(graph, manifest, 1, where)
    _check_block(graph, where)
    try:
        check_mfcc(manifest.features)
        check_encoder(manifest.encoder)
    except ValueError as error:
        raise ManifestError(f"{path}: {error}; export the model again") from error
    return Model(path, data, graph, manifest, _wanted_engine())


def _wanted_engine() -> EngineName | None:
    """Return the engine that the environment names; None leaves the choice."""
    wanted = os.environ.get(ENGINE_VARIABLE, "")
    engines: tuple[EngineName, ...] = typing.get_args(EngineName)
    if wanted and wanted not in engines:
        raise ConfigError(f"{ENGINE_VARIABLE} is {wanted!r}; set it to {' or '.join(engines)}, or unset it")
    return next((engine for engine in engines if engine == wanted), None)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ManifestError(f"{path}: the model cannot be read ({error.strerror}); name an .onnx file") from error
    if len(data) > _LARGEST_FILE:
        raise ManifestError(f"{path}: it has more than {_LARGEST_FILE >> 20} MiB and is no model; name an .onnx file")
    return data


def _graph(data: bytes, where: str) -> Graph:
    try:
        return read_graph(data)
    except UnicodeDecodeError as error:
        raise ManifestError(f"{where}: its metadata is no text ({error.reason}); export the model again") from error
    except ValueError as error:
        raise ManifestError(f"{where}: this is no ONNX file of a model ({error}); export the model again") from error


def _check_block(graph: Graph, where: str) -> None:
    """Raise ManifestError where a model has no block graph or a damaged one; decoding it would take longer."""
    text = graph.metadata.get(BLOCK_KEY, "")
    if not text:
        raise ManifestError(f"{where}: no block graph ({BLOCK_KEY}); export the model again")
    digits = text.rstrip("=")
    is_padded = len(text) % 4 == 0 and len(text) - len(digits) <= 2  # noqa: PLR2004 - base64's
    if not (is_padded and digits.isascii()) or digits.encode().translate(None, _BASE64):
        raise ManifestError(f"{where}: the block graph ({BLOCK_KEY}) is damaged; export the model again")


class StreamingNetwork:
    """Turn spikes into scores, keeping the membranes between calls."""

    def __init__(self, model: Model) -> None:
        """Start from the state after a reset."""
        self._model = model
        self._params = model.manifest.network
        # A call reads one set of states and writes the other; then they change places.
        self._states = tuple({s.name: np.zeros(s.shape, np.float32) for s in self._params.states} for _ in range(2))
        self._current = 0
        self._step = BoundGraph(model.session, 1, self._states, str(model.path))
        self._block: BoundGraph | None = None
        self._traced: BoundGraph | None = None

    def reset(self) -> None:
        """Set every membrane, synapse and past to zero."""
        for value in self._states[self._current].values():
            value.fill(0.0)

    @property
    def state(self) -> dict[str, NDArray[np.float32]]:
        """The state tensors as they stand, by name."""
        return {name: value.copy() for name, value in self._states[self._current].items()}

    def is_finite(self) -> bool:
        """Return whether all state tensors are finite; a value that is not stays so until ``reset``."""
        return all(np.isfinite(value).all() for value in self._states[self._current].values())

    def push(self, spikes: Spikes, trace: Trace | None = None) -> Scores:
        """Return scores (frames, classes) of spikes (frames, planes, n_mfcc), the same bits with and without a trace.

        A trace with layers is given those of the layers' spikes (frames, neurons) and the membranes of the read-out
        (frames, classes), or (frames, 0) where the read-out keeps none; it is computed frame by frame.
        """
        if trace is None:
            return self._push(spikes)
        trace.scores = self._push_traced(spikes, trace) if trace.with_layers else self._push(spikes)
        if not trace.with_layers:
            trace.membranes = np.empty((len(spikes), 0), np.float32)
        return trace.scores

    def _push(self, spikes: Spikes) -> Scores:
        frames, size = len(spikes), self._params.block_frames
        scores = np.empty((frames, len(self._model.manifest.classes)), np.float32)
        at = 0
        while frames - at >= size:
            scores[at : at + size] = self._call(self._block_graph(), spikes[at : at + size])
            at += size
        for i in range(at, frames):
            scores[i] = self._call(self._step, spikes[i : i + 1])
        return scores

    def _push_traced(self, spikes: Spikes, trace: Trace) -> Scores:
        outputs = self._spike_outputs()
        if self._traced is None:
            self._traced = BoundGraph(
                self._model.session, 1, self._states, str(self._model.path), tuple(outputs.values())
            )
        readout = f"{self._params.layers[-1].name}_mem" if self._params.layers else ""
        scores = np.empty((len(spikes), len(self._model.manifest.classes)), np.float32)
        rows: dict[str, list[NDArray[np.float32]]] = {name: [] for name in outputs}
        membranes = np.empty(
            (len(spikes), self._states[0][readout].size if readout in self._states[0] else 0), np.float32
        )
        for i in range(len(spikes)):
            scores[i] = self._call(self._traced, spikes[i : i + 1])
            state = self._states[self._current]
            for name, output in outputs.items():
                value = self._traced.extra.get(output)
                rows[name].append((state[output.removeprefix("new_")] if value is None else value).flatten())
            if membranes.size:
                membranes[i] = state[readout].ravel()
        trace.layers = {name: np.array(found) for name, found in rows.items()}
        trace.membranes = membranes
        return scores

    def _spike_outputs(self) -> dict[str, str]:
        """Return the output that holds a layer's spikes, by the name of the layer."""
        return {x.name: x.spikes for x in self._params.layers if x.spikes}

    def _call(self, graph: BoundGraph, spikes: Spikes) -> Scores:
        scores = graph.run(spikes, self._current)
        self._current = 1 - self._current
        return scores

    def _block_graph(self) -> BoundGraph:
        if self._block is None:
            where, data = f"{self._model.path} (block graph)", self._model.block
            session = _session(data, where)
            _check_tensors(_graph(data, where), self._model.manifest, self._params.block_frames, where)
            self._block = BoundGraph(session, self._params.block_frames, self._states, where)
        return self._block


def verify(path: Path | str | None = None, frames: int = 400, seed: int = 0) -> dict[str, Any]:
    """Check a model beyond its manifest: frame by frame, in blocks, and in both engines it must give the same bits.

    Where onnxruntime is not installed, only the C core is checked. Raises ManifestError where bits differ, or where
    scores leave [0, 1].
    """
    model = load_model(path)
    m = model.manifest
    rng = np.random.default_rng(seed)
    spikes = (rng.random((frames, 2 * len(m.encoder.thresholds), m.features.n_mfcc)) < 0.1).astype(np.float32)  # noqa: PLR2004
    found: list[Scores] = []
    are_equal = True
    engines: list[EngineName] = []
    if model.core is not None:
        engines.append("core")
        one, all_at_once = CoreStream(model.core, m.classes), CoreStream(model.core, m.classes)
        found += [np.concatenate([one.step(x[None]) for x in spikes]), all_at_once.step(spikes)]
    if model.core is None or importlib.util.find_spec("onnxruntime"):
        engines.append("onnxruntime")
        single, block = StreamingNetwork(model), StreamingNetwork(model)
        found += [np.concatenate([single.push(x[None]) for x in spikes]), block.push(spikes)]
        are_equal = all(np.array_equal(single.state[k], v) for k, v in block.state.items())
    if not (are_equal and all(np.array_equal(found[0], other) for other in found[1:])):
        raise ManifestError(f"{model.path}: blocks or engines give other bits than single frames; export it again")
    if not (np.isfinite(found[0]).all() and found[0].min() >= 0 and found[0].max() <= 1):
        raise ManifestError(f"{model.path}: scores leave [0, 1]; export the model again")
    return {
        "path": str(model.path),
        "sha256": model.sha256,
        "frames": frames,
        "block_equals_step": True,
        "engines": engines,
    }


def trace(model: Model, spikes: Spikes) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Yield what onnxruntime computes per frame of spikes (frames, planes, n_mfcc).

    That is ``scores`` and each layer's spikes by name.
    """
    network = StreamingNetwork(model)
    for frame in spikes:
        inside = Trace(0)
        scores = network.push(frame[None], inside)
        yield {"scores": scores[0], **{name: rows[0] for name, rows in inside.layers.items()}}


def onnxruntime() -> ModuleType:
    """Import onnxruntime; raises ManifestError where it is not installed."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise ManifestError(
            f"neither the C core nor onnxruntime can run a model here ({error}); install onnxruntime, or a C compiler "
            "and then snn-detect again"
        ) from error
    return ort  # type: ignore[no-any-return]


def _session(data: bytes, where: str) -> Any:
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # The convolution that this would fuse with the decay of membranes rounds the sum otherwise, on aarch64.
        return ort.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConvAddActivationFusion"]
        )
    except Exception as error:
        raise ManifestError(f"{where}: onnxruntime cannot load this as a model ({_reason(error)})") from error


def _reason(error: Exception) -> str:
    """Return what one of onnxruntime's exceptions says; they share no public base class."""
    return str(error).partition("\n")[0][:120]


def _check_tensors(graph: Graph, manifest: Manifest, frames: int, where: str) -> None:
    """Compare the graph's inputs and outputs with the manifest, name by name and shape by shape."""
    planes = 2 * len(manifest.encoder.thresholds)
    wanted: dict[str, tuple[int, ...]] = {"spikes": (1, planes, frames, manifest.features.n_mfcc)}
    wanted |= {s.name: s.shape for s in manifest.network.states}
    _compare(wanted, {i.name: i.shape for i in graph.inputs}, "input", where)
    results: dict[str, tuple[int, ...]] = {"scores": (frames, len(manifest.classes))}
    results |= {f"new_{s.name}": s.shape for s in manifest.network.states}
    have = {o.name: o.shape for o in graph.outputs}
    traced = {layer.spikes for layer in manifest.network.layers if layer.spikes} - results.keys()
    if frames == 1 and not traced <= have.keys():
        missing = min(traced - have.keys())
        raise ManifestError(f"{where}: the graph lacks the output {missing!r} of a layer's spikes; export it again")
    for tensor in (*graph.inputs, *graph.outputs):
        if tensor.element_type != FLOAT:
            raise ManifestError(f"{where}: {tensor.name!r} is not of float32; export the model again")
    _compare(results, {n: s for n, s in have.items() if n not in traced}, "output", where)


def _compare(wanted: dict[str, Any], have: dict[str, Any], what: str, where: str) -> None:
    for name in sorted(wanted.keys() | have.keys()):
        if wanted.get(name) != have.get(name):
            raise ManifestError(
                f"{where}: the graph's {what} {name!r} is {have.get(name, 'missing')}, "
                f"the manifest says {wanted.get(name, 'nothing of it')}; export the model again"
            )


def synaptic_operations(manifest: Manifest, rates: Mapping[str, float]) -> tuple[float, float]:
    """Return multiply-adds per second of sound: dense, and effective, which are those whose input spikes.

    ``rates`` holds the share of neurons that spike per frame, by layer and for ``encoder``. The terms
    are NeuroBench's (J. Yik et al., "NeuroBench: a framework for benchmarking neuromorphic computing
    algorithms and systems", 2023). The bands that lead from the encoder to the first convolution are
    sums of spikes, not spikes: that layer is counted as dense.
    """
    per_second = manifest.features.sample_rate_hz / manifest.features.hop_length
    inputs = {"to_bands": rates["encoder"], "conv1": 1.0}
    before, dense, effective = "", 0.0, 0.0
    for layer in manifest.network.layers:
        rate = inputs.get(layer.name, rates.get(before, 1.0))
        dense += layer.macs * per_second
        effective += layer.macs * per_second * rate
        before = layer.name
    return dense, effective
