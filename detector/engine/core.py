"""The C core by way of ctypes: samples in, events and what each stage computed out, without the interpreter's lock.

The sources are in ``detector/engine/c``. The library that is built of them is beside this file where there was a
compiler, or in the wheel of the platform; without it, ``onnxruntime`` runs the network (``detector.network``).
"""

from __future__ import annotations

import ctypes
import struct
import threading
from ctypes import POINTER, Structure, byref, c_char_p, c_double, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32
from ctypes import c_void_p as pointer
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from detector.decoder import evidence_integers
from detector.engine.graph import Layer, Topology, inexact_layer
from detector.features import (
    as_samples,
    bit_reversal,
    dct_matrix,
    mel_spans,
    pass_twiddles,
    split_twiddles,
    window_coefficients,
)
from detector.manifest import ClassSpec, Manifest, MfccParams
from detector.messages import LOUDEST, Event, Reason, Samples, Scores, Spikes, Trace

LIBRARY: Final = Path(__file__).with_name("_snn_core.so")
MIN_N_FFT: Final = 16
"""Smallest transform of the C: a first pass and one more."""
_ABI: Final = 2
_BUFFER: Final = 4096
"""Samples that are copied to a fixed place, which costs less than to ask an array for its own."""
_OUT_OF_SCALE: Final = -2
"""What a push returns for samples that are not finite or far outside of [-1, 1); nothing has changed then."""
_REASON_BYTES: Final = 200
_LARGEST_INT: Final = (1 << 31) - 1


class CoreError(Exception):
    """The core cannot be loaded, or cannot run a model; the text says why."""


class DamagedCoreError(CoreError):
    """The core was installed, but its library is missing or cannot be loaded."""


class _Layer(Structure):
    _fields_ = (
        *((n, c_int32) for n in ("in_channels", "out_channels", "out_width", "frames", "dilation", "bands")),
        *((n, c_int32) for n in ("stride", "padding")),
        *((n, pointer) for n in ("weight", "bias", "alpha", "offset", "beta")),
    )


class _Spec(Structure):
    _fields_ = (
        *((n, c_int32) for n in ("frame_length", "hop_length", "n_fft", "n_mels", "n_mfcc", "mel_terms")),
        *((n, c_int32) for n in ("has_log_floor", "append_energy", "send_on_delta", "has_rest")),
        *((n, c_int32) for n in ("thresholds", "layers", "classes")),
        ("keep", c_float),
        *((n, c_double) for n in ("preemphasis", "log_floor", "largest_sample")),
        *((n, pointer) for n in ("window", "pass_twiddles", "split_twiddles", "dct", "mel_weights", "bit_reversal")),
        *((n, pointer) for n in ("mel_first", "mel_count", "threshold", "rest", "to_bands")),
        ("layer", POINTER(_Layer)),
        *((n, pointer) for n in ("readout_weight", "readout_bias", "readout_beta")),
    )


class _Class(Structure):
    _fields_ = (
        *((n, c_float) for n in ("on_threshold", "off_threshold")),
        *((n, c_int32) for n in ("smoothing", "min_on", "min_off", "refractory")),
        *((n, c_int32) for n in ("leak", "weight", "bias")),
    )


class _Event(Structure):
    _fields_ = (
        *((n, c_int32) for n in ("is_offset", "has_ended", "label")),
        ("index", c_uint32),
        *((n, c_int64) for n in ("onset_sample", "offset_sample", "emitted_sample")),
        *((n, c_double) for n in ("score", "peak", "mean")),
    )


class _Trace(Structure):
    _fields_ = tuple((n, pointer) for n in ("frames", "spikes", "layers", "membranes", "scores", "means"))


_FUNCTIONS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "abi": (c_int, ()),
    "instructions": (c_char_p, ()),
    "model_new": (pointer, (POINTER(_Spec), c_char_p, c_size_t)),
    "model_free": (None, (pointer,)),
    "stream_new": (pointer, (pointer, POINTER(_Class))),
    "stream_free": (None, (pointer,)),
    "frames_in": (c_size_t, (pointer, c_size_t)),
    "push": (c_int64, (pointer, pointer, c_size_t, pointer)),
    "finish": (c_int64, (pointer, pointer)),
    "step": (None, (pointer, pointer, c_size_t, pointer)),
    "close": (c_int64, (pointer,)),
    "events": (POINTER(_Event), (pointer,)),
    "reset": (None, (pointer, c_uint32)),
    "next_index": (c_uint32, (pointer,)),
    "frames": (c_int64, (pointer,)),
    "is_finite": (c_int, (pointer,)),
}


@cache
def library() -> Any:
    """Load the library once; raises CoreError, each time, where it was not built or cannot be used.

    One that was installed and cannot be used is a warning in the log, once.
    """
    try:
        return _loaded()
    except DamagedCoreError as error:
        _warn(str(error))
        raise


