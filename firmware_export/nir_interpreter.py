"""Run a NIR graph, one step a frame.

Nodes are visited in the order of the edges; what arrives at a node by several edges adds up. It takes the
nodes that ``firmware_export/nir_graph.py`` makes and refuses whatever else NIR has.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.errors import ConfigError
from firmware_export.nir_units import Reset, Spiking, unit_of

Float32 = NDArray[np.float32]


class Interpreter:
    """A graph in the middle of running: its potentials, currents and pasts."""

    def __init__(self, graph: Any, reset: Reset = "value", dt_s: float | None = None) -> None:
        """Take a ``nir.NIRGraph``; a ``dt_s`` of None is the one of its metadata.

        Raises ConfigError for a graph with loops, nodes of other kinds or no time step.
        """
        if dt_s is None and "dt_s" not in graph.metadata:
            raise ConfigError("this NIR graph does not say its time step (dt_s in its metadata)")
        self._dt_s = float(graph.metadata["dt_s"] if dt_s is None else dt_s)
        self._graph, self._reset_rule = graph, reset
        self._sources: dict[str, list[str]] = {name: [] for name in graph.nodes}
        for source, target in graph.edges:
            self._sources[target].append(source)
        try:
            self._order = tuple(TopologicalSorter(self._sources).static_order())
        except CycleError as error:
            raise ConfigError(f"this NIR graph has a loop through {error.args[1][0]!r}: it has no order") from error
        self.reset()

    def reset(self) -> None:
        """Set every potential, current and past to zero."""
        nodes = self._graph.nodes
        self._units = {name: unit_of(name, nodes[name], self._dt_s, self._reset_rule) for name in self._order}

    @property
    def spiking(self) -> dict[str, Spiking]:
        """The nodes that send spikes, by name, as they stand."""
        return {name: unit for name, unit in self._units.items() if isinstance(unit, Spiking)}

    def step(self, x: Float32, sent: Mapping[str, Float32] | None = None) -> dict[str, Float32]:
        """Return what every node gives for the input ``x``, in the shape of the graph's input.

        ``sent`` may name spikes, of any shape, that spiking nodes are taken to have sent instead of those
        that they give: these go on to the next nodes and reset their senders.
        """
        given: dict[str, Float32] = {}
        flows: dict[str, Float32] = {}
        for name in self._order:
            unit = self._units[name]
            arrived = [flows[source] for source in self._sources[name]]
            given[name] = flows[name] = unit.step(np.asarray(sum(arrived[1:], arrived[0])) if arrived else x)
            if isinstance(unit, Spiking):
                if sent and name in sent:
                    flows[name] = sent[name].reshape(given[name].shape)
                unit.settle(flows[name])
        return given
