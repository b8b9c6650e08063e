"""A model's network as a NIR graph: its nodes, and the time constants that express decays per frame.

NIR (J. E. Pedersen et al., "Neuromorphic intermediate representation", Nature Communications 15, 2024) describes
neurons in continuous time, tau dv/dt = (v_leak - v) + r i, without a time step. A step dt of the forward Euler method,
which most of its readers take, is

    v += dt / tau * ((v_leak - v) + r * i)

or v = (1 - dt / tau) * v + dt / tau * r * i + dt / tau * v_leak. With

    tau = dt / (1 - beta),   r = tau / dt,   v_leak = offset * tau / dt

this is the project's v = beta * v + i + offset. The time constants are stored in double precision, so that beta and
offset are recovered to the last bit of their single precision; every one is checked. (A beta below 1e-7, of which
nothing is left after a frame, is recovered to 1e-15.) A reader that takes the exact solution instead,
v = exp(-dt / tau) * v + (1 - exp(-dt / tau)) * (v_leak + r * i), needs tau = -dt / log(beta); r and v_leak stay.

A time step is a frame, and NIR's convolutions are spatial only. A convolution that reads the frames t, t - d, t - 2d...
therefore becomes one ``Conv1d`` over the bands for each of these frames, the past ones after a ``Delay``; inputs of a
neuron from several edges are added. The neurons of a layer are one node with the layer's name: ``CubaLIF`` with a
synapse, else ``LIF``. The read-out is an ``LI`` whose potential is the logit of the score.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import nir
import numpy as np
from numpy.typing import NDArray

from detector.engine import names
from detector.engine.graph import Float32, Layer, Neurons
from detector.errors import ConfigError
from detector.manifest import Manifest
from firmware_export.onnx.read import Network

Float64 = NDArray[np.float64]
EULER: Final = "forward Euler: v += dt / tau * ((v_leak - v) + r * i), dt = dt_s"
SOFT_RESET: Final = "subtract: v -= v_threshold where a spike is sent; v_reset is not used"
ORDER: Final = "the synapse first; the membrane takes its new value in the same step"
_DECAY_TOLERANCE: Final = 1e-15
"""Largest error of a recovered decay: below the last bit of any single-precision number above 1e-7."""


@dataclass(frozen=True, slots=True)
class TimeConstants:
    """The parameters of NIR's leaky integrators; arrays of one shape."""

    tau: Float64
    """Seconds."""
    r: Float64
    v_leak: Float64


@dataclass(frozen=True, slots=True)
class LeakStep:
    """A leaky integrator in steps of a fixed length: v = decay * v + (gain * i + offset)."""

    decay: Float32
    gain: Float32
    offset: Float32


def time_constants(beta: Float32, offset: Float32, dt_s: float, name: str) -> TimeConstants:
    """Return the time constants of decays and offsets of one shape, for steps of ``dt_s`` seconds.

    Raises ConfigError, naming the layer, where a decay is outside [0, 1) or a value cannot be recovered.
    """
    if not ((beta >= 0) & (beta < 1)).all():
        raise ConfigError(
            f"{name}: a decay of {float(beta.max()):g}; NIR needs decays from 0 to below 1, retrain the model"
        )
    tau = dt_s / (1 - beta.astype(np.float64))
    r = tau / dt_s
    found = TimeConstants(tau, r, offset * r)
    back = leak_step(found.tau, found.r, found.v_leak, dt_s)
    is_near = (np.abs(back.decay.astype(np.float64) - beta) <= _DECAY_TOLERANCE).all()
    if not (is_near and np.array_equal(back.offset, offset) and (back.gain == 1).all()):
        raise ConfigError(f"{name}: a decay or an offset is not recovered from its time constant; retrain the model")
    return found


def leak_step(tau: Float64, r: Float64, v_leak: Float64, dt_s: float) -> LeakStep:
    """Return the factors of a forward Euler step of ``dt_s`` seconds."""
    share = dt_s / np.asarray(tau, np.float64)
    return LeakStep((1 - share).astype(np.float32), (share * r).astype(np.float32), (share * v_leak).astype(np.float32))


def frame_seconds(manifest: Manifest) -> float:
    """Return the time from frame to frame in seconds: one step of the network."""
    return manifest.features.hop_length / manifest.features.sample_rate_hz


def build_graph(network: Network, dt_s: float | None = None) -> Any:
    """Return the ``nir.NIRGraph`` from spikes (planes, n_mfcc) to logits (classes,), one frame a step.

    ``dt_s`` is the step in seconds of time constants and delays; None means the time from frame to frame.
    Raises ConfigError for a decay that NIR cannot express.
    """
    return _Builder(network, frame_seconds(network.manifest) if dt_s is None else dt_s).build()


def neuron_node(neurons: Neurons, shape: tuple[int, ...], threshold: float, dt_s: float, name: str) -> Any:
    """Return the node of neurons of a shape, channels first: ``CubaLIF`` with a synapse, else ``LIF``.

    Raises ConfigError, naming the layer, for a decay that NIR cannot express.
    """
    zeros = np.zeros(shape, np.float32)
    offset = zeros if neurons.offset is None else _spread(neurons.offset, shape)
    membrane = time_constants(_spread(neurons.beta, shape), offset, dt_s, name)
    fires = {"v_threshold": np.full(shape, threshold), "v_reset": np.zeros(shape)}
    if neurons.alpha is None:
        return nir.LIF(**_leak(membrane), **fires, metadata={"reset": SOFT_RESET})
    synapse = time_constants(_spread(neurons.alpha, shape), zeros, dt_s, name)
    return nir.CubaLIF(
        tau_syn=synapse.tau,
        w_in=synapse.r,
        tau_mem=membrane.tau,
        r=membrane.r,
        v_leak=membrane.v_leak,
        **fires,
        metadata={"reset": SOFT_RESET, "order": ORDER},
    )