@cache
def _warn(reason: str) -> None:
    import logging  # which takes as long to import as a tenth of what else is

    logging.getLogger(__name__).warning("the C core cannot be used, onnxruntime takes its place: %s", reason)


def _loaded() -> Any:
    if not LIBRARY.exists():
        if _is_in_wheel():
            raise DamagedCoreError(f"{LIBRARY.name} is missing: install snn-detect again")
        raise CoreError("it was not built: there was no C compiler when this was installed")
    try:
        _check_length()
        found = ctypes.CDLL(str(LIBRARY))
        for name, (result, arguments) in _FUNCTIONS.items():
            function = getattr(found, f"snn_core_{name}")
            function.restype, function.argtypes = result, arguments
        abi = found.snn_core_abi()
    except (OSError, AttributeError) as error:
        reason = str(error).removeprefix(f"{LIBRARY}: ")
        raise DamagedCoreError(f"{LIBRARY.name} cannot be loaded ({reason}): install snn-detect again") from error
    if abi != _ABI:
        raise DamagedCoreError(f"{LIBRARY.name} has the interface {abi}, not {_ABI}: install this version again")
    return found


def _is_in_wheel() -> bool:
    """Return whether the wheel that this was installed from holds the library."""
    from importlib.metadata import PackageNotFoundError, distribution  # takes longer than to load the library

    try:
        installed = distribution("snn-detect")
    except PackageNotFoundError:
        return False
    # From Python 3.12 on, ``files`` leaves out those that are missing.
    names = [line.partition(",")[0] for line in (installed.read_text("RECORD") or "").splitlines()]
    return any(
        name.endswith(f"/{LIBRARY.name}") and Path(str(installed.locate_file(name))).resolve() == LIBRARY.resolve()
        for name in names
    )


def _check_length() -> None:
    """Raise OSError for an ELF file that was cut off: to load it would end the process.

    The table of sections is the last thing in such a file, and the header says where (System V ABI, "ELF header").
    """
    with LIBRARY.open("rb") as file:
        header = file.read(64)
    fields, at = ("=I10xHH", 32) if header[4:5] == b"\x01" else ("=Q10xHH", 40)
    if header[:4] != b"\x7fELF" or len(header) < at + struct.calcsize(fields):
        return  # which the loader reports itself
    start, size, count = struct.unpack_from(fields, header, at)
    if LIBRARY.stat().st_size < start + size * count:
        raise OSError("the file is cut off")


def instructions() -> str:
    """Return the set of instructions that the core uses on this processor; raises CoreError as ``library`` does."""
    return str(library().snn_core_instructions().decode())


class CoreModel:
    """A model in the core's own memory: immutable, shared by any number of streams."""

    def __init__(self, manifest: Manifest, topology: Topology) -> None:
        """Copy a model into the core; raises CoreError where it cannot run it bit for bit."""
        self._free = library().snn_core_model_free
        self.manifest = manifest
        n_fft = manifest.features.n_fft
        if n_fft < MIN_N_FFT or n_fft & (n_fft - 1):
            raise CoreError(f"n_fft is {n_fft}, no power of two of {MIN_N_FFT} or more")
        if layer := inexact_layer(topology):
            raise CoreError(f"the weights of {layer} have no grid on which sums are exact")
        self.layer_sizes = {name: (len(layer.weight), layer.out_width) for name, layer in topology.named_layers()}
        arrays, reason = _Arrays(), ctypes.create_string_buffer(_REASON_BYTES)
        spec = _spec(manifest, topology, arrays)
        self.handle = library().snn_core_model_new(byref(spec), reason, _REASON_BYTES)
        if not self.handle:
            raise CoreError(f"it does not take {reason.value.decode()}")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self._free(self.handle)


