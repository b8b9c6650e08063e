"""An interpreter of NIR graphs in single precision, one frame a step.

Nodes are evaluated in the order of the edges; inputs of a node from several edges are added. It runs the kinds of
nodes that ``firmware_export/nir/graph.py`` writes and refuses all others. Neurons take forward Euler steps, in the
order of operations of ``models/network/csnn.py``; potentials, currents and delays start at zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError
from firmware_export.nir.graph import LeakStep, leak_step

Float32 = NDArray[np.float32]
Reset = Literal["value", "subtract"]
"""After a spike, v = v_reset, as NIR defines its neurons; or v -= v_threshold, as the project's networks do."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a simulator takes the time constants of leaky integrators."""

    factors: Callable[[Any, Any, Any, float], LeakStep]
    """From tau, r, v_leak and the step in seconds to decay, gain and offset."""
    by_difference: bool = False
    """v + (1 - decay) * ((v_leak - v) + r * i) in this order, which rounds otherwise than decay * v + gain * i."""


EULER_READING: Final = Reading(leak_step)
"""That of the project."""


_FEW: Final = 4
"""Up to a part in four of the inputs, or four weights of a sum, it is quicker to take only those that are not 0."""


class Unit(Protocol):
    """The state of a running node."""

    def step(self, x: Float32) -> Float32:
        """Return the node's output in this step for its input in this step."""


def unit_of(name: str, node: Any, dt_s: float, reset: Reset, reading: Reading) -> Unit:
    """Return the unit of a ``nir`` node in its initial state.

    Raises ConfigError for a kind of node that the project's graphs do not have.
    """
    kind = type(node).__name__
    if kind not in _UNITS:
        raise ConfigError(f"the NIR node {name!r} is a {kind}; only graphs of snn-export nir can be run")
    return _UNITS[kind](node, dt_s, reset, reading)


class _Pass:
    """Input and output: the identity."""

    def step(self, x: Float32) -> Float32:
        return x


class _Flatten:
    def __init__(self, node: Any) -> None:
        self._shape = tuple(int(n) for n in node.output_type["output"])

    def step(self, x: Float32) -> Float32:
        return x.reshape(self._shape)


class _Matrix:
    def __init__(self, node: Any) -> None:
        self._weight = node.weight
        self._columns = np.ascontiguousarray(node.weight.T) if node.weight.ndim == 2 else None  # noqa: PLR2004 - axes
        self._bias = getattr(node, "bias", None)
        most = int(np.count_nonzero(node.weight, axis=-1).max())
        self._few = node.weight.ndim == 2 and most <= _FEW  # noqa: PLR2004 - axes
        if self._few:
            self._where = np.argsort(node.weight == 0, axis=-1, kind="stable")[:, :most]
            self._values = np.take_along_axis(node.weight, self._where, -1)

    def step(self, x: Float32) -> Float32:
        y: Float32
        if self._few:
            y = (self._values * x[self._where]).sum(axis=-1, dtype=np.float32)
            return y if self._bias is None else y + self._bias
        sent = np.flatnonzero(x)
        if self._columns is None or _FEW * len(sent) > x.size:
            y = np.matmul(self._weight, x[..., None])[..., 0]
        else:  # most inputs are spikes that were not sent
            y = x[sent] @ self._columns[sent]
        return y if self._bias is None else y + self._bias