def integrator_node(beta: Float32, dt_s: float, name: str) -> Any:
    """Return the ``LI`` node of leaky, non-spiking outputs (classes,); raises ConfigError as ``neuron_node`` does."""
    return nir.LI(**_leak(time_constants(beta, np.zeros_like(beta), dt_s, name)))


def affine_node(weight: Float32, bias: Float32 | None) -> Any:
    """Return the ``Affine`` node of a dense layer's sums: weight (outputs, inputs), bias (outputs,)."""
    return nir.Affine(weight=weight, bias=np.zeros(len(weight), np.float32) if bias is None else bias)


class _Builder:
    def __init__(self, network: Network, dt_s: float) -> None:
        self._network, self._dt_s = network, dt_s
        self._threshold = network.manifest.network.threshold
        self._nodes: dict[str, Any] = {}
        self._edges: list[tuple[str, str]] = []

    def build(self) -> Any:
        net, m = self._network, self._network.manifest
        planes = 2 * len(m.encoder.thresholds)
        self._add("input", nir.Input(np.array([planes, m.features.n_mfcc])), [])
        # One matrix for each plane, all equal: NIR multiplies along the last axis.
        matrices = np.repeat(net.to_bands.T[None], planes, axis=0)
        before = self._add(names.TO_BANDS, nir.Linear(np.ascontiguousarray(matrices)), ["input"])
        *convolutions, (_, dense) = net.named_layers()
        for name, layer in convolutions:
            before = self._convolution(name, layer, before)
        shape = np.array(self._nodes[before].output_type["output"])
        before = self._add("flatten", nir.Flatten({"input": shape}, start_dim=0), [before])
        before = self._dense(dense, before)
        before = self._add(_weights(names.READOUT), affine_node(net.readout.weight, net.readout.bias), [before])
        readout = integrator_node(net.readout.beta.ravel(), self._dt_s, names.READOUT)
        before = self._add(names.READOUT, readout, [before])
        self._add("output", nir.Output(np.array([len(m.classes)])), [before])
        return nir.NIRGraph(self._nodes, self._edges, metadata=self._metadata())

    def _convolution(self, name: str, layer: Layer, before: str) -> str:
        taps = [self._tap(name, layer, before, tap) for tap in range(layer.frames)]
        return self._neurons(name, layer, (len(layer.weight), layer.out_width), taps)

    def _tap(self, name: str, layer: Layer, before: str, tap: int) -> str:
        """Add the convolution over one of the frames that a layer reads; the last tap is the current frame."""
        steps = layer.past - tap * layer.dilation
        bias = layer.bias if steps == 0 else None
        if steps:
            shape = (layer.weight.shape[1], layer.in_width)
            before = self._add(f"{name}_delay_{steps}", nir.Delay(np.full(shape, steps * self._dt_s)), [before])
        convolution = nir.Conv1d(
            input_shape=layer.in_width,
            weight=np.ascontiguousarray(layer.weight[:, :, tap]),
            stride=layer.stride,
            padding=layer.padding,
            dilation=1,
            groups=1,
            bias=np.zeros(len(layer.weight), np.float32) if bias is None else bias,
        )
        return self._add(f"{_weights(name)}_{steps}", convolution, [before])

    def _dense(self, layer: Layer, before: str) -> str:
        weight = layer.weight.reshape(len(layer.weight), -1)
        before = self._add(_weights(names.DENSE), affine_node(weight, layer.bias), [before])
        return self._neurons(names.DENSE, layer, (len(layer.weight),), [before])

    def _neurons(self, name: str, layer: Layer, shape: tuple[int, ...], before: Iterable[str]) -> str:
        return self._add(name, neuron_node(layer.neurons, shape, self._threshold, self._dt_s, name), before)

    def _add(self, name: str, node: Any, before: Iterable[str]) -> str:
        self._nodes[name] = node
        self._edges += [(source, name) for source in before]
        return name

    def _metadata(self) -> dict[str, Any]:
        m = self._network.manifest
        return {
            "model": f"{m.name} {m.version}",
            "model_sha256": self._network.sha256,
            "licence": m.licence,
            "labels": ",".join(m.labels),
            "dt_s": self._dt_s,
            "discretisation": EULER,
            "reset": SOFT_RESET,
            "scores": "1 / (1 + exp(-output))",
        }


def _weights(layer: str) -> str:
    """Name the node of a layer's weights."""
    return f"{layer}_weights"


def _spread(values: Float32, shape: tuple[int, ...]) -> Float32:
    """Return one value per neuron of a shape (channels, ...) from one per channel (channels,)."""
    return np.ascontiguousarray(np.broadcast_to(values.reshape(-1, *[1] * (len(shape) - 1)), shape))


def _leak(constants: TimeConstants) -> dict[str, Any]:
    return {"tau": constants.tau, "r": constants.r, "v_leak": constants.v_leak}