class CoreStream:
    """The stages from samples to events of one stream; a call waits for that of another thread."""

    def __init__(self, model: CoreModel, classes: tuple[ClassSpec, ...]) -> None:
        """Start from the state after a reset; raises ValueError for parameters of classes that cannot be."""
        self._library = library()
        self._free, self._push = self._library.snn_core_stream_free, self._library.snn_core_push
        self._model, self._classes = model, classes
        self._first_sample = 0
        f = model.manifest.features
        self._hop, self._rate_hz = f.hop_length, f.sample_rate_hz
        self._handle = self._library.snn_core_stream_new(model.handle, _class_array(classes))
        if not self._handle:
            raise ValueError("decoder: the parameters of a class cannot be, or memory is short")
        self._input = np.empty(_BUFFER, np.float32)
        self._address = self._input.ctypes.data
        self._lock = threading.Lock()  # the interpreter's is released in the core

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._free(self._handle)

    @property
    def next_sample(self) -> int:
        """Position of the first sample of the next frame."""
        return int(self._library.snn_core_frames(self._handle)) * self._hop + self._first_sample

    @property
    def next_index(self) -> int:
        """The number that the next onset will have."""
        return int(self._library.snn_core_next_index(self._handle))

    def is_finite(self) -> bool:
        """Return whether the network's state is finite."""
        return bool(self._library.snn_core_is_finite(self._handle))

    def push(self, samples: Samples) -> list[Event]:
        """Return the events that samples (n,) bring about; raises ValueError as ``features.as_samples``."""
        with self._lock:
            if (
                type(samples) is np.ndarray
                and samples.ndim == 1
                and samples.size <= _BUFFER
                and samples.dtype.kind == "f"
            ):
                n = samples.size
                self._input[:n] = samples
                count = self._push(self._handle, self._address, n, None)
            else:
                whole = _aligned(as_samples(samples))
                count = self._push(self._handle, whole.ctypes.data, whole.size, None)
            if count == _OUT_OF_SCALE:
                as_samples(samples)
            return self._events(count) if count else []

    def process(self, samples: Samples | None, trace: Trace | None = None) -> tuple[Scores, list[Event]]:
        """Return scores (frames, classes), and events, of samples; None is the padded last frame, if there is one."""
        own = Trace(0, with_layers=False) if trace is None else trace
        whole = np.empty(0, np.float32) if samples is None else _aligned(as_samples(samples))
        with self._lock:
            frames = 1 if samples is None else int(self._library.snn_core_frames_in(self._handle, whole.size))
            before = self._library.snn_core_frames(self._handle)
            arrays, to = self._trace_arrays(frames, own, is_traced=trace is not None)
            if samples is None:
                count = self._library.snn_core_finish(self._handle, byref(to))
            else:
                count = self._push(self._handle, whole.ctypes.data, whole.size, byref(to))
            del arrays
            if samples is None and self._library.snn_core_frames(self._handle) == before:
                own.clear()
            return own.scores, self._events(count)

    def step(self, spikes: Spikes, trace: Trace | None = None) -> Scores:
        """Return scores (frames, classes) of spikes (frames, planes, n_mfcc), through the network alone."""
        m = self._model.manifest
        wanted = (2 * len(m.encoder.thresholds), m.features.n_mfcc)
        if spikes.shape[1:] != wanted:
            raise ValueError(f"spikes must have the shape (n, {wanted[0]}, {wanted[1]}), not {spikes.shape}")
        whole = _aligned(spikes)
        own = Trace(0, with_layers=False) if trace is None else trace
        kept, to = self._trace_arrays(len(whole), own, is_traced=trace is not None)
        with self._lock:
            self._library.snn_core_step(self._handle, whole.ctypes.data, len(whole), byref(to))
        del kept
        return own.scores

    def close(self, reason: Reason) -> list[Event]:
        """Return the offsets of open sounds, with their last frame the last one processed."""
        with self._lock:
            return self._events(self._library.snn_core_close(self._handle), reason)

    def reset(self, first_sample: int = 0, first_index: int = 0) -> None:
        """Clear the state; the next frame begins at ``first_sample``, the next onset is ``first_index``."""
        with self._lock:
            self._first_sample = first_sample
            self._library.snn_core_reset(self._handle, first_index)

    def _trace_arrays(self, frames: int, trace: Trace, *, is_traced: bool) -> tuple[list[Any], _Trace]:
        """Give a trace arrays for so many frames; return what has to stay alive, and the struct for the core."""
        m, classes = self._model.manifest, len(self._classes)
        planes, width, layers = 2 * len(m.encoder.thresholds), m.features.n_mfcc, trace.with_layers and is_traced
        trace.scores = np.empty((frames, classes), np.float32)
        to = _Trace(scores=trace.scores.ctypes.data)
        kept: list[Any] = []
        if is_traced:
            trace.frames = np.empty((frames, width), np.float32)
            trace.spikes = np.empty((frames, planes, width), np.float32)
            trace.membranes = np.empty((frames, classes if layers else 0), np.float32)
            trace.means = np.empty((frames, classes if layers else 0))
            to.frames, to.spikes = trace.frames.ctypes.data, trace.spikes.ctypes.data
        if layers:
            sizes = self._model.layer_sizes
            trace.layers = {name: np.empty((frames, a * b), np.float32) for name, (a, b) in sizes.items()}
            addresses = (pointer * len(sizes))(*(x.ctypes.data for x in trace.layers.values()))
            kept.append(addresses)
            to.layers = ctypes.addressof(addresses)
            to.membranes, to.means = trace.membranes.ctypes.data, trace.means.ctypes.data
        return kept, to

    def _events(self, count: int, reason: Reason = "end_of_stream") -> list[Event]:
        if count < 0:
            raise MemoryError("there is no memory for events")
        found = self._library.snn_core_events(self._handle)
        return [self._event(found[i], reason) for i in range(count)]

    def _event(self, e: Any, reason: Reason) -> Event:
        spec, first = self._classes[e.label], self._first_sample
        is_offset = bool(e.is_offset)
        return Event(
            kind="offset" if is_offset else "onset",
            index=e.index,
            label=spec.label,
            category=spec.category,
            onset_sample=first + e.onset_sample,
            emitted_sample=first + e.emitted_sample,
            score=e.score,
            threshold=spec.decoder.on_threshold,
            offset_sample=first + e.offset_sample if is_offset else None,
            peak=e.peak if is_offset else None,
            mean=e.mean if is_offset else None,
            reason=("ended" if e.has_ended else reason) if is_offset else None,
            rate_hz=self._rate_hz,
        )