class _Conv1d:
    def __init__(self, node: Any) -> None:
        if node.groups != 1 or node.dilation != 1 or isinstance(node.padding, str):
            raise ConfigError(
                "a NIR Conv1d has groups, a dilation or a named padding; only graphs of snn-export nir can be run"
            )
        outputs, _, self._length = node.weight.shape
        self._weight = node.weight.reshape(outputs, -1)
        self._bias = node.bias[:, None]
        self._stride, self._padding = int(node.stride), int(node.padding)

    def step(self, x: Float32) -> Float32:
        padded = np.pad(x, ((0, 0), (self._padding, self._padding)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, self._length, axis=1)[:, :: self._stride]
        columns = windows.transpose(0, 2, 1).reshape(self._weight.shape[1], -1)
        y: Float32 = self._weight @ columns + self._bias
        return y


class _Delay:
    def __init__(self, node: Any, dt_s: float) -> None:
        steps = np.rint(node.delay / dt_s)
        if not np.allclose(steps * dt_s, node.delay, rtol=1e-6, atol=0):
            raise ConfigError(
                f"a NIR Delay is no whole number of steps of {dt_s:g} s; give the step it was written for"
            )
        self._steps = steps.astype(np.int64)[None]
        self._past = np.zeros((int(steps.max()) + 1, *node.delay.shape), np.float32)

    def step(self, x: Float32) -> Float32:
        self._past = np.roll(self._past, 1, axis=0)
        self._past[0] = x
        y: Float32 = np.take_along_axis(self._past, self._steps, 0)[0]
        return y


class _Leaky:
    """A leaky integrator."""

    def __init__(self, tau: Any, r: Any, v_leak: Any, dt_s: float, reading: Reading) -> None:
        self._leak, self._reading = reading.factors(tau, r, v_leak, dt_s), reading
        self._share = np.float32(1) - self._leak.decay
        self._r: Float32 = np.asarray(r, np.float32)
        self._v_leak: Float32 = np.asarray(v_leak, np.float32)
        self.value: Float32 = np.zeros_like(self._leak.decay)

    def step(self, x: Float32) -> Float32:
        if self._reading.by_difference:
            self.value = self.value + self._share * ((self._v_leak - self.value) + self._r * x)
        else:
            self.value = self._leak.decay * self.value + (self._leak.gain * x + self._leak.offset)
        return self.value


class Spiking:
    """The neurons of a layer, with or without a synapse."""

    def __init__(self, node: Any, dt_s: float, reset: Reset, reading: Reading) -> None:
        """Start a ``nir.LIF`` or ``nir.CubaLIF`` from a reset."""
        has_synapse, no_leak = hasattr(node, "tau_syn"), np.zeros_like(node.v_leak)
        self._synapse = _Leaky(node.tau_syn, node.w_in, no_leak, dt_s, reading) if has_synapse else None
        self._membrane = _Leaky(node.tau_mem if has_synapse else node.tau, node.r, node.v_leak, dt_s, reading)
        self._subtracts = reset == "subtract"
        self._v_reset = node.v_reset.astype(np.float32)
        self.threshold: Float32 = node.v_threshold.astype(np.float32)
        self.potential: Float32 = np.zeros_like(self.threshold)
        """Membrane potentials of the last step before the reset, as compared with the threshold."""

    def step(self, x: Float32) -> Float32:
        """Return the spikes of a step; ``settle`` resets the neurons afterwards."""
        self.potential = self._membrane.step(x if self._synapse is None else self._synapse.step(x))
        return (self.potential > self.threshold).astype(np.float32)

    def settle(self, sent: Float32) -> None:
        """Reset the neurons with a spike in ``sent``, 0 or 1 per neuron."""
        if self._subtracts:
            self._membrane.value = self.potential - self.threshold * sent
        else:
            self._membrane.value = np.where(sent > 0, self._v_reset, self.potential)


_UNITS: Final[Mapping[str, Callable[[Any, float, Reset, Reading], Unit]]] = {
    "Input": lambda *_: _Pass(),
    "Output": lambda *_: _Pass(),
    "Flatten": lambda node, *_: _Flatten(node),
    "Linear": lambda node, *_: _Matrix(node),
    "Affine": lambda node, *_: _Matrix(node),
    "Conv1d": lambda node, *_: _Conv1d(node),
    "Delay": lambda node, dt_s, *_: _Delay(node, dt_s),
    "LI": lambda node, dt_s, _, reading: _Leaky(node.tau, node.r, node.v_leak, dt_s, reading),
    "LIF": Spiking,
    "CubaLIF": Spiking,
}


class Interpreter:
    """A running graph: its nodes with their potentials, currents and delays."""

    def __init__(
        self, graph: Any, reset: Reset = "value", dt_s: float | None = None, reading: Reading = EULER_READING
    ) -> None:
        """Start a ``nir.NIRGraph`` from a reset; a ``dt_s`` of None means the step in its metadata, in seconds.

        Raises ConfigError for a graph with loops, nodes of other kinds or no time step.
        """
        if dt_s is None and "dt_s" not in graph.metadata:
            raise ConfigError("this NIR graph has no time step (dt_s in its metadata); give one")
        self._dt_s = float(graph.metadata["dt_s"] if dt_s is None else dt_s)
        self._graph, self._reset_rule, self._reading = graph, reset, reading
        self._sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in graph.edges:
            self._sources[target].append(source)
        try:
            self._order = tuple(TopologicalSorter(self._sources).static_order())
        except CycleError as error:
            raise ConfigError(
                f"this NIR graph has a loop through {error.args[1][0]!r}; only feedforward graphs can be run"
            ) from error
        self.reset()

    def reset(self) -> None:
        """Set every potential, current and delay to zero."""
        nodes = self._graph.nodes
        self._units = {
            name: unit_of(name, nodes[name], self._dt_s, self._reset_rule, self._reading) for name in self._order
        }

    @property
    def spiking(self) -> dict[str, Spiking]:
        """The spiking nodes by name, in their current state."""
        return {name: unit for name, unit in self._units.items() if isinstance(unit, Spiking)}

    def step(self, x: Float32, sent: Mapping[str, Float32] | None = None) -> dict[str, Float32]:
        """Return the output of every node by name for the input ``x``, in the shape of the graph's input.

        ``sent`` may replace the spikes of spiking nodes, in any shape of the same size: the next nodes receive these,
        and their senders are reset by them, while the returned output is the node's own.
        """
        outputs: dict[str, Float32] = {}
        flows: dict[str, Float32] = {}
        for name in self._order:
            unit = self._units[name]
            inputs = [flows[source] for source in self._sources[name]]
            outputs[name] = flows[name] = unit.step(np.asarray(sum(inputs[1:], inputs[0])) if inputs else x)
            if isinstance(unit, Spiking):
                if sent and name in sent:
                    flows[name] = sent[name].reshape(outputs[name].shape)
                unit.settle(flows[name])
        return outputs