def _aligned(values: NDArray[Any], kind: Any = np.float32) -> NDArray[Any]:
    """Return values of a kind, one after the other and where the processor can load them: parts of files are not."""
    return np.require(values, kind, ["C_CONTIGUOUS", "ALIGNED"])


def _class_array(classes: tuple[ClassSpec, ...]) -> Any:
    rows = [
        _Class(
            *(d.on_threshold, d.off_threshold, d.smoothing_frames),
            *(min(n, _LARGEST_INT) for n in (d.min_on_frames, d.min_off_frames, d.refractory_frames)),
            *(evidence_integers(d.evidence) if d.evidence is not None else (0, 0, 0)),
        )
        for d in (c.decoder for c in classes)
    ]
    return (_Class * len(classes))(*rows)


class _Arrays:
    """Arrays as the core takes them, which have to live until it has copied them."""

    def __init__(self) -> None:
        self._kept: list[NDArray[Any]] = []

    def address(self, values: Any, kind: Any = np.float32) -> int | None:
        """Return where values of a kind are; None for None."""
        if values is None:
            return None
        self._kept.append(_aligned(values, kind))
        return int(self._kept[-1].ctypes.data)


def _spec(manifest: Manifest, topology: Topology, arrays: _Arrays) -> _Spec:
    """Return a model as the core takes it."""
    f, e, readout = manifest.features, manifest.encoder, topology.readout
    layers = [_layer(layer, arrays) for layer in topology.layers]
    return _Spec(
        **{name: getattr(f, name) for name in ("frame_length", "hop_length", "n_fft", "n_mels", "n_mfcc")},
        **{name: arrays.address(values, kind) for name, (values, kind) in _front_end(f).items()},
        mel_terms=int(mel_spans(f)[1].sum()),
        has_log_floor=f.log_floor > 0,
        append_energy=f.append_energy,
        send_on_delta=e.rule == "send_on_delta",
        has_rest=bool(e.rest),
        thresholds=len(e.thresholds),
        layers=len(layers),
        classes=len(manifest.classes),
        keep=1 - e.leak,
        preemphasis=f.preemphasis,
        log_floor=f.log_floor,
        largest_sample=LOUDEST,
        threshold=arrays.address(e.thresholds),
        rest=arrays.address(e.rest or np.zeros(f.n_mfcc)),
        to_bands=arrays.address(topology.to_bands),
        layer=(_Layer * len(layers))(*layers),
        readout_weight=arrays.address(readout.weight),
        readout_bias=arrays.address(readout.bias),
        readout_beta=arrays.address(readout.beta),
    )


def _layer(layer: Layer, arrays: _Arrays) -> _Layer:
    out, channels, frames, bands = layer.weight.shape
    sizes = (channels, out, layer.out_width, frames, layer.dilation, bands, layer.stride, layer.padding)
    if not all(0 <= n <= _LARGEST_INT for n in sizes):  # as integers of C they would be others
        raise CoreError("it does not take the sizes of a layer")
    n = layer.neurons
    return _Layer(*sizes, *map(arrays.address, (layer.weight, layer.bias, n.alpha, n.offset, n.beta)))


def _front_end(f: MfccParams) -> dict[str, tuple[Any, Any]]:
    first, count, weights = mel_spans(f)
    return {
        "window": (window_coefficients(f), np.float64),
        "pass_twiddles": (pass_twiddles(f.n_fft), np.float64),
        "split_twiddles": (split_twiddles(f.n_fft), np.float64),
        "dct": (dct_matrix(f), np.float64),
        "mel_weights": (weights / f.n_fft, np.float64),
        "bit_reversal": (bit_reversal(f.n_fft), np.uint32),
        "mel_first": (first, np.uint32),
        "mel_count": (count, np.uint32),
    }
